#include "engine/device/recorder.h"

#include <algorithm>

namespace hearth {

using vulkan::Commands;
using vulkan::Slice;

namespace {

struct LinearKind {
    bool of_head = false;    // only the tokens whose logits are wanted
    bool relu = false;       // of few rows: y = max(y, 0)
    bool planes = true;      // those of x are there
    bool halves = true;      // as of ProductUse
};

struct ProductKind {
    ProductUse use;
    bool of_head = false;
    uint32_t x_stride = 0;    // 0: as many as the products have terms
    bool add = false;         // to what is in y
};

struct Size {
    uint32_t rows, width;
};

/// The neurons of a layer that are computed together: those in its slots, or some of the ring.
struct Block {
    const GpuFfn& weights;
    Slice parts;         // where its sums go
    bool add = false;    // to what is there
};

/// Writes a batch's commands, step by step.
class Recorder {
  public:
    Recorder(GpuModel& model, const SessionShape& shape, const SessionMemory& memory, Watching watching,
             const Form& form, Pace pace)
        : model_(model), kernels_(model.kernels()), c_(model.config()), shape_(shape), a_(memory.activations),
          kv_(memory.kv), ring_(memory.ring), group_words_(memory.group_words), watching_(watching), form_(form),
          pace_(pace), steps_of_({form.work, watching.activity}), few_(form.work == host::Work::few),
          capacity_(form.capacity), together_(tokens_at_once(form.capacity))
    {
        uint64_t at = 0;    // in qkv
        for (const auto& [part, width] : {std::pair(&q_, c_.heads), {&k_, c_.kv_heads}, {&v_, c_.kv_heads}}) {
            const uint64_t bytes = uint64_t(capacity_) * width * c_.head_dim * sizeof(float);
            *part = a_.qkv.part(at, bytes);
            at += bytes;
        }
    }

    Recording record()
    {
        const uint32_t layers = uint32_t(model_.layers().size());
        Commands commands = new_commands();
        for (uint32_t l = 0; l < layers; ++l) {
            const GpuModel::Layer& w = model_.layers()[l];
            const LayerShape layer = model_.shape(l, form_.work, few_ && capacity_ == 1, shape_.kv);
            const BlockShare share = {.neurons = few_ ? places(model_, l) * group_neurons : w.gate.rows,
                                      .split = w.split(),
                                      .streamed = form_.streamed,
                                      .sparsity = shape_.sparsity[l]};
            load_ = most_of(layer, share, w.window);
            for (const Step& step : attention_steps(c_, layer, share, pending_, steps_of_))
                attention(commands, l, step);
            pending_ = {.parts = c_.parallel ? 1u : 0u};
            bool planes = share.neurons > 0;    // else nobody wanted them yet
            const Block resident = {.weights = w, .parts = next_parts()};
            const auto hot_ffn = [&](Commands& to) {
                for (const Step& step : ffn_steps(c_, layer, share, steps_of_, planes)) ffn(to, l, step, resident);
            };
            std::optional<Commands> hot;
            std::vector<Streamed> cold;
            if (!share.split) {
                hot_ffn(commands);
            } else if (share.neurons > 0) {
                hot = new_commands();
                hot_ffn(*hot);
                hot->end();
            }
            if (share.split && form_.streamed) cold = stream(l, layer, share.neurons > 0, planes);
            pending_ = pending_after(c_, layer, share, steps_of_);
            // Many rows: a submit per layer, since drivers reset a GPU that is busy too long.
            if (!share.split && few_) continue;
            commands.end();
            out_.segments.push_back({std::move(commands), std::move(hot), share.split ? std::optional(l) : std::nullopt,
                                     std::move(cold), l});
            commands = new_commands();
        }
        load_ = {.rows = double(capacity_), .passes = passes()};
        if (model_.has_head()) head();
        else
            for (const Step& step : last_steps(c_, pending_)) {
                gpu::Join residual = pending_join(model_.last_join());    // its norm is not used
                residual.publish = gpu::publish_residual;
                join(commands, layers, step, capacity_, residual);
            }
        commands.end();
        out_.segments.push_back({std::move(commands), {}, {}, {}, layers});
        return std::move(out_);
    }

