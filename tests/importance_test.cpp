// Importance matrices: what is measured, the file of it, and what `requantise` makes of it.
#include "engine/engine.h"
#include "engine/model/requantise.h"
#include "engine/run/reference.h"
#include "tests/random_model.h"
#include "tests/support.h"

#include <doctest/doctest.h>

using namespace hearth;
using namespace hearth::tests;

namespace {

constexpr uint32_t f32 = uint32_t(WeightType::f32), f16 = uint32_t(WeightType::f16);

std::string floats(const std::vector<float>& x)
{
    return {reinterpret_cast<const char*>(x.data()), x.size() * sizeof(float)};
}

/// Random numbers for every matrix of a model.
Importance random_importance(const Gguf& model, uint32_t experts)
{
    Importance all = {.matrices = {}, .texts = {"a.txt", "b.txt"}, .windows = 7, .window = 256};
    uint64_t seed = 1;
    for (const GgufTensor& t : model.tensors()) {
        if (t.shape.size() < 2) continue;
        const std::string name = name_by_columns(t.name, experts > 0);
        const uint64_t matrices = name != t.name       ? std::max(experts, 1u)
                                  : t.shape.size() > 2 ? t.shape[2]
                                                       : 1,
                       columns = name != t.name ? t.shape[1] / matrices : t.shape[0];
        Importance::OfMatrix m = {.columns = columns, .sums = random_floats(matrices * columns, ++seed), .counts = {}};
        for (float& x : m.sums) x = std::exp(2 * x);
        m.counts.assign(matrices, 3.0f);
        all.matrices[name] = m;
    }
    return all;
}

/// What a file of one matrix says when it is read; "" where it is taken.
std::string refusal(const TemporaryFolder& folder, const Gguf& model, const std::function<void(GgufWriter&)>& change)
{
    GgufWriter file;
    file.key("general.type", "imatrix");
    file.tensor("blk.0.attn_q.weight.in_sum2", f32, {64, 1}, floats(std::vector<float>(64, 2.0f)));
    file.tensor("blk.0.attn_q.weight.counts", f32, {1, 1}, floats({4}));
    change(file);
    file.write(folder / "x.imatrix");
    try {
        read_importance(folder / "x.imatrix", model, 0);
    } catch (const Error& e) {
        return e.what();
    }
    return "";
}

}    // namespace

