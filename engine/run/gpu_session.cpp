#include "engine/run/gpu_session.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace hearth {

using vulkan::aligned;
using vulkan::Commands;
using vulkan::Slice;

// ---- memory ------------------------------------------------------------------------------------------------------------

namespace {

constexpr uint32_t most_slices = 16;        // partial sums of a hot FFN at decode
constexpr uint32_t most_best_parts = 64;    // workgroups that look for the largest logit

/// Neurons of a block whose h is in memory at once: all, or where there are experts so many of a prefill, which adds them up range by range.
uint32_t prefill_neurons(const Config& c)
{
    constexpr uint32_t most_of_experts = 1 << 14;
    const uint32_t all = ceil_div(c.neurons, group_neurons) * group_neurons;
    return c.experts ? std::min(all, most_of_experts) : all;
}
/// And at decode: those of the experts of one token.
uint32_t decode_neurons(const Config& c) { return c.experts ? c.experts_used * c.neurons_together() : prefill_neurons(c); }

uint32_t ffn_slices(uint32_t neurons) { return std::clamp(ceil_div(neurons, 128), 1u, most_slices); }

/// Activations of a batch on the device, each with its floats.
struct ScratchSizes {
    uint64_t residual, head_residual, xn, qkv, mixed, parts, h, u, high, low, scale, attend_parts, attend_counters, scores, routed, chosen, row,
        best_parts;

    ScratchSizes(const Config& c, uint32_t batch, uint32_t context)
    {
        const uint64_t t = batch, q_width = uint64_t(c.heads) * c.head_dim, kv_width = uint64_t(c.kv_heads) * c.head_dim;
        const uint64_t neurons = prefill_neurons(c), of_one = decode_neurons(c);
        const uint64_t widest = std::max<uint64_t>({c.dim, q_width, neurons});    // neurons: a predictor's hidden layer may be as wide
        residual = xn = t * c.dim;
        head_residual = residual;
        mixed = t * q_width;
        qkv = t * (q_width + 2 * kv_width);
        parts = (std::max<uint64_t>(t, most_slices) + (c.parallel ? t : 0)) * c.dim;    // with both blocks' until the next layer's join
        h = u = std::max(t * neurons, of_one);
        scores = routed = t * c.experts;
        chosen = c.experts ? 2 * of_one / group_neurons : 0;
        row = c.vocab;
        best_parts = 2 * most_best_parts;
        high = low = ceil_div(widest, 4);
        scale = 4 * ceil_div(widest, 32);
        attend_parts = uint64_t(c.heads) * most_attend_splits(context) * (c.head_dim + 2);
        attend_counters = c.heads;
    }
    template <class F>
    void each(F&& f)
    {
        for (uint64_t* floats : {&residual, &head_residual, &xn, &qkv, &mixed, &parts, &h, &u, &high, &low, &scale, &attend_parts, &attend_counters,
                                 &scores, &routed, &chosen, &row, &best_parts})
            f(*floats * sizeof(float));
    }
    uint64_t bytes()
    {
        uint64_t sum = 0;
        each([&](uint64_t b) { sum += aligned(b); });
        return sum;
    }
};

/// Keys, or values, of one layer as gpu::Rope has them.
uint64_t cache_bytes(const Config& c, uint32_t context, WeightType type)
{
    const uint64_t rows = uint64_t(c.kv_heads) * context;
    return rows * (is_quantised(type) ? c.head_dim + ceil_div(c.head_dim, 64) * sizeof(uint32_t) : c.head_dim * sizeof(uint16_t));
}

}    // namespace

Needs GpuSession::needs(const Weights& weights, const SessionShape& shape)
{
    Needs needs = GpuModel::needs(weights, shape.sparsity);
    needs.scratch += ScratchSizes(weights.config, shape.batch, shape.context).bytes();
    for (LayerNeeds& layer : needs.layers)
        for (const WeightType type : {shape.kv.k, shape.kv.v}) layer.kv += aligned(cache_bytes(weights.config, shape.context, type));
    return needs;
}

