// From tensors by name to tensors by meaning.
#include "engine/model/requantise.h"
#include "engine/model/weights.h"
#include "engine/plan/host_reads.h"
#include "host/kernels.h"
#include "host/sparse.h"
#include "tests/random_model.h"

#include <doctest/doctest.h>

#include <memory>

using namespace hearth;

TEST_SUITE_BEGIN("model");

namespace {

/// A model in memory, loaded. The bytes must stay where they are.
struct Loaded {
    std::string bytes;
    Weights weights;

    explicit Loaded(const GgufWriter& file, DownLayout layout = DownLayout::by_neurons)
        : bytes(file.bytes()), weights(load_weights(std::make_shared<const Gguf>("model.gguf", bytes), layout))
    {
    }
};

std::string refusal(const GgufWriter& file)
{
    try {
        Loaded loaded(file);
        return "";
    } catch (const Error& error) {
        return error.what();
    }
}

template <class T>
GgufWriter with_key(std::string_view name, const T& value)
{
    GgufWriter file = random_model({});
    file.remove(name);
    file.key(name, value);
    return file;
}

GgufWriter with_tensor(std::string_view name, WeightType type, uint64_t rows, uint64_t cols)
{
    GgufWriter file = random_model({});
    file.remove(name);
    file.tensor(name, type, rows, cols, std::vector<float>(std::max<uint64_t>(rows, 1) * cols, 1.0f));
    return file;
}

std::vector<float> decoded(const Matrix& m)
{
    std::vector<float> x(uint64_t(m.rows) * m.cols);
    for (uint32_t r = 0; r < m.rows; r++) host::kernels().of(m.type).decode(m.row(r), &x[uint64_t(r) * m.cols], m.cols);
    return x;
}

}    // namespace

TEST_CASE("a model of every weight format loads with the shapes of its configuration")
{
    for (const WeightFormat& format : weight_formats)
        for (bool down_transposed : {true, false}) {
            INFO(format.name, " ", down_transposed);
            const uint32_t dim = format.block > 32 ? 256 : 96, neurons = format.block > 32 ? 512 : 160,
                           q_width = format.block > 32 ? 256 : 192;
            const Loaded loaded(random_model({.layers = 3,
                                              .dim = dim,
                                              .heads = q_width / 32,
                                              .kv_heads = 2,
                                              .head_dim = 32,
                                              .neurons = neurons,
                                              .vocab = 300,
                                              .context = 77,
                                              .type = format.type,
                                              .down_transposed = down_transposed}));
            const Weights& w = loaded.weights;
            CHECK(w.config.architecture == "llama");
            CHECK(w.config.name == "random");
            CHECK(w.config.layers == 3);
            CHECK(w.config.dim == dim);
            CHECK(w.config.heads == q_width / 32);
            CHECK(w.config.kv_heads == 2);
            CHECK(w.config.head_dim == 32);
            CHECK(w.config.rope_dim == 32);
            CHECK(w.config.neurons == neurons);
            CHECK(w.config.vocab == 300);
            CHECK(w.config.context == 77);
            CHECK(w.config.rope_base == 10000.0f);
            CHECK(w.config.norm_eps == 1e-5f);
            CHECK(w.config.activation == host::Activation::relu);
            CHECK(w.transposed == !down_transposed);
            CHECK(w.owned.size() == (down_transposed ? 0 : 3));
            const auto is = [&](const Matrix& m, uint32_t rows, uint32_t cols) {
                return m.rows == rows && m.cols == cols && m.type == format.type && m.data;
            };
            CHECK(is(w.embedding, 300, dim));
            CHECK(is(w.output, 300, dim));
            CHECK(w.output.data != w.embedding.data);
            CHECK(w.output_norm.size() == dim);
            REQUIRE(w.layers.size() == 3);
            for (const LayerWeights& layer : w.layers) {
                CHECK(layer.attn_norm.size() == dim);
                CHECK(layer.ffn_norm.size() == dim);
                CHECK(is(layer.attention.q, q_width, dim));
                CHECK(is(layer.attention.k, 64, dim));
                CHECK(is(layer.attention.v, 64, dim));
                CHECK(is(layer.attention.o, dim, q_width));
                CHECK(is(layer.ffn.gate, neurons, dim));
                CHECK(is(layer.ffn.up, neurons, dim));
                CHECK(layer.ffn.down_t.rows == neurons);
                CHECK(layer.ffn.down_t.cols == dim);
                CHECK(layer.ffn.down_t.type ==
                      (!down_transposed && is_quantised(format.type) ? WeightType::f16 : format.type));
                CHECK(layer.ffn.activation == host::Activation::relu);
            }
        }
}

TEST_CASE("a plain ffn_down comes out transposed, value by value")
{
    // The widths are no multiples of the slabs that the transposition works in.
    const uint32_t dim = 52;
    for (const WeightFormat& format : weight_formats) {
        INFO(format.name);
        const uint32_t neurons = format.block > 32 ? 3 * format.block : 224;
        RandomNormal normal(9);
        std::vector<float> down(dim * neurons);
        for (float& w : down) w = normal();
        GgufWriter file = random_model(
            {.layers = 1, .dim = dim, .heads = 2, .kv_heads = 2, .neurons = neurons, .down_transposed = false});
        file.remove("blk.0.ffn_down.weight");
        file.tensor("blk.0.ffn_down.weight", format.type, dim, neurons, down);
        const Loaded loaded(file);
        const std::string stored = encode_rows(format.type, down, neurons);
        const std::vector<float> expected =
            decoded({format.type, dim, neurons, reinterpret_cast<const std::byte*>(stored.data())});
        const std::vector<float> got = decoded(loaded.weights.layers[0].ffn.down_t);
        REQUIRE(got.size() == expected.size());
        uint32_t wrong = 0;
        for (uint32_t i = 0; i < neurons; i++)
            for (uint32_t d = 0; d < dim; d++) {
                const float e = expected[d * neurons + i];
                wrong += got[i * dim + d] != (is_quantised(format.type) ? from_f16(to_f16(e)) : e);
            }
        CHECK(wrong == 0);
    }
}

