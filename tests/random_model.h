// A model of any family and size with random weights, for tests that need a shape and not a story. The same options
// give the same bytes.
#pragma once

#include "engine/model/weights.h"
#include "tests/gguf_writer.h"

#include <filesystem>
#include <string>
#include <vector>

namespace hearth {

struct RandomModel {
    std::string_view architecture = "llama";    // a row of engine/model/families.cpp
    uint32_t layers = 2;
    uint32_t dim = 64;
    uint32_t heads = 4;
    uint32_t kv_heads = 2;
    uint32_t head_dim = 0;     // 0: dim / heads
    uint32_t neurons = 128;    // of one expert, where there are experts
    uint32_t experts = 0;
    uint32_t experts_used = 2;
    bool normalise_experts = true;
    uint32_t vocab = 320;    // 3 special tokens, 256 bytes, the rest are letters and words
    uint32_t context = 256;
    WeightType type = WeightType::f16;    // of every matrix; norms are F32
    host::Activation activation = host::Activation::relu;
    bool tied_head = false;
    float floor = 0;                    // of relu
    bool rope_factors = false;          // rope_freqs.weight, as of Llama 3.1
    bool long_rope = false;             // rope_factors_short and _long, as of Phi 3
    bool yarn = false;                  // as of Qwen 2.5
    uint32_t window = 0;                // of the layers that can have one; 0: none has
    bool two_norms = false;             // of a parallel block, as of Falcon 40B
    std::vector<uint32_t> predictor;    // rows of fc1 by layer, 0 for none; empty: no layer has a predictor
    bool down_transposed = true;        // ffn_down_t as our own converter writes it; false: ffn_down as other tools do
    float zeros_below = 0;              // matrices' weights that are less than so many standard deviations are 0
    uint64_t seed = 1;
};

/// Numbers with mean 0 and variance 1: the sum of four uniform ones, which is as good as a normal one here and costs
/// one step of splitmix64.
class RandomNormal {
  public:
    explicit RandomNormal(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u) {}

    float operator()()
    {
        uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        const int sum = int(z & 0xffff) + int(z >> 16 & 0xffff) + int(z >> 32 & 0xffff) + int(z >> 48);
        return float(sum - 2 * 65535) / 37837.2f;    // 65536 sqrt(4 / 12)
    }