GpuSession::GpuSession(GpuModel& model, const SessionShape& shape, Watching watching)
    : model_(model), shape_(shape), watching_(watching), queue_(model.device())
{
    using vulkan::Pool, vulkan::Use;
    const Config& c = model.config();
    const auto& device = model.device();

    const uint64_t keys = cache_bytes(c, shape.context, shape.kv.k), values = cache_bytes(c, shape.context, shape.kv.v);
    for (size_t l = 0; l < model.layers().size(); ++l) {
        Pool& pool = kv_pools_.emplace_back(device, aligned(keys) + aligned(values), Use::device, "the KV cache");
        keys_.push_back(pool.take(keys));
        values_.push_back(pool.take(values));
    }

    ScratchSizes sizes(c, shape.batch, shape.context);
    scratch_pool_ = Pool(device, sizes.bytes(), Use::device, "activations");
    Slice* const scratch[] = {&residual_,     &head_residual_,   &xn_,     &qkv_,    &mixed_,  &parts_, &h_,         &u_, &high_, &low_, &scale_,
                              &attend_parts_, &attend_counters_, &scores_, &routed_, &chosen_, &row_,   &best_parts_};
    Slice* const* next = scratch;
    sizes.each([&](uint64_t bytes) { **next++ = scratch_pool_.take(bytes); });

    const uint64_t x = uint64_t(shape.batch) * c.dim * sizeof(float),
                   rotations = std::max<uint64_t>(uint64_t(shape.batch) * c.rope_dim * (c.window_base > 0 ? 2 : 1), 1) * sizeof(float);
    upload_pool_ = Pool(device, 2 * aligned(x) + aligned(rotations) + aligned(sizeof(gpu::Step)), Use::upload, "the host's results");
    input_ = upload_pool_.take(x);
    cold_ = upload_pool_.take(x);
    angles_ = upload_pool_.take(rotations);
    step_ = upload_pool_.take(sizeof(gpu::Step));

    const uint64_t logits = uint64_t(std::min(shape.batch, head_rows)) * c.vocab * sizeof(float),
                   gates = watching.activity && !c.experts
                               ? uint64_t(shape.batch) * ceil_div(c.neurons, group_neurons) * group_neurons * sizeof(float)
                               : 0,
                   watched = watching.activity ? x : 0;
    group_words_ = ceil_div(c.neurons, group_neurons);
    const uint64_t groups = model.layers().size() * group_words_ * sizeof(uint32_t);
    expert_weight_stride_ = uint64_t(shape.batch) * c.experts;
    const uint64_t experts = model.layers().size() * expert_weight_stride_ * sizeof(float);
    readback_pool_ = Pool(
        device, aligned(x) + aligned(logits) + aligned(sizeof(uint32_t)) + 2 * aligned(groups) + aligned(gates) + aligned(watched) + aligned(experts),
        Use::readback, "results for the host");
    published_ = readback_pool_.take(x);
    logits_ = readback_pool_.take(logits);
    best_ = readback_pool_.take(sizeof(uint32_t));
    fired_ = readback_pool_.take(groups);
    mask_ = readback_pool_.take(groups);
    gates_ = readback_pool_.take(gates);
    watched_residual_ = readback_pool_.take(watched);
    expert_weights_ = readback_pool_.take(experts);

    if (shape.rebalance) {
        constexpr size_t copies = 4;    // under way at once
        uint64_t largest = 0;
        for (uint32_t l = 0; l < model.layers().size(); ++l) largest = std::max(largest, aligned(model.group_bytes(l)));
        staging_pool_ = Pool(device, copies * largest, Use::upload, "groups on their way");
        staging_.resize(copies);
        for (Staging& s : staging_) s.memory = staging_pool_.take(largest);
    }

    frequencies_.push_back(rope_frequencies(c));
    if (c.window_base > 0) frequencies_.push_back(rope_frequencies(c, true));
}

// ---- a batch ------------------------------------------------------------------------------------------------------------

void GpuSession::begin(uint32_t position, uint32_t tokens, HeadTokens head)
{
    HEARTH_CHECK(tokens > 0 && tokens <= shape_.batch && position + tokens <= shape_.context);
    HEARTH_CHECK(head.count == 0 || model_.has_head());
    queue_.release_all();    // after an error, a batch may have been left under way, or held
    queue_.wait(last_work_);
    published_numbers_.resize(model_.layers().size() + 1);
    position_ = position;
    tokens_ = tokens;
    submits_ = waits_ = head_rows_ = 0;
    notices_.clear();
    set_step(head);
    const double magnitude = model_.config().rope_magnitude;
    for (size_t set = 0; set < frequencies_.size(); ++set) {
        float* out = static_cast<float*>(angles_.mapped) + set * angle_set();
        for (uint32_t t = 0; t < tokens; ++t)
            for (const double frequency : frequencies_[set]) {
                *out++ = float(magnitude * std::cos((position + t) * frequency));
                *out++ = float(magnitude * std::sin((position + t) * frequency));
            }
    }
}

void GpuSession::set_step(HeadTokens head)
{
    HEARTH_CHECK(head.first + head.count <= tokens_ && head.count <= head_rows && (!head.best || head.count == 1));
    *static_cast<gpu::Step*>(step_.mapped) = {.position = position_, .tokens = tokens_, .head_first = head.first, .head_tokens = head.count};
    head_ = head;
    head_rows_ += head.count;
}

namespace {

struct LinearKind {
    bool of_head = false;    // only the tokens whose logits are wanted
    bool relu = false;       // at decode: y = max(y, 0)
    bool planes = true;      // at decode: those of x are there
    bool halves = true;      // else: as of ProductKind
};

struct ProductKind {
    bool transposed = false, of_head = false;
    bool halves = true;       // weights may be rounded to halves
    uint32_t x_stride = 0;    // 0: as many as the products have terms
    bool add = false;         // to what is in y
};

}    // namespace

/// Writes a batch's commands, in the order of the formula. Two kinds of batch: one token (matrix-vector kernels that skip what is inactive)
/// and many (matrix-matrix kernels, all neurons).
class GpuSession::Recorder {
  public:
    Recorder(GpuSession& session, uint32_t capacity)
        : s_(session), kernels_(session.model_.kernels()), c_(session.model_.config()), capacity_(capacity)
    {
        uint64_t at = 0;    // in qkv_
        for (const auto& [part, width] : {std::pair(&q_, c_.heads), {&k_, c_.kv_heads}, {&v_, c_.kv_heads}}) {
            const uint64_t bytes = uint64_t(capacity) * width * c_.head_dim * sizeof(float);
            *part = {s_.qkv_.buffer, s_.qkv_.offset + at, bytes, s_.qkv_.address + at, nullptr};
            at += bytes;
        }
    }

