#include "tests/device_support.h"

#include <cstddef>

using namespace hearth;
using namespace hearth::tests;
using vulkan::DeviceInfo;
using vulkan::DeviceKind;

namespace {

DeviceInfo device(std::string name, DeviceKind kind, uint64_t memory, std::string unfit = "")
{
    DeviceInfo d;
    d.name = std::move(name);
    d.kind = kind;
    d.memory = memory;
    d.unfit = std::move(unfit);
    return d;
}

/// Checks that the compiler of the kernels laid a struct out as C++ did: REFLECTS("join", Join, step, base, ...)
struct Member {
    const char* name;
    size_t offset;
};

void check_layout(const char* kernel, std::initializer_list<Member> members)
{
    const auto reflected = vulkan::reflect_push_constants(kernel);
    INFO(kernel);
    REQUIRE(reflected.size() == members.size());
    for (const Member& m : members) {
        const auto found =
            std::find_if(reflected.begin(), reflected.end(), [&](const auto& r) { return r.name == m.name; });
        INFO(m.name);
        REQUIRE(found != reflected.end());
        CHECK(found->offset == m.offset);
    }
}

}    // namespace

TEST_SUITE("vulkan"){
    TEST_CASE("auto takes a discrete GPU before an integrated one, more memory before less, and never software"){
        const std::vector<DeviceInfo> all = {
            device("llvmpipe", DeviceKind::software, 64), device("Iris", DeviceKind::integrated, 32),
            device("Small", DeviceKind::discrete, 8), device("Large", DeviceKind::discrete, 24),
            device("Old", DeviceKind::discrete, 48, "speaks Vulkan 1.1 and 1.3 is needed")};
CHECK(vulkan::choose_device(all, "auto").index == 3);
CHECK(vulkan::choose_device(all, "auto").reason ==
      "the best of 5 Vulkan devices; unused: Iris (--device 1), Small (--device 2)");
CHECK(vulkan::choose_device({all[0], all[1]}, "auto").index == 1);
const auto none = vulkan::choose_device({all[0], all[4]}, "auto");
CHECK(!none.index);
CHECK(none.reason.find("llvmpipe is a software device") != std::string::npos);
CHECK(none.reason.find("Old speaks Vulkan 1.1") != std::string::npos);
CHECK(!vulkan::choose_device({}, "auto").index);
}

TEST_CASE("of two GPUs that were measured auto takes the faster, whatever their kinds and memory")
{
    const std::vector<DeviceInfo> all = {device("Small", DeviceKind::discrete, 8),
                                         device("Large", DeviceKind::discrete, 24),
                                         device("Wide", DeviceKind::integrated, 96)};
    const auto choose = [&](std::map<std::string, double> rates) {
        return vulkan::choose_device(all, "auto", [&](const DeviceInfo& d) { return rates[d.name]; });
    };
    CHECK(choose({}).index == 1);
    CHECK(choose({{"Small", 400}}).index == 1);    // who knows what Large does
    CHECK(choose({{"Small", 400}, {"Large", 300}}).index == 0);
    CHECK(choose({{"Small", 400}, {"Large", 300}}).reason ==
          "the fastest of those that were measured: 400 GB/s, where Large has 300; unused: Large (--device 1), Wide "
          "(--device 2)");
    CHECK(choose({{"Large", 300}, {"Wide", 200}}).index == 1);
    CHECK(choose({{"Large", 150}, {"Wide", 200}}).index == 2);
}

TEST_CASE("a device is named by index or by part of its name, and a bad name is an error that helps")
{
    const std::vector<DeviceInfo> all = {device("AMD Radeon RX 6600", DeviceKind::discrete, 8),
                                         device("AMD Radeon 680M", DeviceKind::integrated, 8),
                                         device("Old", DeviceKind::discrete, 4, "lacks timeline semaphores")};
    CHECK(vulkan::choose_device(all, "1").index == 1);
    CHECK(vulkan::choose_device(all, "rx 66").index == 0);
    CHECK_THROWS_WITH_AS(vulkan::choose_device(all, "radeon"),
                         "'radeon' names 2 devices: use an index of `hearth devices`", Error);
    CHECK_THROWS_AS(vulkan::choose_device(all, "7"), Error);
    CHECK_THROWS_AS(vulkan::choose_device(all, "nvidia"), Error);
    CHECK_THROWS_WITH_AS(vulkan::choose_device(all, "old"),
                         "Old cannot be used: it lacks timeline semaphores; update its driver or use --device cpu",
                         Error);
}

TEST_CASE("a GPU that Windows lists twice is one, named by its LUID too, and used without the layer over Direct3D")
{
    std::vector<DeviceInfo> all = {device("Direct3D12 (Radeon RX 6600)", DeviceKind::discrete, 9),
                                   device("Radeon RX 6600", DeviceKind::discrete, 8),
                                   device("Radeon RX 6600", DeviceKind::discrete, 8)};
    all[0].luid = all[1].luid = "0xa1b2";
    all[2].luid = "0xc3d4";
    all[0].layered = true;
    CHECK(vulkan::choose_device(all, "auto").index == 1);
    CHECK(vulkan::choose_device(all, "auto").reason ==
          "the best of 3 Vulkan devices; unused: Radeon RX 6600 (--device 2)");
    CHECK(vulkan::choose_device(all, "0xa1b2").index == 1);
    CHECK(vulkan::choose_device(all, "0xc3d4").index == 2);
    CHECK(vulkan::choose_device(all, "0").index == 0);    // who wants it has it
    CHECK_THROWS_WITH_AS(vulkan::choose_device(all, "radeon"),
                         "'radeon' names 2 devices: use an index of `hearth devices`", Error);
    all[1].unfit = "lacks timeline semaphores";
    CHECK(vulkan::choose_device({all[0], all[1]}, "auto").index == 0);
}

TEST_CASE("subgroups are as large as a vendor's compiler has registers for")
{
    constexpr uint32_t intel = 0x8086, amd = 0x1002, nvidia = 0x10de;
    const auto sizes = [](uint32_t vendor, uint32_t reported, const std::vector<uint32_t>& offered) {
        const vulkan::Subgroups s = vulkan::usual_subgroups(vendor, reported, offered);
        return std::pair(s.usual, s.heavy);
    };
    CHECK(sizes(intel, 32, {8, 16, 32}) == std::pair(16u, 8u));
    CHECK(sizes(intel, 32, {16, 32}) == std::pair(16u, 16u));    // Xe 2
    CHECK(sizes(intel, 32, {}) == std::pair(32u, 32u));          // no kernel can ask
    CHECK(sizes(amd, 64, {32, 64}) == std::pair(64u, 64u));
    CHECK(sizes(nvidia, 32, {32}) == std::pair(32u, 32u));
}

#define M(type, name) {#name, offsetof(gpu::type, name)}
TEST_CASE("the kernels' compiler and ours lay out the argument structs alike")
{
    check_layout("join", {M(Join, step), M(Join, base), M(Join, parts), M(Join, cold), M(Join, weight),
                          M(Join, residual), M(Join, y), M(Join, published), M(Join, planes), M(Join, n),
                          M(Join, part_count), M(Join, part_stride), M(Join, has_cold), M(Join, publish), M(Join, head),
                          M(Join, writes_planes), M(Join, form), M(Join, eps), M(Join, gain)});
    check_layout("quantise", {M(Quantise, x), M(Quantise, planes), M(Quantise, n)});
    check_layout("halve", {M(Halve, x), M(Halve, planes), M(Halve, width)});
    for (const char* kernel : {"matvec", "matvec_idot", "matvec_32", "matvec_idot_32"})
        check_layout(kernel, {M(MatVec, step), M(MatVec, weight), M(MatVec, x), M(MatVec, planes), M(MatVec, y),
                              M(MatVec, rows), M(MatVec, cols), M(MatVec, stride), M(MatVec, relu)});
    for (const char* kernel : {"matmul", "matmul_f16", "matmul_idot"})
        check_layout(kernel, {M(MatMul, step), M(MatMul, weight), M(MatMul, x), M(MatMul, planes), M(MatMul, y),
                              M(MatMul, rows), M(MatMul, inner), M(MatMul, stride), M(MatMul, x_stride),
                              M(MatMul, y_stride), M(MatMul, head), M(MatMul, add)});
    check_layout("rope", {M(Rope, step),     M(Rope, q),         M(Rope, k),
                          M(Rope, v),        M(Rope, bias),      M(Rope, norms),
                          M(Rope, angles),   M(Rope, k_cache),   M(Rope, v_cache),
                          M(Rope, counters), M(Rope, heads),     M(Rope, kv_heads),
                          M(Rope, head_dim), M(Rope, rope_dim),  M(Rope, pages),
                          M(Rope, k_q8),     M(Rope, v_q8),      M(Rope, counter_count),
                          M(Rope, has_bias), M(Rope, has_norms), M(Rope, halves),
                          M(Rope, eps)});
    check_layout("attend", {M(Attend, step), M(Attend, q), M(Attend, k_cache), M(Attend, v_cache), M(Attend, y),
                            M(Attend, parts), M(Attend, counters), M(Attend, planes), M(Attend, heads),
                            M(Attend, kv_heads), M(Attend, pages), M(Attend, writes_planes), M(Attend, splits),
                            M(Attend, window), M(Attend, scale), M(Attend, softcap)});
    for (const char* kernel : {"ffn_up", "ffn_up_idot", "ffn_up_32", "ffn_up_idot_32"})
        check_layout(kernel, {M(FfnUp, step), M(FfnUp, gate), M(FfnUp, up), M(FfnUp, bias), M(FfnUp, x),
                              M(FfnUp, planes), M(FfnUp, h), M(FfnUp, chosen), M(FfnUp, neurons), M(FfnUp, cols),
                              M(FfnUp, gate_stride), M(FfnUp, up_stride), M(FfnUp, cut), M(FfnUp, floor),
                              M(FfnUp, has_up), M(FfnUp, has_bias), M(FfnUp, has_experts)});
    check_layout("ffn_down", {M(FfnDown, step), M(FfnDown, down), M(FfnDown, h), M(FfnDown, parts), M(FfnDown, fired),
                              M(FfnDown, chosen), M(FfnDown, neurons), M(FfnDown, cols), M(FfnDown, stride),
                              M(FfnDown, slices), M(FfnDown, part_stride), M(FfnDown, has_experts), M(FfnDown, words)});
    check_layout("route", {M(Route, step), M(Route, score), M(Route, weight), M(Route, published),
                           M(Route, slot_expert), M(Route, chosen), M(Route, experts), M(Route, used),
                           M(Route, normalise), M(Route, slots), M(Route, places)});
    check_layout("best", {M(Best, step), M(Best, logits), M(Best, parts), M(Best, token), M(Best, n),
                          M(Best, part_count), M(Best, last), M(Best, scale)});
    check_layout("glu", {M(Glu, step), M(Glu, h), M(Glu, u), M(Glu, bias), M(Glu, weight), M(Glu, slot_expert),
                         M(Glu, n), M(Glu, experts), M(Glu, floor), M(Glu, has_up), M(Glu, has_bias)});
    check_layout("predict_sign",
                 {M(PredictSign, step), M(PredictSign, x), M(PredictSign, signs), M(PredictSign, mask),
                  M(PredictSign, neurons), M(PredictSign, cols), M(PredictSign, differing), M(PredictSign, words)});
    check_layout("threshold", {M(Threshold, step), M(Threshold, score), M(Threshold, mask), M(Threshold, neurons),
                               M(Threshold, words), M(Threshold, threshold)});
}
#undef M
}

