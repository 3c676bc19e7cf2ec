#include "engine/run/diagnosis.h"

#include "engine/file/not_finite.h"
#include "engine/run/host_layers.h"
#include "engine/run/sequence.h"
#include "host/numbers.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace hearth {

namespace {

constexpr std::string_view embedding = "token_embd.weight";

/// Where a tensor comes in a model's order: what makes the input, layer by layer, what makes the output.
uint32_t place_of(const GgufTensor& t)
{
    constexpr std::string_view layer = "blk.";
    uint32_t l = 0;
    if (t.name.starts_with(layer) &&
        std::from_chars(t.name.data() + layer.size(), t.name.data() + t.name.size(), l).ec == std::errc())
        return 1 + l;
    return t.name.starts_with("output") ? UINT32_MAX : 0;
}

/// The largest magnitude that a cache of this type holds.
float most_in_cache(WeightType type) { return is_quantised(type) ? 65504.0f * 127 : 65504.0f; }

}    // namespace

Error Diagnosis::of(std::span<const std::vector<Token>> texts) const
{
    const Config& c = weights.config;
    const std::string path = weights.file->path().string();
    const auto broken = [&](const std::string& what) {
        return Error("{}: {}: the file is broken, so convert or download the model again", path, what);
    };

    // Of the embedding only rows that were read; where it is the output matrix, too, it is looked at as a whole in the
    // end.
    std::vector<Token> read;
    for (const std::vector<Token>& text : texts) read.insert(read.end(), text.begin(), text.end());
    std::erase_if(read, is_row);
    for (const Token token : read)
        if (const auto found = host::find_not_finite(team, weights.embedding.slice(token, 1)))
            return broken(fmt::format("{} holds {}, the first in row {}, column {}, which is token {}", embedding,
                                      found->count == 1 ? "a weight that is not a finite number"
                                                        : "weights that are not finite numbers",
                                      token, found->column, token));
    std::vector<const GgufTensor*> tensors;
    for (const GgufTensor& t : weights.file->tensors()) tensors.push_back(&t);
    std::ranges::stable_sort(tensors, {},
                             [](const GgufTensor* t) { return t->name == embedding ? UINT32_MAX : place_of(*t); });
    const bool tied = weights.output.data == weights.embedding.data;
    for (const GgufTensor* t : tensors)
        if (t->name != embedding || tied)
            if (const auto found = not_finite_weights(team, *t)) return broken(*found);

    // The weights are sound, so it is what is computed of them.
    std::optional<std::string> found;
    const auto overflows = [&](uint32_t l, const char* part) {
        if (!found)
            found = fmt::format(
                "layer {}'s {} overflows: it gives numbers beyond the range of floats, though all weights are finite",
                l, part);
    };
    size_t longest = 0;
    for (const std::vector<Token>& text : texts) longest = std::max(longest, text.size());
    PagePool pool(uint32_t((longest + host::page_positions - 1) / host::page_positions));
    HostLayers cpu(weights, team,
                   {.first_layer = 0,
                    .batch = batch,
                    .pages = pool.size(),
                    .kv = kv,
                    .sparsity = std::vector<LayerSparsity>(c.layers)});
    cpu.parts = [&](uint32_t l, HostLayers::Part part, std::span<const float> x) {
        if (!found && !host::all_finite(x)) overflows(l, HostLayers::part_name(part));
    };
    cpu.cached = [&](uint32_t l, std::span<const float> keys, std::span<const float> values) {
        for (const auto& [name, flag, x, type] :
             {std::tuple("keys", "-ctk", keys, kv.k), std::tuple("values", "-ctv", values, kv.v)}) {
            float largest = 0;
            for (const float v : x) largest = std::max(largest, std::abs(v));
            if (found || largest <= most_in_cache(type)) continue;
            const bool larger = !is_quantised(type) && c.head_dim % format_of(WeightType::q8_0).block == 0 &&
                                largest <= most_in_cache(WeightType::q8_0);
            found = fmt::format("layer {}'s {} reach {:.3g}, and a KV cache in {} holds {:.3g} at the most{}", l, name,
                                largest, format_of(type).name, most_in_cache(type),
                                larger ? fmt::format(": use {} q8_0", flag) : "");
        }
    };
    FeedStats stats = {.layers = std::vector<LayerCounts>(c.layers)};
    std::vector<float> x(size_t(batch) * c.dim);
    team.hold([&] {
        const auto run = [&](Sequence& sequence, std::span<const Token> some) {
            sequence.make_room(uint32_t(some.size()), {});
            Batch rows = {.work = host::work_of_text(some.size())};
            sequence.add_rows(some, rows);
            this->rows.fill(rows);
            cpu.embed(rows, x.data());
            if (!host::all_finite(std::span(x).first(some.size() * c.dim)))
                found = "the embedding overflows where it is scaled";
            for (uint32_t l = 0; l < c.layers && !found; ++l) {
                stats.stages.clear();
                cpu.layer(l, rows, x.data(), stats);
            }
            for (size_t t = 0; t < some.size() && !found; ++t)
                if (!host::all_finite(cpu.head(1, &x[t * c.dim], stats)))
                    found = "the logits overflow at the output matrix, though all weights are finite";
            sequence.went(some);
        };
        for (const std::vector<Token>& text : texts) {
            Sequence sequence(pool);
            for (size_t first = 0; first < text.size() && !found; first += batch)
                run(sequence, std::span(text).subspan(first, std::min<size_t>(batch, text.size() - first)));
        }
    });
    if (found) return Error("{}: {}", path, *found);
    if (!device.empty())
        return Error("{} computes numbers that are not finite where the host finds finite ones: update its driver, or "
                     "use --device cpu",
                     device);
    return Error("{} gives logits that are not finite numbers, though neither a weight nor a layer computed with all "
                 "neurons does: use --sparsity dense",
                 path);
}

}    // namespace hearth