TEST_CASE(
    "a plain ffn_down without its zeros comes out transposed, value by value, also where a dense one would be kept")
{
    const uint32_t dim = 48, neurons = 160;
    for (const WeightFormat& format : sparse_formats) {
        INFO(format.name);
        const WeightType values = values_of(format.type);
        RandomNormal normal(10);
        std::vector<float> down(dim * neurons);
        for (float& w : down)
            if (w = normal(); std::fabs(w) < 0.7f) w = 0;
        const std::string dense = encode_rows(values, down, neurons);
        const Matrix expected = {values, dim, neurons, reinterpret_cast<const std::byte*>(dense.data())};
        std::vector<std::byte> rows;
        std::vector<uint32_t> starts = {0};
        for (uint32_t row = 0; row < dim; row++) {
            host::compress_row(values, expected.row(row), neurons, rows);
            starts.push_back(uint32_t(rows.size() / sparse_row_unit));
        }
        rows.resize(rows.size() + sparse_slack);

        GgufWriter file = random_model({.layers = 1,
                                        .dim = dim,
                                        .heads = 2,
                                        .kv_heads = 2,
                                        .neurons = neurons,
                                        .activation = host::Activation::silu,
                                        .down_transposed = false});
        const std::string name = "blk.0.ffn_down.weight";
        file.remove(name);
        const uint32_t i8 = 24, i32 = 26;
        file.tensor(name, i8, {rows.size()}, std::string(reinterpret_cast<const char*>(rows.data()), rows.size()));
        file.tensor(name + ".starts", i32, {starts.size()},
                    std::string(reinterpret_cast<const char*>(starts.data()), starts.size() * sizeof(uint32_t)));
        file.key("hearth.sparse.tensors", std::vector<std::string>{name});
        file.key("hearth.sparse.types", std::vector<std::string>{std::string(format_of(values).name)});
        file.key("hearth.sparse.columns", std::vector<uint32_t>{neurons});
        for (const DownLayout layout : {DownLayout::by_neurons, DownLayout::dense}) {
            const Loaded loaded(file, layout);
            CHECK(loaded.weights.transposed);
            const std::vector<float> by_rows = decoded(expected), got = decoded(loaded.weights.layers[0].ffn.down_t);
            REQUIRE(got.size() == by_rows.size());
            uint32_t wrong = 0;
            for (uint32_t i = 0; i < neurons; i++)
                for (uint32_t d = 0; d < dim; d++)
                    wrong += got[i * dim + d] != from_f16(to_f16(by_rows[d * neurons + i]));
            CHECK(wrong == 0);
        }
    }
}

TEST_CASE("any number of threads transposes to the same bytes, tells how far it is, and stops when told to")
{
    for (const WeightType type : {WeightType::f32, WeightType::f16, WeightType::q8_0})
        for (const uint32_t experts : {0u, 3u}) {
            INFO(format_of(type).name, ", ", experts, " experts");
            RandomModel m = {
                .layers = 3, .dim = 160, .neurons = 96, .experts = experts, .type = type, .down_transposed = false};
            const std::string bytes = random_model(m).bytes();
            const auto file = std::make_shared<const Gguf>("model.gguf", bytes);
            std::vector<double> shares;
            const Weights one =
                load_weights(file, DownLayout::by_neurons, 1, [&](double share) { shares.push_back(share); });
            REQUIRE(shares.size() == 3);
            CHECK(std::is_sorted(shares.begin(), shares.end()));
            CHECK(shares.back() == 1);
            const Weights many = load_weights(file, DownLayout::by_neurons, 5), described = describe_weights(file);
            for (size_t l = 0; l < 3; l++) {
                const Matrix &a = one.layers[l].ffn.down_t, &b = many.layers[l].ffn.down_t,
                             &shape = described.layers[l].ffn.down_t;
                REQUIRE(a.bytes() == b.bytes());
                CHECK(std::equal(a.data, a.data + a.bytes(), b.data));
                CHECK((shape.rows == a.rows && shape.cols == a.cols && shape.type == a.type && !shape.data));
            }
            CHECK_THROWS_AS(load_weights(file, DownLayout::by_neurons, 2, [](double) { throw Error("interrupted"); }),
                            Error);
        }
}

TEST_CASE("what a file leaves unsaid takes its usual value")
{
    GgufWriter file =
        random_model({.dim = 64, .heads = 4, .kv_heads = 4, .activation = host::Activation::silu, .tied_head = true});
    CHECK(file.remove("llama.attention.head_count_kv"));
    CHECK(file.remove("general.name"));
    for (const char* key :
         {"tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"})
        CHECK(file.remove(key));
    const Loaded loaded(file);
    const Weights& w = loaded.weights;
    CHECK(w.config.kv_heads == 4);
    CHECK(w.config.head_dim == 16);
    CHECK(w.config.name == "model");
    CHECK(w.config.activation == host::Activation::silu);
    CHECK(w.output.data == w.embedding.data);
    CHECK_FALSE(w.transposed);

    CHECK(Loaded(with_key("hearth.activation", "silu")).weights.config.activation == host::Activation::silu);
    CHECK(Loaded(with_key("llama.rope.dimension_count", 8)).weights.config.rope_dim == 8);
    CHECK(Loaded(with_key("llama.rope.freq_base", 5e5f)).weights.config.rope_base == 5e5f);
}

TEST_CASE("a predictor has as many rows as each layer's fc1, in PowerInfer's files and in others, and no rows where "
          "there is none")
{
    for (const char* magic : {"GGUF", "PWRI"})
        for (const WeightFormat& format : weight_formats) {
            INFO(magic, " ", format.name);
            const uint32_t unit = std::max(format.block, 32u), dim = std::max(format.block, 64u);
            const std::vector<uint32_t> hidden = {unit, 0, 3 * unit};
            GgufWriter file = random_model({.layers = 3, .dim = dim, .type = format.type, .predictor = hidden});
            file.magic = magic;
            const Loaded loaded(file);
            const std::vector<LayerWeights>& layers = loaded.weights.layers;
            for (size_t l = 0; l < 3; l++) {
                const uint32_t h = hidden[l];
                const Matrix &fc1 = layers[l].fc1, &fc2 = layers[l].fc2;
                CHECK(fc1.rows == h);
                CHECK(fc2.rows == (h ? 128 : 0));
                if (!h) continue;
                CHECK(fc1.cols == dim);
                CHECK(fc2.cols == h);
                CHECK(fc1.type == format.type);
                CHECK(fc2.type == format.type);
                CHECK(fc1.data == loaded.weights.file->find(fmt::format("blk.{}.fc1.weight", l))->data);
                CHECK(fc2.data == loaded.weights.file->find(fmt::format("blk.{}.fc2.weight", l))->data);
            }
        }
}

