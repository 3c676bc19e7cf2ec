#include "host/arena.h"
#include "host/sleep.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

using hearth::host::Team;

namespace {

/// How often `parallel` called each of n chunks.
std::vector<int> calls(Team& team, uint32_t n)
{
    std::vector<int> count(
        n, 0);    // not atomic on purpose: a chunk belongs to one thread, and `parallel` hands its result over
    team.parallel(n, [&](uint32_t i) { count[i]++; });
    return count;
}

}    // namespace

TEST_SUITE("host")
{
    TEST_CASE("a team has the size it was asked for, and at least one thread")
    {
        CHECK(Team(3).size() == 3);
        CHECK(Team(0).size() == 1);
    }

    TEST_CASE("every chunk is called once, whatever the number of threads and chunks")
    {
        for (unsigned threads : {1u, 2u, 4u}) {
            Team team(threads);
            for (uint32_t n : {0u, 1u, 2u, 3u, 7u, 1000u}) {
                CHECK(calls(team, n) == std::vector<int>(n, 1));
                team.hold([&] { CHECK(calls(team, n) == std::vector<int>(n, 1)); });
            }
        }
    }

    TEST_CASE("jobs that follow each other at once do not mix")
    {
        Team team(4);
        std::vector<uint64_t> value(16, 0);
        team.hold([&] {
            for (uint64_t job = 1; job <= 2000; job++) {
                const uint32_t chunks = uint32_t(1 + job % value.size());
                team.parallel(chunks, [&, job](uint32_t i) { value[i] += job; });
                if (job % 500 == 0)
                    std::this_thread::sleep_for(
                        std::chrono::milliseconds(3));    // long enough for the workers to fall asleep
            }
        });
        std::vector<uint64_t> expected(16, 0);
        for (uint64_t job = 1; job <= 2000; job++)
            for (uint64_t i = 0; i < 1 + job % expected.size(); i++) expected[i] += job;
        CHECK(value == expected);
    }

    TEST_CASE("a held team works on more than one thread")
    {
        Team team(2);
        team.hold([&] {
            std::atomic<int> present = 0;
            const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
            team.parallel(2, [&](uint32_t) {    // each chunk waits for the other
                present++;
                while (present < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
            });
            CHECK(present == 2);
            CHECK(std::chrono::steady_clock::now() < deadline);
        });
    }

    TEST_CASE("workers that sleep are woken by the next job")
    {
        Team team(2);
        team.hold([&] {
            for (int round = 0; round < 3; round++) {
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
                std::atomic<int> present = 0;
                const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
                team.parallel(2, [&](uint32_t) {
                    present++;
                    while (present < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
                });
                CHECK(std::chrono::steady_clock::now() < deadline);
            }
        });
    }

    TEST_CASE("an exception in a chunk reaches the caller, and the team works on")
    {
        for (unsigned threads : {1u, 3u}) {
            Team team(threads);
            CHECK_THROWS_WITH(team.parallel(100,
                                            [](uint32_t i) {
                                                if (i == 5) throw std::runtime_error("five");
                                            }),
                              "five");
            CHECK(calls(team, 10) == std::vector<int>(10, 1));
            team.hold([&] {
                CHECK_THROWS_WITH(team.parallel(100, [](uint32_t) { throw std::runtime_error("all"); }), "all");
                CHECK(calls(team, 10) == std::vector<int>(10, 1));
            });
        }
    }

    TEST_CASE("chunks not yet begun are skipped after an exception")
    {
        Team team(1);
        CHECK_THROWS(team.parallel(100, [&](uint32_t i) {
            CHECK(i <= 5);
            if (i == 5) throw std::runtime_error("five");
        }));

        Team pair(2);
        std::atomic<uint32_t> begun = 0;
        CHECK_THROWS(pair.parallel(1u << 30, [&](uint32_t) {
            begun++;
            throw std::runtime_error("at once");
        }));
        CHECK(begun <= 2);
    }

    TEST_CASE("an exception in the body of hold reaches the caller, and the team can be held again")
    {
        Team team(3);
        CHECK_THROWS_WITH(team.hold([] { throw std::runtime_error("body"); }), "body");
        for (int round = 0; round < 20; round++) team.hold([&] { CHECK(calls(team, 5) == std::vector<int>(5, 1)); });
    }

    TEST_CASE("hold inside hold is one region")
    {
        Team team(2);
        team.hold([&] {
            team.hold([&] { CHECK(calls(team, 9) == std::vector<int>(9, 1)); });
            CHECK(calls(team, 9) == std::vector<int>(9, 1));
        });
    }

    // A lost wake-up would keep them asleep for ever: nobody changes the word but whoever is to be woken. They are
    // woken again then, so that the test ends.
    TEST_CASE("threads that sleep at a word lose no wake-up")
    {
        constexpr uint32_t threads = 4, rounds = 4000;
        hearth::host::SleepWord turn;
        std::vector<std::thread> all;
        for (uint32_t me = 0; me < threads; me++)
            all.emplace_back([&turn, me] {
                for (uint32_t seen; (seen = turn.word.load()) < rounds;) {
                    if (seen % threads != me) {
                        turn.sleep(seen);
                        continue;
                    }
                    turn.word.fetch_add(1);
                    turn.wake();
                }
            });
        int lost = 0, idle = 0;
        for (uint32_t before = 0, now; (now = turn.word.load()) < rounds; before = now) {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            idle = turn.word.load() == before ? idle + 1 : 0;
            if (idle < 500) continue;
            turn.wake();
            lost++;
            idle = 0;
        }
        for (std::thread& t : all) t.join();
        CHECK(lost == 0);
    }

    TEST_CASE("regions that end while their workers fall asleep end")
    {
        using clock = std::chrono::steady_clock;
        Team team(3);
        for (int region = 0; region < 60; region++)
            team.hold([&] {
                const auto end = clock::now() + std::chrono::microseconds(970 + region);    // patience is a millisecond
                while (clock::now() < end) std::this_thread::yield();
                CHECK(calls(team, 3) == std::vector<int>(3, 1));
            });
    }
}