  private:
    Commands new_commands(bool of_head = false) const
    {
        return Commands(model_.device(), watching_.timing, vulkan::Lane::kernels,
                        {shape_.longest_submit_us, pace_.timed && !of_head});
    }

    double passes() const { return few_ ? ceil_div(capacity_, together_) : 1; }

    /// What a layer is to do at the most: at the end of the context, all neurons firing.
    Load most_of(const LayerShape& layer, const BlockShare& share, uint32_t window) const
    {
        const double rows = capacity_, neurons = share.neurons, positions = window ? window : shape_.context;
        return {.rows = rows,
                .passes = passes(),
                .positions = rows * positions,
                .looked_at = rows * neurons,
                .fired = rows * neurons,
                .gate_bytes = passes() * neurons * layer.gate.row_bytes(),
                .up_bytes = passes() * neurons * layer.up.row_bytes(),
                .down_bytes = rows * neurons * layer.down.row_bytes()};
    }

    /// What is recorded from here on is of that step.
    void begin(Commands& commands, uint32_t l, const Step& step)
    {
        const size_t dispatches = few_ ? 1 : std::max<size_t>(step.reads.size(), 1);    // a matrix each
        commands.stage(step_name(step.kind).data(), uint32_t(out_.steps.size()), 0,
                       step.slow_us(load_) * pace_.of_slow / double(dispatches));
        out_.steps.push_back({step, l});
    }

    void attention(Commands& commands, uint32_t l, const Step& step)
    {
        const GpuModel::Layer& w = model_.layers()[l];
        switch (step.kind) {
        case StepKind::attn_norm: {
            gpu::Join args = pending_join(w.attn_norm);
            if (l == 0) args.base = a_.input.address;
            return join(commands, l, step, capacity_, args);
        }
        case StepKind::quantise_attn_norm:
        case StepKind::quantise_ffn_norm: return quantise(commands, l, step, a_.xn, {capacity_, c_.dim});
        case StepKind::qkv: begin(commands, l, step); return qkv(commands, w);
        case StepKind::rope: begin(commands, l, step); return rope(commands, l);
        case StepKind::attend: begin(commands, l, step); return attend(commands, l, step.planes);
        case StepKind::quantise_attended:
            return quantise(commands, l, step, a_.mixed, {capacity_, c_.heads * c_.head_dim});
        case StepKind::attn_out: begin(commands, l, step); return linear(commands, w.o, a_.mixed, a_.parts);
        case StepKind::ffn_norm: {
            pending_ = {.parts = c_.parallel ? 0u : 1u};
            gpu::Join args = pending_join(w.ffn_norm);
            if ((w.split() && !form_.streamed) || watching_.activity) args.publish = gpu::publish_norm;
            return join(commands, l, step, capacity_, args);
        }
        case StepKind::route_scores:
            begin(commands, l, step);
            return linear(commands, w.router, a_.xn, a_.scores, {.planes = false, .halves = false});
        case StepKind::route: begin(commands, l, step); return route(commands, l);
        case StepKind::watch_residual:
            return watch(commands, l, step, a_.residual, a_.watched_residual, uint64_t(capacity_) * c_.dim);
        default: return predict(commands, l, step);
        }
    }

    /// r = residual + what is pending; xn = weight r / rms(r). The caller says what else it wants.
    gpu::Join pending_join(const Slice& weight) const
    {
        return {.step = a_.step.address,
                .base = a_.residual.address,
                .parts = a_.parts.address,
                .cold = a_.cold.address,
                .weight = weight.address,
                .residual = a_.residual.address,
                .y = a_.xn.address,
                .published = a_.published.address,
                .planes = a_.planes(),
                .n = c_.dim,
                .part_count = pending_.parts,
                .part_stride = capacity_ * c_.dim,
                .has_cold = pending_.cold,
                .publish = gpu::publish_nothing,
                .head = 0,
                .form = model_.join_form(),
                .eps = c_.norm_eps,
                .gain = c_.residual_scale};
    }

    void join(Commands& commands, uint32_t l, const Step& step, uint32_t rows, gpu::Join args)
    {
        args.writes_planes = step.planes;
        begin(commands, l, step);
        commands.dispatch(kernels_.join, {rows}, args);
    }

