// A model that is quantised anew, to the type and with the options that the number of its bytes names. What comes out
// must be a model.
#include "engine/model/requantise.h"
#include "engine/model/weights.h"
#include "tests/fuzz/fuzz.h"

namespace hearth::fuzz {

const uint64_t base_memory = 4 << 20;

void read(std::string_view bytes)
{
    const auto model = std::make_shared<const Gguf>("model.gguf", bytes);
    const size_t choice = bytes.size() / 32;    // files are padded to that
    const std::filesystem::path out = TemporaryFile::folder() / "out.gguf";
    const RequantiseOptions options = {.dense = choice % 3 == 0, .by_neurons = choice % 2 == 0, .threads = 1};
    requantise(model, quantisations[choice % std::size(quantisations)], options, out, [](double) {});
    try {
        const auto copy = std::make_shared<const Gguf>(out);
        copy->check_sparse_rows();
        describe_weights(copy);
    } catch (const Error& error) {
        fmt::print(stderr, "{}\n", error.what());
        FUZZ_CHECK(false);
    }
}

}    // namespace hearth::fuzz
