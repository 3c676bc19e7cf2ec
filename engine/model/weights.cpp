#include "engine/model/weights.h"

#include "engine/model/config.h"
#include "engine/model/tensors.h"
#include "engine/model/transpose.h"
#include "engine/system/large_pages.h"
#include "engine/system/limits.h"
#include "host/kernels.h"

#include <cfloat>
#include <optional>

namespace hearth {

namespace {

constexpr uint32_t max_vocab = 1 << 24, max_predictor = 1 << 16;    // as max_context

/// What the frequencies of rope are divided by, pair by pair, where the file says so. A file of LongRoPE (arXiv
/// 2402.13753) has factors for the context that the model was first trained for, and others for longer ones, which
/// would turn all keys anew once a text outgrows it: only the former are used.
void read_rope_factors(Tensors& tensors, const Gguf& file, Config& c)
{
    const std::string path = file.path().string(), prefix = c.architecture + ".rope.scaling.";
    const auto read = [&](const char* name) {
        std::vector<float> factors = tensors.vector(name, c.rope_dim / 2);
        for (const float x : factors)
            if (!(x > 0 && x <= FLT_MAX))
                throw Error("{}: {} has the value {}, expected finite numbers above 0", path, name, x);
        return factors;
    };
    if (file.string(prefix + "type", "none") == "yarn") return read_yarn(file, prefix, c);
    if (tensors.has("rope_freqs.weight")) c.rope_factors = read("rope_freqs.weight");
    c.rope_magnitude = file.f32(prefix + "attn_factor", 1);
    if (!(c.rope_magnitude > 0))
        throw Error("{}: {}attn_factor is {}, expected more than 0", path, prefix, c.rope_magnitude);
    if (!tensors.has("rope_factors_short.weight")) {
        if (file.string(prefix + "type", "none") == "longrope")
            throw Error(
                "{}: {}type is longrope, and there is no tensor rope_factors_short.weight; convert the model again",
                path, prefix);
        return;
    }
    c.rope_factors = read("rope_factors_short.weight");
    if (tensors.has("rope_factors_long.weight")) read("rope_factors_long.weight");
    c.rope_context =
        checked(file, prefix + "original_context_length", file.u32(prefix + "original_context_length"), max_context);
}

/// The norms before and after both blocks.
void read_norms(Tensors& tensors, const Family& family, const Config& c, uint32_t l, LayerWeights& layer)
{
    const auto name = [l](const char* part) { return fmt::format("blk.{}.{}", l, part); };
    tensors.norm(name("attn_norm"), c, layer.attn_norm, layer.attn_norm_bias);
    if (family.post_norms) {
        layer.post_attn_norm = tensors.vector(name("post_attention_norm.weight"), c.dim);
        layer.post_ffn_norm = tensors.vector(name("post_ffw_norm.weight"), c.dim);
    }
    if (!family.parallel) return tensors.norm(name("ffn_norm"), c, layer.ffn_norm, layer.ffn_norm_bias);
    layer.ffn_norm = layer.attn_norm;
    layer.ffn_norm_bias = layer.attn_norm_bias;
    if (tensors.has(name("attn_norm_2.weight")))
        tensors.norm(name("attn_norm_2"), c, layer.attn_norm, layer.attn_norm_bias);
}

AttentionWeights read_attention(Tensors& tensors, const Family& family, const Config& c, uint32_t l)
{
    const auto name = [l](const char* part) { return fmt::format("blk.{}.{}", l, part); };
    AttentionWeights a = {.k_dim = c.head_dim, .v_dim = c.head_dim};
    const uint32_t q = c.heads * a.k_dim, k = c.kv_heads * a.k_dim, v = c.kv_heads * a.v_dim;
    if (family.fused) {
        const auto parts = tensors.stacked<3>(name("attn_qkv.weight"), {q, k, v}, c.dim);
        a.q = parts[0], a.k = parts[1], a.v = parts[2];
    } else {
        a.q = tensors.matrix(name("attn_q.weight"), q, c.dim);
        a.k = tensors.matrix(name("attn_k.weight"), k, c.dim);
        a.v = tensors.matrix(name("attn_v.weight"), v, c.dim);
    }
    if (family.qkv_bias) {
        a.q_bias = tensors.vector(name("attn_q.bias"), q);
        a.k_bias = tensors.vector(name("attn_k.bias"), k);
        a.v_bias = tensors.vector(name("attn_v.bias"), v);
    }
    if (family.head_norms) {
        a.q_norm = tensors.vector(name("attn_q_norm.weight"), a.k_dim);
        a.k_norm = tensors.vector(name("attn_k_norm.weight"), a.k_dim);
    }
    a.o = tensors.matrix(name("attn_output.weight"), c.dim, c.heads * a.v_dim);
    if (family.all_biases) a.o_bias = tensors.vector(name("attn_output.bias"), c.dim);
    return a;
}

void read_gate_and_up(Tensors& tensors, const Family& family, const Config& c, uint32_t l, LayerWeights& layer)
{
    const auto name = [l](const char* part) { return fmt::format("blk.{}.{}", l, part); };
    if (c.experts) {
        const uint32_t neurons = c.neurons_together();
        layer.ffn.gate = tensors.experts(name("ffn_gate_exps.weight"), c.experts, neurons, c.dim);
        layer.ffn.up = tensors.experts(name("ffn_up_exps.weight"), c.experts, neurons, c.dim);
        layer.router = {tensors.matrix(name("ffn_gate_inp.weight"), c.experts, c.dim), c.experts_used,
                        c.normalise_experts};
    } else if (family.fused && family.gated) {
        const auto parts = tensors.stacked<2>(name("ffn_up.weight"), {c.neurons, c.neurons}, c.dim);
        layer.ffn.gate = parts[0], layer.ffn.up = parts[1];
    } else if (family.gated) {
        layer.ffn.gate = tensors.matrix(name("ffn_gate.weight"), c.neurons, c.dim);
        layer.ffn.up = tensors.matrix(name("ffn_up.weight"), c.neurons, c.dim);
    } else {
        layer.ffn.gate = tensors.matrix(name("ffn_up.weight"), c.neurons, c.dim);
    }
    if (family.all_biases) layer.ffn.bias = tensors.column(name("ffn_up.bias"), c.neurons);
}

/// The stored matrix if it has to be transposed: of down_t there is but the shape then. Sparse rows always are: they
/// cannot be cut at a column.
std::optional<Matrix> read_down(Tensors& tensors, const Config& c, uint32_t l, DownLayout layout, LayerWeights& layer)
{
    const auto name = [l](const char* part) { return fmt::format("blk.{}.{}.weight", l, part); };
    const std::string by_neurons = name("ffn_down_t"), plain = name(c.experts ? "ffn_down_exps" : "ffn_down");
    if (tensors.has(by_neurons) || !tensors.has(plain)) {
        layer.ffn.down_t = tensors.matrix(by_neurons, c.neurons, c.dim);
        return {};
    }
    const Matrix stored = c.experts ? tensors.experts(plain, c.experts, c.dim, c.neurons_together())
                                    : tensors.matrix(plain, c.dim, c.neurons);
    const DownLayout least = c.experts ? DownLayout::as_stored : DownLayout::dense;
    if (layout >= least && !host::makes_zeros(c.activation) && !stored.starts) {
        layer.ffn.down = stored;
        return {};
    }
    layer.ffn.down_t = transposed_shape(stored, std::max(c.experts, 1u));
    return stored;
}

/// All but the data of what has to be transposed, and by layer what it has to be made of.
struct Described {
    Weights weights;
    std::vector<std::optional<Matrix>> plain_downs;
};

Described describe(std::shared_ptr<const Gguf> file, DownLayout layout)
{
    Described described;
    Weights& w = described.weights;
    w.file = std::move(file);
    w.config = read_config(*w.file);
    Config& c = w.config;
    Tensors tensors(*w.file);

    c.vocab = tensors.rows("token_embd.weight", max_vocab);
    w.embedding = tensors.matrix("token_embd.weight", c.vocab, c.dim);
    if (w.file->keys().contains("tokenizer.ggml.tokens"))
        if (const size_t tokens = w.file->strings("tokenizer.ggml.tokens").size(); tokens != c.vocab)
            throw Error("{}: token_embd.weight has {} rows, and the tokenizer {} tokens; convert the model again",
                        w.file->path().string(), c.vocab, tokens);

    const Family& family = family_of(*w.file);
    if (family.positions) {
        const uint32_t rows = tensors.rows("position_embd.weight", max_context);
        w.positions = tensors.matrix("position_embd.weight", rows, c.dim);
        if (rows <= first_position_row)
            throw Error("{}: position_embd.weight has {} rows, expected more than {}", w.file->path().string(), rows,
                        first_position_row);
        c.context = std::min(c.context, rows - first_position_row);
    }
    read_rope_factors(tensors, *w.file, c);
    const std::vector<float> thresholds = read_thresholds(*w.file, c);
    const std::vector<uint32_t> windows = read_windows(*w.file, family, c);
    for (uint32_t l = 0; l < c.layers; l++) {
        const auto name = [l](const char* part) { return fmt::format("blk.{}.{}.weight", l, part); };
        LayerWeights& layer = w.layers.emplace_back();
        read_norms(tensors, family, c, l, layer);
        layer.attention = read_attention(tensors, family, c, l);
        layer.attention.window = windows[l];
        layer.attention.window_rope = windows[l] > 0 && c.window_base > 0;
        read_gate_and_up(tensors, family, c, l, layer);
        if (family.all_biases) layer.down_bias = tensors.vector(fmt::format("blk.{}.ffn_down.bias", l), c.dim);
        described.plain_downs.push_back(read_down(tensors, c, l, layout, layer));
        w.transposed |= described.plain_downs.back().has_value();
        layer.ffn.activation = c.activation;
        layer.ffn.floor = c.floor;
        if (tensors.has(name("fc1")) || tensors.has(name("fc2"))) {
            const uint32_t h = tensors.rows(name("fc1"), max_predictor);
            layer.fc1 = tensors.matrix(name("fc1"), h, c.dim);
            layer.fc2 = tensors.matrix(name("fc2"), c.neurons, h);
        }
        layer.predictor_threshold = thresholds[l];
    }
    tensors.norm("output_norm", c, w.output_norm, w.output_norm_bias);
    w.output = tensors.has("output.weight") ? tensors.matrix("output.weight", c.vocab, c.dim) : w.embedding;
    tensors.refuse_unused("the text would be wrong");
    return described;
}

/// Whether there is memory for what is transposed: as much as it is, it should be said before it is taken.
void check_memory(const Weights& w, const std::vector<std::optional<Matrix>>& plain_downs)
{
    uint64_t bytes = 0;
    for (size_t l = 0; l < w.layers.size(); l++)
        if (plain_downs[l]) bytes += w.layers[l].ffn.down_t.bytes();
    const std::optional<uint64_t> available = available_memory();
    if (!available || bytes <= *available) return;
    throw Error("{} stores ffn_down by columns, and its transposed copy needs {:.1f} MiB of memory where {:.1f} MiB "
                "are available: `hearth quantize "
                "--by-neurons` writes a file that needs none",
                w.file->path().string(), double(bytes) / 0x1p20, double(*available) / 0x1p20);
}

}    // namespace

Weights load_weights(std::shared_ptr<const Gguf> file, DownLayout layout, unsigned threads,
                     const std::function<void(double)>& progress)
{
    HEARTH_CHECK(file->complete());
    file->check_sparse_rows();
    auto [w, plain_downs] = describe(std::move(file), layout);
    if (!w.transposed) return std::move(w);
    check_memory(w, plain_downs);
    host::Team team(threads);
    for (size_t l = 0; l < w.layers.size(); l++) {
        if (!plain_downs[l]) continue;
        Matrix& down_t = w.layers[l].ffn.down_t;
        while (true) {
            // Not zeroed: the memory's pages come as they are written, to all threads at once.
            auto data = std::make_unique_for_overwrite<std::byte[]>(down_t.bytes());
            ask_for_large_pages({data.get(), down_t.bytes()});
            down_t.data = data.get();
            const bool fits = transpose_to(down_t, *plain_downs[l], std::max(w.config.experts, 1u), data.get(), team);
            w.owned.push_back(std::move(data));
            if (fits) break;
            w.owned.pop_back();
            down_t.type = WeightType::f32;
        }
        if (progress) progress(double(l + 1) / double(w.layers.size()));
    }
    return std::move(w);
}

Weights describe_weights(std::shared_ptr<const Gguf> file, DownLayout layout)
{
    return describe(std::move(file), layout).weights;
}

}    // namespace hearth
