#include "engine/model/weights.h"

#include "engine/model/other_kinds.h"
#include "engine/file/keys.h"
#include "engine/system/limits.h"
#include "host/arena.h"
#include "host/kernels.h"
#include "host/numbers.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <numbers>
#include <numeric>
#include <optional>
#include <set>

namespace hearth {

namespace {

constexpr struct {
    std::string_view name;
    host::Activation activation;
} activations[] = {
    {"relu", host::Activation::relu}, {"silu", host::Activation::silu},           {"drelu", host::Activation::drelu},
    {"gelu", host::Activation::gelu}, {"gelu_tanh", host::Activation::gelu_tanh},
};

constexpr uint32_t softmax_gating = 1;    // of ARCHITECTURE.expert_gating_func

// Far above every model there is; they keep the products of sizes within 64 bits and buffers within reason;
// predict_sign.comp has room for just max_dim.
constexpr uint32_t max_layers = 300, max_dim = 1 << 16, max_heads = 1 << 12, max_head_dim = 256, max_neurons = 1 << 20,
                   max_vocab = 1 << 24, max_context = 1 << 24, max_predictor = 1 << 16;

std::string known_formats()
{
    std::string known;
    for (const WeightFormat& f : weight_formats) known += (known.empty() ? "" : ", ") + std::string(f.name);
    return known;
}

const Family& family_of(const Gguf& file)
{
    refuse_other_kinds(file);
    const std::string_view name = file.string("general.architecture");
    if (const Family* family = find_family(name)) return *family;
    std::string known;
    for (const Family& family : all_families()) known += (known.empty() ? "" : ", ") + std::string(family.architecture);
    throw Error("{} is a model of the architecture {:.60}, which this version cannot run; it runs {}",
                file.path().string(), printable(name), known);
}

/// A whole number within limits.
uint32_t checked(const Gguf& file, std::string_view what, uint64_t n, uint32_t most)
{
    if (n < 1 || n > most) throw Error("{}: {} is {}, expected 1 to {}", file.path().string(), what, n, most);
    return uint32_t(n);
}

host::Activation activation_of(const Gguf& file, const Family& family)
{
    if (!file.keys().contains(activation_key))
        return file.powerinfer() && !host::makes_zeros(family.activation) ? host::Activation::relu : family.activation;
    const std::string_view name = file.string(activation_key);
    for (const auto& row : activations)
        if (row.name == name) return row.activation;
    std::string known;
    for (const auto& row : activations) known += (known.empty() ? "" : ", ") + std::string(row.name);
    throw Error("{}: hearth.activation is {:.60}, which this version does not know; it knows {}", file.path().string(),
                name, known);
}

/// How many experts there are and how many neurons each has: everything about them that is not a tensor.
void read_experts(const Gguf& file, const Family& family, const std::string& prefix, Config& c)
{
    const std::string path = file.path().string();
    const uint32_t experts = file.u32(prefix + "expert_count", 0);
    if (experts == 0) return;
    if (!family.experts)
        throw Error("{} is a mixture of experts of the architecture {}, which this version cannot run", path,
                    c.architecture);
    c.experts = checked(file, prefix + "expert_count", experts, host::most_experts);
    c.experts_used = checked(file, prefix + "expert_used_count", file.u32(prefix + "expert_used_count"), experts);
    c.normalise_experts = file.boolean(prefix + "expert_weights_norm", true);
    const float scale = file.f32(prefix + "expert_weights_scale", 1);
    if (file.u32(prefix + "expert_gating_func", softmax_gating) != softmax_gating ||
        file.u32(prefix + "expert_shared_count", 0) > 0 || file.u32(prefix + "expert_group_count", 1) > 1 ||
        (scale != 0 && scale != 1))    // 0: none
        throw Error("{} is a mixture of experts with a gating other than softmax, shared experts, groups of experts or "
                    "scaled weights, which this "
                    "version cannot run",
                    path);
    if (const std::string of_one = "blk.0.ffn_gate.0.weight"; file.find(of_one))
        throw Error(
            "{} has a tensor for every expert ({}), as files from before April 2024 do; convert the model again", path,
            of_one);
    const std::string key = prefix + "expert_feed_forward_length";
    const uint32_t neurons = file.u32(key, c.neurons);
    if (neurons == 0 || neurons % expert_unit || uint64_t(neurons) * experts > max_neurons)
        throw Error(
            "{} has {} experts of {} neurons, and this version needs a multiple of {}, and at most {} of all of them",
            path, experts, neurons, expert_unit, max_neurons);
    c.neurons = neurons * experts;
}

/// What positions are divided by. A factor without a type means linear scaling, and 0 is written for "none";
/// rope.scale_linear is its older name.
float read_rope_scale(const Gguf& file, const std::string& prefix)
{
    const std::string type = prefix + "rope.scaling.type";
    const std::string_view scaling = file.string(type, "linear");
    if (scaling == "none" || scaling == "longrope" || scaling == "yarn")
        return 1;    // the last two are matters of pairs: see read_rope_factors
    if (scaling != "linear")
        throw Error("{} scales its positions in a way that this version does not know ({} is {:.60}); it knows linear, "
                    "longrope and yarn",
                    file.path().string(), type, scaling);
    for (const char* key : {"rope.scaling.factor", "rope.scale_linear"}) {
        const float factor = file.f32(prefix + key, 0);
        if (factor < 0) throw Error("{}: {}{} is {}, expected more than 0", file.path().string(), prefix, key, factor);
        if (factor > 0) return factor;
    }
    return 1;
}

/// What things are multiplied by and where they are capped.
void read_scales(const Gguf& file, const Family& family, const std::string& prefix, Config& c)
{
    const auto cap = [&](const char* key, float fallback) {
        const float x = file.f32(prefix + key, fallback);
        if (!(x >= 0)) throw Error("{}: {}{} is {}, expected 0 or more", file.path().string(), prefix, key, x);
        return x;
    };
    const auto scale = [&](const char* key, float fallback) {
        const float x = file.f32(prefix + key, fallback);
        if (!(x >= FLT_MIN)) throw Error("{}: {}{} is {}, expected more than 0", file.path().string(), prefix, key, x);
        return x;
    };
    const float width = family.base_width > 0 ? float(c.dim) / family.base_width : 1;
    const uint32_t summed = c.layers == family.broad_layers ? c.dim / c.heads : c.head_dim;
    c.embedding_scale =
        scale("embedding_scale", family.wide_embedding ? std::sqrt(float(c.dim)) : family.embedding_scale);
    c.residual_scale =
        scale("residual_scale", family.depth_scale > 0 ? family.depth_scale / std::sqrt(float(c.layers)) : 1);
    c.logit_scale = 1 / scale("logit_scale", width);
    c.logit_cap = cap("final_logit_softcapping", family.logit_cap);
    c.score_scale = scale("attention.scale", 1 / std::sqrt(float(summed)));
    c.score_cap = cap("attn_logit_softcapping", family.score_cap);
}

Config read_config(const Gguf& file)
{
    const Family& family = family_of(file);
    const std::string path = file.path().string(), prefix = std::string(family.architecture) + ".";

    const auto size = [&](const char* key, uint32_t most) {
        return checked(file, prefix + key, file.u32(prefix + key), most);
    };
    Config c;
    c.architecture = family.architecture;
    c.name = printable(file.string("general.name", ""));
    if (c.name.empty()) c.name = printable(file.path().stem().string());
    c.layers = size("block_count", max_layers);
    c.dim = size("embedding_length", max_dim);
    c.neurons = size("feed_forward_length", max_neurons);
    read_experts(file, family, prefix, c);
    c.context = size("context_length", max_context);
    c.heads = size("attention.head_count", max_heads);
    c.kv_heads = file.u32(prefix + "attention.head_count_kv", c.heads);
    if (c.kv_heads < 1 || c.heads % c.kv_heads)
        throw Error("{}: {} heads cannot share {} heads of keys and values", path, c.heads, c.kv_heads);
    c.head_dim =
        checked(file, "the width of a head", file.u32(prefix + "attention.key_length", c.dim / c.heads), max_head_dim);
    if (c.head_dim % 2) throw Error("{} has heads of width {}, and this version needs an even width", path, c.head_dim);
    if (const uint32_t value = file.u32(prefix + "attention.value_length", c.head_dim); value != c.head_dim)
        throw Error("{} has keys of width {} and values of width {}, and this version needs them equal", path,
                    c.head_dim, value);
    c.rope_dim = family.positions ? 0 : file.u32(prefix + "rope.dimension_count", c.head_dim);
    if ((c.rope_dim < 2 && !family.positions) || c.rope_dim % 2 || c.rope_dim > c.head_dim)
        throw Error("{}: {}rope.dimension_count is {}, expected an even number from 2 to {}", path, prefix, c.rope_dim,
                    c.head_dim);
    c.rope_base = file.f32(prefix + "rope.freq_base", 10000.0f);
    if (!(c.rope_base > 0)) throw Error("{}: {}rope.freq_base is {}, expected more than 0", path, prefix, c.rope_base);
    c.rope_scale = read_rope_scale(file, prefix);
    c.pairs = family.pairs;
    c.window_base = file.f32(prefix + "rope.freq_base_swa", family.window_base);
    if (!(c.window_base >= 0))
        throw Error("{}: {}rope.freq_base_swa is {}, expected more than 0", path, prefix, c.window_base);
    c.parallel = family.parallel;
    read_scales(file, family, prefix, c);
    c.layer_norm = family.layer_norms;
    const std::string eps =
        prefix + (c.layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon");
    c.norm_eps = c.layer_norm ? file.f32(eps, 1e-5f) : file.f32(eps);    // PowerInfer's files of OPT have none
    if (!(c.norm_eps >= 0)) throw Error("{}: {} is {}, expected 0 or more", path, eps, c.norm_eps);
    c.activation = activation_of(file, family);
    c.floor = file.f32("hearth.activation_floor", 0);
    if (c.floor != 0 && (c.floor < 0 || c.activation != host::Activation::relu))
        throw Error("{}: hearth.activation_floor is {}, expected 0 or more, and 0 where hearth.activation is not relu",
                    path, c.floor);
    c.predictor_threshold = file.f32("powerinfer.sparse_threshold", 0);
    refuse_keys(file, prefix);
    return c;
}

/// Hands out tensors by name, checked, and remembers which were used.
class Tensors {
  public:
    explicit Tensors(const Gguf& file) : file_(file), path_(file.path().string()) {}

    bool has(const std::string& name) const { return file_.find(name); }

    /// Rows of a matrix that has as many as it likes, within limits; 0 where it is missing.
    uint32_t rows(const std::string& name, uint32_t most) const
    {
        const GgufTensor* t = file_.find(name);
        return t ? checked(file_, "the number of rows of " + name, t->shape.size() > 1 ? t->shape[1] : 0, most) : 0;
    }

    Matrix matrix(const std::string& name, uint32_t rows, uint32_t cols)
    {
        const GgufTensor& t = tensor(name, {cols, rows});
        return {WeightType(t.type), rows, cols, t.data, 0, t.starts};
    }

    /// NAME.weight, and the NAME.bias of a LayerNorm.
    void norm(const std::string& name, const Config& c, std::vector<float>& weight, std::vector<float>& bias)
    {
        weight = vector(name + ".weight", c.dim);
        if (c.layer_norm) bias = vector(name + ".bias", c.dim);
    }

    std::vector<float> vector(const std::string& name, uint32_t n)
    {
        const GgufTensor& t = tensor(name, {n});
        if (is_quantised(WeightType(t.type)) || t.starts)
            throw Error("{}: {} is {}, expected F32", path_, name, t.type_name());
        if (!t.there) return std::vector<float>(n, 1);    // shapes alone are asked for
        std::vector<float> x(n);
        host::kernels().of(WeightType(t.type)).decode(t.data, x.data(), n);
        return x;
    }

    /// A vector of floats as a matrix of one column.
    Matrix column(const std::string& name, uint32_t n)
    {
        const GgufTensor& t = tensor(name, {n});
        if (WeightType(t.type) != WeightType::f32)
            throw Error("{}: {} is {}, expected F32", path_, name, t.type_name());
        return {WeightType::f32, n, 1, t.data};
    }

    /// A tensor that holds several matrices, one below the other, with so many rows each.
    template <size_t n>
    std::array<Matrix, n> stacked(const std::string& name, const std::array<uint32_t, n>& rows, uint32_t cols)
    {
        const Matrix all = matrix(name, std::accumulate(rows.begin(), rows.end(), 0u), cols);
        std::array<Matrix, n> parts;
        uint64_t first = 0;
        for (size_t i = 0; i < n; first += rows[i++]) parts[i] = all.slice(uint32_t(first), rows[i]);
        return parts;
    }

    /// Matrices (experts, rows, cols), one below the other.
    Matrix experts(const std::string& name, uint32_t experts, uint32_t rows, uint32_t cols)
    {
        const GgufTensor& t =
            tensor(name, {cols, rows, experts});    // never with sparse rows: those have two dimensions
        return {WeightType(t.type), experts * rows, cols, t.data};
    }

    void refuse_unused() const
    {
        for (const GgufTensor& t : file_.tensors())
            if (!used_.contains(t.name))
                throw Error(
                    "{} has the tensor {}, which this version does not know; without it the text would be wrong", path_,
                    t.name);
    }

  private:
    const GgufTensor& tensor(const std::string& name, std::vector<uint64_t> expected)
    {
        const GgufTensor* t = file_.find(name);
        if (!t) throw Error("{} has no tensor {}; convert the model again", path_, name);
        if (!find_format(t->type))
            throw Error("{}: {} is {}, which this version cannot read; it reads {}: get a file of one of these, or "
                        "make one of the original model",
                        path_, name, t->type_name(), known_formats());
        std::vector<uint64_t> shape = t->shape;
        while (shape.size() > expected.size() && shape.back() == 1) shape.pop_back();
        if (shape != expected)
            throw Error("{}: {} is {}, expected {} (columns x rows)", path_, name, fmt::join(t->shape, " x "),
                        fmt::join(expected, " x "));
        used_.insert(t->name);
        return *t;
    }

    const Gguf& file_;
    std::string path_;
    std::set<std::string_view> used_;
};

/// to[c][first + r] = from[r][c] for `count` rows r of `cols` elements of `size` bytes; a row of `to` has `stride`
/// elements.
template <size_t size>
void transpose(const std::byte* from, uint32_t count, uint32_t cols, std::byte* to, uint32_t first, uint32_t stride)
{
    for (uint32_t c = 0; c < cols; c++)
        for (uint32_t r = 0; r < count; r++)
            std::memcpy(to + (uint64_t(c) * stride + first + r) * size, from + (uint64_t(r) * cols + c) * size, size);
}

/// Whether a column of it cannot be told from its neighbours' without decoding.
bool needs_decoding(WeightType type) { return is_quantised(type) || is_sparse(type); }

/// What (rows, cols) will be made of a matrix that is stored as (cols, rows), or of as many such matrices as there are
/// experts, one below the other.
Matrix transposed_shape(const Matrix& stored, uint32_t experts)
{
    return {needs_decoding(stored.type) ? WeightType::f16 : stored.type, stored.cols * experts, stored.rows / experts,
            nullptr};
}

/// The transposed matrix `out`, in `data`. False where halves, of which it is to be, do not hold what is stored: some
/// weight is beyond them, or a row is of weights so small that halves are much less exact for them than its blocks are.
bool transpose_to(const Matrix& out, const Matrix& stored, uint32_t experts, std::byte* data, host::Team& team)
{
    constexpr uint32_t slab = 32;    // stored rows at a time: what they write into a row of the result is a cache line,
                                     // and a slab stays in the cache
    const bool checked =
        needs_decoding(stored.type) && values_of(stored.type) != WeightType::f16 && out.type == WeightType::f16;
    std::atomic<bool> fits = true;
    const host::Kernels& kernels = host::kernels();
    const uint32_t rows = stored.cols, cols = out.cols,
                   slabs = (cols + slab - 1) / slab;    // of one matrix of the result
    team.parallel(experts * slabs, [&](uint32_t i) {
        const uint32_t expert = i / slabs, first = i % slabs * slab, count = std::min(slab, cols - first);
        const uint64_t row = uint64_t(expert) * cols + first;
        const std::byte* from = stored.row(row);
        std::byte* const to = data + uint64_t(expert) * rows * row_bytes(out.type, cols);
        std::vector<float> decoded;
        std::vector<uint16_t> converted;
        if (needs_decoding(stored.type)) {
            const bool halves = out.type == WeightType::f16;
            decoded.resize(halves ? rows : uint64_t(count) * rows);
            converted.resize(halves ? uint64_t(count) * rows : 0);
            for (uint32_t r = 0; r < count; r++) {
                float* const weights = decoded.data() + (halves ? 0 : uint64_t(r) * rows);
                kernels.of(stored.type).decode(stored.row(row + r), weights, rows);
                if (checked && !host::fit_halves({weights, rows})) fits = false;
                if (halves) kernels.to_f16(weights, converted.data() + uint64_t(r) * rows, rows);
            }
            from = halves ? reinterpret_cast<const std::byte*>(converted.data())
                          : reinterpret_cast<const std::byte*>(decoded.data());
        }
        if (out.type == WeightType::f32) transpose<4>(from, count, rows, to, first, cols);
        else transpose<2>(from, count, rows, to, first, cols);
    });
    return fits;
}

/// One threshold for every layer.
std::vector<float> read_thresholds(const Gguf& file, const Config& c)
{
    constexpr const char* key = "hearth.predictor_thresholds";
    const std::vector<double>* own = file.floats(key);
    if (!own) return std::vector<float>(c.layers, c.predictor_threshold);
    if (own->size() != c.layers)
        throw Error("{}: the key {} has {} values, expected {}, one for every layer", file.path().string(), key,
                    own->size(), c.layers);
    for (const double x : *own)
        if (!(std::abs(x) <= FLT_MAX))
            throw Error("{}: the key {} has the value {}, expected finite numbers", file.path().string(), key, x);
    return std::vector<float>(own->begin(), own->end());
}

/// What YaRN (arXiv 2309.00071, section 3.2) divides the frequencies of pairs by: 1 where a pair turns more often than
/// beta_fast times within the context that the model was first trained for, the whole factor where it turns less often
/// than beta_slow times, and in between a mean with weights that are linear in the pair's number; ext_factor is how
/// much of the faster pairs' frequency is kept. Magnitude: section 3.4, with its root in log_multiplier's direction as
/// DeepSeek's models have it (arXiv 2405.04434, 3.1.2); attn_factor of YaRN takes its place, as the `attention_factor`
/// that it comes from does in transformers.
void read_yarn(const Gguf& file, const std::string& prefix, Config& c)
{
    const auto read = [&](const char* key, std::optional<float> fallback, bool zero = false) {
        const float x = fallback ? file.f32(prefix + key, *fallback) : file.f32(prefix + key);
        if (!(x > 0 || (zero && x == 0)))
            throw Error("{}: {}{} is {}, expected {}", file.path().string(), prefix, key, x,
                        zero ? "0 or more" : "more than 0");
        return double(x);
    };
    const double factor = read("factor", {}),
                 context = checked(file, prefix + "original_context_length",
                                   file.u32(prefix + "original_context_length"), max_context);
    const auto pair_that_turns = [&](double times) {
        return c.rope_dim * std::log(context / (times * 2 * std::numbers::pi)) / (2 * std::log(double(c.rope_base)));
    };
    const double first = std::max(std::floor(pair_that_turns(read("yarn_beta_fast", 32))), 0.0),
                 last = std::min(std::ceil(pair_that_turns(read("yarn_beta_slow", 1))), c.rope_dim - 1.0);
    const float told = file.f32(prefix + "yarn_ext_factor", 1);
    const double kept = told < 0 ? 1 : told;    // -1 is written for "not set"
    for (uint32_t i = 0; i < c.rope_dim / 2; i++) {
        const double slowed = std::clamp((i - first) / std::max(last - first, 0.001), 0.0, 1.0),
                     fast = kept * (1 - slowed);
        c.rope_factors.push_back(float(1 / ((1 - fast) / factor + fast)));
        if (!(c.rope_factors.back() > 0 && c.rope_factors.back() <= FLT_MAX))
            throw Error(
                "{}: {}yarn_ext_factor is {}, with which frequencies of heads are no numbers above 0; expected 0 to 1",
                file.path().string(), prefix, told);
    }
    const auto growth = [factor](double strength) { return factor > 1 ? 1 + 0.1 * strength * std::log(factor) : 1; };
    const double all_dims = read("yarn_log_multiplier", 0, true), implied = kept == 0 ? 1
                                                                            : all_dims > 0
                                                                                ? growth(1) / growth(all_dims)
                                                                                : growth(1);
    const bool says = file.keys().contains(prefix + "yarn_attn_factor");
    c.rope_magnitude = float(read("attn_factor", 1) * (says ? read("yarn_attn_factor", {}) : implied));
}

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

/// The windows of all layers: one length, and which layers have it. That stands in the file as a list, or as the period
/// in which one has none.
std::vector<uint32_t> read_windows(const Gguf& file, const Family& family, const Config& c)
{
    const std::string key = c.architecture + ".attention.sliding_window", pattern = key + "_pattern";
    const uint32_t window = file.u32(key, family.window);
    const bool listed =
        file.keys().contains(pattern) && std::holds_alternative<std::vector<int64_t>>(file.keys().at(pattern));
    const std::vector<int64_t>* list = listed ? file.integers(pattern) : nullptr;
    if (list && list->size() != c.layers)
        throw Error("{}: the key {} has {} values, expected {}, one for every layer", file.path().string(), pattern,
                    list->size(), c.layers);
    const uint32_t period = listed ? 0 : file.u32(pattern, family.window_period);
    std::vector<uint32_t> windows;
    for (uint32_t l = 0; l < c.layers; l++)
        windows.push_back(list ? (*list)[l] ? window : 0 : period && (l + 1) % period == 0 ? 0 : window);
    return windows;
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

/// The stored matrix if it has to be transposed: of down_t there is but the shape then. Experts always are: a token
/// goes through few of them; and sparse rows, which cannot be cut at a column.
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
    if (layout == DownLayout::dense && !host::makes_zeros(c.activation) && !c.experts && !stored.starts) {
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
    tensors.refuse_unused();
    return described;
}

}    // namespace

std::vector<double> rope_frequencies(const Config& c, bool windowed)
{
    if (windowed && c.window_base > 0) return host::rope_frequencies(c.rope_dim, c.window_base);
    std::vector<double> frequencies = host::rope_frequencies(c.rope_dim, c.rope_base);
    for (size_t i = 0; i < frequencies.size(); i++)
        frequencies[i] /= double(c.rope_scale) * (c.rope_factors.empty() ? 1.0 : c.rope_factors[i]);
    return frequencies;
}

namespace {

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

std::string_view activation_name(host::Activation activation)
{
    return std::ranges::find_if(activations, [&](const auto& row) { return row.activation == activation; })->name;
}

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
