// The room engine/system on Windows: whole files, what is ours of this machine, the cache, names and streams.
#include "engine/system/file_map.h"
#include "engine/system/folders.h"
#include "engine/system/limits.h"
#include "engine/system/line_file.h"
#include "engine/system/program.h"
#include "engine/system/whole_file.h"
#include "engine/system/windows.h"
#include "tests/folder.h"
#include "tests/support.h"

#include <thread>

using namespace hearth;
using namespace hearth::tests;

namespace {

namespace fs = std::filesystem;

constexpr const char* name_of_all = "M\u00e4rchen-\u7269\u8a9e";

}    // namespace

TEST_SUITE("system")
{
    TEST_CASE("names are UTF-8, whatever the code page is")
    {
        const std::string name = name_of_all;
        CHECK(to_utf8(to_wide(name)) == name);
        CHECK(fs::path(name).wstring() == to_wide(name));
        TemporaryFolder folder;
        write_whole(folder / name, std::vector<std::string_view>{"text"});
        CHECK(names(folder / "") == std::set{name});
        CHECK(MappedFile(folder / name).bytes() == "text");
        std::FILE* const file = open_file(folder / name, "rb");
        REQUIRE(file);
        std::fclose(file);
        CHECK(SetEnvironmentVariableW(L"HEARTH_TEST_VARIABLE", to_wide(name).c_str()));
        CHECK(environment_variable("HEARTH_TEST_VARIABLE") == name);
        CHECK(!environment_variable("HEARTH_TEST_NO_SUCH_VARIABLE"));
        CHECK_THROWS_WITH_AS(MappedFile(folder / (name + "x")), doctest::Contains(name.c_str()), Error);
    }

    TEST_CASE("this machine has cores, memory, a version and a name")
    {
        CHECK(usable_cores() >= 1);
        CHECK(usable_cores() <= std::max(1u, std::thread::hardware_concurrency()));
        CHECK(threads_for(7) == 7);
        CHECK(available_memory().value_or(0) > 1 << 20);
        CHECK(peak_memory().value_or(0) > 1 << 20);
        CHECK(system_version().starts_with("Windows "));
        CHECK(cache_folder().is_absolute());
    }

    TEST_CASE("a file is written whole, and nothing else is left")
    {
        TemporaryFolder folder;
        const fs::path path = folder / "file";
        for (const std::string text : {"first", "second\r\n\x1a"}) {
            WholeFile file(path);
            file.write(text);
            file.finish();
            CHECK(read_file(path) == text);
        }
        {
            WholeFile given_up(path);
            given_up.write("not finished");
        }
        CHECK(read_file(path) == "second\r\n\x1a");
        CHECK(names(folder / "") == std::set<std::string>{"file"});
        for (const char* name : {"none/file", "a\"b", "a/"}) CHECK_THROWS_AS(write_whole(folder / name, {}), Error);
        WholeFile device("NUL", {.devices = true});
        device.write("gone");
        device.finish();
    }

    TEST_CASE("a model that is in use can be replaced, and stays what it was")
    {
        TemporaryFolder folder;
        const fs::path path = folder / "file";
        put(path, "old bytes");
        const MappedFile file(path);
        write_whole(path, std::vector<std::string_view>{"new"});
        CHECK(read_file(path) == "new");
        CHECK(file.bytes() == "old bytes");
        file.check_unchanged();
    }

    TEST_CASE("a mapped file that is written to is noticed")
    {
        TemporaryFolder folder;
        const fs::path path = folder / "file";
        put(path, "some bytes");
        const MappedFile file(path);
        file.check_unchanged();
        std::ofstream(path, std::ios::binary | std::ios::app) << "and more";
        CHECK_THROWS_WITH_AS(file.check_unchanged(), doctest::Contains("was changed while it was in use"), Error);
    }

    TEST_CASE("what a killed writer left is removed by the next one of that file, and nothing else")
    {
        TemporaryFolder folder;
        put(folder / "file.0123456789abcdef.part", "left");
        put(folder / "file.0123456789abcdeg.part", "stays");
        put(folder / "other.0123456789abcdef.part", "stays");
        WholeFile at_work(folder / "file");
        write_whole(folder / "file", {});
        CHECK(names(folder / "").size() == 4);
        at_work.write("last");
        at_work.finish();
        CHECK(read_file(folder / "file") == "last");
        CHECK(names(folder / "") ==
              std::set<std::string>{"file", "file.0123456789abcdeg.part", "other.0123456789abcdef.part"});
    }

    TEST_CASE("of several writers of one file the last one wins, with a whole file")
    {
        TemporaryFolder folder;
        const fs::path path = folder / "file";
        put(path, std::string(100000, 'x'));
        std::vector<std::thread> writers;
        for (char c = 'a'; c < 'e'; ++c)
            writers.emplace_back([&path, c] {
                const std::string text(100000, c);
                for (int i = 0; i < 10; ++i) write_whole(path, std::vector<std::string_view>{text});
            });
        for (std::thread& writer : writers) writer.join();
        const std::string seen = read_file(path);
        CHECK(seen.size() == 100000);
        CHECK(seen.find_first_not_of(seen[0]) == seen.npos);
        CHECK(names(folder / "") == std::set<std::string>{"file"});
    }

    TEST_CASE("a file of lines is one process's, and a line cut short is gone")
    {
        TemporaryFolder folder;
        put(folder / "lines", "one\ntw");
        {
            LineFile lines(folder / "lines", LineFile::Mode::go_on);
            CHECK(lines.before() == "one\n");
            CHECK_THROWS_WITH_AS(LineFile(folder / "lines", LineFile::Mode::go_on),
                                 doctest::Contains("another process writes"), Error);
            lines.add("three");
        }
        CHECK(read_file(folder / "lines") == "one\nthree\n");
        CHECK_THROWS_WITH_AS(LineFile(folder / "lines", LineFile::Mode::fresh), doctest::Contains("there already"),
                             Error);
    }

    TEST_CASE("the cache is read only where it is whole")
    {
        TemporaryFolder folder;
        const fs::path path = folder / "new/cache/file";
        const std::string bytes("some\0\r\nbytes", 12);
        CHECK(read_cached(path).empty());
        write_cached(path, bytes);
        CHECK(read_cached(path) == bytes);
        put(path, read_file(path) + "x");
        CHECK(read_cached(path).empty());
    }
}
