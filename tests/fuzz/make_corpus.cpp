// Writes what the fuzz targets start from: make_corpus FOLDER makes a folder for each target, with small files of every
// kind that it reads.
#include "engine/model/families.h"
#include "engine/file/gguf_writer.h"
#include "engine/text/pretokenizer.h"
#include "engine/plan/profile.h"
#include "host/sparse.h"
#include "tests/fuzz/parts.h"
#include "tests/fuzz/seeds.h"
#include "tests/fuzz/vocabulary.h"
#include "tests/tiny_tokenizer.h"
#include "tools/hearth/cli.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>

using namespace hearth;
using namespace hearth::fuzz;

namespace {

std::filesystem::path corpus;

void add(std::string_view target, std::string_view name, std::string_view bytes)
{
    const std::filesystem::path folder = corpus / target;
    std::filesystem::create_directories(folder);
    std::ofstream file(folder / name, std::ios::binary);
    file << bytes;
    file.close();
    if (!file) throw Error("{} cannot be written", (folder / name).string());
}

/// A matrix without its zeros, and the keys that say so.
void add_sparse(GgufWriter& file, const std::string& name, WeightType values, uint32_t rows, uint32_t cols)
{
    RandomNormal normal(3);
    std::vector<float> x(size_t(rows) * cols);
    for (float& w : x)
        if (w = normal(); std::fabs(w) < 0.7f) w = 0;
    const std::string dense = encode_rows(values, x, cols);
    const Matrix matrix = {values, rows, cols, reinterpret_cast<const std::byte*>(dense.data())};
    std::vector<std::byte> bytes;
    std::vector<uint32_t> starts = {0};
    for (uint32_t row = 0; row < rows; row++) {
        host::compress_row(values, matrix.row(row), cols, bytes);
        starts.push_back(uint32_t(bytes.size() / sparse_row_unit));
    }
    bytes.resize(bytes.size() + sparse_slack);
    constexpr uint32_t i8 = 24, i32 = 26;
    file.remove(name);
    file.tensor(name, i8, {bytes.size()}, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    file.tensor(name + ".starts", i32, {starts.size()},
                std::string(reinterpret_cast<const char*>(starts.data()), starts.size() * sizeof(uint32_t)));
    file.key("hearth.sparse.tensors", std::vector<std::string>{name});
    file.key("hearth.sparse.types", std::vector<std::string>{std::string(format_of(values).name)});
    file.key("hearth.sparse.columns", std::vector<uint32_t>{cols});
}

/// A byte-level vocabulary: the bytes in GPT-2's alphabet, some words of two, and the merges that make them.
void write_byte_level_tokenizer(GgufWriter& file, std::string_view pre)
{
    std::vector<std::string> tokens, merges;
    for (int b = 0; b < 256; b++) tokens.push_back(byte_letter(uint8_t(b)));
    for (const char* pair : {"o n", "t h", "th e", "a n", "i n", "1 2"}) {
        merges.push_back(pair);
        std::string word = pair;
        std::erase(word, ' ');
        tokens.push_back(word);
    }
    std::vector<int32_t> kinds(tokens.size(), normal);
    tokens.push_back("<|endoftext|>");
    kinds.push_back(control);
    file.key("tokenizer.ggml.model", "gpt2");
    file.key("tokenizer.ggml.pre", std::string(pre));
    file.key("tokenizer.ggml.tokens", tokens);
    file.key("tokenizer.ggml.token_type", kinds);
    file.key("tokenizer.ggml.merges", merges);
    file.key("tokenizer.ggml.bos_token_id", uint32_t(tokens.size() - 1));
    file.key("tokenizer.ggml.eos_token_id", uint32_t(tokens.size() - 1));
}

GgufWriter unigram_tokenizer()
{
    GgufWriter file;
    std::vector<std::string> tokens = {"<pad>", "</s>", "<unk>", "\u2581", "\u2581the",  "e",
                                       "t",     "on",   "o",     "n",      "\u2581once", "\u00e9"};
    std::vector<float> scores;
    std::vector<int32_t> kinds(tokens.size(), normal);
    for (size_t i = 0; i < tokens.size(); i++) scores.push_back(-float(i));
    kinds[0] = kinds[1] = control;
    kinds[2] = unknown;
    file.key("tokenizer.ggml.model", "t5");
    file.key("tokenizer.ggml.tokens", tokens);
    file.key("tokenizer.ggml.scores", scores);
    file.key("tokenizer.ggml.token_type", kinds);
    file.key("tokenizer.ggml.eos_token_id", uint32_t(1));
    file.key("tokenizer.ggml.unknown_token_id", uint32_t(2));
    return file;
}

/// Small models of every family, of every format, and with every part that a file can have.
std::vector<std::pair<std::string, GgufWriter>> models()
{
    std::vector<std::pair<std::string, GgufWriter>> all;
    const auto make = [&](std::string name, auto&& change) {
        RandomModel m = seed_model;
        change(m);
        all.emplace_back(std::move(name), random_model(m));
    };
    for (const std::string_view family : {"llama", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3", "falcon",
                                          "opt", "minicpm", "granite", "bamboo"})
        if (find_family(family))
            make(std::string(family), [&](RandomModel& m) {
                m.architecture = family;
                m.activation = host::Activation::silu;
                m.down_transposed = false;
            });
    for (const WeightFormat& format : weight_formats)
        make(fmt::format("format-{}", format.name), [&](RandomModel& m) {
            m.type = format.type;
            if (format.block > 32) m.dim = m.neurons = 256, m.vocab = 5;
        });
    make("experts", [](RandomModel& m) { m.experts = 4; });
    make("experts-plain",
         [](RandomModel& m) { m.experts = 4, m.down_transposed = false, m.normalise_experts = false; });
    make("predictor", [](RandomModel& m) { m.predictor = {8}; });
    make("long-rope",
         [](RandomModel& m) { m.architecture = "phi3", m.long_rope = true, m.activation = host::Activation::silu; });
    make("yarn", [](RandomModel& m) { m.yarn = true; });
    make("rope-factors", [](RandomModel& m) { m.rope_factors = true; });
    make("window",
         [](RandomModel& m) { m.architecture = "gemma3", m.window = 4, m.activation = host::Activation::gelu_tanh; });
    make("two-norms",
         [](RandomModel& m) { m.architecture = "falcon", m.two_norms = true, m.activation = host::Activation::gelu; });
    for (const WeightType values : {WeightType::f16, WeightType::q8_0}) {
        make(values == WeightType::f16 ? "sparse-f16" : "sparse-q8_0", [&](RandomModel& m) { m.type = values; });
        add_sparse(all.back().second, "blk.0.ffn_up.weight", values, seed_model.neurons, seed_model.dim);
    }
    make("powerinfer", [](RandomModel& m) { m.predictor = {8}; });
    all.back().second.magic = "PWRI";
    all.back().second.key("powerinfer.sparse_threshold", 0.1f);
    make("alignment", [](RandomModel&) {});
    all.back().second.alignment = 64;
    all.back().second.version = 2;
    for (const char* pre : {"gpt-2", "llama-bpe", "qwen2", "deepseek-coder"}) {
        all.emplace_back(fmt::format("tokenizer-{}", pre), GgufWriter());
        write_byte_level_tokenizer(all.back().second, pre);
    }
    all.emplace_back("tokenizer-t5", unigram_tokenizer());
    return all;
}

Profile small_profile(const Gguf& model)
{
    Profile p = empty_profile(model, seed_model.layers, seed_model.neurons, seed_model.dim);
    p.positions = 40;
    p.stride = 2;
    p.sampled = 20;
    p.texts = {{"0123456789abcdef", 1, 2}};
    for (LayerProfile& layer : p.layers) {
        for (uint32_t n = 0; n < seed_model.neurons; n++) layer.fired[n] = n % 40;
        for (uint64_t s = 0; s < p.sampled; s++) layer.samples.push_back(uint32_t(s * 0x9e3779b9u));
        for (uint32_t d = 0; d <= seed_model.dim; d++) layer.agreeing[d] = 9, layer.agreeing_fired[d] = d % 9;
        layer.predicted = 30;
        layer.predicted_fired = 20;
        layer.activation[17] = 5;
    }
    return p;
}

void add_profiles()
{
    const std::string bytes = random_model(seed_model).bytes();
    const Gguf model("model.gguf", bytes);
    const std::filesystem::path folder = corpus / "profile";
    std::filesystem::create_directories(folder);
    Profile p = small_profile(model);
    write_profile(folder / "plain", p);
    std::ifstream file(folder / "plain", std::ios::binary);
    std::string old(std::istreambuf_iterator<char>(file), {});
    const std::string_view version = "hearth.profile.version";    // behind it: the type, and the number
    old.at(old.find(version) + version.size() + sizeof(uint32_t)) = 1;
    add("profile", "without-checksum", old);
    p.calibration = {.sparsity = 0.4, .cuts = {0.5f}, .dense_nll = 2, .sparse_nll = 2.1, .tokens = 100};
    write_profile(folder / "calibrated", p);
}

/// A model in three parts: keys, and the tensors in the order of their names.
void add_parts()
{
    const std::string bytes = random_model(seed_model).bytes();
    const Gguf model("model.gguf", bytes);
    std::string all;
    constexpr uint16_t count = 3;
    for (uint16_t no = 0; no < count; no++) {
        GgufWriter part;
        if (no == 0)
            for (const auto& [name, key] : model.raw().keys)
                part.raw_key(name, std::string(key.substr(8 + name.size())));
        part.key("split.no", no);
        part.key("split.count", count);
        part.key("split.tensors.count", int32_t(model.tensors().size()));
        for (size_t i = no; i < model.tensors().size(); i += count) {
            const GgufTensor& t = model.tensors()[i];
            part.tensor(t.name, t.type, t.shape, std::string(reinterpret_cast<const char*>(t.data), t.bytes));
        }
        all += (no ? std::string(part_separator) : "") + part.bytes();
    }
    add("parts", "three", all);
    add("parts", "one", bytes);
}

void add_gpu_index()
{
    GgufWriter file;
    file.key("general.architecture", "generic.gpu_index");
    file.key("generic.gpu_index.block_count", seed_model.layers);
    file.key("split.vram_capacity", uint64_t(1) << 30);
    std::vector<int32_t> on_gpu(seed_model.neurons), bucket;
    for (uint32_t i = 0; i < seed_model.neurons; i += 3) {
        on_gpu[i] = 1;
        bucket.push_back(int32_t(i));
    }
    const auto list = [&](const char* name, const std::vector<int32_t>& x) {
        constexpr uint32_t i32 = 26;
        file.tensor(name, i32, {x.size()},
                    std::string(reinterpret_cast<const char*>(x.data()), x.size() * sizeof(int32_t)));
    };
    list("blk.0.gpu_idx", on_gpu);
    list("blk.0.gpu_bucket", bucket);
    add("gpu_index", "every-third", file.bytes());
}

/// What tests/data has of files that torch wrote.
void add_torch_files()
{
    for (const auto& entry :
         std::filesystem::directory_iterator(std::filesystem::path(HEARTH_SOURCE) / "tests/data/powerinfer")) {
        if (entry.path().extension() != ".pt") continue;
        std::ifstream file(entry.path(), std::ios::binary);
        add("torch", entry.path().filename().string(), std::string(std::istreambuf_iterator<char>(file), {}));
    }
}

void add_images()
{
    for (const auto& entry :
         std::filesystem::directory_iterator(std::filesystem::path(HEARTH_SOURCE) / "tests/data/images")) {
        if (entry.path().extension() == ".json") continue;
        std::ifstream file(entry.path(), std::ios::binary);
        add("image", entry.path().filename().string(), std::string(std::istreambuf_iterator<char>(file), {}));
    }
}

void add_machines()
{
    Machine machine = {.device = "GPU", .driver = "1.2", .kernels = "AVX2", .threads = 4};
    add("machine", "plain", tools::to_json(machine).dump());
    machine.row_variants.choice[1][2] = RowVariant{32, 4, 2, true};
    machine.products[1][0] = machine.host_products[3] = machine.laid_out[0] = 12.5;
    machine.software = true;
    add("machine", "measured", tools::to_json(machine).dump(1));
}

void add_vocabularies()
{
    using namespace std::string_literals;
    const std::string words = "on\nthe\nth\nan\n#<|im_end|>\n!<|user|>\n%x\n \n\u2581the\n\u2581"s,
                      text = "\0once the\n  <|im_end|> d\u00e9j\u00e0 12<|user|>\xff"s;
    for (int kind = 0; kind < 3; kind++)
        for (int flags = 0; flags < 32; flags += 7)
            add("tokenizer", fmt::format("{}-{}", kind, flags),
                std::string{char(kind), char(flags), char(flags)} + words + text);
}

void add_templates()
{
    using namespace std::string_literals;
    for (const auto& entry :
         std::filesystem::directory_iterator(std::filesystem::path(HEARTH_SOURCE) / "tests/data/templates")) {
        std::ifstream file(entry.path(), std::ios::binary);
        add("template", entry.path().stem().string(),
            std::string(std::istreambuf_iterator<char>(file), {}) + "\0Hello {{ <|im_end|> }}"s);
    }
    add("template", "statements",
        "{%- macro f(x, y=1) -%}{{ x|trim|upper ~ y }}{%- endmacro -%}{% set ns = namespace(n=0) %}{% for m in "
        "messages[::-1] if m.content is string %}"
        "{% set ns.n = ns.n + loop.index0 %}{{ f(m['content'].split('a')[0][:3] + '\\n', loop.last) }}{% else %}{{ "
        "raise_exception('no') }}{% endfor %}"
        "{{ {'a': [1, 2.5, none]}|tojson(indent=2) }}{{ '%s %d'|format(messages|length, ns.n) }}"
        "{{ strftime_now('%Y') }}\0x"s);
}

void add_texts()
{
    uint8_t kind = 0;
    for (const std::string_view text :
         {"Once upon a time there were 1234567 d\u00e9j\u00e0 vu's; they'LL go\r\n\n\t on  .",
          "e\u0301\u0323\u0327 \uac00\u11a8 \u4e2d\u6587\u3002 \U0001f468\u200d\U0001f469 \u180e\u2028",
          "\xff\xfe\xc0\x80 ab\xe2\x82", "<|im_start|>user\nx<|im_end|> \u00b2\u00bd"})
        for (int n = 0; n < 3; n++)
            add("text", fmt::format("text-{}", kind), std::string(1, char(kind++)) + std::string(text));
}

}    // namespace

int main(int argc, char** argv)
{
    if (argc != 2) {
        fmt::print(stderr, "usage: make_corpus FOLDER\n");
        return 2;
    }
    try {
        corpus = argv[1];
        for (const auto& [name, file] : models())
            for (const char* target : {"gguf", "requantise"}) add(target, name, file.bytes());
        add_profiles();
        add_parts();
        add_gpu_index();
        add_torch_files();
        add_images();
        add_machines();
        add_vocabularies();
        add_templates();
        add_texts();
    } catch (const std::exception& error) {
        fmt::print(stderr, "make_corpus: {}\n", error.what());
        return 1;
    }
    return 0;
}