TEST_CASE("half a predictor, or one whose parts do not fit, is refused by name")
{
    const auto says = [](const char* name, uint64_t rows, uint64_t cols, const char* message) {
        GgufWriter file = random_model({.predictor = {32, 32}});
        CHECK(file.remove(name));
        if (cols)
            file.tensor(name, WeightType::f32, rows, cols,
                        std::vector<float>(std::max<uint64_t>(rows, 1) * cols, 1.0f));
        CHECK(refusal(file) == std::string("model.gguf") + message);
    };
    says("blk.1.fc1.weight", 0, 0, " has no tensor blk.1.fc1.weight; convert the model again");
    says("blk.0.fc2.weight", 0, 0, " has no tensor blk.0.fc2.weight; convert the model again");
    says("blk.1.fc1.weight", 32, 96, ": blk.1.fc1.weight is 96 x 32, expected 64 x 32 (columns x rows)");
    says("blk.1.fc1.weight", 64, 64, ": blk.1.fc2.weight is 32 x 128, expected 64 x 128 (columns x rows)");
    says("blk.0.fc2.weight", 127, 32, ": blk.0.fc2.weight is 32 x 127, expected 32 x 128 (columns x rows)");
    says("blk.0.fc1.weight", 0, 64, ": the number of rows of blk.0.fc1.weight is 0, expected 1 to 65536");

    GgufWriter file = random_model({.predictor = {32}});
    file.remove("blk.0.fc1.weight");
    file.tensor("blk.0.fc1.weight", 29, {64, 32}, std::string(1408, '\0'));
    std::string known = "F32";
    for (const WeightFormat& f : std::span(weight_formats).subspan(1)) known += ", " + std::string(f.name);
    CHECK(refusal(file) == "model.gguf: blk.0.fc1.weight is IQ1_M, which this version cannot read; it reads " + known +
                               ": get a file of one of these, or make one of the original model");
}

TEST_CASE("a predictor's threshold is 0, or the file's, or each layer's own")
{
    const auto thresholds = [](const GgufWriter& file) {
        const Loaded loaded(file);
        std::vector<float> all{loaded.weights.config.predictor_threshold};
        for (const LayerWeights& layer : loaded.weights.layers) all.push_back(layer.predictor_threshold);
        return all;
    };
    GgufWriter file = random_model({.predictor = {32, 32}});
    CHECK(thresholds(file) == std::vector<float>{0, 0, 0});
    file.key("powerinfer.sparse_threshold", 0.1f);
    CHECK(thresholds(file) == std::vector<float>{0.1f, 0.1f, 0.1f});
    file.key("hearth.predictor_thresholds", std::vector<float>{-0.5f, 0.3f});
    CHECK(thresholds(file) == std::vector<float>{0.1f, -0.5f, 0.3f});

    CHECK(refusal(with_key("powerinfer.sparse_threshold", NAN)).find("powerinfer.sparse_threshold is nan") !=
          std::string::npos);
    CHECK(refusal(with_key("powerinfer.sparse_threshold", 1)).find("powerinfer.sparse_threshold is not a number") !=
          std::string::npos);
    CHECK(refusal(with_key("hearth.predictor_thresholds", std::vector<float>{1})) ==
          "model.gguf: the key hearth.predictor_thresholds has 1 values, expected 2, one for every layer");
    CHECK(refusal(with_key("hearth.predictor_thresholds", std::vector<float>{1, NAN})) ==
          "model.gguf: the key hearth.predictor_thresholds has the value nan, expected finite numbers");
}

TEST_CASE("a PowerInfer file is a ReLU model unless it says otherwise")
{
    const auto activation = [](const char* magic, const char* key) {
        GgufWriter file = random_model({.activation = host::Activation::silu});    // says nothing
        file.magic = magic;
        if (*key) file.key("hearth.activation", key);
        return Loaded(file).weights.config.activation;
    };
    CHECK(activation("GGUF", "") == host::Activation::silu);
    CHECK(activation("PWRI", "") == host::Activation::relu);
    CHECK(activation("GGUF", "relu") == host::Activation::relu);
    CHECK(activation("PWRI", "silu") == host::Activation::silu);
    for (const char* magic : {"GGUF", "PWRI"}) {
        GgufWriter file = random_model({.architecture = "bamboo", .activation = host::Activation::drelu});
        file.magic = magic;
        CHECK(Loaded(file).weights.layers[1].ffn.activation == host::Activation::drelu);
    }
    CHECK(Loaded(random_model({.floor = 0.25f})).weights.layers[1].ffn.floor == 0.25f);
    CHECK(refusal(random_model({.activation = host::Activation::silu, .floor = 0.25f}))
              .starts_with("model.gguf: hearth.activation_floor is 0.25"));
    CHECK(refusal(random_model({.floor = -1})).starts_with("model.gguf: hearth.activation_floor is -1"));
}

TEST_CASE("norms in half precision are widened")
{
    for (WeightType type : {WeightType::f16, WeightType::bf16}) {
        GgufWriter file = with_tensor("output_norm.weight", type, 0, 64);
        CHECK(Loaded(file).weights.output_norm == std::vector<float>(64, 1.0f));
    }
    CHECK(refusal(with_tensor("output_norm.weight", WeightType::q8_0, 0, 64)) ==
          "model.gguf: output_norm.weight is Q8_0, expected F32");
}

