// Writes down what the device does with a batch.
#include "engine/device/session.h"

#include <algorithm>

namespace hearth {

using vulkan::Commands;
using vulkan::Slice;

namespace {

uint32_t ffn_slices(uint32_t neurons) { return std::clamp(ceil_div(neurons, 128), 1u, most_slices); }

struct LinearKind {
    bool of_head = false;    // only the tokens whose logits are wanted
    bool relu = false;       // at decode: y = max(y, 0)
    bool planes = true;      // those of x are there
    bool halves = true;      // as of ProductUse
};

struct ProductKind {
    ProductUse use;
    bool of_head = false;
    uint32_t x_stride = 0;    // 0: as many as the products have terms
    bool add = false;         // to what is in y
};

}    // namespace

/// Writes a batch's commands, in the order of the formula. Two kinds of batch: one token (matrix-vector kernels that
/// skip what is inactive) and many (matrix-matrix kernels, all neurons).
class GpuSession::Recorder {
  public:
    Recorder(GpuSession& session, const Form& form)
        : s_(session), kernels_(session.model_.kernels()), c_(session.model_.config()),
          few_(form.work == host::Work::few), capacity_(form.capacity), together_(tokens_at_once(form.capacity)),
          streamed_(form.streamed)
    {
        uint64_t at = 0;    // in qkv_
        for (const auto& [part, width] : {std::pair(&q_, c_.heads), {&k_, c_.kv_heads}, {&v_, c_.kv_heads}}) {
            const uint64_t bytes = uint64_t(capacity_) * width * c_.head_dim * sizeof(float);
            *part = s_.qkv_.part(at, bytes);
            at += bytes;
        }
    }

