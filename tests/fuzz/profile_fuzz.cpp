// A profile of a model: read, thinned, merged, and all that is made of it.
#include "engine/plan/hotness.h"
#include "engine/plan/profile.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/seeds.h"

namespace hearth::fuzz {

const uint64_t base_memory = 1 << 20;

void read(std::string_view bytes)
{
    static const std::string model_bytes = random_model(seed_model).bytes();
    static const Gguf model("model.gguf", model_bytes);
    // Of version 1, which has no checksum that would refuse every change at once. Behind the key stand its value's type
    // and the value.
    constexpr std::string_view version = "hearth.profile.version";
    std::string unsummed(bytes);
    if (const size_t at = unsummed.find(version); at != unsummed.npos && at + version.size() + 4 < unsummed.size())
        unsummed[at + version.size() + 4] = 1;
    const Gguf file("model.gguf.profile", unsummed);
    Profile p = read_profile(file, model, seed_model.layers, seed_model.neurons, seed_model.dim);
    thin_samples(p);
    FUZZ_CHECK(p.sampled <= most_samples);
    for (const LayerProfile& layer : p.layers) {
        std::vector<uint32_t> order = placement_order(layer, p.sampled);
        std::ranges::sort(order);
        for (uint32_t n = 0; n < seed_model.neurons; ++n) FUZZ_CHECK(order[n] == n);
        for (const double recall : {0.0, 0.5, 0.99, 1.0}) sign_quality(layer, sign_threshold(layer, recall));
        lowrank_quality(layer);
        activation_cut(layer, 0.4);
    }
    if (p.positions)
        for (const LayerHotness& layer : hotness_of(p)) layer.by_group();
    Profile more = p;
    for (Profile::Text& text : more.texts) text.key += "'";
    merge(p, std::move(more));
    const std::filesystem::path path = TemporaryFile::folder() / "profile";
    write_profile(path, p);
    try {
        read_profile(Gguf(path), model, seed_model.layers, seed_model.neurons, seed_model.dim);
    } catch (const Error& error) {    // what we write we can read
        fmt::print(stderr, "{}\n", error.what());
        FUZZ_CHECK(false);
    }
}

}    // namespace hearth::fuzz