TEST_CASE("a configuration that cannot be is refused with the key and the value")
{
    const auto says = [](const GgufWriter& file, const char* part) {
        const std::string message = refusal(file);
        INFO(message);
        INFO(part);
        CHECK(message.find(part) != std::string::npos);
        CHECK(message.starts_with("model.gguf"));
    };
    for (const char* magic : {"GGUF", "PWRI"})
        for (const char* architecture : {"starcoder", "mpt"}) {
            GgufWriter file = with_key("general.architecture", architecture);
            file.magic = magic;
            says(file, fmt::format("is a model of the architecture {}, which this version cannot run; it runs llama, "
                                   "bamboo, qwen2, qwen3, qwen3moe, opt, phi3, "
                                   "gemma, gemma2, gemma3, falcon, minicpm, granite",
                                   architecture)
                           .c_str());
        }
    says(with_key("hearth.activation", "swish"),
         "hearth.activation is swish, which this version does not know; it knows relu, silu, drelu, gelu, gelu_tanh");
    says(with_key("hearth.activation", 1), "hearth.activation is not a text");
    says(with_key("llama.block_count", 0), "llama.block_count is 0, expected 1 to 300");
    says(with_key("llama.block_count", 1001), "llama.block_count is 1001");
    says(with_key("llama.block_count", 3), "no tensor blk.2.attn_norm.weight");
    says(with_key("llama.block_count", 1), "the tensor blk.1.attn_norm.weight, which this version does not know");
    says(with_key("llama.embedding_length", 0), "llama.embedding_length is 0");
    says(with_key("llama.embedding_length", 128), "token_embd.weight is 64 x 320, expected 128 x 320");
    says(with_key("llama.feed_forward_length", UINT32_MAX), "llama.feed_forward_length is 4294967295");
    says(with_key("llama.feed_forward_length", std::vector<int>{128, 128}),
         "llama.feed_forward_length is not an integer");
    says(with_key("llama.context_length", 0), "llama.context_length is 0");
    says(with_key("llama.attention.head_count", 0), "llama.attention.head_count is 0");
    says(with_key("llama.attention.head_count", 65), "65 heads cannot share 2");
    says(with_key("llama.attention.head_count", 66), "the width of a head is 0");
    says(with_key("llama.attention.head_count_kv", 3), "4 heads cannot share 3");
    says(with_key("llama.attention.head_count_kv", 0), "4 heads cannot share 0");
    says(with_key("llama.attention.head_count_kv", 4), "blk.0.attn_k.weight is 64 x 32, expected 64 x 64");
    says(with_key("llama.attention.key_length", 257), "the width of a head is 257");
    says(with_key("llama.attention.value_length", 8), "keys of width 16 and values of width 8");
    says(with_key("llama.rope.dimension_count", 7), "llama.rope.dimension_count is 7");
    says(with_key("llama.rope.dimension_count", 18), "expected an even number from 2 to 16");
    says(with_key("llama.rope.dimension_count", 0), "llama.rope.dimension_count is 0");
    says(with_key("llama.rope.freq_base", 0.0f), "llama.rope.freq_base is 0");
    says(with_key("llama.rope.freq_base", INFINITY), "llama.rope.freq_base is inf");
    says(with_key("llama.attention.layer_norm_rms_epsilon", NAN), "layer_norm_rms_epsilon is nan");
    says(with_key("llama.attention.layer_norm_rms_epsilon", -1.0f), "layer_norm_rms_epsilon is -1");
    says(with_key("llama.rope.scaling.type", "dynamic"), "llama.rope.scaling.type is dynamic");
    says(with_key("llama.rope.scaling.type", "yarn"), "no key llama.rope.scaling.factor");
    says(with_key("llama.embedding_scale", -1.0f), "llama.embedding_scale is -1");
    says(with_key("llama.logit_scale", 0.0f), "llama.logit_scale is 0");
    says(with_key("llama.final_logit_softcapping", -2.0f), "llama.final_logit_softcapping is -2, expected 0 or more");
    says(with_key("llama.attention.sliding_window_pattern", std::vector<int>{1}),
         "llama.attention.sliding_window_pattern has 1 values, expected 2");
    says(with_key("llama.rope.scaling.factor", -4.0f), "llama.rope.scaling.factor is -4");
    says(with_key("llama.rope.scale_linear", INFINITY), "llama.rope.scale_linear is inf");
    says(with_key("tokenizer.ggml.tokens", std::vector<std::string>{"a"}),
         "token_embd.weight has 320 rows, and the tokenizer 1 tokens");

    CHECK(refusal(with_key("llama.expert_count", 0)) == "");
}

TEST_CASE("a window is of all layers, of all but every so manieth, or of those in a list")
{
    const auto windows = [](const char* architecture, uint32_t window, const auto& pattern) {
        GgufWriter file = random_model({.architecture = architecture, .layers = 7, .window = window});
        if constexpr (!std::is_same_v<decltype(pattern), const std::nullptr_t&>)
            file.key(fmt::format("{}.attention.sliding_window_pattern", architecture), pattern);
        const Loaded loaded(file);
        std::vector<uint32_t> result;
        for (const LayerWeights& layer : loaded.weights.layers) {
            result.push_back(layer.attention.window);
            CHECK(layer.attention.window_rope ==
                  (layer.attention.window > 0 && std::string_view(architecture) == "gemma3"));
        }
        return result;
    };
    CHECK(windows("llama", 0, nullptr) == std::vector<uint32_t>(7, 0));
    CHECK(windows("llama", 9, nullptr) == std::vector<uint32_t>(7, 9));
    CHECK(windows("gemma2", 0, nullptr) == std::vector<uint32_t>{4096, 0, 4096, 0, 4096, 0, 4096});
    CHECK(windows("gemma3", 9, nullptr) == std::vector<uint32_t>{9, 9, 9, 9, 9, 0, 9});
    CHECK(windows("gemma3", 9, uint32_t(3)) == std::vector<uint32_t>{9, 9, 0, 9, 9, 0, 9});
    CHECK(windows("qwen2", 9, std::vector<int>{0, 1, 0, 0, 1, 1, 0}) == std::vector<uint32_t>{0, 9, 0, 0, 9, 9, 0});
}

TEST_CASE("scales and caps are the file's, else the family's")
{
    const auto config = [](RandomModel m, uint32_t layers) {
        m.layers = layers;
        return Loaded(random_model(m)).weights.config;
    };
    const Config llama = config({}, 2), gemma = config({.architecture = "gemma2", .head_dim = 24}, 2),
                 broad = config({.architecture = "gemma2", .head_dim = 24}, 46),
                 minicpm = config({.architecture = "minicpm"}, 4);
    CHECK(llama.embedding_scale == 1);
    CHECK(llama.residual_scale == 1);
    CHECK(llama.logit_scale == 1);
    CHECK(llama.score_scale == 0.25f);    // heads of 16
    CHECK(llama.score_cap == 0);
    CHECK(gemma.embedding_scale == 8);
    CHECK(gemma.score_scale == 1 / std::sqrt(24.0f));
    CHECK(gemma.score_cap == 50);
    CHECK(gemma.logit_cap == 30);
    CHECK(broad.score_scale == 0.25f);    // 64 / 4
    CHECK(minicpm.embedding_scale == 12);
    CHECK(minicpm.residual_scale == 0.7f);
    CHECK(minicpm.logit_scale == 4);    // 256 / 64

    GgufWriter file = random_model({.architecture = "granite"});
    for (const auto& [key, value] : {std::pair("embedding_scale", 3.0f),
                                     {"residual_scale", 0.5f},
                                     {"logit_scale", 8.0f},
                                     {"attention.scale", 0.125f}})
        file.key(fmt::format("granite.{}", key), value);
    const Config granite = Loaded(file).weights.config;
    CHECK(granite.embedding_scale == 3);
    CHECK(granite.residual_scale == 0.5f);
    CHECK(granite.logit_scale == 0.125f);
    CHECK(granite.score_scale == 0.125f);
}

