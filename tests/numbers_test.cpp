// Numbers that are not finite end in a sentence that names where they come from, and weights beyond the range of fp16
// keep theirs.
#include "engine/file/not_finite.h"
#include "engine/model/requantise.h"
#include "engine/device/kernels.h"
#include "host/experts.h"
#include "host/numbers.h"
#include "host/predict.h"
#include "tests/device_support.h"
#include "tests/fixed_point.h"

#include <bit>

using namespace hearth;
using namespace hearth::tests;

namespace {

/// A model in memory whose tensors can be written to.
struct Patched {
    std::string bytes;

    explicit Patched(const RandomModel& m) : bytes(random_model(m).bytes()) {}
    std::byte* data(const std::string& name)
    {
        const Gguf file("model.gguf", bytes);
        const GgufTensor* const t = file.find(name);
        REQUIRE(t);
        return reinterpret_cast<std::byte*>(bytes.data()) +
               (t->data - reinterpret_cast<const std::byte*>(bytes.data()));
    }
    template <class T>
    void put(const std::string& name, size_t at, T value)
    {
        std::memcpy(data(name) + at, &value, sizeof value);
    }
    /// Every weight of an F32 matrix times a power of two.
    void scale(const std::string& name, float factor)
    {
        const Gguf file("model.gguf", bytes);
        for (size_t at = 0; at < file.find(name)->bytes; at += sizeof(float)) {
            float w;
            std::memcpy(&w, data(name) + at, sizeof w);
            put(name, at, w * factor);
        }
    }
    std::filesystem::path write(const std::filesystem::path& path) const
    {
        std::ofstream(path, std::ios::binary) << bytes;
        return path;
    }
};

void put_nan(Patched& model, const std::string& name, WeightType type, uint32_t row, uint32_t cols)
{
    const std::vector<size_t> halves = fp16_numbers(type);
    const size_t at = row * row_bytes(type, cols) + (halves.empty() ? 0 : halves[0]);    // what every weight is made of
    if (type == WeightType::f32) model.put(name, at, NAN);
    else if (type == WeightType::bf16) model.put(name, at, uint16_t(0x7fc0));
    else if (type == WeightType::mxfp4) model.put(name, at, uint8_t(0xff));
    else model.put(name, at, uint16_t(0x7e00));
}

EngineOptions options(const std::filesystem::path& model, const std::string& device)
{
    EngineOptions o = {.model = model, .workshop = workshop};
    o.device = device;
    o.sequences = 2;
    return o;
}

/// What a text ends in: by sampling, greedily and with the logits of all its tokens, which has to be the same.
std::string refusal(const EngineOptions& o, const std::vector<Token>& tokens = {1, 270, 300, 290, 280})
{
    Engine engine(o);
    std::vector<std::string> said;
    const auto hear = [&](const auto& f) {
        Session session = engine.session();
        try {
            f(session);
            said.emplace_back();
        } catch (const Error& e) {
            said.emplace_back(e.what());
        }
    };
    Sampler greedy({.temperature = 0});
    hear([&](Session& s) { s.feed(tokens); });
    hear([&](Session& s) { s.next(tokens, greedy); });
    hear([&](Session& s) {
        for (const Token& t : tokens) s.next(std::span(&t, 1), greedy);
    });
    hear([&](Session& s) {
        s.feed(tokens, [](size_t, std::span<const float> logits) { CHECK(host::all_finite(logits)); });
    });
    const auto without_size = [](const std::string& message) {
        return message.substr(0, message.find(" reach "));
    };    // of more tokens, a larger one
    for (const std::string& other : said) CHECK(without_size(other) == without_size(said[0]));
    return said[0];
}

void says(const std::string& got, const std::string& want)
{
    CAPTURE(got);
    CAPTURE(want);
    CHECK(got.find(want) != std::string::npos);
}

/// A model for which weight, norm, bias and predictor are broken in turn.
void check_broken(const std::string& device, std::span<const WeightType> types, double resident)
{
    TemporaryFolder folder;
    const auto run = [&](const Patched& model, Sparsity sparsity = Sparsity::dense,
                         const std::vector<Token>& tokens = {1, 270, 300, 290, 280}) {
        EngineOptions o = options(model.write(folder / "model.gguf"), device);
        o.sparsity = sparsity;
        if (resident < 1) {
            const Needs needs = device_needs(describe_weights(std::make_shared<Gguf>(o.model)));
            o.vram_budget = needs.scratch + needs.head;
            for (const LayerNeeds& l : needs.layers)
                *o.vram_budget += l.attention + l.kv + uint64_t(l.groups * resident) * l.group;
        }
        return refusal(o, tokens);
    };
    for (const WeightType type : types) {
        const std::string name(format_of(type).name);
        CAPTURE(name);
        const RandomModel shape = {.dim = 256, .neurons = 256, .type = type, .activation = host::Activation::silu};
        CHECK(run(Patched(shape)) == "");
        for (const char* part : {"blk.1.attn_v", "blk.0.ffn_down_t", "blk.1.ffn_gate", "output"}) {
            Patched model(shape);
            const std::string tensor = std::string(part) + ".weight";
            put_nan(model, tensor, type, 7, 256);
            says(run(model), tensor + " holds ");
            says(run(model),
                 "the first (NaN) in row 7, column 0: the file is broken, so convert or download the model again");
        }
    }
    RandomModel shape = {.type = WeightType::q8_0};
    for (const char* tensor : {"blk.0.attn_norm.weight", "blk.1.ffn_norm.weight", "output_norm.weight"}) {
        Patched model(shape);
        model.put(tensor, 5 * sizeof(float), NAN);
        for (const Sparsity sparsity : {Sparsity::dense, Sparsity::exact})
            says(run(model, sparsity), fmt::format("{} holds 1 weight", tensor));
    }
    Patched embedding(shape);
    put_nan(embedding, "token_embd.weight", WeightType::q8_0, 300, 64);
    says(run(embedding), "token_embd.weight holds weights that are not finite numbers, the first in row 300, column 0, "
                         "which is token 300");
    CHECK(run(embedding, Sparsity::dense, {1, 270, 290}) == "");    // where nobody reads it

    shape.type = WeightType::f32;
    Patched infinite(shape);
    infinite.put("blk.0.ffn_up.weight", (3 * 64 + 5) * sizeof(float), -INFINITY);
    says(run(infinite),
         "blk.0.ffn_up.weight holds 1 weight that is not a finite number, the first (-inf) in row 3, column 5");
    Patched gate(shape);    // whose neuron must not be taken for one that does not fire
    gate.put("blk.0.ffn_gate.weight", (3 * 64 + 5) * sizeof(float), NAN);
    for (const Sparsity sparsity : {Sparsity::dense, Sparsity::exact})
        says(run(gate, sparsity), "blk.0.ffn_gate.weight holds 1 weight");

    shape.architecture = "opt";
    Patched bias(shape);
    bias.put("blk.1.attn_k.bias", 3 * sizeof(float), NAN);
    says(run(bias), "blk.1.attn_k.bias holds 1 weight that is not a finite number, the first (NaN) in row 0, column 3");

    Patched experts({.experts = 4, .type = WeightType::f32, .activation = host::Activation::silu});
    experts.put("blk.1.ffn_gate_inp.weight", (2 * 64 + 1) * sizeof(float), NAN);
    says(run(experts),
         "blk.1.ffn_gate_inp.weight holds 1 weight that is not a finite number, the first (NaN) in row 2, column 1");

    // Sound weights that make too much of it.
    shape.architecture = "llama";
    Patched values(shape);
    values.scale("blk.1.attn_v.weight", 0x1p20f);
    values.scale("blk.1.attn_output.weight", 0x1p-20f);
    says(run(values), "layer 1's values reach ");
    says(run(values), ", and a KV cache in F16 holds 6.55e+04 at the most");
    Patched large(shape);
    for (const char* tensor : {"blk.1.ffn_gate.weight", "blk.1.ffn_up.weight"}) large.scale(tensor, 0x1p80f);
    says(run(large), "layer 1's feed-forward block overflows");
    Patched residual(shape);    // of which the norm would make zeros
    residual.scale("blk.0.ffn_down_t.weight", 0x1p70f);
    says(run(residual), "layer 1's norm before attention overflows");
    Patched logits(shape);
    logits.scale("output.weight", 0x1p127f);
    says(run(logits), "the logits overflow at the output matrix");
}

}    // namespace

