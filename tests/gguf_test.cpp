// The file format: what is written reads back, and whatever else stands in a file gives an Error and nothing worse.
#include "engine/file/gguf.h"
#include "engine/text/tokenizer.h"
#include "engine/model/weights.h"
#include "host/sparse.h"
#include "tests/random_model.h"

#include <doctest/doctest.h>

#include <cfloat>
#include <climits>
#include <functional>
#include <memory>

using namespace hearth;

TEST_SUITE_BEGIN("model");

namespace {

/// The message of the Error that a file in memory gives; empty where it opens.
std::string refusal(const std::string& bytes)
{
    try {
        Gguf file("file.gguf", bytes);
        return "";
    } catch (const Error& error) {
        return error.what();
    }
}

std::string refusal(const std::filesystem::path& path)
{
    try {
        Gguf file(path);
        return "";
    } catch (const Error& error) {
        return error.what();
    }
}

template <class T>
std::string raw(T value)
{
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

/// A directory of the test's own, removed at its end.
struct TemporaryDirectory {
    std::filesystem::path path;
    TemporaryDirectory()
    {
        path =
            std::filesystem::temp_directory_path() / fmt::format("hearth-gguf-test-{}", static_cast<const void*>(this));
        std::filesystem::create_directories(path);
    }
    ~TemporaryDirectory() { std::filesystem::remove_all(path); }
};

}    // namespace

namespace {

/// A file of one sparse tensor x, 3 rows of 64, in the parts that can be wrong.
struct SparseFile {
    std::vector<std::string> names = {"x"}, types = {"F16"};
    std::vector<uint32_t> columns = {64};
    std::vector<int32_t> starts = {0};
    std::vector<std::byte> rows;
    uint32_t type = 24, starts_type = 26;    // I8, I32
    std::string starts_name = "x.starts";

