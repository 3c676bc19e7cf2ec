// The figures of this machine that `hearth tune` wrote: JSON.
#include "tests/fuzz/fuzz.h"
#include "tools/cli.h"

namespace hearth::fuzz {

const uint64_t base_memory = 1 << 18;

void read(std::string_view bytes)
{
    const TemporaryFile file("machine.json", bytes);
    const std::string first = tools::to_json(tools::read_machine(file.path())).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    const TemporaryFile again("again.json", first);
    try {
        FUZZ_CHECK(tools::to_json(tools::read_machine(again.path())).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) == first);
    } catch (const Error& error) {    // what we write we can read
        fmt::print(stderr, "{}\n", error.what());
        FUZZ_CHECK(false);
    }
}

}    // namespace hearth::fuzz
