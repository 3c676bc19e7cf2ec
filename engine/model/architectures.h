// Models by their sizes alone, so that what they would need and how fast they would be can be asked before any is
// downloaded.
#pragma once

#include "engine/model/requantise.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace hearth {

/// What only some models have.
struct Special {
    uint32_t experts = 0, experts_used = 0;
    std::string activation = {};    // "relu" where it is another one than the family's
    bool tied = false;              // the embedding is the output matrix, too
    bool two_norms = false;         // of blocks side by side (Falcon 40B)
    uint32_t window = 0;            // of layers that look back over no more
};

/// What the shapes of all tensors follow from.
struct Architecture {
    std::string name;      // "llama-33b"
    std::string family;    // a row of families: "llama"
    uint32_t layers = 0, dim = 0, heads = 0, kv_heads = 0;
    uint32_t head_dim = 0;    // 0: dim / heads
    uint32_t neurons = 0;     // of a feed-forward block; of one expert where there are any
    uint32_t vocab = 0, context = 0;
    std::string source = {};    // where its sizes are from
    Special special = {};
};

/// The architectures that are known by name.
std::span<const Architecture> all_architectures();

/// By a name of theirs; case, dots and dashes do not matter. Throws Error with those that come near.
const Architecture& find_architecture(std::string_view name);

/// A file of its shape with nothing but a header; `by_neurons`: its down projections, even where no neuron is zero.
/// Throws Error where the family is not known or the sizes contradict each other.
std::shared_ptr<const Gguf> header_of(const Architecture& architecture, const Quantisation& how,
                                      const std::vector<Override>& overrides = {}, bool by_neurons = false);

}    // namespace hearth