TEST_SUITE("device")
{
    TEST_CASE("uploads arrive whole, also when they are larger than the staging buffer")
    {
        const auto device = test_device();
        const uint64_t words = vulkan::Uploader::staging_bytes / 4 * 2 + 1000;
        vulkan::Pool pool(device, words * 4, vulkan::Use::device, "a test");
        const vulkan::Slice slice = pool.take(words * 4);
        vulkan::Uploader(device).upload(slice, words, 4, [](std::byte* to, uint64_t first, uint64_t count) {
            for (uint64_t i = 0; i < count; ++i)
                reinterpret_cast<uint32_t*>(to)[i] = uint32_t((first + i) * 2654435761u);
        });
        vulkan::Pool back(device, words * 4, vulkan::Use::readback, "a test");
        const vulkan::Slice read = back.take(words * 4);
        vulkan::Commands commands(device, false);
        commands.stage("read", 0, words * 4);
        commands.copy(slice, read, words * 4);
        commands.end();
        vulkan::Queue queue(device);
        const vulkan::Queue::Work work[] = {{&commands}};
        queue.wait(queue.submit(work));
        uint64_t wrong = 0;
        for (uint64_t i = 0; i < words; ++i)
            wrong += static_cast<uint32_t*>(read.mapped)[i] != uint32_t(i * 2654435761u);
        CHECK(wrong == 0);
        check_silence();
    }

    TEST_CASE("device memory is counted while it is held")
    {
        const auto device = test_device();
        const uint64_t before = device->allocated();
        {
            vulkan::Pool pool(device, 12345, vulkan::Use::device, "a test");
            vulkan::Pool host(device, 777, vulkan::Use::upload, "a test");
            CHECK(device->allocated() == before + 12345);
        }
        CHECK(device->allocated() == before);
    }

    TEST_CASE("memory that no device has is an error that names what it was for")
    {
        const auto device = test_device();
        std::string message;
        try {
            vulkan::Buffer buffer(device, uint64_t(1) << 60, vulkan::Use::device, "the moon");
        } catch (const Error& e) {
            message = e.what();
        }
        CHECK(message.find("has no room for the moon") != std::string::npos);
        test_instance()->take_messages();    // the layers rightly complain of the size
    }

    TEST_CASE("commands that would take too long are cut between their stages, and the pieces are timed")
    {
        const auto device = test_device();
        vulkan::Pool pool(device, 1 << 20, vulkan::Use::device, "a test");
        const vulkan::Slice a = pool.take(1 << 19), b = pool.take(1 << 19);
        vulkan::Commands commands(device, true, vulkan::Lane::kernels, {.us = 10, .timed = true});
        for (const double us : {4.0, 5.0, 3.0, 20.0, 1.0}) {    // 4 + 5 | 3 | 20 | 1
            commands.stage("copy", 0, 0, us);
            commands.copy(a, b, 1 << 19);
        }
        commands.end();
        CHECK(commands.pieces().size() == 4);
        vulkan::Commands before(device, false);
        before.end();
        vulkan::Queue queue(device);
        const vulkan::Queue::Work work[] = {{&before}, {&commands}};
        CHECK(queue.submit(work) == 2);
        CHECK(queue.calls() == 4);    // the first piece goes with what is before it
        queue.wait(2);
        const auto times = commands.piece_times();
        REQUIRE(times.size() == 4);
        for (const vulkan::PieceTime& piece : times) CHECK(piece.us > 0);
        CHECK(times[0].expected_us == 9);
        CHECK(commands.times().size() == 5);
        check_silence();
    }

    TEST_CASE("stages are timed in order and keep their names and byte counts")
    {
        const auto device = test_device();
        vulkan::Pool pool(device, 1 << 20, vulkan::Use::device, "a test");
        const vulkan::Slice a = pool.take(1 << 19), b = pool.take(1 << 19);
        vulkan::Commands commands(device, true);
        commands.stage("there", 3, 11);
        commands.copy(b, a, 1 << 19);
        commands.stage("back", 4, 22);
        commands.copy(a, b, 1 << 19);
        commands.end();
        vulkan::Queue queue(device);
        const vulkan::Queue::Work work[] = {{&commands}};
        for (int again = 0; again < 3; ++again) queue.wait(queue.submit(work));    // recorded once, submitted again
        const auto times = commands.times();
        REQUIRE(times.size() == 2);
        CHECK(times[0].name == "there");
        CHECK(times[1].index == 4);
        CHECK(times[1].bytes == 22);
        CHECK(times[1].start_us >= times[0].start_us);
        CHECK(times[1].us > 0);
        check_silence();
    }

    TEST_CASE("the validation layers are listening: a missing barrier is reported")
    {
        if (!validation) return;
        const auto device = test_device();
        test_instance()->take_messages();
        vulkan::Pool pool(device, 1 << 16, vulkan::Use::device, "a test");
        const vulkan::Slice a = pool.take(1 << 14), b = pool.take(1 << 14), c = pool.take(1 << 14);
        vulkan::Commands commands(device, false);
        commands.stage("wrong on purpose", 0, 0);
        commands.copy(a, b, 1 << 14);
        commands.copy(b, c, 1 << 14);    // reads what the copy before it writes
        commands.end();
        const auto messages = test_instance()->take_messages();
        REQUIRE(!messages.empty());
        const bool named = messages[0].find("READ-AFTER-WRITE") != std::string::npos ||    // the layers of 1.3
                           messages[0].find("READ_AFTER_WRITE") != std::string::npos;      // and of 1.4
        CHECK_MESSAGE(named, messages[0]);
    }
}