TEST_SUITE("model")
{
    TEST_CASE("an importance matrix is read as it was written, of any kind of model")
    {
        TemporaryFolder folder;
        for (const uint32_t experts : {0u, 3u})
            for (const bool by_neurons : {false, true}) {
                if (experts && by_neurons) continue;    // such files come of requantise alone: below
                RandomModel m = {.architecture = experts ? "qwen3moe" : "llama", .experts = experts};
                m.down_transposed = by_neurons;
                const Gguf model(write_random_model(folder / "model.gguf", m));
                const Importance written = random_importance(model, experts);
                write_importance(folder / "x.imatrix", written);
                const Importance read = read_importance(folder / "x.imatrix", model, experts);
                CHECK(read.texts == written.texts);
                CHECK(read.windows == 7);
                CHECK(read.window == 256);
                REQUIRE(read.matrices.size() == written.matrices.size());
                CHECK(read.matrices.contains(experts ? "blk.1.ffn_down_exps.weight" : "blk.1.ffn_down.weight"));
                for (const auto& [name, m] : written.matrices) {
                    CHECK(read.matrices.at(name).columns == m.columns);
                    CHECK(read.matrices.at(name).sums == m.sums);
                    CHECK(read.matrices.at(name).counts == m.counts);
                }
            }
    }

    TEST_CASE("an importance matrix that is none, is broken or belongs to another model is refused by name")
    {
        TemporaryFolder folder;
        const Gguf model(write_random_model(folder / "model.gguf", {}));
        const auto with_sums = [](std::vector<float> x, uint32_t type, std::vector<uint64_t> shape) {
            return [=](GgufWriter& file) {
                file.remove("blk.0.attn_q.weight.in_sum2");
                file.tensor("blk.0.attn_q.weight.in_sum2", type, shape, floats(x));
            };
        };
        std::vector<float> bad(64, 1.0f);
        CHECK(refusal(folder, model, [](GgufWriter&) {}).empty());
        CHECK(refusal(folder, model, with_sums(bad, f32, {64})).empty());    // as others store one row
        struct Row {
            std::function<void(GgufWriter&)> change;
            const char* says;
        };
        const auto with = [&](float x) {
            bad[5] = x;
            return with_sums(bad, f32, {64, 1});
        };
        for (const Row& row : {
                 Row{[](GgufWriter& f) { f.remove("general.type"); }, "its general.type is not there, and that of an"},
                 Row{[](GgufWriter& f) { f.remove("general.type"), f.key("general.type", "model"); },
                     "its general.type is model"},
                 Row{with(NAN), "blk.0.attn_q.weight.in_sum2 has the number nan"},
                 Row{with(INFINITY), "has the number inf"},
                 Row{with(-1), "has the number -1"},
                 Row{with_sums(std::vector<float>(32), f16, {64, 1}),
                     "blk.0.attn_q.weight.in_sum2 is F16, and not F32"},
                 Row{with_sums(std::vector<float>(32), f32, {32, 1}), "1 x 32 columns, and the matrix of"},
                 Row{with_sums(std::vector<float>(128), f32, {64, 2}), "has 1 x 1 numbers, and"},
                 Row{[](GgufWriter& f) { f.remove("blk.0.attn_q.weight.counts"); },
                     "blk.0.attn_q.weight.in_sum2 is there without blk.0.attn_q.weight.counts"},
                 Row{[](GgufWriter& f) { f.remove("blk.0.attn_q.weight.in_sum2"); }, "is there without"},
                 Row{[](GgufWriter& f) {
                         f.tensor("blk.7.attn_q.weight.counts", f32, {1, 1}, floats({4}));
                     },
                     "the file belongs to another model"},
                 Row{[](GgufWriter& f) { f.tensor("more", f32, {1}, floats({4})); },
                     "more is no tensor of an importance matrix"},
                 Row{[](GgufWriter& f) {
                         f.remove("blk.0.attn_q.weight.in_sum2"), f.remove("blk.0.attn_q.weight.counts");
                     },
                     "it is of no matrix at all"},
             }) {
            const std::string said = refusal(folder, model, row.change);
            CAPTURE(said);
            CHECK(said.starts_with((folder / "x.imatrix").string() + ": "));
            CHECK(said.find(row.says) != said.npos);
        }
    }

    TEST_CASE("columns that count more lose less in a copy, in every layout, and what is not in the matrix is said")
    {
        TemporaryFolder folder;
        for (const uint32_t experts : {0u, 3u}) {
            RandomModel m = {.architecture = experts ? "qwen3moe" : "llama",
                             .dim = 256,
                             .neurons = 256,
                             .experts = experts,
                             .activation = host::Activation::silu};
            m.down_transposed = false;
            const auto model = std::make_shared<const Gguf>(write_random_model(folder / "model.gguf", m));
            Importance importance = random_importance(*model, experts);
            importance.matrices.erase("blk.0.attn_k.weight");
            write_importance(folder / "x.imatrix", importance);
            const auto copy = [&](const char* name, bool weighted, bool plain, const std::shared_ptr<const Gguf>& of) {
                const Requantised done =
                    requantise(of, *find_quantisation(name),
                               {.plain = plain,
                                .threads = 2,
                                .importance = weighted ? folder / "x.imatrix" : std::filesystem::path()},
                               folder / "out.gguf", [](double) {});
                CHECK(weighted == std::ranges::any_of(done.notes, [](const std::string& note) {
                          return note.find("blk.0.attn_k.weight is not in") != note.npos;
                      }));
                return std::make_shared<const Gguf>(folder / "out.gguf");
            };
            // Where the down projection is stored by neurons, that is this one's order of rows.
            requantise(model, *find_quantisation("f16"), {.by_neurons = true}, folder / "by_neurons.gguf",
                       [](double) {});
            const auto by_neurons = std::make_shared<const Gguf>(folder / "by_neurons.gguf");
            for (const auto& of : {model, by_neurons}) {
                const auto alike = copy("q3_k_s", false, true, of), weighted = copy("q3_k_s", true, true, of);
                for (const auto& [name, measured] : importance.matrices) {
                    const GgufTensor &before = *model->find(name), &a = *alike->find(name), &b = *weighted->find(name);
                    if (a.type != uint32_t(WeightType::q3_k)) continue;
                    const std::vector<float> counts = column_weights(measured);
                    const uint32_t cols = uint32_t(before.shape[0]), rows = uint32_t(before.bytes / 2 / cols),
                                   each = rows / uint32_t(measured.counts.size());
                    double lost[2] = {};
                    std::vector<float> x(cols), y(cols);
                    for (uint32_t r = 0; r < rows; ++r)
                        for (const GgufTensor* t : {&a, &b}) {
                            const Matrix from = {WeightType(before.type), rows, cols, before.data},
                                         to = {WeightType::q3_k, rows, cols, t->data};
                            host::kernels().of(from.type).decode(from.row(r), x.data(), cols);
                            host::kernels().of(to.type).decode(to.row(r), y.data(), cols);
                            for (uint32_t i = 0; i < cols; ++i)
                                lost[t == &b] += counts[r / each * cols + i] * std::pow(double(x[i]) - y[i], 2);
                        }
                    CAPTURE(name);
                    CHECK(lost[1] < 0.9 * lost[0]);
                }
                copy("q4_0", true, false, of);    // in our own order it is a model all the same
                describe_weights(std::make_shared<const Gguf>(folder / "out.gguf"));
            }
        }
    }
}

