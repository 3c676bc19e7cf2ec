// What lies beside PowerInfer's models: the index of the GPU's neurons, and activation statistics in the files of
// torch.save.
#include "engine/model/powerinfer.h"
#include "tests/support.h"

#include <memory>
#include <numeric>

using namespace hearth;
using namespace hearth::tests;
using namespace std::string_literals;

TEST_SUITE_BEGIN("model");

namespace {

constexpr uint32_t neurons = 40;    // of tests/data/powerinfer

std::string fixture(const std::string& name) { return read_file(data("powerinfer/" + name + ".pt")); }

/// What the fixtures hold.
std::vector<double> counts(double share = 1)
{
    std::vector<double> x(neurons);
    for (uint32_t i = 0; i < neurons; i++) x[i] = share * (i * 37 % 101);
    return x;
}

std::vector<double> read(std::string_view bytes, uint32_t n = neurons)
{
    // Memory of the exact size, so that a sanitizer sees a read beyond it.
    const std::unique_ptr<char[]> copy(new char[bytes.size()]);
    std::copy(bytes.begin(), bytes.end(), copy.get());
    return read_torch_vector("folder/x.pt", std::string_view(copy.get(), bytes.size()), n);
}

/// The message of the Error; empty where the file reads as what the fixtures hold, "other" where it reads as something
/// else.
std::string refusal(std::string_view bytes, uint32_t n = neurons)
{
    try {
        const std::vector<double> x = read(bytes, n);
        return x == counts() || x == counts(0.125) ? "" : "other";
    } catch (const Error& error) {
        return error.what();
    }
}

void says(std::string_view bytes, const std::string& part)
{
    const std::string message = refusal(bytes);
    INFO(message);
    INFO(part);
    CHECK(message.starts_with("folder/x.pt"));
    CHECK(message.find(part) != std::string::npos);
}

template <class T>
std::string raw(T value)
{
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

struct ZipFile {
    std::string name, bytes;
    uint16_t method = 0;
};

/// A zip file without checksums, times and padding.
std::string zip(const std::vector<ZipFile>& files)
{
    std::string out, directory;
    for (const ZipFile& f : files) {
        const std::string common = raw(uint16_t(0)) + raw(uint16_t(0)) + raw(f.method) + raw(uint64_t(0)) +
                                   raw(uint32_t(f.bytes.size())) + raw(uint32_t(f.bytes.size())) +
                                   raw(uint16_t(f.name.size())) + raw(uint16_t(0));
        directory += "PK\1\2" + raw(uint16_t(0)) + common + raw(uint16_t(0)) + raw(uint64_t(0)) +
                     raw(uint32_t(out.size())) + f.name;
        out += "PK\3\4" + common + f.name + f.bytes;
    }
    const uint32_t begin = uint32_t(out.size());
    out += directory + "PK\5\6" + raw(uint32_t(0)) + raw(uint16_t(files.size())) + raw(uint16_t(files.size())) +
           raw(uint32_t(directory.size())) + raw(begin) + raw(uint16_t(0));
    return out;
}

/// The pickle of a tensor as torch writes it, less what it would call values by later.
std::string pickle(const std::string& type, uint8_t numel, uint8_t offset, uint8_t size, uint8_t stride)
{
    const auto text = [](const std::string& s) { return "X" + raw(uint32_t(s.size())) + s; };
    const auto integer = [](uint8_t n) { return "K" + raw(n); };
    return "\x80\2ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\n" + type + "\n" + text("0") +
           text("cuda:0") + integer(numel) + "tQ" + integer(offset) + integer(size) + "\x85" + integer(stride) +
           "\x85\x89" + "ccollections\nOrderedDict\n)RtR.";
}

template <class T>
std::string elements(const std::vector<T>& x)
{
    return std::string(reinterpret_cast<const char*>(x.data()), x.size() * sizeof(T));
}

}    // namespace

TEST_CASE("activation statistics read as torch wrote them, in every type of number")
{
    for (const char* name : {"i64", "i32", "column"}) CHECK(read(fixture(name)) == counts());
    for (const char* name : {"f64", "f32", "f16", "bf16"}) CHECK(read(fixture(name)) == counts(0.125));
}

TEST_CASE("activation statistics from elsewhere read too: without a byte order, in big-endian order, as a part of a "
          "larger tensor")
{
    const std::string three = pickle("IntStorage", 3, 0, 3, 1);
    const std::string data = elements(std::vector<int32_t>{5, 7, 70000});
    const std::vector<double> expected{5, 7, 70000};
    CHECK(read(zip({{"archive/data.pkl", three}, {"archive/data/0", data}}), 3) == expected);
    CHECK(read(zip({{"a/data.pkl", three}, {"a/data/0", data}, {"a/byteorder", "little"}}), 3) == expected);
    const std::string reversed(data.rbegin(), data.rend());
    CHECK(read(zip({{"a/data.pkl", three}, {"a/data/0", reversed}, {"a/byteorder", "big"}}), 3) ==
          std::vector<double>{70000, 7, 5});
    CHECK(read(zip({{"a/data.pkl", pickle("IntStorage", 3, 1, 2, 1)}, {"a/data/0", data}}), 2) ==
          std::vector<double>{7, 70000});
    CHECK(read(zip({{"a/data.pkl", pickle("IntStorage", 3, 0, 2, 2)}, {"a/data/0", data}}), 2) ==
          std::vector<double>{5, 70000});
    CHECK(read(zip({{"a/data.pkl", pickle("IntStorage", 3, 2, 4, 0)}, {"a/data/0", data}}), 4) ==
          std::vector<double>(4, 70000));
}

TEST_CASE("a file of torch that is no plain tensor of one dimension is refused by what it is")
{
    says(fixture("matrix"), "a tensor of the shape (8, 5), expected (40)");
    says(fixture("bytes"), "a tensor of the type ByteStorage, which this version cannot read; save it again with "
                           "torch.save(tensor.float(), path)");
    says(fixture("parameter"), "something else than a plain tensor");
    says(fixture("protocol4"), "something else than a plain tensor");
    says(fixture("old"), "the format that torch had before version 1.6; save it again");
    says("", "is not a file of torch.save");
    says("GGUF", "is not a file of torch.save");
    says(zip({{"a/data.pkl", "cos\nsystem\n(X\4\0\0\0trueq\1tR."s}}), "something else than a plain tensor");
    CHECK(refusal(fixture("f32"), 41).find("of the shape (40), expected (41)") != std::string::npos);
}

TEST_CASE("activation statistics that contradict themselves are refused")
{
    const std::string data = elements(std::vector<int32_t>{5, 7, 70000});
    const auto with = [&](const std::string& described, const std::string& bytes = {},
                          const std::string& order = "little") {
        return zip({{"a/data.pkl", described}, {"a/data/0", bytes.empty() ? data : bytes}, {"a/byteorder", order}});
    };
    const auto refused = [](const std::string& bytes, uint32_t n, const std::string& part) {
        const std::string message = refusal(bytes, n);
        INFO(message);
        CHECK(message.starts_with("folder/x.pt"));
        CHECK(message.find(part) != std::string::npos);
    };
    refused(with(pickle("IntStorage", 4, 0, 3, 1)), 3, "runs past its 12 bytes of data");
    refused(with(pickle("IntStorage", 2, 0, 3, 1)), 3, "runs past its 12 bytes of data");
    refused(with(pickle("IntStorage", 3, 1, 3, 1)), 3, "runs past its 12 bytes of data");
    refused(with(pickle("IntStorage", 3, 0, 3, 2)), 3, "runs past its 12 bytes of data");
    refused(with(pickle("IntStorage", 3, 0, 4, 1)), 4, "runs past its 12 bytes of data");
    refused(with(pickle("LongStorage", 3, 0, 3, 1)), 3, "runs past its 12 bytes of data");
    refused(with(pickle("IntStorage", 3, 0, 3, 1), {}, "middle"), 3, "its byte order is middle");
    refused(with(pickle("IntStorage", 3, 0, 3, 1), elements(std::vector<int32_t>{1, -2, 3})), 3,
            "neuron 1 fires -2 times");
    refused(with(pickle("FloatStorage", 3, 0, 3, 1), elements(std::vector<float>{1, 2, NAN})), 3,
            "neuron 2 fires nan times");
    refused(with(pickle("FloatStorage", 3, 0, 3, 1), elements(std::vector<float>{INFINITY, 2, 3})), 3,
            "neuron 0 fires inf times");
    refused(zip({{"a/data.pkl", pickle("IntStorage", 3, 0, 3, 1)}}), 3, "has no data/0 in it");
    refused(zip({{"a/data/0", data}}), 3, "has no data.pkl in it");
    refused(zip({{"data.pkl", pickle("IntStorage", 3, 0, 3, 1)}, {"data/0", data}}), 3, "has no data.pkl in it");
    refused(zip({{"a/data.pkl", pickle("IntStorage", 3, 0, 3, 1), 8}, {"a/data/0", data}}), 3, "is compressed");
}

TEST_CASE("a file of torch cut short at any byte is refused")
{
    for (const char* name : {"f32", "i64", "column"}) {
        const std::string whole = fixture(name);
        uint32_t wrong = 0;
        for (size_t n = 0; n < whole.size(); n++)
            wrong += !refusal(std::string_view(whole).substr(0, n)).starts_with("folder/x.pt");
        CHECK(wrong == 0);
    }
}

TEST_CASE("a file of torch with any byte changed gives as many numbers as there are neurons, or an error")
{
    for (const char* name : {"f32", "i64", "column"}) {
        std::string bytes = fixture(name);
        uint32_t good = 0, refused = 0;
        for (size_t i = 0; i < bytes.size(); i++)
            for (const uint8_t flip : {0x01, 0x80, 0xff}) {
                const char old = bytes[i];
                bytes[i] = char(uint8_t(old) ^ flip);
                try {
                    good += read(bytes).size() == neurons;
                } catch (const Error& error) {
                    refused += std::string_view(error.what()).starts_with("folder/x.pt");
                }
                bytes[i] = old;
            }
        CHECK(good + refused == 3 * bytes.size());
        CHECK(good > 0);    // padding
        CHECK(refused > 0);
    }
}

TEST_CASE("statistics are read by the layer's number, one file for every layer")
{
    const TemporaryFolder folder;
    const auto path = [&](int layer) { return folder / fmt::format("activation_{}.pt", layer); };
    const auto write = [&](int layer) {
        std::ofstream(path(layer), std::ios::binary)
            << zip({{"a/data.pkl", pickle("IntStorage", 2, 0, 2, 1)},
                    {"a/data/0", elements(std::vector<int32_t>{layer, 100 - layer})}});
    };
    Config config;
    config.layers = 12;
    config.neurons = 2;
    for (int l = 0; l < 12; l++) write(l);
    const ActivationStatistics statistics = read_activation_statistics(folder / "", config);
    REQUIRE(statistics.size() == 12);
    for (uint32_t l = 0; l < 12; l++) CHECK(statistics[l] == std::vector<double>{double(l), 100.0 - l});

    write(12);
    CHECK_THROWS_WITH_AS(read_activation_statistics(folder / "", config),
                         doctest::Contains("activation_12.pt is one more than the model has layers"), Error);
    config.layers = 14;
    CHECK_THROWS_WITH_AS(read_activation_statistics(folder / "", config),
                         doctest::Contains(("cannot read " + path(13).string()).c_str()), Error);
    config.layers = 13;
    config.neurons = 3;
    CHECK_THROWS_WITH_AS(read_activation_statistics(folder / "", config),
                         doctest::Contains("activation_0.pt holds a tensor of the shape (2), expected (3)"), Error);
}

// ---- the index ------------------------------------------------------------------------------------------------------

namespace {

/// An index as export_split.py writes it.
GgufWriter index_file(const std::vector<std::vector<int32_t>>& on_gpu, uint32_t type = 18)
{
    GgufWriter file;
    file.magic = "PWRI";
    file.key("general.architecture", "generic.gpu_index");
    file.key("generic.gpu_index.block_count", uint32_t(on_gpu.size()));
    file.key("split.vram_capacity", uint64_t(5) << 32);
    for (size_t l = 0; l < on_gpu.size(); l++) {
        std::vector<int32_t> bucket;
        for (size_t i = 0; i < on_gpu[l].size(); i++)
            if (on_gpu[l][i]) bucket.push_back(int32_t(i));
        file.tensor(fmt::format("blk.{}.gpu_idx", l), type, {on_gpu[l].size()}, elements(on_gpu[l]));
        file.tensor(fmt::format("blk.{}.gpu_bucket", l), type, {bucket.size()}, elements(bucket));
    }
    return file;
}

Config sized(uint32_t layers, uint32_t neurons)
{
    Config config;
    config.layers = layers;
    config.neurons = neurons;
    return config;
}

}    // namespace

TEST_CASE("an index reads as its neurons by layer, some, none or all of them on the GPU")
{
    const TemporaryFolder folder;
    const std::filesystem::path path = gpu_index_of(folder / "model.powerinfer.gguf");
    CHECK(path == folder / "model.powerinfer.gguf.generated.gpuidx");
    CHECK(activation_folder_of(folder / "model.gguf") == folder / "activation");
    for (const uint32_t type : {18u, 26u}) {
        index_file({{0, 1, 0, 1, 1}, {1, 1, 1, 1, 1}, {0, 0, 0, 0, 0}}, type).write(path);
        const GpuIndex index = read_gpu_index(path, sized(3, 5));
        CHECK(index.vram_capacity == uint64_t(5) << 32);
        CHECK(index.layers == std::vector<std::vector<uint32_t>>{{1, 3, 4}, {0, 1, 2, 3, 4}, {}});
    }
}

TEST_CASE("an index of another model, or one that contradicts itself, is refused")
{
    const TemporaryFolder folder;
    const std::filesystem::path path = folder / "x.gpuidx";
    const auto refused = [&](const GgufWriter& file, const Config& config, const char* part) {
        file.write(path);
        INFO(part);
        CHECK_THROWS_WITH_AS(read_gpu_index(path, config), doctest::Contains((path.string() + part).c_str()), Error);
    };
    const GgufWriter good = index_file({{0, 1, 0, 1}, {1, 1, 1, 1}});
    refused(good, sized(3, 4), " has 2 layers and 4 tensors, and the model 3 layers; it belongs to another model");
    refused(good, sized(2, 5), ": blk.0.gpu_idx is 4, expected 5");
    refused(random_model({}), sized(2, 128), " is not PowerInfer's index of a GPU's neurons");

    const auto with = [&](const char* name, uint32_t type, const std::vector<int32_t>& x) {
        GgufWriter file = good;
        file.remove(name);
        file.tensor(name, type, {x.size()}, elements(x));
        return file;
    };
    for (const std::vector<int32_t>& bucket :
         {std::vector<int32_t>{}, {1}, {1, 2}, {3, 1}, {1, 1}, {1, 3, 3}, {-1, 3}, {1, 4}})
        refused(with("blk.0.gpu_bucket", 18, bucket), sized(2, 4),
                " is damaged: blk.0.gpu_idx and blk.0.gpu_bucket name different neurons");
    refused(with("blk.1.gpu_idx", 18, {1, 1, 1, 2}), sized(2, 4),
            " is damaged: blk.1.gpu_idx of neuron 3 is 2, expected 0 or 1");
    refused(with("blk.1.gpu_idx", 0, {1, 1, 1, 1}), sized(2, 4), ": blk.1.gpu_idx is F32, expected I32");
    for (const char* name : {"split.vram_capacity", "generic.gpu_index.block_count"}) {
        GgufWriter file = good;
        CHECK(file.remove(name));
        refused(file, sized(2, 4), fmt::format(" has no key {}", name).c_str());
    }
    GgufWriter renamed = good;
    renamed.remove("blk.1.gpu_bucket");
    renamed.tensor("blk.2.gpu_bucket", 18, {0}, "");
    refused(renamed, sized(2, 4), " has no tensor blk.1.gpu_bucket");
}

TEST_CASE(
    "an index made from statistics in the order of their files' names is told from one in the order of their numbers")
{
    const uint32_t count = 256;
    const auto order = [](uint32_t layers) {    // by name
        std::vector<uint32_t> by_name(layers);
        std::iota(by_name.begin(), by_name.end(), 0);
        std::sort(by_name.begin(), by_name.end(), [](uint32_t a, uint32_t b) {
            return fmt::format("activation_{}.pt", a) < fmt::format("activation_{}.pt", b);
        });
        return by_name;
    };
    CHECK(order(12) == std::vector<uint32_t>{0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9});
    const auto hottest = [&](const std::vector<double>& frequency, uint32_t k) {
        std::vector<uint32_t> ids(count);
        std::iota(ids.begin(), ids.end(), 0);
        std::stable_sort(ids.begin(), ids.end(), [&](uint32_t a, uint32_t b) { return frequency[a] > frequency[b]; });
        ids.resize(k);
        std::sort(ids.begin(), ids.end());
        return ids;
    };
    for (const uint32_t layers : {2u, 10u, 11u, 12u, 32u, 40u}) {
        INFO(layers);
        ActivationStatistics statistics;
        for (uint32_t l = 0; l < layers; l++) {
            const std::vector<float> x = random_floats(count, 100 + l);
            std::vector<double>& frequency = statistics.emplace_back();
            for (const float v : x)
                frequency.push_back(std::max(0.0f, std::round(40 * v)));    // half of them never fire; many ties
        }
        GpuIndex right, wrong, none;
        for (uint32_t l = 0; l < layers; l++) {
            const uint32_t k = l % 5 * 64;    // none, some, all
            right.layers.push_back(hottest(statistics[l], k));
            wrong.layers.push_back(hottest(statistics[order(layers)[l]], k));
            none.layers.push_back({});
        }
        CHECK_FALSE(missorted(right, statistics));
        CHECK(missorted(wrong, statistics) == (layers > 10));
        CHECK_FALSE(missorted(none, statistics));
    }
}

TEST_SUITE_END();