    Recording record()
    {
        Recording out = {.capacity = capacity_, .segments = {}, .head = {}};
        const auto& layers = s_.model_.layers();
        Commands commands(s_.model_.device(), s_.watching_.timing);
        for (uint32_t l = 0; l < layers.size(); ++l) {
            attention(commands, l);
            std::optional<uint32_t> split;
            std::optional<Commands> hot;
            if (!layers[l].split()) {
                ffn(commands, l);
                if (decode()) continue;    // many tokens: a submit per layer, since drivers reset a GPU that is busy too long
            } else {
                split = l;
            }
            commands.end();
            if (split && layers[l].gate.rows > 0) {
                hot.emplace(s_.model_.device(), s_.watching_.timing);
                ffn(*hot, l);
                hot->end();
            }
            if (split) pending_.cold = true;
            out.segments.push_back({std::move(commands), std::move(hot), split, l});
            commands = Commands(s_.model_.device(), s_.watching_.timing);
        }
        if (s_.model_.has_head()) {
            const auto pending = pending_;
            for (const auto& [commands_of, logits] : {std::pair(&out.head, s_.logits_), {&out.best, s_.row_}}) {
                pending_ = pending;
                commands_of->emplace(s_.model_.device(), s_.watching_.timing);
                head(**commands_of, logits);
            }
            best(*out.best);
            out.head->end();
            out.best->end();
        } else {
            gpu::Join residual = pending_join(s_.model_.last_join());    // its norm is not used
            residual.publish = gpu::publish_residual;
            join(commands, "join", uint32_t(layers.size()), capacity_, residual);
        }
        commands.end();
        out.segments.push_back({std::move(commands), {}, {}, uint32_t(layers.size())});
        return out;
    }

  private:
    bool decode() const { return capacity_ == 1; }

    /// r = residual + what is pending; xn = weight r / rms(r). The caller says what else it wants.
    gpu::Join pending_join(const Slice& weight) const
    {
        return {.step = s_.step_.address,
                .base = s_.residual_.address,
                .parts = s_.parts_.address,
                .cold = s_.cold_.address,
                .weight = weight.address,
                .residual = s_.residual_.address,
                .y = s_.xn_.address,
                .published = s_.published_.address,
                .high = s_.high_.address,
                .low = s_.low_.address,
                .scale = s_.scale_.address,
                .n = c_.dim,
                .part_count = pending_.parts,
                .part_stride = capacity_ * c_.dim,
                .has_cold = pending_.cold,
                .publish = gpu::publish_nothing,
                .head = 0,
                .form = s_.model_.join_form(),
                .eps = c_.norm_eps,
                .gain = c_.residual_scale};
    }

    /// `readers`: matrices that y goes to.
    void join(Commands& commands, const char* stage, uint32_t l, uint32_t rows, gpu::Join args, std::initializer_list<const GpuMatrix*> readers = {})
    {
        args.planes = wants_planes(readers) && args.n % 32 == 0 && args.n / 32 <= gpu::join_most_blocks;
        commands.stage(stage, l, uint64_t(rows) * c_.dim * sizeof(float) * (3 + args.part_count + args.has_cold));
        commands.dispatch(kernels_.join, {rows}, args);
        pending_ = {};
        if (!args.planes && wants_planes(readers)) planes(commands, l, s_.xn_, args.n);
    }

    /// Whether, at decode, one of them is met in integers.
    bool wants_planes(std::initializer_list<const GpuMatrix*> readers) const
    {
        return decode() && std::any_of(readers.begin(), readers.end(), [&](const GpuMatrix* m) { return m->rows > 0 && kernels_.reads_planes(*m); });
    }

    /// The two integer planes of x, where the kernel that makes x cannot write them.
    void planes(Commands& commands, uint32_t l, const Slice& x, uint32_t n)
    {
        commands.stage("quantise", l, uint64_t(n) * 6);
        commands.dispatch(kernels_.quantise, {ceil_div(n / 32, 64)},
                          {.x = x.address, .high = s_.high_.address, .low = s_.low_.address, .scale = s_.scale_.address, .n = n});
    }

    /// y = w x for every token.
    void linear(Commands& commands, const GpuMatrix& w, const Slice& x, const Slice& y, LinearKind kind = {})
    {
        if (!decode()) return product(commands, w, x, y, {.of_head = kind.of_head, .halves = kind.halves});
        RowVariant variant = kernels_.variant(w);
        variant.int_dot = variant.int_dot && kind.planes;
        commands.dispatch(kernels_.matvec(w.type, variant), row_groups(w.rows, variant),
                          {.weight = w.memory.address,
                           .x = x.address,
                           .high = s_.high_.address,
                           .low = s_.low_.address,
                           .scale = s_.scale_.address,
                           .y = y.address,
                           .rows = w.rows,
                           .cols = w.cols,
                           .stride = w.stride,
                           .relu = kind.relu});
    }