  private:
    uint64_t state_;
};

/// The keys of a tokenizer whose vocabulary is: <unk> <s> </s>, the 256 bytes, then ▁, letters and short strings of
/// letters, most frequent first.
inline void write_tiny_tokenizer(GgufWriter& file, uint32_t vocab)
{
    const std::string space = "\u2581";
    std::vector<std::string> pieces{"<unk>", "<s>", "</s>"};
    std::vector<int32_t> kinds{2, 3, 3};
    for (int byte = 0; byte < 256; byte++) {
        const char* hex = "0123456789ABCDEF";
        pieces.push_back(std::string("<0x") + hex[byte / 16] + hex[byte % 16] + ">");
        kinds.push_back(6);
    }
    std::vector<std::string> words{""}, longer;
    pieces.push_back(space);
    for (int length = 1; length <= 3 && pieces.size() < vocab; length++) {
        longer.clear();
        for (const std::string& word : words)
            for (char letter : std::string_view("etaoinshrdlucmfwypvbgkjqxz")) longer.push_back(word + letter);
        words = longer;
        for (const std::string& word : words) {
            pieces.push_back(word);
            pieces.push_back(space + word);
        }
    }
    kinds.resize(pieces.size(), 1);
    while (pieces.size() < vocab) {
        pieces.push_back("<unused" + std::to_string(pieces.size()) + ">");
        kinds.push_back(5);
    }
    pieces.resize(vocab);
    kinds.resize(vocab);
    std::vector<float> scores(vocab, 0.0f);
    for (uint32_t i = 259; i < vocab; i++) scores[i] = -float(i - 259);

    file.key("tokenizer.ggml.model", "llama");
    file.key("tokenizer.ggml.tokens", pieces);
    file.key("tokenizer.ggml.scores", scores);
    file.key("tokenizer.ggml.token_type", kinds);
    file.key("tokenizer.ggml.bos_token_id", uint32_t(1));
    file.key("tokenizer.ggml.eos_token_id", uint32_t(2));
    file.key("tokenizer.ggml.unknown_token_id", uint32_t(0));
    file.key("tokenizer.ggml.add_bos_token", true);
}

/// The model as a GGUF in memory. Matrices have a standard deviation of 1 / sqrt(what they sum over), so that
/// activations keep their size.
inline GgufWriter random_model(const RandomModel& m)
{
    GgufWriter file;
    const uint32_t head_dim = m.head_dim ? m.head_dim : m.dim / m.heads;
    const Family& family = *find_family(m.architecture);
    const std::string prefix = std::string(m.architecture) + ".";
    file.key("general.architecture", std::string(m.architecture));
    file.key("general.name", "random");
    file.key(prefix + "block_count", m.layers);
    file.key(prefix + "embedding_length", m.dim);
    file.key(prefix + "feed_forward_length", m.neurons);
    if (m.experts) {
        file.key(prefix + "expert_count", m.experts);
        file.key(prefix + "expert_used_count", m.experts_used);
        if (!m.normalise_experts) file.key(prefix + "expert_weights_norm", false);
    }
    file.key(prefix + "context_length", m.context);
    file.key(prefix + "attention.head_count", m.heads);
    file.key(prefix + "attention.head_count_kv", m.kv_heads);
    file.key(prefix + (family.layer_norms ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
             1e-5f);
    if (m.head_dim) {
        file.key(prefix + "attention.key_length", head_dim);
        file.key(prefix + "attention.value_length", head_dim);
    }
    if (m.activation == host::Activation::relu) file.key("hearth.activation", "relu");
    if (m.window) file.key(prefix + "attention.sliding_window", m.window);
    if (m.yarn) {
        file.key(prefix + "rope.scaling.type", "yarn");
        file.key(prefix + "rope.scaling.factor", 4.0f);
        file.key(prefix + "rope.scaling.original_context_length", m.context / 4);
    }
    if (m.floor != 0) file.key("hearth.activation_floor", m.floor);
    write_tiny_tokenizer(file, m.vocab);

    RandomNormal normal(m.seed);
    const auto rows_of = [&](WeightType type, uint32_t rows, uint32_t cols, float scale) {
        std::string bytes;
        bytes.reserve(rows * row_bytes(type, cols));
        std::vector<float> row(cols);
        for (uint32_t r = 0; r < rows; r++) {
            for (float& w : row) w = scale * normal();
            for (float& w : row)
                if (std::fabs(w) < scale * m.zeros_below) w = 0;
            append_rows(bytes, type, row.data(), 1, cols);
        }
        return bytes;
    };
    const auto matrix = [&](const std::string& name, uint32_t rows, uint32_t cols, uint32_t summed) {
        file.tensor(name, uint32_t(m.type), {cols, rows}, rows_of(m.type, rows, cols, 1 / std::sqrt(float(summed))));
    };
    const auto experts = [&](const std::string& name, uint32_t rows, uint32_t cols, uint32_t summed) {
        file.tensor(name, uint32_t(m.type), {cols, rows, m.experts},
                    rows_of(m.type, m.experts * rows, cols, 1 / std::sqrt(float(summed))));
    };
    const auto vector = [&](const std::string& name, uint32_t n, float mean, float deviation) {
        std::vector<float> weight(n);
        for (float& w : weight) w = mean + deviation * normal();
        file.tensor(name, WeightType::f32, 0, n, weight);
    };
    const auto norm = [&](const std::string& name) {
        vector(name + ".weight", m.dim, 1, 0.1f);
        if (family.layer_norms) vector(name + ".bias", m.dim, 0, 0.1f);
    };
    const uint32_t q_rows = m.heads * head_dim, kv_rows = m.kv_heads * head_dim;

    matrix("token_embd.weight", m.vocab, m.dim, m.dim);
    if (family.positions) matrix("position_embd.weight", first_position_row + m.context, m.dim, m.dim);
    for (uint32_t l = 0; l < m.layers; l++) {
        const std::string layer = "blk." + std::to_string(l) + ".";
        norm(layer + "attn_norm");
        if (m.two_norms) norm(layer + "attn_norm_2");
        if (family.post_norms)
            for (const char* name : {"post_attention_norm.weight", "post_ffw_norm.weight"})
                vector(layer + name, m.dim, 1, 0.3f);
        if (family.fused) {
            matrix(layer + "attn_qkv.weight", q_rows + 2 * kv_rows, m.dim, m.dim);
        } else {
            matrix(layer + "attn_q.weight", q_rows, m.dim, m.dim);
            matrix(layer + "attn_k.weight", kv_rows, m.dim, m.dim);
            matrix(layer + "attn_v.weight", kv_rows, m.dim, m.dim);
        }
        if (family.qkv_bias)
            for (const auto& [name, rows] :
                 {std::pair("attn_q.bias", q_rows), {"attn_k.bias", kv_rows}, {"attn_v.bias", kv_rows}})
                vector(layer + name, rows, 0, 1);
        if (family.head_norms)
            for (const char* name : {"attn_q_norm.weight", "attn_k_norm.weight"})
                vector(layer + name, head_dim, 1, 0.3f);
        matrix(layer + "attn_output.weight", m.dim, q_rows, q_rows);
        if (!family.parallel) norm(layer + "ffn_norm");
        if (m.experts) {
            file.tensor(layer + "ffn_gate_inp.weight", uint32_t(WeightType::f32), {m.dim, m.experts},
                        rows_of(WeightType::f32, m.experts, m.dim, 1 / std::sqrt(float(m.dim))));
            experts(layer + "ffn_gate_exps.weight", m.neurons, m.dim, m.dim);
            experts(layer + "ffn_up_exps.weight", m.neurons, m.dim, m.dim);
            if (m.down_transposed) matrix(layer + "ffn_down_t.weight", m.experts * m.neurons, m.dim, m.neurons);
            else experts(layer + "ffn_down_exps.weight", m.dim, m.neurons, m.neurons);
            continue;
        }
        if (!family.fused && family.gated) matrix(layer + "ffn_gate.weight", m.neurons, m.dim, m.dim);
        matrix(layer + "ffn_up.weight", (family.fused && family.gated ? 2 : 1) * m.neurons, m.dim, m.dim);
        if (family.all_biases)
            for (const auto& [name, rows] :
                 {std::pair("attn_output.bias", m.dim), {"ffn_up.bias", m.neurons}, {"ffn_down.bias", m.dim}})
                vector(layer + name, rows, 0, 0.5f);
        if (m.down_transposed) matrix(layer + "ffn_down_t.weight", m.neurons, m.dim, m.neurons);
        else matrix(layer + "ffn_down.weight", m.dim, m.neurons, m.neurons);
        if (const uint32_t h = l < m.predictor.size() ? m.predictor[l] : 0) {
            matrix(layer + "fc1.weight", h, m.dim, m.dim);
            matrix(layer + "fc2.weight", m.neurons, h, h);
        }
    }
    std::vector<float> factors(head_dim / 2);
    for (size_t i = 0; i < factors.size(); i++) factors[i] = 1 + 7 * float(i) / float(factors.size());
    if (m.rope_factors) file.tensor("rope_freqs.weight", WeightType::f32, 0, factors.size(), factors);
    if (m.long_rope) {
        file.key(prefix + "rope.scaling.original_context_length", m.context / 2);
        file.key(prefix + "rope.scaling.attn_factor", 1.25f);
        file.tensor("rope_factors_short.weight", WeightType::f32, 0, factors.size(), factors);
        file.tensor("rope_factors_long.weight", WeightType::f32, 0, factors.size(),
                    std::vector<float>(factors.size(), 8));
    }
    norm("output_norm");
    if (!m.tied_head) matrix("output.weight", m.vocab, m.dim, m.dim);
    return file;
}

inline std::filesystem::path write_random_model(const std::filesystem::path& path, const RandomModel& options)
{
    random_model(options).write(path);
    return path;
}

}    // namespace hearth
