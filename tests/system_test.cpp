// The room engine/system: whole files, what is ours of this machine, the cache.
#include "engine/system/file_map.h"
#include "engine/system/folders.h"
#include "engine/system/large_pages.h"
#include "engine/system/limits.h"
#include "engine/system/whole_file.h"
#include "tests/folder.h"
#include "tests/support.h"

#include <atomic>
#include <cstring>
#include <thread>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace hearth;
using namespace hearth::tests;

namespace {

namespace fs = std::filesystem;

mode_t mode_of(const fs::path& path)
{
    struct stat status = {};
    REQUIRE(stat(path.c_str(), &status) == 0);
    return status.st_mode & 07777;
}

/// A tree as a system would have it, with a mount of v2 groups, or of v1 groups by controller.
struct Tree {
    TemporaryFolder folder;
    fs::path root = folder / "";

    void meminfo(uint64_t kib)
    {
        put(root / "proc/meminfo", fmt::format("MemTotal: 999999999 kB\nMemAvailable: {} kB\n", kib));
    }
    void cores(int count, int threads_each)
    {
        for (int cpu = 0; cpu < count * threads_each; ++cpu)
            put(root / fmt::format("sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu),
                fmt::format("{},{}\n", cpu % count, cpu % count + count));
    }
    void v2(const std::string& group, const std::string& shown = "/")
    {
        put(root / "proc/self/mountinfo", fmt::format("22 1 0:21 / /proc rw - proc proc rw\n30 23 0:26 {} "
                                                      "/sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n",
                                                      shown));
        put(root / "proc/self/cgroup", "0::" + group + "\n");
    }
    void v1(const std::string& group, const std::string& shown)
    {
        put(root / "proc/self/mountinfo",
            fmt::format("31 30 0:27 {} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
                        "32 30 0:28 {} /sys/fs/cgroup/a\\040b rw - cgroup cgroup rw,memory\n",
                        shown, shown));
        put(root / "proc/self/cgroup",
            fmt::format("12:memory:{}\n4:cpu,cpuacct:{}\n3:cpuset:/elsewhere\n1:name=systemd:/\n", group, group));
    }
    void file(const std::string& path, const std::string& text) { put(root / "sys/fs/cgroup" / path, text); }
};

}    // namespace

TEST_SUITE("system")
{
    TEST_CASE("what a file says cannot act on a terminal")
    {
        CHECK(printable("a\tb\nc\x1b[2Jd\x7f") == "a?b?c?[2Jd?");
        CHECK(printable("h\u00e9llo \u4e16\u754c \U0001f600") == "h\u00e9llo \u4e16\u754c \U0001f600");
        CHECK(printable("a\xc2\x9b"
                        "b\xc2\x9d"
                        "c") == "a?b?c");    // CSI and OSC of C1
        CHECK(printable("a\u202eb\u2066c\u200fd\u061ce\u2028f\ufeffg\U000e0041h") ==
              "a?b?c?d?e?f?g?h");    // turns around, hides
        CHECK(printable("\xff\xc1\x9b\xe0\x9b\x80\xed\xa0\x80\xf5\x80\x80\x80\xc2") ==
              "??????????????");    // no UTF-8: overlong, surrogates, cut short
        CHECK(printable(std::string("\0x", 2)) == "?x");
        CHECK(printable_lines("a\tb\nc\x1b\u009b\r\n") == "a\tb\nc???\n");
        CHECK(visible("a\n\x1b]0;t\x07\u009b\xffz\r\t") == "a\\n\\x1b]0;t\\x07\\u009b\\xffz\\r\\t");
        CHECK(visible("a\r\n\tb\x1b[A\u202e", "\n\t") == "a\n\tb\\x1b[A\u202e");
        CHECK(std::string(Error("{} is\nbad: {}", "a\x1b[2J", "\u202e").what()) == "a?[2J is?bad: ?");
    }

    TEST_CASE("threads are one for each physical core that may be used")
    {
        Tree tree;
        const std::vector<int> all = {0, 1, 2, 3, 4, 5, 6, 7}, two_of_one = {1, 5}, three = {0, 1, 6};
        CHECK(usable_cores(all, tree.root) == 8);    // a system that does not say
        tree.cores(4, 2);
        CHECK(usable_cores(all, tree.root) == 4);
        CHECK(usable_cores(two_of_one, tree.root) == 1);
        CHECK(usable_cores(three, tree.root) == 3);
        CHECK(usable_cores() >= 1);
        CHECK(usable_cores() <= std::max(1u, std::thread::hardware_concurrency()));
        CHECK(threads_for(7) == 7);
        CHECK(threads_for(0) == usable_cores());
    }

    TEST_CASE("the processor time that control groups give counts as the machine's cores, in v2")
    {
        Tree tree;
        tree.cores(8, 1);
        const std::vector<int> all = {0, 1, 2, 3, 4, 5, 6, 7};
        tree.v2("/a/b");
        CHECK(usable_cores(all, tree.root) == 8);    // no files at all
        tree.file("a/b/cpu.max", "max 100000\n");
        CHECK(usable_cores(all, tree.root) == 8);
        tree.file("a/b/cpu.max", "350000 100000\n");
        CHECK(usable_cores(all, tree.root) == 3);
        tree.file("a/cpu.max", "50000 25000\n");    // the group around it
        CHECK(usable_cores(all, tree.root) == 2);
        tree.file("cpu.max", "10000 100000\n");
        CHECK(usable_cores(all, tree.root) == 1);
        tree.file("cpu.max", "0 0\n");    // no such thing
        CHECK(usable_cores(all, tree.root) == 2);
        tree.v2("/../elsewhere");    // a process that was moved out of what is mounted
        tree.file("cpu.max", "600000 100000\n");
        CHECK(usable_cores(all, tree.root) == 6);
        tree.v2("/docker/1/x", "/docker/1");    // a container that sees its group's name but only the group
        tree.file("x/cpu.max", "400000 100000\n");
        CHECK(usable_cores(all, tree.root) == 4);
        CHECK(usable_cores(std::vector<int>{0, 1, 2}, tree.root) == 3);
    }

    TEST_CASE("the processor time that control groups give counts as the machine's cores, in v1")
    {
        Tree tree;
        tree.cores(8, 1);
        const std::vector<int> all = {0, 1, 2, 3, 4, 5, 6, 7};
        tree.v1("/a", "/");
        tree.file("cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
        tree.file("cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n");
        CHECK(usable_cores(all, tree.root) == 8);
        tree.file("cpu,cpuacct/a/cpu.cfs_quota_us", "250000\n");
        CHECK(usable_cores(all, tree.root) == 2);
        tree.v1("/docker/1", "/docker/1");
        tree.file("cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        tree.file("cpu,cpuacct/cpu.cfs_quota_us", "500000\n");
        CHECK(usable_cores(all, tree.root) == 5);
    }

    TEST_CASE("the memory that control groups leave counts as the machine's, in v2")
    {
        Tree tree;
        CHECK(!available_memory(tree.root));
        tree.meminfo(1000);
        CHECK(available_memory(tree.root) == 1000 * 1024);
        tree.v2("/a/b");
        tree.file("a/b/memory.max", "max\n");
        tree.file("a/b/memory.current", "500000\n");
        CHECK(available_memory(tree.root) == 1000 * 1024);
        tree.file("a/b/memory.max", "800000\n");
        tree.file("a/b/memory.stat", "anon 100000\nfile 350000\ninactive_file 250000\nactive_file 50000\n");
        CHECK(available_memory(tree.root) == 600000);    // pages of files are given back
        tree.file("a/b/memory.high", "700000\n");
        CHECK(available_memory(tree.root) == 500000);
        tree.file("a/memory.max", "600000\n");
        tree.file("a/memory.current", "590000\n");
        CHECK(available_memory(tree.root) == 10000);
        tree.file("a/memory.current", "610000\n");
        CHECK(available_memory(tree.root) == 0);
    }

    TEST_CASE("the memory that control groups leave counts as the machine's, in v1")
    {
        Tree tree;
        tree.meminfo(1000);
        tree.v1("/a", "/");
        tree.file("a b/a/memory.limit_in_bytes", "9223372036854771712\n");    // none
        tree.file("a b/a/memory.usage_in_bytes", "500000\n");
        CHECK(available_memory(tree.root) == 1000 * 1024);
        tree.file("a b/a/memory.limit_in_bytes", "800000\n");
        tree.file("a b/a/memory.stat", "inactive_file 1\ntotal_inactive_file 200000\ntotal_active_file 0\n");
        CHECK(available_memory(tree.root) == 500000);
        tree.file("a b/memory.limit_in_bytes", "100000\n");
        tree.file("a b/memory.usage_in_bytes", "90000\n");
        CHECK(available_memory(tree.root) == 10000);
    }

    TEST_CASE("a file is written whole, with the mode of the one that it replaces, and nothing else is left")
    {
        TemporaryFolder folder;
        const fs::path path = folder / "file";
        const std::string_view first[] = {"fir", "st"};
        write_whole(path, first);
        CHECK(read_file(path) == "first");
        const mode_t mask = umask(0);
        umask(mask);
        CHECK(mode_of(path) == (0666 & ~mask));
        for (const mode_t mode : {0600, 0640, 0444, 0755, 0666}) {
            REQUIRE(chmod(path.c_str(), mode) == 0);
            WholeFile file(path);
            file.write("second");
            CHECK(read_file(path) != "");
            file.finish();
            CHECK(read_file(path) == "second");
            CHECK(mode_of(path) == mode);
        }
        {
            WholeFile file(path, {.for_owner = true});
            file.write("secret");
            file.finish();
            CHECK(mode_of(path) == 0600);
        }
        {
            WholeFile given_up(path);
            given_up.write("not finished");
        }
        CHECK(read_file(path) == "secret");
        CHECK(names(folder / "") == std::set<std::string>{"file"});
    }

    TEST_CASE("of several writers of one file the last one wins, with a whole file")
    {
        TemporaryFolder folder;
        const fs::path path = folder / "file";
        auto one = std::make_unique<WholeFile>(path), two = std::make_unique<WholeFile>(path);
        CHECK(names(folder / "").size() == 2);
        for (int i = 0; i < 10000; ++i) {
            one->write("one ");
            two->write("two ");
        }
        two->finish();
        CHECK(read_file(path).starts_with("two two "));
        CHECK(read_file(path).size() == 40000);
        one->finish();
        CHECK(read_file(path).starts_with("one one "));
        CHECK(read_file(path).size() == 40000);
        CHECK(names(folder / "") == std::set<std::string>{"file"});

        std::vector<std::thread> writers;
        for (char c = 'a'; c < 'i'; ++c)
            writers.emplace_back([&path, c] {
                for (int i = 0; i < 20; ++i) {
                    const std::string text(100000, c);
                    const std::string_view parts[] = {text};
                    write_whole(path, parts);
                }
            });
        for (int i = 0; i < 50; ++i) {
            const std::string seen = read_file(path);
            CHECK(
                (seen.starts_with("one ") || (seen.size() == 100000 && seen.find_first_not_of(seen[0]) == seen.npos)));
        }
        for (std::thread& writer : writers) writer.join();
        CHECK(names(folder / "") == std::set<std::string>{"file"});
    }

    TEST_CASE("what a killed writer left is removed by the next one of that file, and nothing else")
    {
        TemporaryFolder folder;
        const std::set<std::string> others = {
            "file.0123456789abcdef.par",   "file.0123456789abcdeg.part",   "file.part",
            "other.0123456789abcdef.part", "file.x.0123456789abcdef.part", "file.0123456789abcdef.part.part"};
        for (const std::string& name : others) put(folder / name, "stays");
        put(folder / "target", "stays");
        fs::create_symlink(folder / "target", folder / "file.aaaaaaaaaaaaaaaa.part");
        put(folder / "file.0123456789abcdef.part", "left");
        put(folder / "file.1123456789abcdef.part", "at work");
        const int at_work = open((folder / "file.1123456789abcdef.part").c_str(), O_RDWR);
        REQUIRE(flock(at_work, LOCK_EX) == 0);
        write_whole(folder / "file", {});
        std::set<std::string> want = others;
        want.insert({"file", "target", "file.aaaaaaaaaaaaaaaa.part", "file.1123456789abcdef.part"});
        CHECK(names(folder / "") == want);
        close(at_work);
        write_whole(folder / "file", {});
        want.erase("file.1123456789abcdef.part");
        CHECK(names(folder / "") == want);
    }

    TEST_CASE("links are followed, the longest names are good names, and what is no file is refused")
    {
        TemporaryFolder folder;
        put(folder / "a/real", "before");
        fs::create_symlink("a/real", folder / "link");
        const std::string_view text[] = {"after"};
        write_whole(folder / "link", text);
        CHECK(fs::is_symlink(folder / "link"));
        CHECK(read_file(folder / "a/real") == "after");
        CHECK(names(folder / "a") == std::set<std::string>{"real"});
        fs::create_symlink("a/new", folder / "dangling");
        write_whole(folder / "dangling", text);
        CHECK(read_file(folder / "a/new") == "after");
        fs::create_symlink("loop", folder / "loop");
        CHECK_THROWS_WITH_AS(write_whole(folder / "loop", text), doctest::Contains("cannot be written"), Error);

        const std::string longest(255, 'x');
        write_whole(folder / longest, text);
        write_whole(folder / longest, text);
        CHECK(read_file(folder / longest) == "after");
        CHECK_THROWS_WITH_AS(write_whole(folder / std::string(256, 'x'), text), doctest::Contains("shorter name"),
                             Error);

        REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
        for (const char* name : {"pipe", "a", "a/"})
            CHECK_THROWS_WITH_AS(write_whole(folder / name, text), doctest::Contains("name a file"), Error);
        CHECK_THROWS_WITH_AS(write_whole(folder / "none/file", text), doctest::Contains("folder"), Error);
        WholeFile device("/dev/null", {.devices = true});
        device.write("gone");
        device.finish();
    }

    TEST_CASE("the cache is read only where it is ours and whole")
    {
        TemporaryFolder folder;
        const fs::path path = folder / "new/cache/file";
        const std::string bytes("some\0bytes", 10);
        CHECK(read_cached(path).empty());
        write_cached(path, bytes);
        CHECK(read_cached(path) == bytes);
        CHECK(mode_of(path) == 0600);
        for (const mode_t mode : {0660, 0606}) {    // others could have written to it
            REQUIRE(chmod(path.c_str(), mode) == 0);
            CHECK(read_cached(path).empty());
        }
        write_cached(path, bytes);
        CHECK(read_cached(path) == bytes);
        fs::create_symlink(path, folder / "link");
        CHECK(read_cached(folder / "link").empty());
        if (geteuid() == 0) {
            REQUIRE(chown(path.c_str(), 12345, gid_t(-1)) == 0);
            CHECK(read_cached(path).empty());
            REQUIRE(chown(path.c_str(), 0, gid_t(-1)) == 0);
        }
        const std::string whole = read_file(path);
        for (size_t length = 0; length < whole.size(); ++length) {
            put(path, whole.substr(0, length));
            CHECK(read_cached(path).empty());
        }
        for (size_t at = 0; at < whole.size(); ++at) {
            std::string damaged = whole;
            damaged[at] = char(damaged[at] ^ 1);
            put(path, damaged);
            CHECK(read_cached(path).empty());
        }
        write_cached("/proc/none/file", bytes);    // silently not
    }

    TEST_CASE("places in the environment that are relative are none")
    {
        const auto with = [](const char* xdg, const char* home) {
            const std::string before_xdg = std::getenv("XDG_CACHE_HOME") ? std::getenv("XDG_CACHE_HOME") : "",
                              before_home = std::getenv("HOME") ? std::getenv("HOME") : "";
            setenv("XDG_CACHE_HOME", xdg, 1);
            setenv("HOME", home, 1);
            const fs::path found = cache_folder();
            setenv("XDG_CACHE_HOME", before_xdg.c_str(), 1);
            setenv("HOME", before_home.c_str(), 1);
            return found;
        };
        CHECK(with("/x", "/home/u") == "/x/hearth");
        CHECK(with("x", "/home/u") == "/home/u/.cache/hearth");
        CHECK(with("", "/home/u") == "/home/u/.cache/hearth");
        CHECK(with("../x", "home") == "");
    }

    TEST_CASE("a mapped file that is written to is noticed, and one that is replaced is not")
    {
        TemporaryFolder folder;
        const fs::path path = folder / "file";
        put(path, "some bytes");
        const MappedFile file(path);
        file.check_unchanged();
        put(folder / "new", "others");
        fs::rename(folder / "new", path);
        file.check_unchanged();
        CHECK(file.bytes() == "some bytes");
        MappedFile second(path);
        put(path, "longer than before");
        CHECK_THROWS_WITH_AS(second.check_unchanged(), doctest::Contains("was changed while it was in use"), Error);
    }

    TEST_CASE("a mapped file moves to large pages while it is read")
    {
        TemporaryFolder folder;
        const fs::path path = folder / "file";
        std::string text(40 << 20, 0);
        for (size_t i = 0; i < text.size(); i += 4) std::memcpy(&text[i], &i, 4);
        put(path, text);
        const MappedFile file(path);
        const std::string_view bytes = file.bytes();
        const auto part = [&](size_t first, size_t last) {
            return std::as_bytes(std::span(bytes.data() + first, last - first));
        };
        std::atomic<bool> ended = false;
        std::vector<std::jthread> readers;
        std::atomic<uint64_t> wrong = 0, rounds = 0;
        for (int reader = 0; reader < 3; reader++)
            readers.emplace_back([&] {
                do {
                    wrong += bytes != text;
                    rounds++;
                } while (!ended);
            });
        // Two neighbours, and a part that has no whole large page.
        LargePages pages(
            {part(5 << 20, 9 << 20), part(20, (5 << 20) - 40), part(30 << 20, (30 << 20) + large_page / 2)});
        pages.wait();
        while (rounds < 6) std::this_thread::yield();
        ended = true;
        readers.clear();
        CHECK(wrong == 0);
        CHECK(pages.bytes() % large_page == 0);
        CHECK(pages.bytes() >= (6 << 20));
        CHECK(pages.bytes() <= (8 << 20));
        CHECK(bytes == text);
        LargePages stopped({part(0, bytes.size())});
        stopped = {};
        CHECK(bytes == text);
    }
}