    /// y = w x, or with `transposed` y = x w, for many tokens at once.
    void product(Commands& commands, const GpuMatrix& w, const Slice& x, const Slice& y, ProductKind kind)
    {
        const uint32_t out = kind.transposed ? w.cols : w.rows, inner = kind.transposed ? w.rows : w.cols;
        commands.dispatch(kernels_.matmul(w.type, kind.transposed, kind.halves),
                          {ceil_div(out, gpu::matmul_tile), ceil_div(kind.of_head ? std::min(capacity_, head_rows) : capacity_, gpu::matmul_tile)},
                          {.step = s_.step_.address,
                           .weight = w.memory.address,
                           .x = x.address,
                           .y = y.address,
                           .rows = out,
                           .inner = inner,
                           .stride = w.stride,
                           .x_stride = kind.x_stride ? kind.x_stride : inner,
                           .y_stride = out,
                           .head = kind.of_head,
                           .add = kind.add});
    }

    void attention(Commands& commands, uint32_t l)
    {
        const GpuModel::Layer& w = s_.model_.layers()[l];
        const uint32_t q_width = c_.heads * c_.head_dim;

        gpu::Join before = pending_join(w.attn_norm);
        if (l == 0) before.base = s_.input_.address;
        const bool together = decode() && w.qkv.rows > 0;
        if (together) join(commands, "attn_norm", l, capacity_, before, {&w.qkv});
        else join(commands, "attn_norm", l, capacity_, before, {&w.q, &w.k, &w.v});
        commands.stage("qkv", l, w.q.row_bytes + w.k.row_bytes + w.v.row_bytes);
        if (together) linear(commands, w.qkv, s_.xn_, q_);    // k_ and v_ come right behind
        else
            for (const auto& [matrix, y] : {std::pair(&w.q, &q_), {&w.k, &k_}, {&w.v, &v_}}) linear(commands, *matrix, s_.xn_, *y);
        commands.stage("rope", l, uint64_t(capacity_) * (2 * q_width + 3 * c_.kv_heads * c_.head_dim) * sizeof(float));
        commands.dispatch(kernels_.rope, {c_.heads + c_.kv_heads, capacity_},
                          {.step = s_.step_.address,
                           .q = q_.address,
                           .k = k_.address,
                           .v = v_.address,
                           .bias = w.qkv_bias.address,
                           .norms = w.head_norms.address,
                           .angles = s_.angles_.address + (w.window_rope ? s_.angle_set() * sizeof(float) : 0),
                           .k_cache = s_.keys_[l].address,
                           .v_cache = s_.values_[l].address,
                           .counters = s_.attend_counters_.address,
                           .heads = c_.heads,
                           .kv_heads = c_.kv_heads,
                           .head_dim = c_.head_dim,
                           .rope_dim = c_.rope_dim,
                           .context = s_.shape_.context,
                           .k_q8 = is_quantised(s_.shape_.kv.k),
                           .v_q8 = is_quantised(s_.shape_.kv.v),
                           .counter_count = c_.heads,
                           .has_bias = w.qkv_bias.bytes > 0,
                           .has_norms = w.head_norms.bytes > 0,
                           .halves = c_.pairs == host::PairOrder::halves,
                           .eps = c_.norm_eps});
        const bool attend_writes_planes = wants_planes({&w.o}) && c_.head_dim % 32 == 0;
        commands.stage("attend", l, 0);    // its bytes grow with the position: see report
        const AttendTile tile = attend_tile(c_, decode());
        const uint32_t tiles = c_.heads / tile.heads, splits = decode() ? kernels_.attend_splits(tiles, s_.shape_.context) : 1;
        commands.dispatch(kernels_.attend(tile, s_.shape_.kv), {tiles, ceil_div(capacity_, tile.tokens), splits},
                          {.step = s_.step_.address,
                           .q = q_.address,
                           .k_cache = s_.keys_[l].address,
                           .v_cache = s_.values_[l].address,
                           .y = s_.mixed_.address,
                           .parts = s_.attend_parts_.address,
                           .counters = s_.attend_counters_.address,
                           .high = s_.high_.address,
                           .low = s_.low_.address,
                           .scales = s_.scale_.address,
                           .heads = c_.heads,
                           .kv_heads = c_.kv_heads,
                           .context = s_.shape_.context,
                           .planes = attend_writes_planes,
                           .splits = splits,
                           .window = w.window,
                           .scale = c_.score_scale,
                           .softcap = c_.score_cap});
        if (wants_planes({&w.o}) && !attend_writes_planes) planes(commands, l, s_.mixed_, q_width);
        commands.stage("attn_out", l, w.o.row_bytes);
        linear(commands, w.o, s_.mixed_, s_.parts_);
        // In a parallel block the next layer's join adds what attention gives, and here there is a norm of the layer's input only.
        if (!c_.parallel) pending_.parts = 1;
        gpu::Join after = pending_join(w.ffn_norm);
        if (w.split() || s_.watching_.activity) after.publish = gpu::publish_norm;
        join(commands, "ffn_norm", l, capacity_, after, {&w.gate, &w.up});
        if (c_.parallel) pending_.parts = 1;
        if (c_.experts) route(commands, l);
        if (w.split() && decode()) predict(commands, l);
        if (s_.watching_.activity) watch(commands, "watch_residual", l, s_.residual_, s_.watched_residual_, uint64_t(capacity_) * c_.dim);
    }