TEST_CASE("experts are read as one block of neurons, whichever way down is stored, and quantised to such a file")
{
    for (const WeightType type : {WeightType::f32, WeightType::f16, WeightType::q8_0}) {
        RandomModel m = {
            .architecture = "qwen3moe", .dim = 96, .neurons = 96, .experts = 5, .experts_used = 3, .type = type};
        m.down_transposed = false;
        const Loaded plain(random_model(m));
        const Config& c = plain.weights.config;
        CHECK(c.neurons == 480);
        CHECK(c.experts == 5);
        CHECK(c.experts_used == 3);
        CHECK(c.neurons_together() == 96);
        CHECK(c.normalise_experts);
        CHECK(plain.weights.transposed);
        // Neuron n of expert e is column n of the expert's matrix, which has a row for each of the 96 numbers it adds
        // to.
        const GgufTensor& stored = *plain.weights.file->find("blk.1.ffn_down_exps.weight");
        const std::vector<float> by_rows = decoded({type, 5 * 96, 96, stored.data}),
                                 down = decoded(plain.weights.layers[1].ffn.down_t);
        size_t wrong = 0;
        for (size_t e = 0; e < 5; e++)
            for (size_t n = 0; n < 96; n++)
                for (size_t i = 0; i < 96; i++)
                    wrong += std::abs(down[(e * 96 + n) * 96 + i] - by_rows[(e * 96 + i) * 96 + n]) >
                             1e-3f * std::abs(by_rows[(e * 96 + i) * 96 + n]);
        CHECK(wrong == 0);

        const auto out = std::filesystem::temp_directory_path() / fmt::format("hearth-experts-{}.gguf", getpid());
        for (const char* to : {"f16", "q8_0"}) {
            const Requantised done =
                requantise(plain.weights.file, *find_quantisation(to), {.threads = 3}, out, [](double) {});
            const Weights again = load_weights(std::make_shared<Gguf>(out));
            CHECK(!again.transposed);
            const LayerWeights &was = plain.weights.layers[1], &is = again.layers[1];
            CHECK(is.router.scores.type == WeightType::f32);
            CHECK(decoded(is.router.scores) == decoded(was.router.scores));
            for (const Matrix host::FfnWeights::*of :
                 {&host::FfnWeights::gate, &host::FfnWeights::up, &host::FfnWeights::down_t}) {
                const std::vector<float> before = decoded(was.ffn.*of), after = decoded(is.ffn.*of);
                REQUIRE(before.size() == after.size());
                double error = 0, all = 0;
                for (size_t i = 0; i < before.size(); i++)
                    error += std::pow(before[i] - after[i], 2), all += before[i] * before[i];
                CHECK(std::sqrt(error / all) < 0.01);
            }
        }
        std::filesystem::remove(out);
    }
}

TEST_CASE("of a mixture of experts with zeros, attention is stored without them, experts with them, and that is said")
{
    const Loaded source(
        random_model({.architecture = "qwen3moe", .dim = 128, .neurons = 64, .experts = 4, .zeros_below = 0.84f}));
    const auto out = std::filesystem::temp_directory_path() / fmt::format("hearth-experts-{}.gguf", getpid());
    const Requantised done =
        requantise(source.weights.file, *find_quantisation("f16"), {.threads = 2}, out, [](double) {});
    // Per layer gates, ups, downs and the router; q, k, v and o, and those of embedding and output.
    CHECK(std::ranges::any_of(done.notes, [](const std::string& n) {
        return n == "8 matrices of experts have zeros, which are stored like other weights";
    }));
    CHECK(std::ranges::any_of(done.notes, [](const std::string& n) {
        return n.starts_with("10 matrices have zeros and are stored without them");
    }));
    const Weights stored = load_weights(std::make_shared<Gguf>(out));
    for (size_t l = 0; l < stored.layers.size(); l++) {
        const LayerWeights &was = source.weights.layers[l], &is = stored.layers[l];
        for (const Matrix host::FfnWeights::*of :
             {&host::FfnWeights::gate, &host::FfnWeights::up, &host::FfnWeights::down_t}) {
            CHECK((is.ffn.*of).type == WeightType::f16);
            CHECK(decoded(is.ffn.*of) == decoded(was.ffn.*of));
        }
        for (const Matrix AttentionWeights::*of :
             {&AttentionWeights::q, &AttentionWeights::k, &AttentionWeights::v, &AttentionWeights::o}) {
            CHECK((is.attention.*of).type == WeightType::f16_sparse);
            CHECK(decoded(is.attention.*of) == decoded(was.attention.*of));
        }
    }
    std::filesystem::remove(out);
}

TEST_CASE("a mixture of experts that cannot be run is refused with the reason")
{
    const auto with = [](std::string_view name, const auto& value, uint32_t neurons = 64) {
        GgufWriter file = random_model({.neurons = neurons, .experts = 4});
        file.remove(name);
        file.key(name, value);
        return refusal(file);
    };
    CHECK(with("llama.expert_count", uint32_t(1025)) == "model.gguf: llama.expert_count is 1025, expected 1 to 1024");
    CHECK(with("llama.expert_used_count", uint32_t(5)) == "model.gguf: llama.expert_used_count is 5, expected 1 to 4");
    CHECK(with("llama.expert_count", uint32_t(5)) ==
          "model.gguf: blk.0.ffn_gate_exps.weight is 64 x 64 x 4, expected 64 x 64 x 5 (columns x rows)");
    CHECK(with("llama.expert_gating_func", uint32_t(2)).find("a gating other than softmax") != std::string::npos);
    CHECK(with("llama.expert_shared_count", uint32_t(1)).find("shared experts") != std::string::npos);
    CHECK(with("general.name", "odd", 40) == "model.gguf has 4 experts of 40 neurons, and this version needs a "
                                             "multiple of 32, and at most 1048576 of all of them");
    GgufWriter old = random_model({.experts = 4});
    old.tensor("blk.0.ffn_gate.0.weight", WeightType::f32, 128, 64, std::vector<float>(128 * 64));
    CHECK(refusal(old) == "model.gguf has a tensor for every expert (blk.0.ffn_gate.0.weight), as files from before "
                          "April 2024 do; convert the model again");
    GgufWriter other = random_model({.architecture = "qwen3"});
    other.key("qwen3.expert_count", uint32_t(4));
    CHECK(refusal(other) ==
          "model.gguf is a mixture of experts of the architecture qwen3, which this version cannot run");
}