TEST_SUITE("engine")
{
    TEST_CASE("what the matrices are multiplied with is measured as the reference finds it")
    {
        TemporaryFolder folder;
        for (const uint32_t experts : {0u, 5u})
            for (const host::Activation activation : {host::Activation::silu, host::Activation::relu}) {
                if (experts && activation == host::Activation::relu) continue;
                const RandomModel m = {.architecture = experts ? "qwen3moe" : "llama",
                                       .experts = experts,
                                       .activation = activation,
                                       .tied_head = experts == 0};
                EngineOptions options;
                options.model = write_random_model(folder / "model.gguf", m);
                options.device = "cpu";
                options.threads = 2;
                options.context = 64;
                Engine engine(options);
                ImportanceMeasuring measuring(engine);
                std::map<std::string, std::vector<double>> sums;
                std::map<std::string, std::vector<double>> counts;
                const auto add = [&](const std::string& name, const std::vector<float>& x, size_t e = 0,
                                     size_t all = 1) {
                    std::vector<double>& to = sums[name];
                    to.resize(all * x.size());
                    for (size_t i = 0; i < x.size(); ++i) to[e * x.size() + i] += double(x[i]) * x[i];
                    counts[name].resize(all);
                    ++counts[name][e];
                };
                const Config& c = engine.config();
                const size_t together = c.neurons / std::max(c.experts, 1u);
                for (const std::vector<Token>& window : {std::vector<Token>{1, 70, 80, 90, 100}, {1, 99, 98}}) {
                    measuring.window(window);
                    Reference reference(engine.weights());
                    for (const Token token : window) {
                        reference.feed(token);
                        add(m.tied_head ? "token_embd.weight" : "output.weight", reference.output_input());
                        for (uint32_t l = 0; l < c.layers; ++l) {
                            const Reference::Inputs& in = reference.inputs()[l];
                            const std::string layer = fmt::format("blk.{}.", l);
                            for (const char* part : {"attn_q", "attn_k", "attn_v"})
                                add(layer + part + ".weight", in.attention);
                            add(layer + "attn_output.weight", in.attn_output);
                            for (size_t e = 0; e < std::max(c.experts, 1u); ++e) {
                                if (experts && in.experts[e] == 0) continue;
                                const char* const suffix = experts ? "_exps.weight" : ".weight";
                                const auto first = in.ffn_down.begin() + ptrdiff_t(e * together);
                                add(layer + "ffn_gate" + suffix, in.ffn, e, std::max(c.experts, 1u));
                                add(layer + "ffn_up" + suffix, in.ffn, e, std::max(c.experts, 1u));
                                add(layer + "ffn_down" + suffix, {first, first + ptrdiff_t(together)}, e,
                                    std::max(c.experts, 1u));
                            }
                        }
                    }
                }
                const Importance measured = measuring.measured();
                CHECK(measured.windows == 2);
                CHECK(measured.window == 64);
                REQUIRE(measured.matrices.size() == sums.size());
                for (const auto& [name, of] : measured.matrices) {
                    CAPTURE(name);
                    REQUIRE(sums.contains(name));
                    CHECK(std::equal(of.counts.begin(), of.counts.end(), counts[name].begin(), counts[name].end()));
                    CHECK(worst_error(of.sums, sums[name]) < 3e-3);    // f16 keys and values
                }
            }
    }
}