    /// Which of the layer's neurons may fire, as a mask for the host.
    void predict(Commands& commands, uint32_t l)
    {
        const GpuModel::Layer& w = s_.model_.layers()[l];
        const LayerSparsity& sparsity = s_.shape_.sparsity[l];
        const uint32_t neurons = w.residency.groups() * group_neurons;
        const uint64_t mask = s_.mask_.address + l * s_.group_words_ * sizeof(uint32_t);
        if (sparsity.predictor == Predictor::sign) {
            commands.stage("predict", l, w.signs.bytes);
            commands.dispatch(kernels_.predict_sign, {ceil_div(neurons, 128)},
                              {.x = s_.xn_.address,
                               .signs = w.signs.address,
                               .mask = mask,
                               .neurons = neurons,
                               .cols = c_.dim,
                               .differing = c_.dim - sparsity.agreements});
        } else if (sparsity.predictor == Predictor::lowrank) {
            // In floats: the planes are those of x, for the hot FFN.
            commands.stage("predict", l, w.fc1.row_bytes);
            linear(commands, w.fc1, s_.residual_, s_.u_, {.relu = true, .planes = false});
            commands.stage("predict", l, w.fc2.row_bytes);
            linear(commands, w.fc2, s_.u_, s_.h_, {.planes = false});
            commands.stage("predict", l, uint64_t(neurons) * sizeof(float));
            commands.dispatch(kernels_.threshold, {ceil_div(neurons / 32, 128)},
                              {.score = s_.h_.address, .mask = mask, .neurons = neurons, .threshold = w.predictor_threshold});
        }
    }

    /// Which experts each token goes through, for the device and for the host; of one token, where they are on the device.
    void route(Commands& commands, uint32_t l)
    {
        const GpuModel::Layer& w = s_.model_.layers()[l];
        commands.stage("route", l, w.router.row_bytes);
        linear(commands, w.router, s_.xn_, s_.scores_, {.planes = false, .halves = false});
        commands.stage("route", l, 3ull * capacity_ * c_.experts * sizeof(float));
        commands.dispatch(kernels_.route, {capacity_},
                          {.step = s_.step_.address,
                           .score = s_.scores_.address,
                           .weight = s_.routed_.address,
                           .published = s_.expert_weights_.address + l * s_.expert_weight_stride_ * sizeof(float),
                           .slot_expert = w.slot_experts.address,
                           .chosen = s_.chosen_.address,
                           .experts = c_.experts,
                           .used = c_.experts_used,
                           .normalise = c_.normalise_experts,
                           .slots = uint32_t(w.residency.slots().size()),
                           .places = decode() ? s_.places(l) : 0});
    }

    void watch(Commands& commands, const char* stage, uint32_t l, const Slice& from, const Slice& to, uint64_t floats)
    {
        commands.stage(stage, l, floats * sizeof(float));
        commands.copy(from, to, floats * sizeof(float));
    }