TEST_CASE("YaRN turns pairs and grows them as the keys of a file say, by the numbers of transformers")
{
    // ROPE_INIT_FUNCTIONS["yarn"] of transformers 5, and where it has no such parameter, the same formula in Python.
    const auto yarn = [](std::initializer_list<std::pair<const char*, float>> more, float factor = 8) {
        GgufWriter file = random_model({.context = 4096});    // heads of 16
        file.key("llama.rope.scaling.type", "yarn");
        file.key("llama.rope.scaling.factor", factor);
        file.key("llama.rope.scaling.original_context_length", uint32_t(512));
        file.key("llama.rope.scaling.finetuned", true);
        for (const auto& [key, value] : more) file.key(fmt::format("llama.rope.scaling.{}", key), value);
        return Loaded(file).weights.config;
    };
    const auto are = [](const Config& c, const std::vector<double>& want, double magnitude) {
        const std::vector<double> got = rope_frequencies(c);
        REQUIRE(got.size() == want.size());
        for (size_t i = 0; i < want.size(); i++) CHECK(got[i] == doctest::Approx(want[i]).epsilon(1e-6));
        CHECK(c.rope_magnitude == doctest::Approx(magnitude).epsilon(1e-6));
    };
    const std::vector<double> eighth = {1,        2.470529422e-01, 5.625e-02, 1.087032946e-02,
                                        1.25e-03, 3.952847075e-04, 1.25e-04,  3.952847075e-05},
                              fortieth = {1,       2.391472481e-01, 5.125e-02, 8.498621212e-03,
                                          2.5e-04, 7.905694150e-05, 2.5e-05,   7.905694150e-06};
    are(yarn({}), eighth, 1.2079441541679836);
    are(yarn({{"yarn_beta_fast", 16}, {"yarn_beta_slow", 2}}),
        {1, 3.162277660e-01, 7.083333333e-02, 1.317615692e-02, 1.25e-03, 3.952847075e-04, 1.25e-04, 3.952847075e-05},
        1.2079441541679836);
    are(yarn({{"yarn_log_multiplier", 0.707f}}, 40), fortieth, 1.0857263992561355);    // mscale 1, mscale_all_dim 0.707
    are(yarn({{"yarn_log_multiplier", 1}}, 40), fortieth, 1);
    are(yarn({{"yarn_log_multiplier", 0}}), eighth, 1.2079441541679836);
    are(yarn({{"yarn_attn_factor", 1.5f}}), eighth, 1.5);    // attention_factor
    are(yarn({{"yarn_attn_factor", 1.5f}, {"yarn_log_multiplier", 0.707f}}), eighth, 1.5);
    are(yarn({{"attn_factor", 2}}), eighth, 2.4158883083359672);    // what a reader multiplies its own by
    are(yarn({{"attn_factor", 2}, {"yarn_attn_factor", 1.5f}}), eighth, 3);
    are(yarn({{"yarn_ext_factor", 1}}), eighth, 1.2079441541679836);
    are(yarn({{"yarn_ext_factor", -1}}), eighth, 1.2079441541679836);    // "not set"
    std::vector<double> plain, half;
    for (int i = 0; i < 8; i++)
        plain.push_back(std::pow(10000, -i / 8.0) / 8), half.push_back((plain[i] + eighth[i]) / 2);
    are(yarn({{"yarn_ext_factor", 0}}), plain, 1);    // all pairs are slowed, and nothing grows by itself
    are(yarn({{"yarn_ext_factor", 0.5f}}), half, 1.2079441541679836);

    CHECK(Loaded(with_key("llama.rope.scaling.yarn_attn_factor", 1.5f)).weights.config.rope_magnitude ==
          1);    // nothing says YaRN
}

TEST_CASE("a key that changes what is computed and that nobody reads is refused by its name, unless its value changes "
          "nothing")
{
    const auto says = [](const GgufWriter& file, const std::string& part) {
        const std::string message = refusal(file);
        INFO(message);
        INFO(part);
        CHECK(message.find(part) != std::string::npos);
    };
    for (const char* key : {"alpha", "beta_fast", "yarn_low_freq", "types"})
        says(with_key(fmt::format("llama.rope.scaling.{}", key), 1000.0f),
             fmt::format("has the key llama.rope.scaling.{}, which this version does not know", key));
    says(with_key("llama.rope.scaling.alpha", 1000.0f), "it knows type, factor, attn_factor, original_context_length");
    says(with_key("llama.attention.clamp_kqv", 8.0f), "--override llama.attention.clamp_kqv=float:0 runs it without");
    says(with_key("llama.attention.causal", false), "no language model but an encoder");
    says(with_key("llama.attention.temperature_length", 8192),
         "has the key llama.attention.temperature_length, by which its model computes");
    says(with_key("llama.swiglu_clamp_exp", std::vector<float>{0, 7}), "has the key llama.swiglu_clamp_exp");
    CHECK(refusal(with_key("llama.attention.clamp_kqv", 0.0f)) == "");
    CHECK(refusal(with_key("llama.attention.causal", true)) == "");
    CHECK(refusal(with_key("llama.swiglu_clamp_exp", std::vector<float>{0, 0})) == "");
    CHECK(refusal(with_key("llama.rope.scaling.finetuned", false)) == "");
    CHECK(refusal(with_key("llama.vocab_size", 320)) == "");
    CHECK(refusal(with_key("gpt2.rope.scaling.alpha", 1.0f)) == "");    // of another architecture
    says(with_key("llama.rope.scaling.type", "longrope"), "there is no tensor rope_factors_short.weight");
}