    SparseFile()
    {
        for (uint32_t r = 0; r < 3; r++) {
            uint16_t dense[64] = {};
            for (uint32_t i = 0; i < 64; i += r + 1) dense[i] = uint16_t(0x3c00 + i);
            host::compress_row(WeightType::f16, reinterpret_cast<const std::byte*>(dense), 64, rows);
            starts.push_back(int32_t(rows.size() / sparse_row_unit));
        }
        rows.resize(rows.size() + sparse_slack);
    }
    std::string bytes() const
    {
        GgufWriter w;
        w.key("hearth.sparse.tensors", names);
        w.key("hearth.sparse.types", types);
        w.key("hearth.sparse.columns", columns);
        const std::string list(reinterpret_cast<const char*>(starts.data()), starts.size() * sizeof(int32_t));
        w.tensor(starts_name, starts_type, {starts.size()}, list);
        w.tensor("x", type, {rows.size()}, std::string(reinterpret_cast<const char*>(rows.data()), rows.size()));
        return w.bytes();
    }
};

}    // namespace

TEST_CASE("a sparse tensor reads back as a matrix, and its list of rows is none of the tensors")
{
    const SparseFile made;
    const std::string bytes = made.bytes();
    const Gguf file("file.gguf", bytes);
    file.check_sparse_rows();
    REQUIRE(file.tensors().size() == 1);
    const GgufTensor& t = *file.find("x");
    CHECK(t.type_name() == "F16_SPARSE");
    CHECK(t.shape == std::vector<uint64_t>{64, 3});
    CHECK(t.bytes == made.rows.size());
    const Matrix m = {WeightType(t.type), 3, 64, t.data, 0, t.starts};
    for (uint32_t r = 0; r < 3; r++) {
        float row[64];
        host::kernels().of(m.type).decode(m.row(r), row, 64);
        for (uint32_t i = 0; i < 64; i++) CHECK(row[i] == (i % (r + 1) ? 0.0f : 1 + float(i) / 1024));
    }
}

TEST_CASE("a sparse tensor that is cut short or contradicts itself is refused by name")
{
    const auto says = [](const std::function<void(SparseFile&)>& change, const char* message) {
        SparseFile file;
        change(file);
        CHECK(refusal(file.bytes()) == fmt::format("file.gguf is damaged: {}", message));
    };
    says([](SparseFile& f) { f.types.clear(); },
         "the keys hearth.sparse.tensors, .types and .columns do not have as many values each");
    says([](SparseFile& f) { f.columns.push_back(3); },
         "the keys hearth.sparse.tensors, .types and .columns do not have as many values each");
    says([](SparseFile& f) { f.names = {"y"}; },
         "the sparse tensor y is missing, or not an I8 tensor of one dimension");
    says([](SparseFile& f) { f.names.push_back("x"), f.types.push_back("F16"), f.columns.push_back(64); },
         "the sparse tensor x is missing, or not an I8 tensor of one dimension");
    says([](SparseFile& f) { f.type = 25; }, "the sparse tensor x is missing, or not an I8 tensor of one dimension");
    says([](SparseFile& f) { f.starts_name.pop_back(); },
         "the sparse tensor x lacks its rows' places: x.starts is missing, or not an I32 tensor of one dimension");
    says([](SparseFile& f) { f.starts_type = 24; },
         "the sparse tensor x lacks its rows' places: x.starts is missing, or not an I32 tensor of one dimension");
    says([](SparseFile& f) { f.starts = {0}; },
         "the sparse tensor x lacks its rows' places: x.starts is missing, or not an I32 tensor of one dimension");
    for (const char* type : {"Q4_0", "F16_SPARSE", "nonsense"})
        says([&](SparseFile& f) { f.types = {type}; },
             fmt::format("the sparse tensor x has values of the type {}, expected F16 or Q8_0", type).c_str());
    for (const uint32_t n : {0u, 63u, 65536u, 0x80000000u})
        says([&](SparseFile& f) { f.columns = {n}; },
             fmt::format("the sparse tensor x has {} columns, expected a multiple of 32 up to 65504", n).c_str());
    says([](SparseFile& f) { f.starts[2] = f.starts[1]; }, "the sparse tensor x has no room for row 1");
    says([](SparseFile& f) { f.starts[1] = -1; }, "the sparse tensor x has no room for row 1");
    says([](SparseFile& f) { f.starts.back()++; }, "the sparse tensor x has 352 bytes, and its rows want 368");
    says([](SparseFile& f) { f.rows.resize(f.rows.size() - 1); },
         "the sparse tensor x has 351 bytes, and its rows want 352");
    says(
        [](SparseFile& f) {
            for (int32_t& s : f.starts) s++;
        },
        "the sparse tensor x has 352 bytes, and its rows want 368");

    GgufWriter own;
    own.tensor("x", 257, {64, 3}, std::string(384, '\0'));
    CHECK(refusal(own.bytes()) == "file.gguf is damaged: x has the type 257, which the GGUF format does not have");

    for (size_t at = 0; at < 8; at++) {    // the bits of the first row
        SparseFile file;
        file.rows[at] ^= std::byte(16);
        const std::string bytes = file.bytes();
        CHECK_THROWS_WITH_AS(Gguf("file.gguf", bytes).check_sparse_rows(),
                             "file.gguf is damaged: the bits of row 0 of x are of more or fewer weights than it has; "
                             "make the file again",
                             Error);
    }
    const std::string whole = SparseFile().bytes();
    for (size_t n = 0; n < whole.size() - 64; n++) CHECK(refusal(whole.substr(0, n)) != "");
}

TEST_CASE("keys of every type read back as they were written")
{
    GgufWriter w;
    w.key("u8", uint8_t(255));
    w.key("i8", int8_t(-128));
    w.key("u16", uint16_t(65535));
    w.key("i16", int16_t(-32768));
    w.key("u32", UINT32_MAX);
    w.key("i32", INT32_MIN);
    w.key("u64", UINT64_MAX);
    w.key("i64", INT64_MIN);
    w.key("f32", 0.1f);
    w.key("f64", 0.1);
    w.key("yes", true);
    w.key("no", false);
    w.key("text", "grüße\n");
    w.key("empty", "");
    w.key("texts", std::vector<std::string>{"a", "", "ccc"});
    w.key("i8s", std::vector<int8_t>{-1, 2});
    w.key("u16s", std::vector<uint16_t>{1, 65535});
    w.key("i64s", std::vector<int64_t>{INT64_MIN, INT64_MAX});
    w.key("bools", std::vector<bool>{true, false});
    w.key("f32s", std::vector<float>{-0.5f, FLT_MAX});
    w.key("f64s", std::vector<double>{DBL_MAX});
    w.key("nothing", std::vector<float>{});
    for (uint32_t version : {2u, 3u}) {
        w.version = version;
        const std::string bytes = w.bytes();
        const Gguf file("file.gguf", bytes);
        CHECK(file.version() == version);
        CHECK(file.keys().size() == 22);
        CHECK(file.u32("u8") == 255);
        CHECK(file.u32("u16") == 65535);
        CHECK(file.u32("u32") == UINT32_MAX);
        CHECK(std::get<int64_t>(file.keys().at("i8")) == -128);
        CHECK(std::get<int64_t>(file.keys().at("i16")) == -32768);
        CHECK(std::get<int64_t>(file.keys().at("i32")) == INT32_MIN);
        CHECK(std::get<int64_t>(file.keys().at("i64")) == INT64_MIN);
        CHECK(std::get<uint64_t>(file.keys().at("u64")) == UINT64_MAX);
        CHECK(file.f32("f32") == 0.1f);
        CHECK(std::get<double>(file.keys().at("f64")) == 0.1);
        CHECK(file.boolean("yes", false));
        CHECK_FALSE(file.boolean("no", true));
        CHECK(file.string("text") == "grüße\n");
        CHECK(file.string("empty", "x") == "");
        CHECK(file.strings("texts") == std::vector<std::string_view>{"a", "", "ccc"});
        CHECK(*file.integers("i8s") == std::vector<int64_t>{-1, 2});
        CHECK(*file.integers("u16s") == std::vector<int64_t>{1, 65535});
        CHECK(*file.integers("i64s") == std::vector<int64_t>{INT64_MIN, INT64_MAX});
        CHECK(*file.integers("bools") == std::vector<int64_t>{1, 0});
        CHECK(*file.floats("f32s") == std::vector<double>{-0.5, FLT_MAX});
        CHECK(*file.floats("f64s") == std::vector<double>{DBL_MAX});
        CHECK(file.floats("nothing")->empty());
    }
}

TEST_CASE("a key that is missing or of another type is an error that names it, unless there is a fallback for the "
          "missing one")
{
    GgufWriter w;
    w.key("text", "x");
    w.key("negative", int32_t(-1));
    w.key("large", uint64_t(1) << 32);
    w.key("huge", DBL_MAX);
    const std::string bytes = w.bytes();
    const Gguf file("file.gguf", bytes);
    CHECK(file.u32("none", 7) == 7);
    CHECK(file.f32("none", 0.5f) == 0.5f);
    CHECK(file.boolean("none", true));
    CHECK(file.string("none", "x") == "x");
    CHECK(file.floats("none") == nullptr);
    CHECK(file.integers("none") == nullptr);
    CHECK(file.find("none") == nullptr);
    CHECK_THROWS_WITH_AS(file.u32("none"), doctest::Contains("file.gguf has no key none"), Error);
    CHECK_THROWS_WITH_AS(file.strings("none"), doctest::Contains("none"), Error);
    CHECK_THROWS_WITH_AS(file.u32("text", 1), doctest::Contains("the key text is not an integer"), Error);
    CHECK_THROWS_WITH_AS(file.f32("text"), doctest::Contains("text"), Error);
    CHECK_THROWS_WITH_AS(file.boolean("text", true), doctest::Contains("text"), Error);
    CHECK_THROWS_WITH_AS(file.floats("text"), doctest::Contains("text"), Error);
    CHECK_THROWS_WITH_AS(file.u32("negative"), doctest::Contains("negative is -1"), Error);
    CHECK_THROWS_WITH_AS(file.u32("large"), doctest::Contains("large is 4294967296"), Error);
    CHECK_THROWS_WITH_AS(file.f32("huge"), doctest::Contains("huge"), Error);
}

TEST_CASE("tensors of every format lie where the table of tensors says, at every alignment")
{
    const std::vector<float> x = [] {
        RandomNormal normal(3);
        std::vector<float> values(3 * 256);
        for (float& v : values) v = normal();
        return values;
    }();
    for (uint32_t alignment : {8u, 32u, 4096u}) {
        GgufWriter w;
        w.alignment = alignment;
        for (const WeightFormat& format : weight_formats) w.tensor(format.name, format.type, 3, 256, x);
        w.tensor("vector", WeightType::f32, 0, 768, x);
        w.tensor("Q4_2", 4, {256, 2}, std::string(288, 'k'));
        w.tensor("new", 99, {5}, "?");
        w.tensor("empty", 0, {0}, "");
        const std::string bytes = w.bytes();
        const Gguf file("file.gguf", bytes);
        REQUIRE(file.tensors().size() == std::size(weight_formats) + 4);
        for (const WeightFormat& format : weight_formats) {
            const GgufTensor* t = file.find(format.name);
            REQUIRE(t);
            CHECK(t->type_name() == format.name);
            CHECK(t->shape == std::vector<uint64_t>{256, 3});
            const std::string expected = encode_rows(format.type, x, 256);
            CHECK(std::string(reinterpret_cast<const char*>(t->data), t->bytes) == expected);
        }
        CHECK(file.find("vector")->shape == std::vector<uint64_t>{768});
        CHECK(file.find("Q4_2")->type_name() == "Q4_2");
        CHECK(file.find("Q4_2")->bytes == 0);
        CHECK(file.find("new")->type_name() == "type 99");
    }
}

TEST_CASE("a file on disk reads as the same bytes in memory do")
{
    const TemporaryDirectory directory;
    const std::filesystem::path path = directory.path / "m\u00f6del.gguf";
    const GgufWriter w = random_model({});
    w.write(path);
    const std::string bytes = w.bytes();
    const Gguf mapped(path), given("x", bytes);
    CHECK(mapped.path() == path);
    CHECK(mapped.file_bytes() == bytes.size());
    CHECK(mapped.keys() == given.keys());
    REQUIRE(mapped.tensors().size() == given.tensors().size());
    for (size_t i = 0; i < given.tensors().size(); i++) {
        const GgufTensor &a = mapped.tensors()[i], &b = given.tensors()[i];
        CHECK(a.name == b.name);
        CHECK(std::string_view((const char*)a.data, a.bytes) == std::string_view((const char*)b.data, b.bytes));
    }
    const auto moved = std::make_unique<Gguf>(Gguf(path));
    CHECK(moved->find("output_norm.weight")->bytes == 64 * 4);
}

/// A model of 5 tensors in parts of 2, 0 and 3, called m-0000N-of-00003.gguf. Another seed gives other numbers.
struct Parts {
    TemporaryDirectory directory;
    std::vector<std::filesystem::path> paths;
    std::vector<GgufWriter> files;

