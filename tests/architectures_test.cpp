// Models by their sizes alone: named architectures, and files of which only the beginning is there.
#include "engine/model/architectures.h"
#include "engine/engine.h"
#include "tests/random_model.h"
#include "tests/support.h"

#include <map>
#include <set>

using namespace hearth;
using namespace hearth::tests;

namespace {

const Quantisation& type(const char* name)
{
    const Quantisation* const how = find_quantisation(name);
    REQUIRE(how);
    return *how;
}

double billions(const Gguf& file)
{
    double sum = 0;
    for (const GgufTensor& t : file.tensors()) {
        double n = 1;
        for (const uint64_t d : t.shape) n *= double(d);
        sum += n;
    }
    return sum / 1e9;
}

}    // namespace

TEST_SUITE("architectures")
{
    TEST_CASE("every named architecture is a model that can be run, in every type")
    {
        std::set<std::string> names;
        for (const Architecture& a : all_architectures()) {
            INFO(a.name);
            CHECK(names.insert(a.name).second);
            CHECK(!a.source.empty());
            for (const Quantisation& how : quantisations) {
                const Weights w = describe_weights(header_of(a, how), DownLayout::dense);
                CHECK(w.config.name == a.name);
                CHECK(w.layers.size() == a.layers);
                CHECK(w.config.vocab == a.vocab);
                CHECK(w.config.experts == a.special.experts);
                CHECK((w.output.data == w.embedding.data) == a.special.tied);
                CHECK(!w.transposed);
                const bool by_neurons = a.special.experts || host::makes_zeros(w.config.activation);
                CHECK((w.layers[0].ffn.down_t.rows > 0) == by_neurons);
            }
        }
        CHECK(find_architecture("LLaMA_33B").name == "llama-33b");
        CHECK(find_architecture("Qwen2.5 7B").name == "qwen2.5-7b");
        CHECK_THROWS_WITH_AS(find_architecture("opt-3"), doctest::Contains("opt-30b"), Error);
        CHECK_THROWS_WITH_AS(find_architecture("gpt-5"), doctest::Contains("llama-7b"), Error);
    }

    TEST_CASE("a mixture has better types where others' files of its name have them")
    {
        // As llama-quantize chooses: how many layers have which type.
        const auto types_of = [](const char* name, const char* mixture, const std::string& part) {
            const auto file = header_of(find_architecture(name), type(mixture));
            std::vector<std::pair<std::string, int>> counts;
            for (const GgufTensor& t : file->tensors()) {
                if (!t.name.starts_with("blk.") || t.name.find("." + part) == t.name.npos) continue;
                if (counts.empty() || counts.back().first != t.type_name()) counts.emplace_back(t.type_name(), 0);
                ++counts.back().second;
            }
            std::string out;
            for (const auto& [type, count] : counts)
                out += fmt::format("{}{} {}", out.empty() ? "" : ", ", type, count);
            return out;
        };
        struct Row {
            const char *mixture, *v, *down, *output, *others;
        };
        const std::string thirds_6 = "Q6_K 4, Q4_K 2, Q6_K 1, Q4_K 2, Q6_K 1, Q4_K 2, Q6_K 1, Q4_K 2, Q6_K 1, Q4_K 2, "
                                     "Q6_K 1, Q4_K 2, Q6_K 1, Q4_K 2, Q6_K 1, Q4_K 2, Q6_K 5";
        std::string thirds_5 = thirds_6;
        for (size_t at; (at = thirds_5.find("Q4")) != std::string::npos;) thirds_5[at + 1] = '5';
        for (const Row& row : {
                 Row{"q2_k", "Q3_K 32", "Q3_K 32", "Q3_K 32", "Q2_K 32"},
                 Row{"q2_k_s", "Q2_K 32", "Q4_K 4, Q2_K 28", "Q2_K 32", "Q2_K 32"},
                 Row{"q3_k_s", "Q3_K 32", "Q3_K 32", "Q3_K 32", "Q3_K 32"},
                 Row{"q3_k_m", "Q5_K 2, Q4_K 30", "Q5_K 2, Q4_K 30", "Q4_K 32", "Q3_K 32"},
                 Row{"q3_k_l", "Q5_K 32", "Q5_K 32", "Q5_K 32", "Q3_K 32"},
                 Row{"q4_k_s", "Q5_K 4, Q4_K 28", "Q5_K 4, Q4_K 28", "Q4_K 32", "Q4_K 32"},
                 Row{"q4_k_m", thirds_6.c_str(), thirds_6.c_str(), "Q4_K 32", "Q4_K 32"},
                 Row{"q5_k_s", "Q5_K 32", "Q5_K 32", "Q5_K 32", "Q5_K 32"},
                 Row{"q5_k_m", thirds_5.c_str(), thirds_5.c_str(), "Q5_K 32", "Q5_K 32"},
                 Row{"q6_k", "Q6_K 32", "Q6_K 32", "Q6_K 32", "Q6_K 32"},
                 Row{"iq4_nl", "IQ4_NL 32", "Q5_K 4, IQ4_NL 28", "IQ4_NL 32", "IQ4_NL 32"},
                 Row{"q5_1", "Q5_1 32", "Q5_1 32", "Q5_1 32", "Q5_1 32"},
             }) {
            CAPTURE(row.mixture);
            CHECK(types_of("llama-2-7b", row.mixture, "attn_v.") == row.v);
            CHECK(types_of("llama-2-7b", row.mixture, "ffn_down.") == row.down);
            CHECK(types_of("llama-2-7b", row.mixture, "attn_output.") == row.output);
            for (const char* part : {"attn_q.", "attn_k.", "ffn_gate.", "ffn_up."})
                CHECK(types_of("llama-2-7b", row.mixture, part) == row.others);
            const auto file = header_of(find_architecture("llama-2-7b"), type(row.mixture));
            CHECK(file->find("output.weight")->type_name() == "Q6_K");
            CHECK(file->find("token_embd.weight")->type_name() + " 32" == row.others);
        }
        for (const auto& [mixture, better] :
             {std::pair("q2_k", "Q4_K 32"), {"q2_k_s", "Q4_K 32"}, {"iq4_nl", "Q5_K 32"}})
            CHECK(types_of("llama-3-8b", mixture, "attn_v.") == better);    // four heads share keys and values
        for (const auto& [mixture, output] : {std::pair("q2_k", "Q5_K 32"),
                                              {"q2_k_s", "Q2_K 32"},
                                              {"q3_k_l", "Q5_K 32"},
                                              {"q4_k_m", "Q5_K 32"},
                                              {"q4_0", "Q4_0 32"}}) {
            CHECK(types_of("mixtral-8x7b", mixture, "attn_output.") == output);
            for (const char* part : {"attn_k.", "attn_v."}) CHECK(types_of("mixtral-8x7b", mixture, part) == "Q8_0 32");
        }
    }

    TEST_CASE("they have as many parameters as their makers say")
    {
        // In billions, by the models' cards and papers.
        const std::map<std::string, double> said = {
            {"llama-7b", 6.74},       {"llama-13b", 13.02},     {"llama-33b", 32.53},    {"llama-65b", 65.29},
            {"llama-2-70b", 68.98},   {"llama-3-8b", 8.03},     {"llama-3-70b", 70.55},  {"mistral-7b", 7.24},
            {"mixtral-8x7b", 46.70},  {"mixtral-8x22b", 140.6}, {"falcon-7b", 6.92},     {"relufalcon-40b", 41.8},
            {"opt-6.7b", 6.66},       {"opt-30b", 29.97},       {"opt-66b", 65.72},      {"opt-175b", 174.6},
            {"qwen2.5-7b", 7.62},     {"qwen2.5-32b", 32.76},   {"qwen2.5-72b", 72.71},  {"qwen3-8b", 8.19},
            {"qwen3-30b-a3b", 30.53}, {"qwen3-235b-a22b", 235}, {"gemma-2-27b", 27.2},   {"gemma-3-12b", 11.77},
            {"phi-3-mini", 3.82},     {"phi-4", 14.66},         {"smollm2-135m", 0.135}, {"yi-34b", 34.39},
            {"codellama-34b", 33.74}, {"bamboo-7b", 7.24},      {"gemma-2-9b", 9.24},    {"granite-3-8b", 8.17},
        };
        for (const auto& [name, parameters] : said) {
            INFO(name);
            CHECK(billions(*header_of(find_architecture(name), type("f16"))) ==
                  doctest::Approx(parameters).epsilon(0.01));
        }
    }

    TEST_CASE("types weigh what they weigh in files of that type")
    {
        // In GB: llama-2-7b by TheBloke on huggingface.co, Meta-Llama-3-8B by bartowski.
        const auto gb = [](const char* name, const char* how) {
            return double(header_of(find_architecture(name), type(how))->file_bytes()) / 1e9;
        };
        CHECK(gb("llama-2-7b", "f16") == doctest::Approx(13.48).epsilon(0.01));
        CHECK(gb("llama-2-7b", "q8_0") == doctest::Approx(7.16).epsilon(0.01));
        CHECK(gb("llama-2-7b", "q4_k_m") == doctest::Approx(4.08).epsilon(0.01));
        CHECK(gb("llama-2-70b", "q4_k_m") == doctest::Approx(41.42).epsilon(0.01));
        CHECK(gb("llama-3-8b", "q6_k") == doctest::Approx(6.60).epsilon(0.01));
    }

    TEST_CASE("of a file that is cut behind its header, needs are those of the whole, and nothing runs it")
    {
        const TemporaryFolder folder;
        for (const bool experts : {false, true}) {
            RandomModel shape;
            if (experts) shape.experts = 4, shape.experts_used = 2;
            const std::string bytes = random_model(shape).bytes();
            const auto whole = std::make_shared<const Gguf>("whole.gguf", bytes);
            const size_t header = bytes.size() - whole->raw().data.size();
            for (const size_t kept : {header, header + 100, bytes.size() - 1}) {
                const std::filesystem::path path = folder / "cut.gguf";
                std::ofstream(path, std::ios::binary) << bytes.substr(0, kept);
                CHECK_THROWS_WITH_AS((void)Gguf{path}, doctest::Contains("run past its end"), Error);
                const auto cut = std::make_shared<const Gguf>(path, std::vector<Override>(), Cut::allowed);
                CHECK(!cut->complete());
                CHECK(cut->file_bytes() >= bytes.size() - 31);    // without what follows the last tensor
                CHECK(cut->file_bytes() <= bytes.size());
                const Needs of_cut = device_needs(describe_weights(cut)),
                            of_whole = device_needs(describe_weights(whole));
                REQUIRE(of_cut.layers.size() == of_whole.layers.size());
                CHECK(of_cut.scratch == of_whole.scratch);
                CHECK(of_cut.head == of_whole.head);
                CHECK(of_cut.layers[0].group == of_whole.layers[0].group);
                CHECK(of_cut.layers[0].attention == of_whole.layers[0].attention);
                CHECK_THROWS_AS(Engine({.model = path}), Error);
            }
            std::ofstream(folder / "short.gguf", std::ios::binary) << bytes.substr(0, header - 40);
            CHECK_THROWS_WITH_AS(Gguf(folder / "short.gguf", std::vector<Override>(), Cut::allowed),
                                 doctest::Contains("cut short"), Error);
        }
    }

    TEST_CASE("a header as another type is the header of what quantize writes")
    {
        const TemporaryFolder folder;
        const RandomModel shape;
        const std::string bytes = random_model(shape).bytes();
        const auto model = std::make_shared<const Gguf>("model.gguf", bytes);
        for (const char* name : {"f16", "q8_0", "q4_0", "q4_k_m"}) {
            INFO(name);
            requantise(model, type(name), {.dense = true}, folder / "out.gguf", [](double) {});
            const Gguf written(folder / "out.gguf"),
                header = Gguf::of_header("h", requantised_header(model, type(name)));
            REQUIRE(written.tensors().size() == header.tensors().size());
            CHECK(written.file_bytes() == header.file_bytes());
            for (const GgufTensor& t : written.tensors()) {
                const GgufTensor* const h = header.find(t.name);
                REQUIRE(h);
                CHECK(h->type == t.type);
                CHECK(h->shape == t.shape);
            }
        }
    }
}