TEST_CASE("positions are scaled linearly, by the factors of rope_freqs, both or not at all")
{
    // Two heads of 8: the frequencies are 1, 0.1, 0.01, 0.001.
    const auto frequencies = [](const char* key, const auto& value, bool factors = false) {
        GgufWriter file = random_model({.dim = 16, .heads = 2, .rope_factors = factors});
        if (*key) file.key(key, value);
        return rope_frequencies(Loaded(file).weights.config);
    };
    const auto are = [](const std::vector<double>& got, const std::vector<double>& want) {
        REQUIRE(got.size() == want.size());
        for (size_t i = 0; i < want.size(); i++) CHECK(got[i] == doctest::Approx(want[i]).epsilon(1e-6));
    };
    are(frequencies("", 0), {1, 0.1, 0.01, 0.001});
    are(frequencies("llama.rope.scaling.type", "none"), {1, 0.1, 0.01, 0.001});
    are(frequencies("llama.rope.scale_linear", 1.0f), {1, 0.1, 0.01, 0.001});
    are(frequencies("llama.rope.scale_linear", 2.0f), {0.5, 0.05, 0.005, 0.0005});
    are(frequencies("llama.rope.scaling.factor", 0.0f), {1, 0.1, 0.01, 0.001});
    are(frequencies("llama.rope.scaling.factor", 4.0f), {0.25, 0.025, 0.0025, 0.00025});
    are(frequencies("llama.rope.scaling.type", "linear"), {1, 0.1, 0.01, 0.001});
    are(frequencies("", 0, true), {1, 0.1 / 2.75, 0.01 / 4.5, 0.001 / 6.25});    // as random_model has them
    are(frequencies("llama.rope.scaling.factor", 2.0f, true), {0.5, 0.05 / 2.75, 0.005 / 4.5, 0.0005 / 6.25});

    GgufWriter file = random_model({});
    file.tensor("rope_freqs.weight", WeightType::f32, 0, 8, std::vector<float>{1, 1, 1, 1, 0, 1, 1, 1});
    CHECK(refusal(file) == "model.gguf: rope_freqs.weight has the value 0, expected finite numbers above 0");

    const Loaded longer(random_model({.dim = 16, .heads = 2, .context = 256, .long_rope = true}));
    are(rope_frequencies(longer.weights.config), {1, 0.1 / 2.75, 0.01 / 4.5, 0.001 / 6.25});
    CHECK(longer.weights.config.rope_magnitude == 1.25f);
    CHECK(longer.weights.config.most_positions() == 128);
    file = random_model({.long_rope = true});
    file.remove("llama.rope.scaling.attn_factor");
    file.key("llama.rope.scaling.attn_factor", 0.0f);
    CHECK(refusal(file) == "model.gguf: llama.rope.scaling.attn_factor is 0, expected more than 0");
    file = random_model({.long_rope = true});
    file.remove("llama.rope.scaling.original_context_length");
    file.key("llama.rope.scaling.original_context_length", uint32_t(0));
    CHECK(refusal(file).starts_with("model.gguf: llama.rope.scaling.original_context_length is 0"));
}

TEST_CASE(
    "each family's own tensors are read, those of others are not known to it, and parts of a fused tensor are views")
{
    const auto lacks = [](std::string_view architecture, const char* name) {
        GgufWriter file = random_model({.architecture = architecture});
        CHECK(file.remove(name));
        CHECK(refusal(file) == fmt::format("model.gguf has no tensor {}; convert the model again", name));
    };
    const auto adds = [](std::string_view architecture, const char* name, uint32_t n) {
        GgufWriter file = random_model({.architecture = architecture});
        file.tensor(name, WeightType::f32, 0, n, std::vector<float>(n, 1.0f));
        CHECK(refusal(file) ==
              fmt::format(
                  "model.gguf has the tensor {}, which this version does not know; without it the text would be wrong",
                  name));
    };
    for (const char* name : {"blk.0.attn_q.bias", "blk.1.attn_k.bias", "blk.1.attn_v.bias", "blk.0.attn_q.weight"})
        lacks("qwen2", name);
    for (const char* name : {"blk.0.attn_q_norm.weight", "blk.1.attn_k_norm.weight"}) lacks("qwen3", name);
    for (const char* name : {"blk.0.attn_qkv.weight", "blk.1.ffn_up.weight"}) lacks("phi3", name);
    adds("qwen2", "blk.0.attn_q_norm.weight", 16);
    adds("qwen2", "blk.0.attn_output.bias", 64);
    adds("qwen3", "blk.0.attn_q.bias", 64);
    for (const char* name : {"position_embd.weight", "blk.0.attn_norm.bias", "blk.1.ffn_norm.bias", "output_norm.bias",
                             "blk.0.attn_q.bias", "blk.0.attn_output.bias", "blk.1.ffn_up.bias", "blk.0.ffn_down.bias",
                             "blk.1.ffn_up.weight"})
        lacks("opt", name);
    adds("opt", "blk.0.ffn_gate.weight", 64);
    adds("phi3", "rope_factors_long.weight", 8);    // without the short ones

    const Loaded qwen2(random_model({.architecture = "qwen2", .activation = host::Activation::silu}));
    CHECK(qwen2.weights.config.activation == host::Activation::silu);
    CHECK(qwen2.weights.config.pairs == host::PairOrder::halves);
    for (const LayerWeights& layer : qwen2.weights.layers) {
        CHECK(layer.attention.q_bias.size() == 64);
        CHECK(layer.attention.k_bias.size() == 32);
        CHECK(layer.attention.v_bias.size() == 32);
        CHECK(layer.attention.q_norm.empty());
    }
    GgufWriter file = random_model({.architecture = "opt", .context = 100});
    file.remove("opt.attention.layer_norm_epsilon");    // PowerInfer's files have none
    const Loaded opt(file);
    CHECK(opt.weights.config.norm_eps == 1e-5f);
    CHECK(opt.weights.config.context == 100);
    CHECK(opt.weights.positions.rows == 102);
    CHECK(opt.weights.layers[1].ffn.up.rows == 0);
    CHECK(opt.weights.layers[1].ffn.bias.rows == 128);
    file = random_model({.architecture = "opt", .context = 100});
    file.remove("opt.context_length");
    file.key("opt.context_length", uint32_t(102));    // as PowerInfer counts
    CHECK(Loaded(file).weights.config.context == 100);
    for (const WeightFormat& format : weight_formats) {
        const Loaded phi3(random_model({.architecture = "phi3", .dim = 256, .type = format.type}));
        const LayerWeights& layer = phi3.weights.layers[1];
        const uint64_t row = row_bytes(format.type, 256);
        const auto at = [&](const Matrix& m, const char* tensor, uint64_t first, uint32_t rows) {
            return m.rows == rows && m.cols == 256 && m.data == phi3.weights.file->find(tensor)->data + first * row;
        };
        CHECK(at(layer.attention.q, "blk.1.attn_qkv.weight", 0, 256));
        CHECK(at(layer.attention.k, "blk.1.attn_qkv.weight", 256, 128));
        CHECK(at(layer.attention.v, "blk.1.attn_qkv.weight", 384, 128));
        CHECK(at(layer.ffn.gate, "blk.1.ffn_up.weight", 0, 128));
        CHECK(at(layer.ffn.up, "blk.1.ffn_up.weight", 128, 128));
    }
}