    explicit Parts(uint32_t count = 3, uint32_t tensors = 5)
    {
        const std::vector<float> values = {1, 2, 3, 4};
        uint32_t number = 0;
        for (uint32_t part = 0; part < count; part++) {
            GgufWriter& file = files.emplace_back();
            if (part == 0) file.key("general.architecture", "llama");
            file.key("split.no", uint16_t(part));
            file.key("split.count", uint16_t(count));
            file.key("split.tensors.count", int32_t(tensors));
            for (uint32_t i = 0; i < (part == 0 ? 2 : part == 1 ? 0 : 3); i++, number++)
                file.tensor(fmt::format("t{}", number), WeightType::f32, 0, 4, std::vector<float>(4, float(number)));
            paths.push_back(directory.path / fmt::format("m-{:05}-of-{:05}.gguf", part + 1, count));
            file.write(paths.back());
        }
    }

    std::string refusal(size_t named) const { return ::refusal(paths[named]); }
};

TEST_CASE("any part of a model in parts opens all of it")
{
    const Parts parts;
    for (const std::filesystem::path& path : parts.paths) {
        const Gguf file(path);
        CHECK(file.path() == path);
        CHECK(file.string("general.architecture") == "llama");
        CHECK(file.files() == parts.paths);
        uint64_t bytes = 0;
        for (const std::filesystem::path& p : parts.paths) bytes += std::filesystem::file_size(p);
        CHECK(file.file_bytes() == bytes);
        REQUIRE(file.tensors().size() == 5);
        for (int i = 0; i < 5; i++) {
            const GgufTensor* t = file.find(fmt::format("t{}", i));
            REQUIRE(t);
            CHECK(*reinterpret_cast<const float*>(t->data) == float(i));
        }
    }
    const Parts one(1, 2);    // as a tool may leave it
    CHECK(Gguf(one.paths[0]).tensors().size() == 2);
}

TEST_CASE("parts that are missing, renamed, damaged or of another model are refused in one sentence")
{
    const auto says = [](const std::string& message, const std::string& part) {
        INFO(message);
        CHECK(message.find(part) != std::string::npos);
    };
    {
        const Parts parts;
        std::filesystem::remove(parts.paths[1]);
        for (const size_t named : {0, 2})
            says(parts.refusal(named),
                 "is a part of a model, and m-00002-of-00003.gguf is missing: put all parts into one folder");
        std::filesystem::rename(parts.paths[2], parts.directory.path / "last.gguf");
        CHECK_THROWS_WITH_AS(
            Gguf(parts.directory.path / "last.gguf"),
            doctest::Contains("is part 3 of 3 of a model: give it back its name, which ended in -00003-of-00003.gguf"),
            Error);
    }
    {
        const Parts parts, other(3, 6);
        std::filesystem::remove(parts.paths[2]);    // libstdc++ of GCC 12 does not overwrite on Windows
        std::filesystem::copy_file(other.paths[2], parts.paths[2]);
        for (const size_t named : {0, 1, 2}) says(parts.refusal(named), "copy the parts of one model into one folder");
        const Parts wrong_count(3, 6);
        says(wrong_count.refusal(0), "all parts together have 5 tensors, and split.tensors.count is 6");
    }
    {
        const Parts parts;
        std::filesystem::remove(parts.paths[2]);    // libstdc++ of GCC 12 does not overwrite on Windows
        std::filesystem::copy_file(parts.paths[0], parts.paths[2]);
        says(parts.refusal(0), "m-00003-of-00003.gguf is not part 3 of 3");
        says(parts.refusal(2), "m-00003-of-00003.gguf is part 1 of 3 of a model: give it back its name");
    }
    {
        const Parts parts;
        std::ofstream(parts.paths[2], std::ios::binary | std::ios::trunc) << parts.files[2].bytes().substr(0, 300);
        says(parts.refusal(0), "m-00003-of-00003.gguf is cut short or damaged");
    }
    {
        Parts parts;
        GgufWriter twice;
        twice.key("split.no", uint16_t(1));
        twice.key("split.count", uint16_t(3));
        twice.key("split.tensors.count", int32_t(5));
        twice.tensor("t0", WeightType::f32, 0, 4, std::vector<float>(4));
        twice.write(parts.paths[1]);
        says(parts.refusal(0), "m-00002-of-00003.gguf has the tensor t0, as another part has");
    }
}

TEST_CASE("what is not a readable file is refused by name")
{
    const TemporaryDirectory directory;
    const auto write = [&](const char* name, std::string_view text) {
        std::ofstream(directory.path / name, std::ios::binary) << text;
        return directory.path / name;
    };
    CHECK(refusal(directory.path / "none.gguf")
              .starts_with("cannot read " + (directory.path / "none.gguf").string() + ": "));
    CHECK(refusal(directory.path).find("is a directory") != std::string::npos);
    CHECK(refusal(write("empty", "")).find("empty is empty") != std::string::npos);
    CHECK(refusal(write("text", "Once upon a time")).find("text is not a GGUF file") != std::string::npos);
    CHECK(refusal(write("short", "GG")).find("short is not a GGUF file") != std::string::npos);
    CHECK(refusal(write("cut", "GGUF")).find("cut is cut short") != std::string::npos);
#ifndef _WIN32
    CHECK(refusal(std::filesystem::path("/dev/null")).find("/dev/null is not a regular file") != std::string::npos);
    const std::filesystem::path secret = write("secret", "GGUF");
    std::filesystem::permissions(secret, std::filesystem::perms::none);
    if (!std::ifstream(secret))
        CHECK(refusal(secret).find("Permission denied") != std::string::npos);    // root reads everything
#endif
}

TEST_CASE("a PowerInfer file reads as the GGUF that it is after its magic")
{
    GgufWriter w = random_model({.predictor = {32}});
    for (uint32_t version : {2u, 3u}) {
        w.version = version;
        w.magic = "GGUF";
        const std::string plain = w.bytes();
        w.magic = "PWRI";
        const std::string bytes = w.bytes();
        const Gguf a("a.gguf", plain), b("b.gguf", bytes);
        CHECK_FALSE(a.powerinfer());
        CHECK(b.powerinfer());
        CHECK(b.version() == version);
        CHECK(a.keys() == b.keys());
        REQUIRE(a.tensors().size() == b.tensors().size());
        for (size_t i = 0; i < a.tensors().size(); i++)
            CHECK(std::string_view((const char*)a.tensors()[i].data, a.tensors()[i].bytes) ==
                  std::string_view((const char*)b.tensors()[i].data, b.tensors()[i].bytes));
    }
    w.version = 1;
    CHECK(refusal(w.bytes()).find("version 1") != std::string::npos);
}

TEST_CASE("an I32 tensor reads as a list of numbers, under today's type number and, in PowerInfer's files, under that "
          "of its time")
{
    const std::vector<int32_t> x{0, 1, -1, INT_MAX, INT_MIN};
    const std::string raw_x(reinterpret_cast<const char*>(x.data()), 20);
    for (const auto& [magic, type] : {std::pair("GGUF", 26u), std::pair("PWRI", 26u), std::pair("PWRI", 18u)}) {
        INFO(magic, " ", type);
        GgufWriter w;
        w.magic = magic;
        w.tensor("x", type, {5}, raw_x);
        w.tensor("matrix", type, {5, 1}, raw_x);
        w.tensor("floats", WeightType::f32, 0, 1, {1});
        w.tensor("none", type, {0}, "");
        const std::string bytes = w.bytes();
        const Gguf file("file.gguf", bytes);
        CHECK(file.find("x")->type_name() == "I32");
        CHECK(file.find("x")->bytes == 20);
        CHECK(std::ranges::equal(file.numbers("x"), x));
        CHECK(std::ranges::equal(file.numbers("x", 5), x));
        CHECK(file.numbers("none").empty());
        CHECK(file.numbers("none", 0).empty());
        CHECK_THROWS_WITH_AS(file.numbers("x", 4), "file.gguf: x is 5, expected 4", Error);
        CHECK_THROWS_WITH_AS(file.numbers("none", 4), "file.gguf: none is 0, expected 4", Error);
        CHECK_THROWS_WITH_AS(file.numbers("matrix"), "file.gguf: matrix is 5 x 1, expected one dimension", Error);
        CHECK_THROWS_WITH_AS(file.numbers("floats"), "file.gguf: floats is F32, expected I32", Error);
        CHECK_THROWS_WITH_AS(file.numbers("missing"), "file.gguf has no tensor missing", Error);

        GgufWriter beyond;
        beyond.magic = magic;
        beyond.tensor("x", type, {9}, raw_x);    // 36 bytes in a file that ends after 32
        CHECK(refusal(beyond.bytes()).find("the weights of x run past its end") != std::string::npos);
        GgufWriter huge;
        huge.magic = magic;
        huge.tensor("x", type, {uint64_t(1) << 62}, raw_x);    // times 4 bytes is 0 in 64 bits
        CHECK(refusal(huge.bytes()).find("the weights of x run past its end") != std::string::npos);
    }
    GgufWriter w;
    w.tensor("x", 18, {256}, std::string(98, '\0'));
    const std::string bytes = w.bytes();
    CHECK_THROWS_WITH_AS(Gguf("file.gguf", bytes).numbers("x"), "file.gguf: x is IQ3_XXS, expected I32", Error);
}

TEST_CASE("other kinds of model files are refused by what they are")
{
    GgufWriter w;
    w.magic = "ggjt";
    CHECK(refusal(w.bytes()).find("not a GGUF file") != std::string::npos);
    w.magic = "GGUF";
    w.version = 1;
    CHECK(refusal(w.bytes()).find("version 1") != std::string::npos);
    w.version = 4;
    CHECK(refusal(w.bytes()).find("version 4") != std::string::npos);
    w.version = 0x03000000;
    CHECK(refusal(w.bytes()).find("big-endian") != std::string::npos);
    w.version = 3;
    CHECK(refusal(w.bytes()) == "");
}

TEST_CASE("tensors that share bytes are refused, wherever they stand in the table, and those that touch are not")
{
    const auto file = [](uint64_t first, uint64_t second) {    // of 64 and of 32 bytes
        std::string s = "GGUF" + raw(uint32_t(3)) + raw(uint64_t(2)) + raw(uint64_t(0));
        s += raw(uint64_t(1)) + "a" + raw(uint32_t(1)) + raw(uint64_t(16)) + raw(uint32_t(0)) + raw(first);
        s += raw(uint64_t(1)) + "b" + raw(uint32_t(1)) + raw(uint64_t(8)) + raw(uint32_t(0)) + raw(second);
        return s + std::string(512, '\0');
    };
    for (const auto& [first, second] :
         {std::pair(0, 0), std::pair(0, 32), std::pair(32, 64), std::pair(32, 32), std::pair(64, 96)}) {
        INFO(first << " " << second);
        CHECK(refusal(file(uint64_t(first), uint64_t(second))).find("overlap") != std::string::npos);
    }
    for (const auto& [first, second] : {std::pair(0, 64), std::pair(32, 0), std::pair(64, 128)})
        CHECK_NOTHROW(Gguf("memory", file(uint64_t(first), uint64_t(second))));
}

TEST_CASE("counts, lengths and offsets that cannot be are refused before anything is allocated")
{
    constexpr uint64_t huge = uint64_t(1) << 60;
    const std::string head = "GGUF" + raw(uint32_t(3));
    const auto text = [](std::string_view s) { return raw(uint64_t(s.size())) + std::string(s); };
    const auto one_key = [&](std::string value) {
        return head + raw(uint64_t(0)) + raw(uint64_t(1)) + text("k") + value;
    };
    const auto array = [&](uint32_t type, uint64_t count) {
        return one_key(raw(uint32_t(9)) + raw(type) + raw(count) + std::string(64, '\0'));
    };
    const auto one_tensor = [&](std::vector<uint64_t> shape, uint32_t type, uint64_t offset) {
        std::string s = head + raw(uint64_t(1)) + raw(uint64_t(0)) + text("t") + raw(uint32_t(shape.size()));
        for (uint64_t n : shape) s += raw(n);
        return s + raw(type) + raw(offset) + std::string(256, '\0');
    };
    const auto says = [](const std::string& bytes, const char* part) {
        INFO(part);
        CHECK(refusal(bytes).find(part) != std::string::npos);
    };

    says(head + raw(uint64_t(0)) + raw(huge), "cut short");
    says(head + raw(huge) + raw(uint64_t(0)), "cut short");
    says(head + raw(UINT64_MAX) + raw(UINT64_MAX), "cut short");
    says(head + raw(uint64_t(0)) + raw(uint64_t(1)) + raw(huge) + "k", "cut short");
    says(one_key(raw(uint32_t(8)) + raw(UINT64_MAX) + "text"), "cut short");
    for (uint32_t type = 0; type < 13; type++)
        for (uint64_t count : {huge, UINT64_MAX, uint64_t(65)})
            says(array(type, count), type == 9 ? "array of arrays" : "cut short");
    says(array(13, 0), "unknown type 13");
    says(one_key(raw(uint32_t(13))), "unknown type 13");
    says(one_key(raw(UINT32_MAX)), "unknown type");
    says(head + raw(uint64_t(0)) + raw(uint64_t(1)) + text("") + raw(uint32_t(0)) + "x", "is not text");
    says(head + raw(uint64_t(0)) + raw(uint64_t(1)) + text("a\nb") + raw(uint32_t(0)) + "x", "is not text");

    CHECK(refusal(one_tensor({4, 4}, 0, 0)) == "");
    says(one_tensor({4, 4}, 0, huge), "run past its end");
    says(one_tensor({4, 4}, 0, UINT64_MAX - 31), "run past its end");
    says(one_tensor({4, 4}, 0, 1024), "run past its end");
    says(one_tensor({4, 4}, 0, 4), "not a multiple of 32");
    says(one_tensor({huge, huge}, 0, 0), "run past its end");
    says(one_tensor({uint64_t(1) << 62}, 0, 0), "run past its end");    // times 4 bytes is 0 in 64 bits
    says(one_tensor({uint64_t(1) << 32, uint64_t(1) << 32}, 1, 0), "run past its end");
    says(one_tensor({65536, 65536, 65536, 65536}, 8, 0), "run past its end");
    says(one_tensor({33}, 8, 0), "not a multiple of 32");
    says(one_tensor({}, 0, 0), "0 dimensions");
    says(one_tensor({1, 1, 1, 1, 1}, 0, 0), "5 dimensions");
    CHECK(refusal(one_tensor({0, 5}, 0, 0)) == "");

    for (uint32_t alignment : {0u, 1u, 4u, 24u, 1u << 21}) {
        GgufWriter w;
        w.key("general.alignment", alignment);
        says(w.bytes(), "general.alignment");
    }
    GgufWriter w;
    w.key("general.alignment", "32");
    says(w.bytes(), "general.alignment");
}

TEST_CASE("a name that occurs twice is refused")
{
    GgufWriter keys, tensors;
    keys.key("k", 1);
    keys.key("k", 2);
    CHECK(refusal(keys.bytes()).find("key k twice") != std::string::npos);
    tensors.tensor("t", WeightType::f32, 0, 1, {1});
    tensors.tensor("t", WeightType::f32, 0, 1, {1});
    CHECK(refusal(tensors.bytes()).find("tensor t twice") != std::string::npos);
}

// ---- damaged files --------------------------------------------------------------------------------------------------

namespace {

/// Does all that a program does with a model file when it opens it. True if it loads; false if it gives an Error. What
/// it loads must be sound: weights inside the file, a tokenizer that works.
bool opens(std::string_view bytes)
{
    // Memory of the exact size, so that a sanitizer sees a read beyond it.
    const std::unique_ptr<char[]> copy(new char[bytes.size()]);
    std::copy(bytes.begin(), bytes.end(), copy.get());
    try {
        const auto file = std::make_shared<const Gguf>("damaged.gguf", std::string_view(copy.get(), bytes.size()));
        bool sound = true;
        for (const GgufTensor& t : file->tensors()) {
            const uint64_t begin = uint64_t((const char*)t.data - copy.get());
            sound &= begin <= bytes.size() && t.bytes <= bytes.size() - begin;
            t.type_name();
        }
        const Tokenizer tokenizer(*file);
        std::vector<Token> ids = tokenizer.encode("the \xff tale<s>\u2603", true);
        for (Token id : ids) sound &= id < tokenizer.size();
        for (Token id = 0; id < tokenizer.size(); id += 1 + tokenizer.size() / 64) ids.push_back(id);
        tokenizer.decode(ids);
        const Weights w = load_weights(file);
        float sum = 0;
        for (const LayerWeights& layer : w.layers)
            each_matrix(layer, [&](const Matrix& m) { sum += float(m.data[0]) + float(m.data[m.bytes() - 1]); });
        sum += float(w.embedding.row(w.config.vocab - 1)[0]) + float(w.output.data[w.output.bytes() - 1]);
        sound &= sum >= 0;
        CHECK(sound);
        return true;
    } catch (const Error& error) {
        CHECK(std::string_view(error.what()).starts_with("damaged.gguf"));
        return false;
    }
}

struct Sample {
    std::string name, bytes;
    size_t header;    // bytes before the weights
};

std::vector<Sample> samples()
{
    std::vector<Sample> all;
    const RandomModel small{.layers = 1, .dim = 32, .heads = 2, .kv_heads = 1, .neurons = 64, .vocab = 270};
    RandomModel transposed = small, quantised = small, predicted = small;
    transposed.tied_head = true;
    quantised.type = WeightType::q8_0;
    quantised.down_transposed = false;
    predicted.predictor = {32};
    predicted.type = WeightType::q4_0;
    const auto with_magic = [](const char* magic, const RandomModel& options) {
        GgufWriter w = random_model(options);
        w.magic = magic;
        return w;
    };
    for (const auto& [name, w] : {std::pair("F16", with_magic("GGUF", transposed)),
                                  std::pair("Q8_0 with ffn_down", with_magic("GGUF", quantised)),
                                  std::pair("PowerInfer's", with_magic("PWRI", predicted))})
        all.push_back({name, w.bytes(), w.header().size()});
    return all;
}

}    // namespace

TEST_CASE("a model file cut short at any byte is refused")
{
    for (const Sample& sample : samples()) {
        INFO(sample.name);
        REQUIRE(opens(sample.bytes));
        const size_t dense = 4096, step = std::max<size_t>(1, (sample.bytes.size() - dense) / 1000);
        size_t opened = 0;
        for (size_t n = 0; n < sample.bytes.size() - 32; n += n < dense ? 1 : step)
            opened += opens(std::string_view(sample.bytes).substr(0, n));
        CHECK(opened == 0);
    }
}

TEST_CASE("a model file with any byte of its header changed loads soundly or is refused")
{
    for (const Sample& sample : samples()) {
        INFO(sample.name);
        std::string bytes = sample.bytes;
        size_t opened = 0;
        for (size_t i = 0; i < sample.header; i++)
            for (uint8_t flip : {0x01, 0x80, 0xff}) {
                bytes[i] = char(uint8_t(bytes[i]) ^ flip);
                opened += opens(bytes);
                bytes[i] = sample.bytes[i];
            }
        CHECK(opened > 0);    // a letter of a token, a score
        CHECK(opened < 3 * sample.header);
    }
}

TEST_CASE("the shipped model, cut short or with a byte changed, loads soundly or is refused")
{
    const MappedFile file(std::filesystem::path(HEARTH_SOURCE) / "tests/data/fairytale-7m.gguf");
    const uint64_t begin = [&] {
        const Gguf whole("fairytale", file.bytes());
        uint64_t first = file.bytes().size();
        for (const GgufTensor& t : whole.tensors())
            first = std::min(first, uint64_t((const char*)t.data - file.bytes().data()));
        return first;
    }();
    REQUIRE(opens(file.bytes()));
    for (uint64_t i = 1; i <= 100; i++) CHECK_FALSE(opens(file.bytes().substr(0, begin * i / 100)));
    CHECK_FALSE(opens(file.bytes().substr(0, file.bytes().size() - 64)));

    std::string bytes(file.bytes());
    for (uint64_t i = 0; i < 100;
         i++) {    // most of the header is the vocabulary; the two ends are keys and the table of tensors
        const uint64_t at = i % 2 ? begin - 1 - 37 * i : 31 * i;
        for (uint8_t flip : {0x01, 0xff}) {
            bytes[at] = char(uint8_t(bytes[at]) ^ flip);
            opens(bytes);
            bytes[at] = file.bytes()[at];
        }
    }
}

TEST_SUITE_END();