    /// The resident neurons' share, as parts for the next join.
    void ffn(Commands& commands, uint32_t l)
    {
        const GpuModel::Layer& w = s_.model_.layers()[l];
        Slice parts = s_.parts_;    // behind those that are pending
        parts.offset += uint64_t(pending_.parts) * capacity_ * c_.dim * sizeof(float);
        parts.address += uint64_t(pending_.parts) * capacity_ * c_.dim * sizeof(float);
        if (decode()) {
            const uint32_t neurons = s_.places(l) * group_neurons;
            commands.stage("ffn_up", l, w.gate.row_bytes + w.up.row_bytes);
            const RowVariant variant = kernels_.variant(w.gate);
            commands.dispatch(kernels_.ffn_up(w.gate.type, w.up.rows > 0 ? w.up.type : w.gate.type, variant), row_groups(neurons, variant),
                              {.gate = w.gate.memory.address,
                               .up = w.up.memory.address,
                               .bias = w.bias.memory.address,
                               .x = s_.xn_.address,
                               .high = s_.high_.address,
                               .low = s_.low_.address,
                               .scale = s_.scale_.address,
                               .h = s_.h_.address,
                               .chosen = s_.chosen_.address,
                               .neurons = neurons,
                               .cols = c_.dim,
                               .gate_stride = w.gate.stride,
                               .up_stride = w.up.stride,
                               .cut = s_.shape_.sparsity[l].cut,
                               .floor = c_.floor,
                               .has_up = w.up.rows > 0,
                               .has_bias = w.bias.rows > 0,
                               .has_experts = c_.experts > 0});
            if (w.down.rows > 0) {
                if (wants_planes({&w.down})) planes(commands, l, s_.h_, w.down.cols);
                commands.stage("ffn_down", l, w.down.row_bytes);
                linear(commands, w.down, s_.h_, parts);
                ++pending_.parts;
                return;
            }
            const uint32_t slices = ffn_slices(neurons);
            pending_.parts += slices;
            commands.stage("ffn_down", l, w.down_t.row_bytes);
            commands.dispatch(kernels_.ffn_down(w.down_t.type), {ceil_div(c_.dim, gpu::ffn_down_chunks * chunk_weights(w.down_t.type)), slices},
                              {.down = w.down_t.memory.address,
                               .h = s_.h_.address,
                               .parts = parts.address,
                               .fired = s_.fired_.address + l * s_.group_words_ * sizeof(uint32_t),
                               .chosen = s_.chosen_.address,
                               .neurons = neurons,
                               .cols = c_.dim,
                               .stride = w.down_t.stride,
                               .slices = slices,
                               .part_stride = c_.dim,
                               .has_experts = c_.experts > 0});
            return;
        }
        for (uint32_t first = 0; first < w.gate.rows; first += prefill_neurons(c_)) {
            const uint32_t count = std::min(prefill_neurons(c_), w.gate.rows - first);
            const GpuMatrix gate = w.gate.part(first, count);
            commands.stage("ffn_up", l, gate.row_bytes + (w.up.rows > 0 ? w.up.part(first, count).row_bytes : 0));
            linear(commands, gate, s_.xn_, s_.h_);
            if (w.up.rows > 0) linear(commands, w.up.part(first, count), s_.xn_, s_.u_);
            if (s_.watching_.activity && !c_.experts) watch(commands, "watch_gates", l, s_.h_, s_.gates_, uint64_t(capacity_) * count);
            commands.stage("glu", l, uint64_t(capacity_) * count * 3 * sizeof(float));
            commands.dispatch(kernels_.glu, {ceil_div(count, 128), capacity_},
                              {.step = s_.step_.address,
                               .h = s_.h_.address,
                               .u = s_.u_.address,
                               .bias = w.bias.memory.address,
                               .weight = s_.routed_.address,
                               .slot_expert = w.slot_experts.address + first / group_neurons * sizeof(uint32_t),
                               .n = count,
                               .experts = c_.experts,
                               .floor = c_.floor,
                               .has_up = w.up.rows > 0,
                               .has_bias = w.bias.rows > 0});
            commands.stage("ffn_down", l, w.down.row_bytes + (w.down_t.rows > 0 ? w.down_t.part(first, count).row_bytes : 0));
            // The weights stay floats: whether halves are good enough for the longest sums was never measured.
            if (w.down.rows > 0) product(commands, w.down, s_.h_, parts, {.halves = false, .x_stride = w.gate.rows});
            else product(commands, w.down_t.part(first, count), s_.h_, parts, {.transposed = true, .halves = false, .add = first > 0});
        }
        ++pending_.parts;
    }

    /// Logits of the wanted tokens. May run several times on one batch, so it leaves the residual as it is.
    void head(Commands& commands, const Slice& logits)
    {
        const uint32_t l = uint32_t(s_.model_.layers().size());
        gpu::Join norm = pending_join(s_.model_.last_join());
        norm.residual = s_.head_residual_.address;
        norm.head = 1;
        join(commands, "output_norm", l, std::min(capacity_, head_rows), norm, {&s_.model_.head()});
        commands.stage("head", l, s_.model_.head().row_bytes);
        linear(commands, s_.model_.head(), s_.xn_, logits, {.of_head = true});
    }

    /// The token of the largest of one token's logits.
    void best(Commands& commands)
    {
        const uint32_t l = uint32_t(s_.model_.layers().size());
        constexpr uint32_t logits_per_part = 1024;
        gpu::Best args = {.logits = s_.row_.address,
                          .parts = s_.best_parts_.address,
                          .token = s_.best_.address,
                          .n = c_.vocab,
                          .part_count = std::min(ceil_div(c_.vocab, logits_per_part), most_best_parts),
                          .scale = c_.logit_scale};
        commands.stage("best", l, uint64_t(c_.vocab) * sizeof(float));
        commands.dispatch(kernels_.best, {args.part_count}, args);
        args.last = 1;
        commands.stage("best", l, uint64_t(args.part_count) * 2 * sizeof(uint32_t));
        commands.dispatch(kernels_.best, {1}, args);
    }

    GpuSession& s_;
    GpuKernels& kernels_;
    const Config& c_;
    uint32_t capacity_;
    Slice q_, k_, v_;    // (capacity, heads or kv_heads, head_dim), one behind the other in qkv_
    struct {
        uint32_t parts = 0;    // partial sums that the next join adds
        bool cold = false;     // and the host's share
    } pending_;
};

// Few sizes, each recorded once: a workgroup of a token that is not there ends at once.
uint32_t GpuSession::capacity_for(uint32_t tokens) const
{
    return tokens == 1 && !watching_.activity ? 1 : tokens <= 16 ? std::min(16u, shape_.batch) : shape_.batch;
}

GpuSession::Recording& GpuSession::recording(uint32_t tokens)
{
    const uint32_t capacity = capacity_for(tokens);
    auto found = recordings_.find(capacity);
    if (found == recordings_.end()) found = recordings_.emplace(capacity, Recorder(*this, capacity).record()).first;
    return found->second;
}

std::vector<GpuSession::Segment>& GpuSession::segments(uint32_t tokens) { return recording(tokens).segments; }

