#include "engine/vision/device_tower.h"

#include "engine/device/recorder.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace hearth {

using vulkan::aligned;
using vulkan::Commands;
using vulkan::Queue;
using vulkan::Slice;
using vulkan::Use;

namespace {

uint32_t rows_of(const TowerWeights& w) { return 1 + w.patches(); }

/// A tile is a batch of many rows, all of one text.
SessionShape shape_of(const TowerWeights& w, size_t layers)
{
    return {.batch = rows_of(w),
            .context = rows_of(w),
            .sparsity = std::vector<LayerSparsity>(layers),
            .stream_from = UINT32_MAX};
}

/// Some of the tower's layers as a model.
Weights layers_of(const TowerWeights& w, size_t first, size_t count)
{
    Weights part;
    part.config = w.config();
    part.config.layers = uint32_t(count);
    const auto begin = w.blocks.layers.begin() + ptrdiff_t(first);
    part.layers.assign(begin, begin + ptrdiff_t(count));
    part.file = w.blocks.file;
    return part;
}

ModelLayout all_of(const Weights& part, const TowerLayout& layout, vulkan::Uploader& uploader)
{
    ModelLayout all = {.plan = {},
                       .orders = {},
                       .sparsity = std::vector<LayerSparsity>(part.layers.size()),
                       .row_variants = layout.row_variants,
                       .products = layout.products,
                       .streams = false,
                       .uploader = &uploader};
    std::vector<uint32_t> neurons(part.config.neurons), groups(ceil_div(part.config.neurons, group_neurons));
    std::iota(neurons.begin(), neurons.end(), 0);
    std::iota(groups.begin(), groups.end(), 0);
    all.plan.layers.assign(part.layers.size(), {groups});
    all.orders.assign(part.layers.size(), neurons);
    return all;
}

/// What comes behind the first matrix of a projector without norms is part of its GELU: the biases as gpu::Glu has
/// them, each the first word of a quad.
bool joins(const TowerWeights& w, size_t i) { return i == 1 || !w.projector[i].norm.empty(); }

/// What is added to a projection: in quads, or as gpu::Join has a LayerNorm and what is added before it. Without a norm
/// only the latter counts.
std::vector<float> beside(const TowerWeights& w, size_t i)
{
    const Projection& p = w.projector[i];
    const size_t n = p.bias.size();
    std::vector<float> all((joins(w, i) ? 3 : 4) * n);
    if (joins(w, i)) {
        std::ranges::copy(p.norm, all.begin());
        std::ranges::copy(p.norm_bias, all.begin() + ptrdiff_t(n));
        std::ranges::copy(p.bias, all.begin() + ptrdiff_t(2 * n));
    } else {
        for (size_t j = 0; j < n; ++j) all[4 * j] = p.bias[j];
    }
    return all;
}

uint64_t projector_bytes(const TowerWeights& w)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < w.projector.size(); ++i)
        sum += aligned(layout_of(w.projector[i].weight).bytes(w.projector[i].weight.rows)) +
               aligned(beside(w, i).size() * sizeof(float));
    return sum;
}

/// Of the rows that a projection gives.
uint64_t rows_bytes(const TowerWeights& w, size_t i)
{
    return aligned(uint64_t(w.patches()) * w.projector[i].weight.rows * sizeof(float));
}

struct GpuProjector {
    vulkan::Pool pool;
    struct {
        GpuMatrix weight;
        Slice beside;
    } projections[2];

    GpuProjector(const std::shared_ptr<vulkan::Device>& device, const TowerWeights& w, host::Team& team,
                 vulkan::Uploader& uploader)
        : pool(device, projector_bytes(w), Use::device, "the projector of images")
    {
        const Progress nobody;
        WeightUpload upload(uploader, team, pool.bytes(), nobody);
        for (size_t i = 0; i < 2; ++i)
            projections[i] = {upload.matrix(pool, w.projector[i].weight), upload.vector(pool, beside(w, i))};
    }
};

Config config_of_projector(const TowerWeights& w)
{
    Config c = w.config();
    c.activation = host::Activation::gelu;
    return c;
}

}    // namespace

struct DeviceTower::Loaded {
    Weights weights;
    std::unique_ptr<GpuModel> layers;    // null where the part has none
    std::unique_ptr<GpuProjector> projector;
};

