#include "engine/model/architectures.h"

#include "engine/file/gguf_writer.h"
#include "engine/model/families.h"
#include "engine/model/weights.h"

#include <algorithm>
#include <cctype>

namespace hearth {

namespace {

// Sizes: config.json of the repository on huggingface.co that each row names.
// clang-format off
const Architecture architectures[] = {
    {"llama-7b", "llama", 32, 4096, 32, 32, 0, 11008, 32000, 2048, "huggyllama/llama-7b"},
    {"llama-13b", "llama", 40, 5120, 40, 40, 0, 13824, 32000, 2048, "huggyllama/llama-13b"},
    {"llama-33b", "llama", 60, 6656, 52, 52, 0, 17920, 32000, 2048, "huggyllama/llama-30b"},
    {"llama-65b", "llama", 80, 8192, 64, 64, 0, 22016, 32000, 2048, "huggyllama/llama-65b"},
    {"llama-2-7b", "llama", 32, 4096, 32, 32, 0, 11008, 32000, 4096, "meta-llama/Llama-2-7b-hf"},
    {"llama-2-13b", "llama", 40, 5120, 40, 40, 0, 13824, 32000, 4096, "meta-llama/Llama-2-13b-hf"},
    {"llama-2-70b", "llama", 80, 8192, 64, 8, 0, 28672, 32000, 4096, "meta-llama/Llama-2-70b-hf"},
    {"relullama-7b", "llama", 32, 4096, 32, 32, 0, 11008, 32000, 4096, "SparseLLM/ReluLLaMA-7B",
     {.activation = "relu"}},
    {"relullama-13b", "llama", 40, 5120, 40, 40, 0, 13824, 32000, 4096, "SparseLLM/ReluLLaMA-13B",
     {.activation = "relu"}},
    {"relullama-70b", "llama", 80, 8192, 64, 8, 0, 28672, 32000, 4096, "SparseLLM/ReluLLaMA-70B",
     {.activation = "relu"}},
    {"prosparse-7b", "llama", 32, 4096, 32, 32, 0, 11008, 32000, 4096, "SparseLLM/prosparse-llama-2-7b",
     {.activation = "relu"}},
    {"prosparse-13b", "llama", 40, 5120, 40, 40, 0, 13824, 32000, 4096, "SparseLLM/prosparse-llama-2-13b",
     {.activation = "relu"}},
    {"bamboo-7b", "bamboo", 32, 4096, 32, 8, 0, 14336, 32000, 4096, "PowerInfer/Bamboo-base-v0_1"},
    {"codellama-34b", "llama", 48, 8192, 64, 8, 0, 22016, 32000, 16384, "codellama/CodeLlama-34b-hf"},
    {"yi-34b", "llama", 60, 7168, 56, 8, 0, 20480, 64000, 4096, "01-ai/Yi-34B"},
    {"mistral-7b", "llama", 32, 4096, 32, 8, 0, 14336, 32000, 32768, "mistralai/Mistral-7B-v0.1"},
    {"mixtral-8x7b", "llama", 32, 4096, 32, 8, 0, 14336, 32000, 32768, "mistralai/Mixtral-8x7B-v0.1",
     {.experts = 8, .experts_used = 2}},
    {"mixtral-8x22b", "llama", 56, 6144, 48, 8, 0, 16384, 32000, 65536, "mistralai/Mixtral-8x22B-v0.1",
     {.experts = 8, .experts_used = 2}},
    {"llama-3-8b", "llama", 32, 4096, 32, 8, 0, 14336, 128256, 8192, "meta-llama/Meta-Llama-3-8B"},
    {"llama-3-70b", "llama", 80, 8192, 64, 8, 0, 28672, 128256, 8192, "meta-llama/Meta-Llama-3-70B"},
    {"falcon-7b", "falcon", 32, 4544, 71, 1, 0, 18176, 65024, 2048, "tiiuae/falcon-7b", {.tied = true}},
    {"falcon-40b", "falcon", 60, 8192, 128, 8, 0, 32768, 65024, 2048, "tiiuae/falcon-40b", {.two_norms = true}},
    {"relufalcon-40b", "falcon", 60, 8192, 128, 8, 0, 32768, 65024, 2048, "SparseLLM/ReluFalcon-40B",
     {.activation = "relu", .two_norms = true}},
    {"opt-6.7b", "opt", 32, 4096, 32, 32, 0, 16384, 50272, 2048, "facebook/opt-6.7b", {.tied = true}},
    {"opt-13b", "opt", 40, 5120, 40, 40, 0, 20480, 50272, 2048, "facebook/opt-13b", {.tied = true}},
    {"opt-30b", "opt", 48, 7168, 56, 56, 0, 28672, 50272, 2048, "facebook/opt-30b", {.tied = true}},
    {"opt-66b", "opt", 64, 9216, 72, 72, 0, 36864, 50272, 2048, "facebook/opt-66b", {.tied = true}},
    {"opt-175b", "opt", 96, 12288, 96, 96, 0, 49152, 50272, 2048, "arxiv.org/abs/2205.01068", {.tied = true}},
    {"qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 0, 18944, 152064, 32768, "Qwen/Qwen2.5-7B-Instruct"},
    {"qwen2.5-14b", "qwen2", 48, 5120, 40, 8, 0, 13824, 152064, 32768, "Qwen/Qwen2.5-14B-Instruct"},
    {"qwen2.5-32b", "qwen2", 64, 5120, 40, 8, 0, 27648, 152064, 32768, "Qwen/Qwen2.5-32B-Instruct"},
    {"qwen2.5-72b", "qwen2", 80, 8192, 64, 8, 0, 29568, 152064, 32768, "Qwen/Qwen2.5-72B-Instruct"},
    {"qwen3-8b", "qwen3", 36, 4096, 32, 8, 128, 12288, 151936, 40960, "Qwen/Qwen3-8B"},
    {"qwen3-14b", "qwen3", 40, 5120, 40, 8, 128, 17408, 151936, 40960, "Qwen/Qwen3-14B"},
    {"qwen3-32b", "qwen3", 64, 5120, 64, 8, 128, 25600, 151936, 40960, "Qwen/Qwen3-32B"},
    {"qwen3-30b-a3b", "qwen3moe", 48, 2048, 32, 4, 128, 768, 151936, 40960, "Qwen/Qwen3-30B-A3B",
     {.experts = 128, .experts_used = 8}},
    {"qwen3-235b-a22b", "qwen3moe", 94, 4096, 64, 4, 128, 1536, 151936, 40960, "Qwen/Qwen3-235B-A22B",
     {.experts = 128, .experts_used = 8}},
    {"gemma-2-9b", "gemma2", 42, 3584, 16, 8, 256, 14336, 256000, 8192, "google/gemma-2-9b",
     {.tied = true, .window = 4096}},
    {"gemma-2-27b", "gemma2", 46, 4608, 32, 16, 128, 36864, 256000, 8192, "google/gemma-2-27b",
     {.tied = true, .window = 4096}},
    {"gemma-3-12b", "gemma3", 48, 3840, 16, 8, 256, 15360, 262208, 131072, "google/gemma-3-12b-it",
     {.tied = true, .window = 1024}},
    {"gemma-3-27b", "gemma3", 62, 5376, 32, 16, 128, 21504, 262208, 131072, "google/gemma-3-27b-it",
     {.tied = true, .window = 1024}},
    {"phi-3-mini", "phi3", 32, 3072, 32, 32, 0, 8192, 32064, 4096, "microsoft/Phi-3-mini-4k-instruct"},
    {"phi-4", "phi3", 40, 5120, 40, 10, 0, 17920, 100352, 16384, "microsoft/phi-4"},
    {"granite-3-8b", "granite", 40, 4096, 32, 8, 0, 12800, 49155, 4096, "ibm-granite/granite-3.0-8b-instruct",
     {.tied = true}},
    {"smollm2-135m", "llama", 30, 576, 9, 3, 0, 1536, 49152, 8192, "HuggingFaceTB/SmolLM2-135M", {.tied = true}},
    {"smollm2-1.7b", "llama", 24, 2048, 32, 32, 0, 8192, 49152, 8192, "HuggingFaceTB/SmolLM2-1.7B", {.tied = true}},
};
// clang-format on

std::string simplified(std::string_view name)
{
    std::string out;
    for (const char ch : name)
        if (std::isalnum(uint8_t(ch))) out += char(std::tolower(uint8_t(ch)));
    return out;
}

GgufKeys keys_of(const Architecture& a, const Family& family)
{
    GgufKeys keys;
    const auto add = [&](const char* key, auto value) { keys.add(a.family + "." + key, value); };
    const uint32_t head_dim = a.head_dim ? a.head_dim : a.dim / std::max(a.heads, 1u);
    keys.add("general.architecture", a.family);
    keys.add("general.name", a.name);
    add("block_count", a.layers);
    add("embedding_length", a.dim);
    add("feed_forward_length", a.neurons);
    add("context_length", a.context);
    add("attention.head_count", a.heads);
    add("attention.head_count_kv", a.kv_heads);
    add("attention.key_length", head_dim);
    add("attention.value_length", head_dim);
    add(family.layer_norms ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-5);
    if (a.special.window) add("attention.sliding_window", a.special.window);
    if (a.special.experts) {
        add("expert_count", a.special.experts);
        add("expert_used_count", a.special.experts_used);
        add("expert_feed_forward_length", a.neurons);
    }
    if (!a.special.activation.empty()) keys.add(activation_key, std::string_view(a.special.activation));
    return keys;
}

/// The tensors that weights.cpp asks for: matrices in F16, down projections by columns.
class Tensors {
  public:
    Tensors(const Architecture& a, const Family& family) : a_(a), family_(family)
    {
        const uint64_t dim = a.dim;
        matrix("token_embd.weight", {dim, a.vocab});
        if (family.positions) matrix("position_embd.weight", {dim, uint64_t(a.context) + first_position_row});
        norm("output_norm");
        if (!a.special.tied) matrix("output.weight", {dim, a.vocab});
        for (uint32_t l = 0; l < a.layers; ++l) {
            layer_ = fmt::format("blk.{}.", l);
            norms();
            attention();
            feed_forward();
        }
    }
    std::vector<GgufEntry> entries;

  private:
    void matrix(const std::string& name, std::vector<uint64_t> shape) { add(name, WeightType::f16, std::move(shape)); }
    void vector(const std::string& name, uint64_t n) { add(name, WeightType::f32, {n}); }
    void norm(const std::string& name)
    {
        vector(name + ".weight", a_.dim);
        if (family_.layer_norms) vector(name + ".bias", a_.dim);
    }

    void add(const std::string& name, WeightType type, std::vector<uint64_t> shape)
    {
        uint64_t bytes = type == WeightType::f16 ? 2 : 4;
        for (const uint64_t n : shape) bytes *= n;
        entries.push_back({name, uint32_t(type), std::move(shape), bytes});
    }

    void norms()
    {
        norm(layer_ + "attn_norm");
        if (family_.post_norms) {
            vector(layer_ + "post_attention_norm.weight", a_.dim);
            vector(layer_ + "post_ffw_norm.weight", a_.dim);
        }
        if (!family_.parallel) norm(layer_ + "ffn_norm");
        else if (a_.special.two_norms) norm(layer_ + "attn_norm_2");
    }

    void attention()
    {
        const uint64_t head_dim = a_.head_dim ? a_.head_dim : a_.dim / a_.heads, q = a_.heads * head_dim,
                       kv = a_.kv_heads * head_dim, dim = a_.dim;
        if (family_.fused) {
            matrix(layer_ + "attn_qkv.weight", {dim, q + 2 * kv});
        } else {
            matrix(layer_ + "attn_q.weight", {dim, q});
            matrix(layer_ + "attn_k.weight", {dim, kv});
            matrix(layer_ + "attn_v.weight", {dim, kv});
        }
        if (family_.qkv_bias) {
            vector(layer_ + "attn_q.bias", q);
            vector(layer_ + "attn_k.bias", kv);
            vector(layer_ + "attn_v.bias", kv);
        }
        if (family_.head_norms) {
            vector(layer_ + "attn_q_norm.weight", head_dim);
            vector(layer_ + "attn_k_norm.weight", head_dim);
        }
        matrix(layer_ + "attn_output.weight", {q, dim});
        if (family_.all_biases) vector(layer_ + "attn_output.bias", dim);
    }

    void feed_forward()
    {
        const uint64_t dim = a_.dim, n = a_.neurons;
        if (a_.special.experts) {
            matrix(layer_ + "ffn_gate_inp.weight", {dim, a_.special.experts});
            matrix(layer_ + "ffn_gate_exps.weight", {dim, n, a_.special.experts});
            matrix(layer_ + "ffn_up_exps.weight", {dim, n, a_.special.experts});
            matrix(layer_ + "ffn_down_exps.weight", {n, dim, a_.special.experts});
            return;
        }
        if (family_.gated && !family_.fused) matrix(layer_ + "ffn_gate.weight", {dim, n});
        matrix(layer_ + "ffn_up.weight", {dim, family_.gated && family_.fused ? 2 * n : n});
        if (family_.all_biases) vector(layer_ + "ffn_up.bias", n);
        matrix(layer_ + "ffn_down.weight", {n, dim});
        if (family_.all_biases) vector(layer_ + "ffn_down.bias", dim);
    }

    const Architecture& a_;
    const Family& family_;
    std::string layer_;
};

}    // namespace

std::span<const Architecture> all_architectures() { return architectures; }

const Architecture& find_architecture(std::string_view name)
{
    const std::string wanted = simplified(name);
    std::string near;
    for (const Architecture& a : architectures) {
        const std::string its = simplified(a.name);
        if (its == wanted) return a;
        if (!wanted.empty() && its.find(wanted) != its.npos) near += (near.empty() ? "" : ", ") + a.name;
    }
    if (near.empty())
        for (const Architecture& a : architectures) near += (near.empty() ? "" : ", ") + a.name;
    throw Error("no architecture is called '{}' here: name one of {}, or give a config.json", name, near);
}

std::shared_ptr<const Gguf> header_of(const Architecture& a, const Quantisation& how,
                                      const std::vector<Override>& overrides, bool by_neurons)
{
    const Family* const family = find_family(a.family);
    if (!family) throw Error("{} is of the family {}, which this version cannot run", a.name, a.family);
    if (a.heads == 0 || a.layers == 0 || a.dim == 0)
        throw Error("{} has {} layers of width {} with {} heads: none may be 0", a.name, a.layers, a.dim, a.heads);
    if (a.special.experts && !family->experts)
        throw Error("{} is a mixture of experts of the family {}, which this version cannot run", a.name, a.family);
    constexpr uint32_t usual_alignment = 32;
    const auto plain = std::make_shared<const Gguf>(Gguf::of_header(
        a.name, model_header("GGUF", keys_of(a, *family), usual_alignment, Tensors(a, *family).entries)));
    return std::make_shared<const Gguf>(
        Gguf::of_header(a.name, requantised_header(plain, how, {.by_neurons = by_neurons}), overrides));
}

}    // namespace hearth
