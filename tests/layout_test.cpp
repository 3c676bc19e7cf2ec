// The one-way includes of the rooms: shaders <- host <- engine <- tools; inside engine: error <- system <- file <-
// text, model <- plan <- device <- run, tune <- engine.h, run <- vision <- engine.h, and system <- vulkan <- device.
#include "tests/support.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

namespace {

namespace fs = std::filesystem;

/// The room of a source file, by its path from the top.
std::string room(const std::string& path)
{
    if (path == "engine/error.h" || path == "engine/error.cpp") return "engine/error";
    for (const char* door :
         {"engine/batcher.", "engine/engine.", "engine/hearth.", "engine/hearth_c.", "engine/workshop."})
        if (path.starts_with(door)) return "engine/door";
    const size_t first = path.find('/'), second = path.find('/', first + 1);
    return path.starts_with("engine/") ? path.substr(0, second) : path.substr(0, first);
}

/// The rooms in their order: each may include those that it names, and what these may include.
const std::vector<std::pair<std::string, std::set<std::string>>> rooms = {
    {"shaders", {}},
    {"host", {"shaders"}},
    {"engine/error", {}},
    {"engine/system", {"engine/error"}},
    {"engine/file", {"host", "engine/system"}},
    {"engine/text", {"engine/file"}},
    {"engine/model", {"engine/file"}},
    {"engine/plan", {"engine/model"}},
    {"engine/vulkan", {"shaders", "engine/system"}},
    {"engine/device", {"engine/plan", "engine/vulkan"}},
    {"engine/run", {"engine/text", "engine/device"}},
    {"engine/tune", {"engine/device"}},
    {"engine/vision", {"engine/run"}},
    {"engine/door", {"engine/vision", "engine/tune"}},
};

std::map<std::string, std::set<std::string>> all_that_may_be_included()
{
    std::map<std::string, std::set<std::string>> may_include;
    for (const auto& [room, named] : rooms) {
        std::set<std::string>& all = may_include[room];
        for (const std::string& other : named) {
            all.insert(other);
            all.insert(may_include.at(other).begin(), may_include.at(other).end());
        }
    }
    // The program knows the door and what stands in its signatures, but neither kernels nor devices.
    may_include["tools"] = {"engine/door", "engine/error", "engine/system", "engine/file",
                            "engine/text", "engine/model", "engine/plan",   "engine/vision"};
    return may_include;
}

}    // namespace

TEST_SUITE("layout")
{
    TEST_CASE("includes go one way through the rooms")
    {
        const fs::path top = HEARTH_SOURCE;
        const auto may_include = all_that_may_be_included();
        int files = 0;
        for (const char* folder : {"shaders", "host", "engine", "tools"}) {
            for (const auto& entry : fs::recursive_directory_iterator(top / folder)) {
                const std::string extension = entry.path().extension().string();
                if (extension != ".h" && extension != ".cpp" && extension != ".comp" && extension != ".glsl") continue;
                ++files;
                const std::string file = fs::relative(entry.path(), top).generic_string();
                std::ifstream in(entry.path());
                for (std::string line; std::getline(in, line);) {
                    const std::string start = "#include \"";
                    if (!line.starts_with(start)) continue;
                    const std::string name = line.substr(start.size(), line.find('"', start.size()) - start.size());
                    const std::string from = room(file);
                    const std::string to = from == "shaders" && fs::exists(top / "shaders" / name)
                                               ? "shaders"
                                               : room(name);    // GLSL names its neighbours only
                    INFO(file << " includes " << name);
                    CHECK((to == from || may_include.at(from).contains(to)));
                }
            }
        }
        CHECK(files > 30);
    }

    TEST_CASE("the top level holds the names of the design and nothing else")
    {
        const std::set<std::string> allowed = {
            "CMakeLists.txt", "engine",  "shaders",           "host",        "tests",        "tools",
            "README.md",      "LICENSE", "CMakePresets.json", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md"};
        for (const auto& entry : fs::directory_iterator(HEARTH_SOURCE)) {
            const std::string name = entry.path().filename().string();
            INFO(name);
            CHECK((name.starts_with('.') || name == "build" || allowed.contains(name)));
        }
    }

    TEST_CASE("files and folders that the texts name exist")
    {
        size_t named = 0;
        for (const char* text : {"README.md", "CONTRIBUTING.md", "SECURITY.md", "engine/README.md", "tests/README.md",
                                 "tools/README.md"}) {
            const std::string content = hearth::tests::read_file(fs::path(HEARTH_SOURCE) / text);
            for (size_t at = 0; (at = content.find('`', at)) != std::string::npos; ++at) {
                const std::string name = content.substr(at + 1, content.find('`', at + 1) - at - 1);
                const bool path =
                    name.find('/') != std::string::npos && name.find_first_of(" *[=:<\n") == std::string::npos;
                const bool stands_for_many =
                    name.find("NAME") != std::string::npos || name.find("CHIP") != std::string::npos;
                const bool of_ours = std::ranges::any_of(std::array{"shaders", "host", "engine", "tools", "tests"},
                                                         [&](const char* top) { return name.starts_with(top); });
                if (!path || stands_for_many || !of_ours) continue;
                INFO(text, ": ", name);
                CHECK(fs::exists(fs::path(HEARTH_SOURCE) / name));
                ++named;
            }
        }
        CHECK(named > 60);
    }

    TEST_CASE("the README names the files of the reading order, and they exist")
    {
        const std::string readme = hearth::tests::read_file(fs::path(HEARTH_SOURCE) / "README.md");
        for (const char* file : {"engine/run/reference.cpp", "shaders/kernels.h", "host/", "engine/plan/placement.h",
                                 "engine/run/scheduler.cpp", "engine/engine.h", "tools/hearth/main.cpp"}) {
            INFO(file);
            CHECK(readme.find(file) != std::string::npos);
            CHECK(fs::exists(fs::path(HEARTH_SOURCE) / file));
        }
    }
}
