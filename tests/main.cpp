// The test program. Beside doctest's options: --device=NAME (default llvmpipe) for the device suite, --no-validation
// where the machine has no layers,
// --thorough for every model on every path where there are many of both, --case=FOLDER for the test of a model that was
// made elsewhere (families_test.py).
#define DOCTEST_CONFIG_IMPLEMENT
#include "tests/device_support.h"

#include <cstring>

namespace hearth::tests {

std::string device_name = "llvmpipe";
bool validation = true, thorough = false;
std::string case_folder;

}    // namespace hearth::tests

int main(int argc, char** argv)
{
    for (int i = 1; i < argc; ++i) {
        if (std::strncmp(argv[i], "--device=", 9) == 0) hearth::tests::device_name = argv[i] + 9;
        if (std::strncmp(argv[i], "--case=", 7) == 0) hearth::tests::case_folder = argv[i] + 7;
        if (std::strcmp(argv[i], "--no-validation") == 0) hearth::tests::validation = false;
        if (std::strcmp(argv[i], "--thorough") == 0) hearth::tests::thorough = true;
    }
    hearth::tests::workshop = std::make_shared<hearth::Workshop>(
        hearth::WorkshopOptions{.threads = 2, .validation = hearth::tests::validation});
    doctest::Context context(argc, argv);
    const int result = context.run();
    hearth::tests::workshop.reset();
    return result;
}