void GpuSession::submit(Segment& segment)
{
    Recording& recording = this->recording(tokens_);
    const size_t number = size_t(&segment - recording.segments.data());
    // Ahead: all at once, each but the first held until the host comes to it.
    const bool ahead = shape_.submit == SubmitMode::ahead && tokens_ == 1;
    if (ahead && number > 0) return queue_.release(first_held_ + number);
    if (ahead) first_held_ = queue_.released();
    std::vector<vulkan::Queue::Work> work;
    for (size_t s = number; s < (ahead ? recording.segments.size() : number + 1); ++s) {
        const uint64_t held = ahead && s > 0 ? first_held_ + s : 0;
        const Segment& part = recording.segments[s];
        work.push_back({&part.attention, held});
        published_numbers_[s] = work.size();
        if (part.ffn) work.push_back({&*part.ffn});
        if (s + 1 == recording.segments.size() && head_.count > 0) work.push_back({&head_commands()});
    }
    last_work_ = queue_.submit(work);
    for (size_t s = number; s < (ahead ? recording.segments.size() : number + 1); ++s) published_numbers_[s] += last_work_ - work.size();
    ++submits_;
}

const Commands& GpuSession::head_commands() const
{
    const Recording& recording = recordings_.at(capacity_for(tokens_));
    return head_.best ? *recording.best : *recording.head;
}

void GpuSession::submit_head(HeadTokens head)
{
    HEARTH_CHECK(head.count > 0);
    set_step(head);
    const vulkan::Queue::Work work[] = {{&head_commands()}};
    last_work_ = queue_.submit(work);
    ++submits_;
}

void GpuSession::wait_published(const Segment& segment)
{
    queue_.wait(published_numbers_[size_t(&segment - segments(tokens_).data())]);
    ++waits_;
    if (watching_.timing) notices_.emplace_back(&segment.attention, clock_us());
}

void GpuSession::wait_all()
{
    queue_.wait(last_work_);
    ++waits_;
}

std::span<const uint32_t> GpuSession::mask(uint32_t l) const
{
    return {static_cast<const uint32_t*>(mask_.mapped) + size_t(l) * group_words_, group_words_};
}

/// Groups that a decode's hot FFN of layer l computes: those in all slots, or as many as the experts of a token can have.
uint32_t GpuSession::places(uint32_t l) const
{
    const uint32_t slots = uint32_t(model_.layers()[l].residency.slots().size()), most = decode_neurons(model_.config()) / group_neurons;
    return model_.config().experts ? std::min(slots, most) : slots;
}

/// After a decode: a word per place, bit i set where neuron i of the group in it fired.
std::span<const uint32_t> GpuSession::fired(uint32_t l) const
{
    return {static_cast<const uint32_t*>(fired_.mapped) + size_t(l) * group_words_, places(l)};
}

/// f(place, group) for every place of layer l that a decode filled.
template <class F>
void GpuSession::each_place(uint32_t l, F&& f) const
{
    const LayerResidency& residency = model_.layers()[l].residency;
    const uint32_t experts = model_.config().experts;
    uint32_t place = 0;
    for (const uint32_t group : residency.slots())
        if (experts == 0 || expert_weights(l)[residency.expert_of(group, experts)] != 0) f(place++, group);
}

void GpuSession::add_fired(uint32_t l, std::vector<uint32_t>& groups) const
{
    const std::span<const uint32_t> words = fired(l);
    each_place(l, [&](uint32_t place, uint32_t group) { groups[group] += uint32_t(std::popcount(words[place])); });
}

/// Of the rows of those neurons that fired.
GpuModel::FiredBytes GpuSession::fired_bytes(uint32_t l) const
{
    const std::span<const uint32_t> words = fired(l);
    GpuModel::FiredBytes sum = {};
    each_place(l, [&](uint32_t place, uint32_t group) {
        const GpuModel::FiredBytes bytes = model_.fired_bytes(l, group, words[place]);
        sum.up += bytes.up;
        sum.down += bytes.down;
    });
    return sum;
}

/// Resident neurons that a decode looked at.
uint32_t GpuSession::chosen_neurons(uint32_t l) const
{
    if (model_.config().experts == 0) return model_.layers()[l].gate.rows;
    uint32_t groups = 0;
    each_place(l, [&](uint32_t, uint32_t) { ++groups; });
    return groups * group_neurons;
}

bool GpuSession::replace(uint32_t l, uint32_t slot, uint32_t group)
{
    Staging& staging = staging_[next_staging_];
    if (queue_.done() < staging.work) return false;
    next_staging_ = (next_staging_ + 1) % staging_.size();
    model_.lay_out_group(l, group, static_cast<std::byte*>(staging.memory.mapped));
    staging.commands.emplace(model_.device(), false);
    staging.commands->stage("rebalance", l, model_.group_bytes(l));
    const GpuModel::Layer& layer = model_.layers()[l];
    Slice from = staging.memory;
    for (const GpuMatrix* m : {&layer.gate, &layer.up, &layer.down_t, &layer.bias}) {
        const uint64_t bytes = m->RowLayout::bytes(group_neurons);
        if (bytes == 0) continue;
        Slice to = m->memory;
        to.offset += slot * bytes;
        to.bytes -= slot * bytes;
        staging.commands->copy(from, to, bytes);
        from.offset += bytes;
        from.bytes -= bytes;
    }
    if (model_.config().experts) {
        Slice to = layer.slot_experts;
        to.offset += slot * sizeof(uint32_t);
        to.bytes = from.bytes = sizeof(uint32_t);
        staging.commands->copy(from, to, to.bytes);
    }
    staging.commands->end();
    const vulkan::Queue::Work work[] = {{&*staging.commands}};
    staging.work = last_work_ = queue_.submit(work);
    model_.put(l, slot, group);
    return true;
}