/// A picture on its way: its memory, and the commands of the part that is there.
class DeviceTower::Work {
  public:
    Work(DeviceTower& tower, size_t tiles)
        : tower_(tower), w_(tower.weights_),
          shape_(shape_of(w_, w_.config().layers)), memory_{.activations = {tower.device_, w_.config(), shape_,
                                                                            w_.config().layers, false},
                                                            .kv = {tower.device_, w_.config(), shape_, 1},
                                                            .ring = {},
                                                            .group_words =
                                                                ceil_div(w_.config().neurons, group_neurons)},
          on_device_(tower.device_, rows_bytes(w_, 0) + rows_bytes(w_, 1), Use::device, "rows of images"),
          on_host_(tower.device_, rows_bytes(w_, 1), Use::readback, "rows of images"),
          hidden_(on_device_.take(rows_bytes(w_, 0))), projected_(on_device_.take(rows_bytes(w_, 1))),
          results_(on_host_.take(rows_bytes(w_, 1))), pages_(shape_.pages()), x_(tiles * tile_floats()),
          queue_(tower.device_)
    {
        std::iota(pages_.begin(), pages_.end(), 0);
    }

    /// The rows (rows, dim) of a tile, as the last part left them.
    float* tile(size_t t) { return &x_[t * tile_floats()]; }

    void prepare(Loaded& loaded)
    {
        layers_ = {};
        projector_.reset();
        if (loaded.layers)
            layers_ = record(*loaded.layers, shape_, memory_, {}, {host::Work::many, shape_.batch, false}, {});
        if (loaded.projector) record_projector(*loaded.projector);
    }

    void run_layers(float* tile)
    {
        begin(tile, shape_.batch);
        uint64_t last = 0;
        for (const Segment& segment : layers_.segments) {    // one for each layer: drivers reset a GPU that is busy
            const Queue::Work work[] = {{&segment.attention}};    // too long
            last = queue_.submit(work);
        }
        queue_.wait(last);
        std::memcpy(tile, memory_.activations.published.mapped, tile_floats() * sizeof(float));
    }

    /// Of all rows but the class token's, to (patches, width).
    void project(const float* tile, float* to)
    {
        begin(tile + w_.config().dim, w_.patches());
        const Queue::Work work[] = {{&*projector_}};
        queue_.wait(queue_.submit(work));
        std::memcpy(to, results_.mapped, size_t(w_.patches()) * w_.width() * sizeof(float));
    }

  private:
    size_t tile_floats() const { return size_t(shape_.batch) * w_.config().dim; }

    /// Of so many rows, which all see each other.
    void begin(const float* x, uint32_t rows)
    {
        const Activations& a = memory_.activations;
        std::vector<host::Row> list;
        for (uint32_t r = 0; r < rows; ++r) list.push_back({r, rows, pages_.data()});
        *static_cast<uint32_t*>(a.broken.mapped) = 0;
        write_step(step_room(shape_), a.step.mapped, a.step.address, list,
                   attend_tile(tower_.device_->info(), w_.config(), false).tokens, {}, a.broken.address);
        std::memcpy(a.input.mapped, x, size_t(rows) * w_.config().dim * sizeof(float));
    }

    void record_projector(const GpuProjector& p)
    {
        const uint32_t wide = w_.projector[0].weight.rows;
        const bool joined = joins(w_, 0);
        projector_.emplace(tower_.device_, false);
        multiply(p.projections[0].weight, memory_.activations.input, hidden_);
        if (joined) join(0, p.projections[0].beside, hidden_);
        projector_->stage("gelu", 0, 0);
        projector_->dispatch(tower_.kernels_.glu, {ceil_div(wide, 128), w_.patches()},
                             {.step = memory_.activations.step.address,
                              .h = hidden_.address,
                              .bias = p.projections[0].beside.address,
                              .n = wide,
                              .experts = 0,
                              .has_up = 0,
                              .has_bias = !joined});
        multiply(p.projections[1].weight, hidden_, projected_);
        join(1, p.projections[1].beside, projected_);
        projector_->end();
    }

    void multiply(const GpuMatrix& m, const Slice& x, const Slice& y)
    {
        GpuKernels& kernels = tower_.kernels_;
        projector_->stage("project", 0, 0);
        const Product product = kernels.product(m.type, {.halves = false, .planes = false});
        const auto [kernel, groups] = kernels.matmul(m.type, false, product, m.rows, w_.patches());
        projector_->dispatch(kernel, groups,
                             {.step = memory_.activations.step.address,
                              .weight = m.memory.address,
                              .x = x.address,
                              .y = y.address,
                              .rows = m.rows,
                              .inner = m.cols,
                              .stride = m.stride,
                              .x_stride = m.cols,
                              .y_stride = m.rows,
                              .head = 0,
                              .add = 0});
    }

