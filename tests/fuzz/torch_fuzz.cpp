// PowerInfer's activation statistics: a zip file with a pickle, as torch.save writes it.
#include "engine/model/powerinfer.h"
#include "tests/fuzz/fuzz.h"

#include <cmath>

namespace hearth::fuzz {

const uint64_t base_memory = 1 << 16;

void read(std::string_view bytes)
{
    constexpr uint32_t neurons = 40;    // of tests/data/powerinfer
    const std::vector<double> x = read_torch_vector("activation_0.pt", bytes, neurons);
    FUZZ_CHECK(x.size() == neurons);
    for (const double n : x) FUZZ_CHECK(std::isfinite(n) && n >= 0);
}

}    // namespace hearth::fuzz