TEST_CASE("a tensor that is missing, unused, of another shape or of an unknown type is refused by name")
{
    const auto says = [](const GgufWriter& file, const char* message) {
        CHECK(refusal(file) == std::string("model.gguf") + message);
    };
    for (const char* name : {"token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight", "blk.1.attn_q.weight",
                             "blk.1.ffn_gate.weight", "blk.0.ffn_down_t.weight"}) {
        GgufWriter file = random_model({});
        CHECK(file.remove(name));
        says(file, fmt::format(" has no tensor {}; convert the model again", name).c_str());
    }
    says(with_tensor("blk.0.attn_q.bias", WeightType::f32, 0, 64),
         " has the tensor blk.0.attn_q.bias, which this version does not know; without it the text would be wrong");
    says(with_tensor("rope_freqs.weight", WeightType::f32, 0, 16),
         ": rope_freqs.weight is 16, expected 8 (columns x rows)");
    says(with_tensor("blk.1.ffn_down.weight", WeightType::f32, 64, 128),    // beside ffn_down_t
         " has the tensor blk.1.ffn_down.weight, which this version does not know; without it the text would be wrong");
    says(with_tensor("blk.1.ffn_up.weight", WeightType::f32, 64, 128),
         ": blk.1.ffn_up.weight is 128 x 64, expected 64 x 128 (columns x rows)");
    says(with_tensor("blk.0.ffn_norm.weight", WeightType::f32, 0, 65),
         ": blk.0.ffn_norm.weight is 65, expected 64 (columns x rows)");
    says(with_tensor("token_embd.weight", WeightType::f32, 0, 64),
         ": the number of rows of token_embd.weight is 0, expected 1 to 16777216");
    says(with_tensor("output.weight", WeightType::f32, 319, 64),
         ": output.weight is 64 x 319, expected 64 x 320 (columns x rows)");

    GgufWriter extra = random_model({});
    extra.remove("output_norm.weight");
    extra.tensor("output_norm.weight", 0, {64, 1}, std::string(256, '\0'));
    CHECK(refusal(extra) == "");

    const auto begins = [](const GgufWriter& file, const char* message) {
        CHECK(refusal(file).starts_with(std::string("model.gguf") + message));
    };
    GgufWriter unreadable = random_model({});
    unreadable.remove("blk.0.ffn_gate.weight");
    unreadable.tensor("blk.0.ffn_gate.weight", 4, {64, 128}, std::string(4608, '\0'));
    begins(unreadable, ": blk.0.ffn_gate.weight is Q4_2, which this version cannot read; it reads F32, F16, BF16");
    unreadable.remove("blk.0.ffn_gate.weight");
    unreadable.tensor("blk.0.ffn_gate.weight", 26, {64, 128}, std::string(32768, '\0'));
    begins(unreadable, ": blk.0.ffn_gate.weight is I32, which this version cannot read; it reads F32, F16, BF16");

    GgufWriter powerinfers = random_model({.dim = 256});    // as PowerInfer quantises
    powerinfers.magic = "PWRI";
    powerinfers.remove("output.weight");
    powerinfers.tensor("output.weight", 15, {256, 320}, std::string(320 * 210, '\0'));
    begins(powerinfers, ": output.weight is Q8_K, which this version cannot read; it reads F32, F16, BF16");

    unreadable.remove("blk.0.ffn_gate.weight");
    unreadable.tensor("blk.0.ffn_gate.weight", 1000, {64, 128}, std::string(4608, '\0'));
    begins(unreadable, ": blk.0.ffn_gate.weight is type 1000, which this version cannot read; it reads F32, F16, BF16");
}

TEST_CASE("the shipped model loads as what its card says")
{
    const auto file =
        std::make_shared<const Gguf>(std::filesystem::path(HEARTH_SOURCE) / "tests/data/fairytale-7m.gguf");
    const Weights w = load_weights(file);
    CHECK(w.config.layers == 6);
    CHECK(w.config.dim == 256);
    CHECK(w.config.heads == 4);
    CHECK(w.config.kv_heads == 2);
    CHECK(w.config.neurons == 1024);
    CHECK(w.config.vocab == 4096);
    CHECK(w.config.context == 1024);
    CHECK(w.config.activation == host::Activation::relu);
    CHECK(w.output.data == w.embedding.data);
    CHECK_FALSE(w.transposed);
}

TEST_CASE("the host reads what is not on the device, and of a layer's neurons all or none")
{
    const Loaded loaded(random_model({.layers = 3}));
    const Weights& w = loaded.weights;
    const auto reads = [&](const Plan& plan, const Matrix& m) {
        return std::ranges::any_of(read_by_host(w, plan),
                                   [&](const auto& part) { return part.data() == m.data && part.size() == m.bytes(); });
    };
    const auto resident = [](uint32_t groups) {
        LayerPlan layer;
        for (uint32_t g = 0; g < groups; g++) layer.resident.push_back(g);
        return layer;
    };
    const LayerWeights& first = w.layers[0];
    CHECK(reads({}, first.attention.q));
    CHECK(reads({}, first.ffn.gate));
    CHECK(reads({}, w.output));
    CHECK_FALSE(reads({}, w.embedding));

    const Plan split = {.layers = {resident(2), resident(3)}};
    CHECK_FALSE(reads(split, first.attention.q));
    CHECK(reads(split, first.ffn.gate));
    CHECK(reads(split, first.ffn.either_down()));
    CHECK_FALSE(reads(split, w.layers[1].ffn.gate));
    CHECK(reads(split, w.layers[2].attention.q));
    CHECK(reads(split, w.output));

    CHECK(read_by_host(w, {.layers = {resident(4), resident(4), resident(4)}, .head = true}).empty());

    const Loaded transposed(random_model({.layers = 1, .down_transposed = false}));
    REQUIRE(transposed.weights.transposed);
    for (const auto& part : read_by_host(transposed.weights, {}))
        CHECK(part.data() != transposed.weights.layers[0].ffn.down_t.data);
}

TEST_SUITE_END();