    /// The bias of projection i and its norm, if it has one, in place; the last one's result also goes to the host.
    void join(size_t i, const Slice& weight, const Slice& x)
    {
        const bool norm = !w_.projector[i].norm.empty();
        projector_->stage("project", 0, 0);
        projector_->dispatch(tower_.kernels_.join, {w_.patches()},
                             {.step = memory_.activations.step.address,
                              .base = x.address,
                              .weight = weight.address,
                              .residual = x.address,
                              .y = x.address,
                              .published = results_.address,
                              .n = w_.projector[i].weight.rows,
                              .part_count = 0,
                              .has_cold = 0,
                              .publish = i == 0 ? gpu::publish_nothing
                                         : norm ? gpu::publish_norm
                                                : gpu::publish_residual,
                              .head = 0,
                              .writes_planes = 0,
                              .form = gpu::join_layer_norm,
                              .eps = w_.projector_eps,
                              .gain = 1});
    }

    DeviceTower& tower_;
    const TowerWeights& w_;
    const SessionShape shape_;
    SessionMemory memory_;
    vulkan::Pool on_device_, on_host_;
    Slice hidden_, projected_, results_;    // what the projections give, and the last one's for the host
    std::vector<uint32_t> pages_;
    std::vector<float> x_;    // (tiles, rows, dim)
    Recording layers_;
    std::optional<Commands> projector_;
    Queue queue_;    // last, so that it goes first: it waits for what is under way in all of the above
};

DeviceTower::DeviceTower(const TowerWeights& weights, std::shared_ptr<vulkan::Device> device, host::Team& team,
                         TowerLayout layout)
    : weights_(weights), device_(std::move(device)), team_(team), layout_(layout), input_(weights, team),
      kernels_(device_, config_of_projector(weights), layout_.row_variants, layout_.products)
{
    const std::vector<uint64_t> pieces = needs(weights).pieces;
    uint64_t bytes = layout_.room;    // of the part before: none yet
    for (size_t i = 0; i < pieces.size(); ++i) {
        HEARTH_CHECK(pieces[i] <= layout_.room);
        if (bytes + pieces[i] > layout_.room) parts_.push_back({i, 0, false}), bytes = 0;
        bytes += pieces[i];
        if (i < weights.config().layers) ++parts_.back().layers;
        else parts_.back().projector = true;
    }
}
DeviceTower::~DeviceTower() = default;

TowerNeeds DeviceTower::needs(const TowerWeights& w)
{
    const SessionShape shape = shape_of(w, w.config().layers);
    const Needs layers = GpuModel::needs(w.blocks, shape.sparsity);
    TowerNeeds needs = {.scratch = Activations::device_bytes(w.config(), shape) +
                                   KvPool::layer_bytes(w.config(), shape) + rows_bytes(w, 0) + rows_bytes(w, 1),
                        .pieces = {}};
    // Each may be the last of its part, with the join behind it.
    for (const LayerNeeds& l : layers.layers) needs.pieces.push_back(l.attention + l.groups * l.group + layers.scratch);
    needs.pieces.push_back(projector_bytes(w));
    return needs;
}

std::unique_ptr<DeviceTower::Loaded> DeviceTower::load(const Part& part, vulkan::Uploader& uploader)
{
    auto loaded = std::make_unique<Loaded>();
    loaded->weights = layers_of(weights_, part.first, part.layers);
    const Progress nobody;
    if (part.layers > 0)
        loaded->layers = std::make_unique<GpuModel>(device_, loaded->weights,
                                                    all_of(loaded->weights, layout_, uploader), team_, nobody);
    if (part.projector) loaded->projector = std::make_unique<GpuProjector>(device_, weights_, team_, uploader);
    return loaded;
}

std::vector<float> DeviceTower::features(std::span<const float> tiles, const std::function<bool()>& stop)
{
    const size_t of_tile = size_t(3) * weights_.shape.side * weights_.shape.side, count = tiles.size() / of_tile,
                 made = size_t(weights_.patches()) * weights_.width();
    HEARTH_CHECK(tiles.size() % of_tile == 0);
    std::vector<float> features(count * made);
    std::unique_ptr<Loaded> passing;
    vulkan::Uploader uploader(device_);    // goes before what it brings: its copies may be under way
    Work work(*this, count);
    for (const Part& part : parts_) {
        std::unique_ptr<Loaded>& here = parts_.size() == 1 ? kept_ : passing;
        if (&here == &passing) here.reset();    // its memory is given back first
        if (!here) here = load(part, uploader);
        work.prepare(*here);
        for (size_t t = 0; t < count; ++t) {
            if (stop && stop()) return {};
            if (part.first == 0) team_.hold([&] { input_.embed(&tiles[t * of_tile], work.tile(t)); });
            if (part.layers > 0) work.run_layers(work.tile(t));
            if (part.projector) work.project(work.tile(t), &features[t * made]);
        }
    }
    check_features(weights_, features);
    return features;
}

}    // namespace hearth