    Recording record()
    {
        Recording out = {.segments = {}, .head = {}, .best = {}};
        const auto& layers = s_.model_.layers();
        Commands commands(s_.model_.device(), s_.watching_.timing);
        for (uint32_t l = 0; l < layers.size(); ++l) {
            attention(commands, l);
            std::optional<uint32_t> split;
            std::optional<Commands> hot;
            if (!layers[l].split()) {
                ffn(commands, l);
                if (few_)
                    continue;    // many tokens: a submit per layer, since drivers reset a GPU that is busy too long
            } else {
                split = l;
            }
            commands.end();
            if (split && layers[l].gate.rows > 0) {
                hot.emplace(s_.model_.device(), s_.watching_.timing);
                ffn(*hot, l);
                hot->end();
            }
            std::vector<Streamed> cold;
            if (split && streamed_) cold = stream(l, hot.has_value());
            else if (split) pending_.cold = true;
            out.segments.push_back({std::move(commands), std::move(hot), split, std::move(cold), l});
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
        out.segments.push_back({std::move(commands), {}, {}, {}, uint32_t(layers.size())});
        return out;
    }

  private:
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
    void join(Commands& commands, const char* stage, uint32_t l, uint32_t rows, gpu::Join args,
              std::initializer_list<const GpuMatrix*> readers = {})
    {
        args.planes = few_ && wants_planes(readers) && args.n % 32 == 0 && args.n / 32 <= gpu::join_most_blocks;
        commands.stage(stage, l, uint64_t(rows) * c_.dim * sizeof(float) * (3 + args.part_count + args.has_cold));
        commands.dispatch(kernels_.join, {rows}, args);
        pending_ = {};
        planes_of_ = args.planes ? s_.xn_.address : 0;
        if (!args.planes && wants_planes(readers)) planes(commands, l, s_.xn_, rows * args.n);
    }

    /// Bytes of weights that all rows of the batch take.
    uint64_t read(const GpuMatrix& w) const { return w.row_bytes * (few_ ? ceil_div(capacity_, together_) : 1); }

    /// Whether one of them is met in integers.
    bool wants_planes(std::initializer_list<const GpuMatrix*> readers) const
    {
        return std::any_of(readers.begin(), readers.end(), [&](const GpuMatrix* m) {
            return m->rows > 0 && (few_ ? kernels_.reads_planes(*m)
                                        : kernels_.product(m->type, {.halves = m->halves}) == Product::integers);
        });
    }

    /// The two integer planes of x, of n numbers in all, unless they are there.
    void planes(Commands& commands, uint32_t l, const Slice& x, uint32_t n)
    {
        if (planes_of_ == x.address) return;
        planes_of_ = x.address;
        commands.stage("quantise", l, uint64_t(n) * 6);
        commands.dispatch(
            kernels_.quantise, {std::min(ceil_div(n / 32, 64), 65535u)},
            {.x = x.address, .high = s_.high_.address, .low = s_.low_.address, .scale = s_.scale_.address, .n = n});
    }

    /// y = w x for every token.
    void linear(Commands& commands, const GpuMatrix& w, const Slice& x, const Slice& y, LinearKind kind = {})
    {
        if (!few_) return product(commands, w, x, y, {{.halves = kind.halves, .planes = kind.planes}, kind.of_head});
        HEARTH_CHECK(capacity_ == 1 || w.cols % 4 == 0);    // see rows_dot
        RowVariant variant = kernels_.variant(w);
        variant.int_dot = variant.int_dot && kind.planes;
        commands.dispatch(kernels_.matvec(w.type, variant, together_),
                          row_groups(w.rows, variant, capacity_, together_),
                          {.step = s_.step_.address,
                           .weight = w.memory.address,
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
        const bool transposed = kind.use.transposed;
        kind.use.halves = kind.use.halves && w.halves;
        const uint32_t out = transposed ? w.cols : w.rows, inner = transposed ? w.rows : w.cols;
        commands.dispatch(kernels_.matmul(w.type, transposed, kernels_.product(w.type, kind.use)),
                          {ceil_div(out, gpu::matmul_tile),
                           ceil_div(kind.of_head ? std::min(capacity_, head_rows) : capacity_, gpu::matmul_tile)},
                          {.step = s_.step_.address,
                           .weight = w.memory.address,
                           .x = x.address,
                           .high = s_.high_.address,
                           .low = s_.low_.address,
                           .scale = s_.scale_.address,
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
        const bool together = few_ && capacity_ == 1 && w.qkv.rows > 0;
        if (together) join(commands, "attn_norm", l, capacity_, before, {&w.qkv});
        else join(commands, "attn_norm", l, capacity_, before, {&w.q, &w.k, &w.v});
        commands.stage("qkv", l, read(w.q) + read(w.k) + read(w.v));
        if (together) linear(commands, w.qkv, s_.xn_, q_);    // k_ and v_ come right behind
        else
            for (const auto& [matrix, y] : {std::pair(&w.q, &q_), {&w.k, &k_}, {&w.v, &v_}})
                linear(commands, *matrix, s_.xn_, *y);
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
                           .pages = s_.shape_.pages(),
                           .k_q8 = is_quantised(s_.shape_.kv.k),
                           .v_q8 = is_quantised(s_.shape_.kv.v),
                           .counter_count = few_ ? capacity_ * c_.heads : 0,
                           .has_bias = w.qkv_bias.bytes > 0,
                           .has_norms = w.head_norms.bytes > 0,
                           .halves = c_.pairs == host::PairOrder::halves,
                           .eps = c_.norm_eps});
        const bool attend_writes_planes = few_ && wants_planes({&w.o}) && c_.head_dim % 32 == 0;
        commands.stage("attend", l, 0);    // its bytes grow with the position: see report
        const AttendTile tile = attend_tile(c_, few_);
        const uint32_t tiles = c_.heads / tile.heads,
                       splits = few_ ? kernels_.attend_splits(tiles, s_.shape_.context) : 1;
        commands.dispatch(kernels_.attend(tile, s_.shape_.kv), {tiles, most_tiles(tile.tokens), splits},
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
                           .pages = s_.shape_.pages(),
                           .planes = attend_writes_planes,
                           .splits = splits,
                           .window = w.window,
                           .scale = c_.score_scale,
                           .softcap = c_.score_cap});
        planes_of_ = attend_writes_planes ? s_.mixed_.address : 0;
        if (wants_planes({&w.o})) planes(commands, l, s_.mixed_, capacity_ * q_width);
        commands.stage("attn_out", l, read(w.o));
        linear(commands, w.o, s_.mixed_, s_.parts_);
        // In a parallel block the next layer's join adds what attention gives, and here there is a norm of the layer's
        // input only.
        if (!c_.parallel) pending_.parts = 1;
        gpu::Join after = pending_join(w.ffn_norm);
        if ((w.split() && !streamed_) || s_.watching_.activity) after.publish = gpu::publish_norm;
        join(commands, "ffn_norm", l, capacity_, after, {&w.gate, &w.up});
        if (c_.parallel) pending_.parts = 1;
        if (c_.experts) route(commands, l);
        if (w.split() && few_) predict(commands, l);
        if (s_.watching_.activity)
            watch(commands, "watch_residual", l, s_.residual_, s_.watched_residual_, uint64_t(capacity_) * c_.dim);
    }

    /// Tiles of attention at the most: the last one of each sequence may not be full.
    uint32_t most_tiles(uint32_t tokens) const
    {
        return std::min(capacity_, ceil_div(capacity_, tokens) + s_.shape_.sequences - 1);
    }

    /// Which of the layer's neurons may fire, as a mask for the host.
    void predict(Commands& commands, uint32_t l)
    {
        const GpuModel::Layer& w = s_.model_.layers()[l];
        const LayerSparsity& sparsity = s_.shape_.sparsity[l];
        const uint32_t neurons = w.residency.groups() * group_neurons;
        const uint64_t mask = s_.mask_.address + uint64_t(l) * s_.shape_.few * s_.group_words_ * sizeof(uint32_t);
        if (sparsity.predictor == Predictor::sign) {
            commands.stage("predict", l, w.signs.bytes);
            commands.dispatch(kernels_.predict_sign, {ceil_div(neurons, 128), capacity_},
                              {.step = s_.step_.address,
                               .x = s_.xn_.address,
                               .signs = w.signs.address,
                               .mask = mask,
                               .neurons = neurons,
                               .cols = c_.dim,
                               .differing = c_.dim - sparsity.agreements,
                               .words = s_.group_words_});
        } else if (sparsity.predictor == Predictor::lowrank) {
            // In floats: the planes are those of x, for the hot FFN.
            commands.stage("predict", l, read(w.fc1));
            linear(commands, w.fc1, s_.residual_, s_.u_, {.relu = true, .planes = false});
            commands.stage("predict", l, read(w.fc2));
            linear(commands, w.fc2, s_.u_, s_.h_, {.planes = false});
            commands.stage("predict", l, uint64_t(neurons) * sizeof(float));
            commands.dispatch(kernels_.threshold, {ceil_div(neurons / 32, 128), capacity_},
                              {.step = s_.step_.address,
                               .score = s_.h_.address,
                               .mask = mask,
                               .neurons = neurons,
                               .words = s_.group_words_,
                               .threshold = w.predictor_threshold});
        }
    }

    /// Which experts each token goes through, for the device and for the host; of one token, where they are on the
    /// device.
    void route(Commands& commands, uint32_t l)
    {
        const GpuModel::Layer& w = s_.model_.layers()[l];
        commands.stage("route", l, read(w.router));
        linear(commands, w.router, s_.xn_, s_.scores_, {.planes = false, .halves = false});
        commands.stage("route", l, 3ull * capacity_ * c_.experts * sizeof(float));
        commands.dispatch(kernels_.route, {capacity_},
                          {.step = s_.step_.address,
                           .score = s_.scores_.address,
                           .weight = s_.routed_.address,
                           .published = s_.expert_weights_.address + l * s_.expert_weight_stride_ * sizeof(float),
                           .slot_expert = w.group_experts.address,
                           .chosen = s_.chosen_.address,
                           .experts = c_.experts,
                           .used = c_.experts_used,
                           .normalise = c_.normalise_experts,
                           .slots = uint32_t(w.residency.slots().size()),
                           .places = few_ ? s_.places(l) : 0});
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
        const Slice parts = next_parts();
        if (few_) {
            const uint32_t neurons = s_.places(l) * group_neurons;
            commands.stage("ffn_up", l, w.gate.row_bytes + w.up.row_bytes);
            const RowVariant variant = kernels_.variant(w.gate);
            const uint32_t together = c_.experts ? 1 : together_;    // each row has experts of its own
            commands.dispatch(kernels_.ffn_up(w.gate.type, w.up.rows > 0 ? w.up.type : w.gate.type, variant, together),
                              row_groups(neurons, variant, capacity_, together),
                              {.step = s_.step_.address,
                               .gate = w.gate.memory.address,
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
                planes_of_ = 0;
                if (wants_planes({&w.down})) planes(commands, l, s_.h_, capacity_ * w.down.cols);
                commands.stage("ffn_down", l, read(w.down));
                linear(commands, w.down, s_.h_, parts);
                ++pending_.parts;
                return;
            }
            const uint32_t slices = ffn_slices(neurons);
            pending_.parts += slices;
            commands.stage("ffn_down", l, w.down_t.row_bytes);
            commands.dispatch(
                kernels_.ffn_down(w.down_t.type),
                {ceil_div(c_.dim, gpu::ffn_down_chunks * chunk_weights(w.down_t.type)), slices, capacity_},
                {.step = s_.step_.address,
                 .down = w.down_t.memory.address,
                 .h = s_.h_.address,
                 .parts = parts.address,
                 .fired = s_.fired_.address + uint64_t(l) * s_.shape_.few * s_.group_words_ * sizeof(uint32_t),
                 .chosen = s_.chosen_.address,
                 .neurons = neurons,
                 .cols = c_.dim,
                 .stride = w.down_t.stride,
                 .slices = slices,
                 .part_stride = capacity_ * c_.dim,
                 .has_experts = c_.experts > 0,
                 .words = s_.group_words_});
            return;
        }
        many_tokens(commands, l, w, parts, false);
        ++pending_.parts;
    }

    /// Room for partial sums, behind those that are pending.
    Slice next_parts() const { return s_.parts_.from(uint64_t(pending_.parts) * capacity_ * c_.dim * sizeof(float)); }

    /// The cold groups' share, through the ring; `hot`: added to that of the resident ones.
    std::vector<Streamed> stream(uint32_t l, bool hot)
    {
        if (hot) --pending_.parts;
        const Slice parts = next_parts();
        const uint32_t cold = uint32_t(s_.model_.layers()[l].residency.cold_groups().size()),
                       unit = s_.model_.together(l);
        const uint64_t unit_bytes = s_.model_.cold_block(l, 0, std::min(unit, cold), {}).bytes();
        uint32_t most = uint32_t(s_.ring_[0].memory.bytes / unit_bytes) *
                        unit;    // groups; more fit, since what fills up their matrices is shared
        if (s_.model_.cold_block(l, 0, cold, {}).bytes() <= s_.ring_[0].memory.bytes) most = cold;
        HEARTH_CHECK(most > 0);
        std::vector<Streamed> out;
        for (uint32_t first = 0; first < cold; first += most, next_half_ = 1 - next_half_) {
            const RingHalf& half = s_.ring_[next_half_];
            const uint32_t count = std::min(most, cold - first);
            const GpuFfn block = s_.model_.cold_block(l, first, count, half.memory);
            Commands copy(s_.model_.device(), false, vulkan::Lane::copies),
                compute(s_.model_.device(), s_.watching_.timing);
            copy.copy(half.staging, half.memory, block.bytes());
            copy.end();
            many_tokens(compute, l, block, parts, hot || first > 0);
            compute.end();
            out.push_back({first, s_.model_.cold_block(l, first, count, half.staging), next_half_, block.bytes(),
                           std::move(copy), std::move(compute)});
        }
        ++pending_.parts;
        return out;
    }

    /// The share of a block's neurons, for many tokens; `add`: to what is in `parts`.
    void many_tokens(Commands& commands, uint32_t l, const GpuFfn& w, const Slice& parts, bool add)
    {
        for (uint32_t first = 0; first < w.gate.rows; first += prefill_neurons(c_)) {
            const uint32_t count = std::min(prefill_neurons(c_), w.gate.rows - first);
            const GpuMatrix gate = w.gate.part(first, count);
            if (wants_planes({&w.gate, &w.up}))
                planes(commands, l, s_.xn_, capacity_ * c_.dim);    // those of h may have taken their place
            commands.stage("ffn_up", l, gate.row_bytes + (w.up.rows > 0 ? w.up.part(first, count).row_bytes : 0));
            linear(commands, gate, s_.xn_, s_.h_);
            if (w.up.rows > 0) linear(commands, w.up.part(first, count), s_.xn_, s_.u_);
            if (s_.watching_.activity && !c_.experts)
                watch(commands, "watch_gates", l, s_.h_, s_.gates_, uint64_t(capacity_) * count);
            commands.stage("glu", l, uint64_t(capacity_) * count * 3 * sizeof(float));
            commands.dispatch(kernels_.glu, {ceil_div(count, 128), capacity_},
                              {.step = s_.step_.address,
                               .h = s_.h_.address,
                               .u = s_.u_.address,
                               .bias = w.bias.memory.address,
                               .weight = s_.routed_.address,
                               .slot_expert = w.group_experts.address + first / group_neurons * sizeof(uint32_t),
                               .n = count,
                               .experts = c_.experts,
                               .floor = c_.floor,
                               .has_up = w.up.rows > 0,
                               .has_bias = w.bias.rows > 0});
            if (planes_of_ == s_.h_.address) planes_of_ = 0;
            if (wants_planes({&w.down})) planes(commands, l, s_.h_, capacity_ * w.gate.rows);
            commands.stage("ffn_down", l,
                           w.down.row_bytes + (w.down_t.rows > 0 ? w.down_t.part(first, count).row_bytes : 0));
            if (w.down.rows > 0) product(commands, w.down, s_.h_, parts, {.x_stride = w.gate.rows, .add = add});
            else
                product(commands, w.down_t.part(first, count), s_.h_, parts,
                        {.use = {.transposed = true}, .add = add || first > 0});
        }
    }

    /// Logits of the wanted tokens. May run several times on one batch, so it leaves the residual as it is.
    void head(Commands& commands, const Slice& logits)
    {
        const uint32_t l = uint32_t(s_.model_.layers().size());
        gpu::Join norm = pending_join(s_.model_.last_join());
        norm.residual = s_.head_residual_.address;
        norm.head = 1;
        join(commands, "output_norm", l, std::min(capacity_, head_rows), norm, {&s_.model_.head()});
        commands.stage("head", l, read(s_.model_.head()));
        linear(commands, s_.model_.head(), s_.xn_, logits, {.of_head = true});
    }

    /// The tokens of the largest of each row's logits.
    void best(Commands& commands)
    {
        const uint32_t l = uint32_t(s_.model_.layers().size());
        constexpr uint32_t logits_per_part = 1024;
        gpu::Best args = {.step = s_.step_.address,
                          .logits = s_.row_.address,
                          .parts = s_.best_parts_.address,
                          .token = s_.best_.address,
                          .n = c_.vocab,
                          .part_count = std::min(ceil_div(c_.vocab, logits_per_part), most_best_parts),
                          .scale = c_.logit_scale};
        commands.stage("best", l, uint64_t(c_.vocab) * sizeof(float));
        commands.dispatch(kernels_.best, {args.part_count, s_.shape_.few}, args);
        args.last = 1;
        commands.stage("best", l, uint64_t(args.part_count) * 2 * sizeof(uint32_t));
        commands.dispatch(kernels_.best, {1, s_.shape_.few}, args);
    }

    GpuSession& s_;
    GpuKernels& kernels_;
    const Config& c_;
    bool few_;             // the kind of work
    uint32_t capacity_;    // rows at the most
    uint32_t together_;    // of few, those that meet each weight at once
    bool streamed_;
    size_t next_half_ = 0;      // of the ring
    uint64_t planes_of_ = 0;    // address of the x whose planes are in memory, by what is recorded so far
    Slice q_, k_, v_;           // (capacity, heads or kv_heads, head_dim), one behind the other in qkv_
    struct {
        uint32_t parts = 0;    // partial sums that the next join adds
        bool cold = false;     // and the host's share
    } pending_;
};

GpuSession::Recording GpuSession::record(const Form& form) { return Recorder(*this, form).record(); }

}    // namespace hearth