TEST_SUITE("host")
{
    TEST_CASE("weights that are not finite are counted, and the first is found, row by row")
    {
        host::Team team(2);
        std::vector<float> w = random_floats(300 * 70, 1);
        const Matrix m = {WeightType::f32, 300, 70, reinterpret_cast<const std::byte*>(w.data())};
        CHECK(!host::find_not_finite(team, m));
        w[299 * 70 + 69] = NAN;
        w[17 * 70 + 3] = -INFINITY;
        w[17 * 70 + 9] = INFINITY;
        const auto found = host::find_not_finite(team, m);
        REQUIRE(found);
        CHECK(found->count == 3);
        CHECK(found->row == 17);
        CHECK(found->column == 3);
        CHECK(found->value == -INFINITY);
        for (const float x : {0.0f, -0.0f, 3.4e38f, -3.4e38f, 1e-45f})
            CHECK(host::all_finite(std::vector<float>{1, x, 2}));
        for (const float x : {NAN, -NAN, INFINITY, -INFINITY}) CHECK(!host::all_finite(std::vector<float>{1, x, 2}));
    }

    TEST_CASE("halves are told from what they do not hold: too large anywhere, too small in most of a row or a column")
    {
        host::Team team(2);
        const auto as = [&](const auto& change) {
            std::vector<float> w = random_floats(100 * 64, 2);
            for (size_t i = 0; i < w.size(); i++) w[i] = change(uint32_t(i / 64), uint32_t(i % 64), w[i]);
            return host::as_halves(team, {WeightType::f32, 100, 64, reinterpret_cast<const std::byte*>(w.data())});
        };
        const auto is = [](const host::AsHalves& got, bool overflows, uint32_t rows, uint32_t columns) {
            CHECK(got.overflows == overflows);
            CHECK(got.rows_lost == rows);
            CHECK(got.columns_lost == columns);
        };
        is(as([](uint32_t, uint32_t, float w) { return w; }), false, 0, 0);
        is(as([](uint32_t, uint32_t, float w) { return 1e-3f * w; }), false, 0, 0);
        is(as([](uint32_t, uint32_t, float w) { return 1e-6f * w; }), false, 100, 64);
        is(as([](uint32_t r, uint32_t, float w) { return r == 7 ? 1e-6f * w : w; }), false, 1, 0);
        is(as([](uint32_t, uint32_t c, float w) { return c == 7 ? 1e-6f * w : w; }), false, 0, 1);
        is(as([](uint32_t r, uint32_t, float w) { return r < 50 ? 0 : w; }), false, 0, 0);    // which halves hold
        is(as([](uint32_t r, uint32_t c, float w) { return r == 3 && c == 4 ? 65536.0f : w; }), true, 0, 0);
        is(as([](uint32_t r, uint32_t c, float w) { return r == 3 && c == 4 ? NAN : w; }), true, 0, 0);
    }

    TEST_CASE("a NaN in a vector makes NaN of every product of its block, in each instruction set")
    {
        std::vector<float> weights = random_floats(256, 3);
        for (const auto& [isa, id, name] : host::isa_names) {
            const host::Kernels* const cpu = host::kernels(isa);
            if (!cpu) continue;
            for (const uint32_t at : {0u, 5u, 31u, 32u, 100u, 255u}) {
                std::vector<float> x = random_floats(256, 4);
                x[at] = at % 2 ? NAN : -NAN;
                const FixedVector fixed(*cpu, x.data(), 256);
                for (uint32_t b = 0; b < 8; b++) CHECK(std::isnan(fixed.scale[b]) == (b == at / 32));
                for (const WeightFormat& f : weight_formats) {
                    if (f.block == 1) continue;
                    std::string row;
                    append_rows(row, f.type, weights.data(), 1, 256);
                    const std::byte* const rows[host::rows_together + 1] = {
                        reinterpret_cast<const std::byte*>(row.data()), reinterpret_cast<const std::byte*>(row.data()),
                        reinterpret_cast<const std::byte*>(row.data()), reinterpret_cast<const std::byte*>(row.data()),
                        reinterpret_cast<const std::byte*>(row.data()), reinterpret_cast<const std::byte*>(row.data()),
                        reinterpret_cast<const std::byte*>(row.data()), reinterpret_cast<const std::byte*>(row.data()),
                        reinterpret_cast<const std::byte*>(row.data())};
                    const host::Input in = fixed.of(x.data(), true);
                    float y = 0;
                    cpu->of(f.type).dot_rows(rows, 1, &in, 1, 256, &y);
                    CHECK(std::isnan(y));
                    std::vector<float> down(256);
                    const host::Term term = {NAN, rows[0], rows[0]};
                    cpu->of(f.type).axpy(&term, 1, down.data(), 256);
                    CHECK(std::ranges::all_of(down, [](float v) { return std::isnan(v); }));
                }
            }
            std::vector<float> x(64, 1e25f), ones(64, 1.0f), y(64);
            cpu->rmsnorm(x.data(), ones.data(), y.data(), 64,
                         1e-5f);    // whose squares are beyond the range of floats: not zeros
            CHECK(std::isnan(y[0]));
        }
    }

    TEST_CASE("an expert whose score is no number is chosen, with as many others as always")
    {
        host::Team team(1);
        std::vector<float> scores = random_floats(8 * 4, 5), x = {1, 1, 1, 1}, weights(8);
        scores[6 * 4 + 2] = NAN;
        host::Inputs inputs;
        inputs.prepare(team, x.data(), 1, 4, false, host::Work::few);
        host::route(team, {{WeightType::f32, 8, 4, reinterpret_cast<const std::byte*>(scores.data())}, 2, true}, inputs,
                    weights.data());
        CHECK(std::isnan(weights[6]));
        CHECK(std::ranges::count_if(weights, [](float w) { return w != 0; }) == 2);
    }
}