    /// Planes of x, as the step wants them.
    void quantise(Commands& commands, uint32_t l, const Step& step, const Slice& x, Size size)
    {
        const uint32_t n = size.rows * size.width;
        begin(commands, l, step);
        if (step.planes)
            commands.dispatch(kernels_.quantise, {std::min(ceil_div(n / 32, 64), 65535u)},
                              {.x = x.address, .planes = a_.planes(), .n = n});
        if (step.halves)
            commands.dispatch(kernels_.halve, {size.rows},
                              {.x = x.address, .planes = a_.halves(), .width = size.width});
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
                          {.step = a_.step.address,
                           .weight = w.memory.address,
                           .x = x.address,
                           .planes = a_.planes(),
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
        const Product way = kernels_.product(w.type, kind.use);
        const uint32_t tokens = kind.of_head ? std::min(capacity_, head_rows) : capacity_;
        const auto [kernel, groups] = kernels_.matmul(w.type, transposed, way, out, tokens);
        commands.dispatch(kernel, groups,
                          {.step = a_.step.address,
                           .weight = w.memory.address,
                           .x = x.address,
                           .planes = way == Product::matrices ? a_.halves() : a_.planes(),
                           .y = y.address,
                           .rows = out,
                           .inner = inner,
                           .stride = w.stride,
                           .x_stride = kind.x_stride ? kind.x_stride : inner,
                           .y_stride = out,
                           .head = kind.of_head,
                           .add = kind.add});
    }

    void qkv(Commands& commands, const GpuModel::Layer& w)
    {
        if (few_ && capacity_ == 1 && w.qkv.rows > 0)
            return linear(commands, w.qkv, a_.xn, q_);    // k_ and v_ come right behind
        for (const auto& [matrix, y] : {std::pair(&w.q, &q_), {&w.k, &k_}, {&w.v, &v_}})
            linear(commands, *matrix, a_.xn, *y);
    }

    void rope(Commands& commands, uint32_t l)
    {
        const GpuModel::Layer& w = model_.layers()[l];
        const uint64_t angle_set = uint64_t(shape_.batch) * c_.rope_dim * sizeof(float);
        commands.dispatch(kernels_.rope, {c_.heads + c_.kv_heads, capacity_},
                          {.step = a_.step.address,
                           .q = q_.address,
                           .k = k_.address,
                           .v = v_.address,
                           .bias = w.qkv_bias.address,
                           .norms = w.head_norms.address,
                           .angles = a_.angles.address + (w.window_rope ? angle_set : 0),
                           .k_cache = kv_.keys(l).address,
                           .v_cache = kv_.values(l).address,
                           .counters = a_.attend_counters.address,
                           .heads = c_.heads,
                           .kv_heads = c_.kv_heads,
                           .head_dim = c_.head_dim,
                           .rope_dim = c_.rope_dim,
                           .pages = shape_.pages(),
                           .k_q8 = is_quantised(shape_.kv.k),
                           .v_q8 = is_quantised(shape_.kv.v),
                           .counter_count = few_ ? capacity_ * c_.heads : 0,
                           .has_bias = w.qkv_bias.bytes > 0,
                           .has_norms = w.head_norms.bytes > 0,
                           .halves = c_.pairs == host::PairOrder::halves,
                           .eps = c_.norm_eps});
    }

    void attend(Commands& commands, uint32_t l, bool writes_planes)
    {
        const AttendTile tile = attend_tile(model_.device()->info(), c_, few_);
        const uint32_t tiles = c_.heads / tile.heads, splits = few_ ? kernels_.attend_splits(tiles, shape_.context) : 1;
        commands.dispatch(kernels_.attend(tile, shape_.kv), {tiles, most_tiles(tile.tokens), splits},
                          {.step = a_.step.address,
                           .q = q_.address,
                           .k_cache = kv_.keys(l).address,
                           .v_cache = kv_.values(l).address,
                           .y = a_.mixed.address,
                           .parts = a_.attend_parts.address,
                           .counters = a_.attend_counters.address,
                           .planes = a_.planes(),
                           .heads = c_.heads,
                           .kv_heads = c_.kv_heads,
                           .pages = shape_.pages(),
                           .writes_planes = writes_planes,
                           .splits = splits,
                           .window = model_.layers()[l].window,
                           .scale = c_.score_scale,
                           .softcap = c_.score_cap});
    }

    /// Tiles of attention at the most: the last one of each sequence may not be full.
    uint32_t most_tiles(uint32_t tokens) const
    {
        return std::min(capacity_, ceil_div(capacity_, tokens) + shape_.sequences - 1);
    }

    uint64_t words_of(uint32_t l) const { return uint64_t(l) * shape_.few * group_words_ * sizeof(uint32_t); }

    /// Which of the layer's neurons may fire, as a mask for the host. Low-rank predictors in floats: the planes are
    /// those of x, for the hot FFN.
    void predict(Commands& commands, uint32_t l, const Step& step)
    {
        const GpuModel::Layer& w = model_.layers()[l];
        const uint32_t neurons = w.residency.groups() * group_neurons;
        const uint64_t mask = a_.mask.address + words_of(l);
        begin(commands, l, step);
        switch (step.kind) {
        case StepKind::predict_signs:
            return commands.dispatch(kernels_.predict_sign, {ceil_div(neurons, 128), capacity_},
                                     {.step = a_.step.address,
                                      .x = a_.xn.address,
                                      .signs = w.signs.address,
                                      .mask = mask,
                                      .neurons = neurons,
                                      .cols = c_.dim,
                                      .differing = c_.dim - shape_.sparsity[l].agreements,
                                      .words = group_words_});
        case StepKind::predict_hidden:
            return linear(commands, w.fc1, a_.residual, a_.u, {.relu = true, .planes = false});
        case StepKind::predict_scores: return linear(commands, w.fc2, a_.u, a_.h, {.planes = false});
        case StepKind::predict_mask:
            return commands.dispatch(kernels_.threshold, {ceil_div(neurons / 32, 128), capacity_},
                                     {.step = a_.step.address,
                                      .score = a_.h.address,
                                      .mask = mask,
                                      .neurons = neurons,
                                      .words = group_words_,
                                      .threshold = w.predictor_threshold});
        default: HEARTH_CHECK(!"a step of a predictor");
        }
    }

    /// Which experts each token goes through, for the device and for the host; of one token, where they are on the
    /// device.
    void route(Commands& commands, uint32_t l)
    {
        const GpuModel::Layer& w = model_.layers()[l];
        const uint64_t of_layer = uint64_t(shape_.batch) * c_.experts * sizeof(float);
        commands.dispatch(kernels_.route, {capacity_},
                          {.step = a_.step.address,
                           .score = a_.scores.address,
                           .weight = a_.routed.address,
                           .published = a_.expert_weights.address + l * of_layer,
                           .slot_expert = w.group_experts.address,
                           .chosen = a_.chosen.address,
                           .experts = c_.experts,
                           .used = c_.experts_used,
                           .normalise = c_.normalise_experts,
                           .slots = uint32_t(w.residency.slots().size()),
                           .places = few_ ? places(model_, l) : 0});
    }

    void watch(Commands& commands, uint32_t l, const Step& step, const Slice& from, const Slice& to, uint64_t floats)
    {
        begin(commands, l, step);
        commands.copy(from, to, floats * sizeof(float));
    }

    /// A block's neurons, as parts for the next join.
    void ffn(Commands& commands, uint32_t l, const Step& step, const Block& block)
    {
        const GpuFfn& w = block.weights;
        switch (step.kind) {
        case StepKind::quantise_ffn_norm: return quantise(commands, l, step, a_.xn, {capacity_, c_.dim});
        case StepKind::quantise_h:
            return quantise(commands, l, step, a_.h,
                            {capacity_, few_              ? w.down.cols
                                        : w.down.rows > 0 ? w.gate.rows
                                                          : step.neurons});
        case StepKind::watch_gates:
            return watch(commands, l, step, a_.h, a_.watched_gates, uint64_t(capacity_) * step.neurons);
        default: break;
        }
        begin(commands, l, step);
        switch (step.kind) {
        case StepKind::ffn_up: return few_ ? up_few(commands, l, step) : up_many(commands, w, step);
        case StepKind::glu: return activate(commands, w, step);
        case StepKind::ffn_down:
            if (!few_) return down_many(commands, step, block);
            return w.down.rows > 0 ? linear(commands, w.down, a_.h, block.parts)
                                   : down_few(commands, l, step, block.parts);
        default: HEARTH_CHECK(!"a step of a feed-forward block");
        }
    }

    void up_few(Commands& commands, uint32_t l, const Step& step)
    {
        const GpuModel::Layer& w = model_.layers()[l];
        const RowVariant variant = kernels_.variant(w.gate);
        const uint32_t together = c_.experts ? 1 : together_;    // each row has experts of its own
        commands.dispatch(kernels_.ffn_up(w.gate.type, w.up.rows > 0 ? w.up.type : w.gate.type, variant, together),
                          row_groups(step.neurons, variant, capacity_, together),
                          {.step = a_.step.address,
                           .gate = w.gate.memory.address,
                           .up = w.up.memory.address,
                           .bias = w.bias.memory.address,
                           .x = a_.xn.address,
                           .planes = a_.planes(),
                           .h = a_.h.address,
                           .chosen = a_.chosen.address,
                           .neurons = step.neurons,
                           .cols = c_.dim,
                           .gate_stride = w.gate.stride,
                           .up_stride = w.up.stride,
                           .cut = shape_.sparsity[l].cut,
                           .floor = c_.floor,
                           .has_up = w.up.rows > 0,
                           .has_bias = w.bias.rows > 0,
                           .has_experts = c_.experts > 0});
    }

    void down_few(Commands& commands, uint32_t l, const Step& step, const Slice& parts)
    {
        const GpuMatrix& down = model_.layers()[l].down_t;
        const uint32_t slices = ffn_slices(step.neurons);
        commands.dispatch(kernels_.ffn_down(down.type),
                          {ceil_div(c_.dim, gpu::ffn_down_chunks * chunk_weights(down.type)), slices, capacity_},
                          {.step = a_.step.address,
                           .down = down.memory.address,
                           .h = a_.h.address,
                           .parts = parts.address,
                           .fired = a_.fired.address + words_of(l),
                           .chosen = a_.chosen.address,
                           .neurons = step.neurons,
                           .cols = c_.dim,
                           .stride = down.stride,
                           .slices = slices,
                           .part_stride = capacity_ * c_.dim,
                           .has_experts = c_.experts > 0,
                           .words = group_words_});
    }

    void up_many(Commands& commands, const GpuFfn& w, const Step& step)
    {
        linear(commands, w.gate.part(step.first_neuron, step.neurons), a_.xn, a_.h);
        if (w.up.rows > 0) linear(commands, w.up.part(step.first_neuron, step.neurons), a_.xn, a_.u);
    }

    void activate(Commands& commands, const GpuFfn& w, const Step& step)
    {
        commands.dispatch(
            kernels_.glu, {ceil_div(step.neurons, 128), capacity_},
            {.step = a_.step.address,
             .h = a_.h.address,
             .u = a_.u.address,
             .bias = w.bias.memory.address,
             .weight = a_.routed.address,
             .slot_expert = w.group_experts.address + step.first_neuron / group_neurons * sizeof(uint32_t),
             .n = step.neurons,
             .experts = c_.experts,
             .floor = c_.floor,
             .has_up = w.up.rows > 0,
             .has_bias = w.bias.rows > 0});
    }

    void down_many(Commands& commands, const Step& step, const Block& block)
    {
        const GpuFfn& w = block.weights;
        if (w.down.rows > 0)
            return product(commands, w.down, a_.h, block.parts, {.x_stride = w.gate.rows, .add = block.add});
        product(commands, w.down_t.part(step.first_neuron, step.neurons), a_.h, block.parts,
                {.use = {.transposed = true}, .add = block.add || step.first_neuron > 0});
    }

    /// Room for partial sums, behind those that are pending.
    Slice next_parts() const { return a_.parts.from(uint64_t(pending_.parts) * capacity_ * c_.dim * sizeof(float)); }

    /// The cold groups' share, through the ring; `hot`: added to that of the resident ones.
    std::vector<Streamed> stream(uint32_t l, const LayerShape& resident, bool hot, bool planes)
    {
        const uint32_t cold = uint32_t(model_.layers()[l].residency.cold_groups().size()), unit = model_.together(l);
        const uint64_t unit_bytes = model_.cold_block(l, 0, std::min(unit, cold), {}).bytes();
        // More groups fit than that says, since what fills up their matrices is shared.
        uint32_t most = uint32_t(ring_.half_bytes() / unit_bytes) * unit;
        if (model_.cold_block(l, 0, cold, {}).bytes() <= ring_.half_bytes()) most = cold;
        HEARTH_CHECK(most > 0);
        std::vector<Streamed> out;
        for (uint32_t first = 0; first < cold; first += most, next_half_ = 1 - next_half_) {
            const uint32_t count = std::min(most, cold - first);
            const GpuFfn weights = model_.cold_block(l, first, count, ring_.memory(next_half_));
            Commands copy(model_.device(), false, vulkan::Lane::copies), compute = new_commands();
            copy.copy(ring_.staging(next_half_), ring_.memory(next_half_), weights.bytes());
            copy.end();
            const Block block = {.weights = weights, .parts = next_parts(), .add = hot || first > 0};
            const BlockShare share = {.neurons = weights.gate.rows, .split = true, .streamed = true, .sparsity = {}};
            for (const Step& step :
                 ffn_steps(c_, model_.with_block(resident, weights, form_.work), share, steps_of_, planes))
                ffn(compute, l, step, block);
            compute.end();
            out.push_back({first, model_.cold_block(l, first, count, ring_.staging(next_half_)), next_half_,
                           weights.bytes(), std::move(copy), std::move(compute)});
        }
        return out;
    }

    /// Logits of the wanted tokens, for the host or for what is most probable. May run several times on one batch, so
    /// it leaves the residual as it is.
    void head()
    {
        const uint32_t l = uint32_t(model_.layers().size());
        for (const auto& [commands, logits] : {std::pair(&out_.head, a_.logits), {&out_.best, a_.row}}) {
            *commands = new_commands(true);
            for (const Step& step : head_steps(c_, model_.shape_of_head(form_.work), pending_, steps_of_)) {
                switch (step.kind) {
                case StepKind::output_norm: {
                    gpu::Join norm = pending_join(model_.last_join());
                    norm.residual = a_.head_residual.address;
                    norm.head = 1;
                    join(**commands, l, step, std::min(capacity_, head_rows), norm);
                    break;
                }
                case StepKind::quantise_output_norm:
                    quantise(**commands, l, step, a_.xn, {std::min(capacity_, head_rows), c_.dim});
                    break;
                default:
                    begin(**commands, l, step);
                    linear(**commands, model_.head(), a_.xn, logits, {.of_head = true});
                }
            }
        }
        best(*out_.best);
        out_.head->end();
        out_.best->end();
    }

    /// The tokens of the largest of each row's logits.
    void best(Commands& commands)
    {
        gpu::Best args = {.step = a_.step.address,
                          .logits = a_.row.address,
                          .parts = a_.best_parts.address,
                          .token = a_.best.address,
                          .n = c_.vocab,
                          .part_count = parts_of_best(c_.vocab),
                          .scale = c_.logit_scale};
        for (const Step& step : best_steps(c_)) {
            args.last = step.kind == StepKind::best;
            begin(commands, uint32_t(model_.layers().size()), step);
            commands.dispatch(kernels_.best, {args.last ? 1 : args.part_count, shape_.few}, args);
        }
    }

    GpuModel& model_;
    GpuKernels& kernels_;
    const Config& c_;
    const SessionShape& shape_;
    const Activations& a_;
    const KvPool& kv_;
    const Ring& ring_;
    uint32_t group_words_;
    Watching watching_;
    Form form_;
    Pace pace_;
    StepForm steps_of_;
    bool few_;                // the kind of work
    uint32_t capacity_;       // rows at the most
    uint32_t together_;       // of few, those that meet each weight at once
    size_t next_half_ = 0;    // of the ring
    Slice q_, k_, v_;         // (capacity, heads or kv_heads, head_dim), one behind the other in qkv
    Pending pending_;         // what the next join adds
    Load load_;               // of the layer's steps, at the most
    Recording out_;
};

}    // namespace

uint32_t places(const GpuModel& model, uint32_t l)
{
    const uint32_t slots = uint32_t(model.layers()[l].residency.slots().size()),
                   most = decode_neurons(model.config()) / group_neurons;
    return model.config().experts ? std::min(slots, most) : slots;
}

Recording record(GpuModel& model, const SessionShape& shape, const SessionMemory& memory, Watching watching,
                 const Form& form, Pace pace)
{
    return Recorder(model, shape, memory, watching, form, pace).record();
}

}    // namespace hearth
