// PowerInfer's index of the neurons on the GPU.
#include "engine/model/powerinfer.h"
#include "engine/plan/hotness.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/seeds.h"

namespace hearth::fuzz {

const uint64_t base_memory = 1 << 18;

void read(std::string_view bytes)
{
    const TemporaryFile file("model.gguf.generated.gpuidx", bytes);
    Config config;
    config.layers = seed_model.layers;
    config.neurons = seed_model.neurons;
    const GpuIndex index = read_gpu_index(file.path(), config);
    const ActivationStatistics statistics(config.layers, std::vector<double>(config.neurons, 1));
    missorted(index, statistics);
    for (const LayerHotness& layer : hotness_of(&index, nullptr, config.neurons, 0.2))
        FUZZ_CHECK(layer.order.size() == config.neurons);
    hotness_of(&index, &statistics, config.neurons, 0.2);
}

}    // namespace hearth::fuzz