TEST_SUITE("engine")
{
    TEST_CASE("logits that are no numbers end in an error that names the first tensor or layer to blame, on the CPU")
    {
        std::vector<WeightType> types;
        for (const WeightFormat& f : weight_formats) types.push_back(f.type);
        check_broken("cpu", types, 1);
    }

    TEST_CASE("quantising names a weight that is no number, also in a norm and in what is copied")
    {
        TemporaryFolder folder;
        for (const char* tensor : {"blk.1.ffn_down_t.weight", "blk.0.attn_norm.weight", "token_embd.weight"})
            for (const char* to : {"q8_0", "f32"}) {
                if (!find_quantisation(to)) continue;
                Patched model({.type = WeightType::f32});
                model.put(tensor, 5 * sizeof(float), NAN);
                const auto file = std::make_shared<const Gguf>(model.write(folder / "model.gguf"));
                std::string said;
                try {
                    requantise(file, *find_quantisation(to), {}, folder / "out.gguf", [](double) {});
                } catch (const Error& e) {
                    said = e.what();
                }
                says(said,
                     fmt::format("{} holds 1 weight that is not a finite number, the first (NaN) in row 0, column 5",
                                 tensor));
                CHECK(!std::filesystem::exists(folder / "out.gguf"));
            }
    }

    TEST_CASE("blocks whose weights halves do not hold are transposed to floats")
    {
        TemporaryFolder folder;
        for (const float factor : {0x1p20f, 1.0f, 0x1p-13f}) {
            // Q8_0 has halves for scales, which hold this as long as it is spread evenly.
            Patched floats({.type = WeightType::f32, .activation = host::Activation::silu, .down_transposed = false});
            floats.scale("blk.0.ffn_down.weight", factor);
            floats.scale("blk.0.ffn_up.weight", 1 / factor);
            const auto source = std::make_shared<const Gguf>(floats.write(folder / "f32.gguf"));
            requantise(source, *find_quantisation("q8_0"), {}, folder / "q8_0.gguf", [](double) {});
            const auto file = std::make_shared<const Gguf>(folder / "q8_0.gguf");
            const Weights w = load_weights(file, DownLayout::by_neurons);
            CHECK(w.layers[0].ffn.down_t.type == (factor == 1 ? WeightType::f16 : WeightType::f32));
            CHECK(w.layers[1].ffn.down_t.type == WeightType::f16);
            const Weights plain = load_weights(file, DownLayout::dense);
            std::vector<float> stored(128), transposed(64);
            for (uint32_t n = 0; n < 128; n++) {
                host::kernels()
                    .of(w.layers[0].ffn.down_t.type)
                    .decode(w.layers[0].ffn.down_t.row(n), transposed.data(), 64);
                for (uint32_t r = 0; r < 64; r++) {
                    host::kernels().of(WeightType::q8_0).decode(plain.layers[0].ffn.down.row(r), stored.data(), 128);
                    CHECK(transposed[r] == doctest::Approx(stored[n]).epsilon(1e-3));
                }
            }
        }
    }
}