// ---- statistics ---------------------------------------------------------------------------------------------------------

void GpuSession::report(FeedStats& stats) const
{
    stats.submits += submits_;
    stats.waits += waits_;
    stats.downloaded += downloaded();
    count_neurons(stats);
    const Recording& recording = recordings_.at(capacity_for(tokens_));
    std::vector<vulkan::StageTime> times;
    const auto add = [&](const Commands& commands) {
        stats.dispatches += commands.dispatches();
        for (const vulkan::StageTime& t : commands.times()) times.push_back(t);
    };
    for (const Segment& segment : recording.segments) {
        add(segment.attention);
        if (segment.ffn) add(*segment.ffn);
    }
    if (head_.count > 0) add(head_commands());
    // The host learns of a segment's end a little later than it happens: the shortest delay seen shows how far the clocks are apart.
    for (const auto& [commands, noticed] : notices_)
        if (const std::vector<vulkan::StageTime> stages = commands->times(); !stages.empty()) {
            const double offset = noticed - (stages.back().start_us + stages.back().us);
            if (clock_offset_us_ == 0 || offset < clock_offset_us_) clock_offset_us_ = offset;
        }
    add_stages(times, stats);
}

/// Without what is watched.
uint64_t GpuSession::downloaded() const
{
    const Config& c = model_.config();
    const uint64_t x = uint64_t(tokens_) * c.dim * sizeof(float);
    uint64_t bytes = model_.has_head() ? 0 : x;    // the residual
    for (uint32_t l = 0; l < model_.layers().size(); ++l) {
        const GpuModel::Layer& layer = model_.layers()[l];
        bytes += uint64_t(tokens_) * c.experts * sizeof(float);
        if (layer.split()) bytes += x;
        if (tokens_ > 1 || watching_.activity) continue;
        if (layer.split() && shape_.sparsity[l].predictor != Predictor::none) bytes += layer.residency.groups() * sizeof(uint32_t);
        if (layer.down_t.rows > 0) bytes += places(l) * sizeof(uint32_t);
    }
    return bytes + (head_.best ? sizeof(uint32_t) : uint64_t(head_rows_) * c.vocab * sizeof(float));
}

void GpuSession::count_neurons(FeedStats& stats) const
{
    const auto& layers = model_.layers();
    for (uint32_t l = 0; l < layers.size(); ++l) {
        LayerCounts& layer = stats.layers[l];
        layer.split = layers[l].split();
        layer.resident = layers[l].residency.resident_neurons();
        if (tokens_ > 1 || watching_.activity) continue;
        if (layers[l].down.rows > 0) layer.active_device = layer.resident;    // where this is, nothing is ever zero
        else
            for (const uint32_t word : fired(l)) layer.active_device += uint32_t(std::popcount(word));
    }
}

/// The recorded byte counts are of the most that a stage can read; here they become what it did read.
void GpuSession::add_stages(const std::vector<vulkan::StageTime>& times, FeedStats& stats) const
{
    const Config& c = model_.config();
    double hot_start = 0;
    LayerCounts* hot = nullptr;    // the split layer whose join is still to come
    for (const vulkan::StageTime& t : times) {
        Stage stage = {.name = t.name, .layer = t.index, .on_device = true, .bytes = t.bytes, .us = t.us, .start_us = t.start_us + clock_offset_us_};
        const bool of_ffn = t.name == "ffn_up" || t.name == "glu" || t.name == "ffn_down";
        if (hot && !of_ffn) {    // the join: it starts when both shares are there
            hot->both_us = t.start_us - hot_start;
            hot = nullptr;
        }
        if (t.name == "attend")
            stage.bytes =
                kv_bytes_read(position_, tokens_, cache_bytes(c, 1, shape_.kv.k) + cache_bytes(c, 1, shape_.kv.v), model_.layers()[t.index].window);
        if (of_ffn) {
            const GpuModel::Layer& w = model_.layers()[t.index];
            LayerCounts& layer = stats.layers[t.index];
            if (tokens_ == 1 && t.name == "ffn_down" && w.down_t.rows > 0) stage.bytes = fired_bytes(t.index).down;    // zeros are never read
            if (tokens_ == 1 && t.name == "ffn_up") {
                const uint32_t looked_at = chosen_neurons(t.index);
                const auto bytes_of = [&](const GpuMatrix& m) { return m.rows > 0 ? m.part(0, looked_at).row_bytes : 0; };
                stage.bytes = bytes_of(w.gate) + (shape_.sparsity[t.index].cut >= 0 ? fired_bytes(t.index).up : bytes_of(w.up));
            }
            if (layer.split && t.name == "ffn_up") {
                hot_start = t.start_us;
                hot = &layer;
            }
            layer.device_us += t.us;
        }
        stats.stages.push_back(stage);
    }
}

}    // namespace hearth