TEST_SUITE("device")
{
    TEST_CASE("logits that are no numbers end in the same error on the device, and where host and device share a model")
    {
        const WeightType types[] = {WeightType::f32, WeightType::q4_k};
        check_broken(device_name, thorough ? std::span<const WeightType>(types) : std::span(types).first(1), 1);
        check_broken(device_name, {}, 0.5);
    }

    TEST_CASE("matrices that fp16 does not hold keep their range on the device, whichever kernels it uses")
    {
        TemporaryFolder folder;
        const std::vector<Token> text = {1, 270, 300, 290, 280, 275, 265, 310, 299, 288};
        const struct {
            const char *first, *second;
            float factor;
        } cases[] = {{"attn_q", "attn_k", 0x1p20f},      {"attn_q", "attn_k", 0x1p-14f},
                     {"attn_output", "attn_v", 0x1p20f}, {"ffn_up", "ffn_down_t", 0x1p24f},
                     {"ffn_up", "ffn_down_t", 0x1p-24f}, {"ffn_up", "ffn_down_t", 0x1p-14f}};
        for (const auto& c : cases) {
            Patched model({.type = WeightType::f32, .activation = host::Activation::silu});
            for (const char* layer : {"blk.0.", "blk.1."}) {
                model.scale(std::string(layer) + c.first + ".weight", c.factor);
                model.scale(std::string(layer) + c.second + ".weight", 1 / c.factor);
            }
            const auto path = model.write(folder / "model.gguf");
            Engine host(options(path, "cpu"));
            Session on_host = host.session();
            const std::span<const float> logits = on_host.feed(text);
            const std::vector<float> want(logits.begin(), logits.end());
            for (const bool without_fp16 : {false, true}) {
                CAPTURE(c.first);
                CAPTURE(c.factor);
                CAPTURE(without_fp16);
                EngineOptions o = options(path, device_name);
                o.without_fp16 = without_fp16;
                Engine engine(o);
                CHECK(engine.on_device());
                Session session = engine.session();
                CHECK(worst_error(session.feed(text), want) < 1e-3);
                Session by_token = engine.session();
                std::span<const float> last;
                for (const Token& t : text) last = by_token.feed(std::span(&t, 1));
                CHECK(worst_error(last, want) < 1e-3);
            }
        }
    }

    TEST_CASE("a join tells of a residual that is not finite, or whose squares are not")
    {
        const auto device = test_device();
        GpuKernels kernels(device, Config{.dim = 64, .heads = 4, .kv_heads = 2, .head_dim = 16});
        for (const float bad : {1.0f, NAN, INFINITY, 1e25f}) {
            std::vector<float> values = random_floats(2 * 64, 7);
            values[64 + 9] = bad;
            Shared<float> base(device, values), weight(device, random_floats(64, 8)), residual(device, 128),
                y(device, 128);
            Shared<uint32_t> broken(device, std::vector<uint32_t>{0});
            TestStep step(device, 2, 0, 1, 0, broken.address());
            run(device, kernels.join, {2},
                {.step = step.address(),
                 .base = base.address(),
                 .weight = weight.address(),
                 .residual = residual.address(),
                 .y = y.address(),
                 .n = 64,
                 .eps = 1e-5f,
                 .gain = 1});
            CHECK(broken[0] == (bad == 1.0f ? 0 : 1));
        }
    }
}
