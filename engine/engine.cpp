#include "engine/engine.h"

#include "engine/run/scheduler.h"

#include <algorithm>

namespace hearth {

namespace {

constexpr double mib = 1 << 20;
constexpr uint32_t most_batch = 4096;    // far below what a dispatch may have of workgroups in one direction

vulkan::Features allowed_features(const EngineOptions& options) { return {.fp16 = !options.without_fp16, .int_dot = !options.without_int_dot}; }

uint64_t parameters(const Weights& w)
{
    const auto count = [](const Matrix& m) { return uint64_t(m.rows) * m.cols; };
    uint64_t sum = count(w.embedding) + (w.output.data == w.embedding.data ? 0 : count(w.output));
    for (const LayerWeights& l : w.layers)
        for (const Matrix* m : {&l.q, &l.k, &l.v, &l.o, &l.ffn.gate, &l.ffn.up, &l.ffn.down_t, &l.fc1, &l.fc2}) sum += count(*m);
    return sum;
}

SessionShape session_shape(const Config& c, uint32_t context, uint32_t batch, bool exact)
{
    if (batch == 0 || batch > most_batch) throw Error("batches of {} tokens cannot be run: use -b with a number from 1 to {}", batch, most_batch);
    if (context > c.context)
        throw Error("{} was trained for {} positions, and -c asks for {}: use -c {} or less", c.name, c.context, context, c.context);
    const uint32_t positions = context ? context : std::min(c.context, 4096u);
    return {.batch = std::min(batch, positions), .context = positions, .exact = exact};
}

}    // namespace

Needs device_needs(const Weights& weights, uint32_t context, uint32_t batch)
{
    return GpuSession::needs(weights, session_shape(weights.config, context, batch, false));
}

DeviceList list_devices()
{
    DeviceList list;
    const auto instance = vulkan::Instance::open({}, list.reason);
    if (!instance) return list;
    for (const vulkan::DeviceInfo& d : instance->devices())
        list.devices.push_back({.name = d.name,
                                .driver = d.driver,
                                .kind = std::string(vulkan::kind_name(d.kind)),
                                .memory = d.memory,
                                .free_memory = d.free_memory,
                                .subgroup_size = d.subgroup_size,
                                .min_subgroup_size = d.min_subgroup_size,
                                .max_subgroup_size = d.max_subgroup_size,
                                .fp16 = d.features.fp16,
                                .int_dot = d.features.int_dot,
                                .unfit = d.unfit});
    const vulkan::DeviceChoice choice = vulkan::choose_device(instance->devices(), "auto");
    list.chosen = choice.index;
    list.reason = choice.reason;
    return list;
}

// ---- engine ------------------------------------------------------------------------------------------------------------

struct Machinery {
    EngineOptions options;
    std::shared_ptr<const Gguf> file;
    Tokenizer tokenizer;
    Weights weights;
    SessionShape shape;
    host::Team team;
    Needs needs;
    Plan plan;
    std::shared_ptr<vulkan::Instance> instance;
    std::shared_ptr<vulkan::Device> device;
    std::unique_ptr<GpuModel> gpu;
    std::string place;    // "on the CPU (why)" or "on DEVICE ..."
    std::vector<std::string> notes;

    explicit Machinery(const EngineOptions& o)
        : options(o), file(std::make_shared<Gguf>(o.model)), tokenizer(*file), weights(describe_weights(file)), team(o.threads)
    {
        const Config& c = weights.config;
        if (o.sparsity == Sparsity::exact && c.activation != host::Activation::relu)
            throw Error("--sparsity exact needs a ReLU model, and {} uses SiLU, whose activations are never zero: use --sparsity dense", c.name);
        shape = session_shape(c, o.context, o.batch, o.sparsity == Sparsity::exact);
        needs = GpuSession::needs(weights, shape);
        weights = load_weights(file);    // now that nothing speaks against it
        if (weights.transposed)
            notes.push_back(fmt::format("{} stores ffn_down by columns, so it was transposed in memory at load; tools/convert.py writes files that "
                                        "need no transposing",
                                        o.model.filename().string()));
    }

    /// Opens the wanted device; says in `place` why where there is none.
    void open_device()
    {
        if (options.device == "cpu") {
            place = "on the CPU, as asked";
            return;
        }
        std::string why_not;
        instance = vulkan::Instance::open({.validation = options.validation}, why_not);
        vulkan::DeviceChoice choice;
        if (instance) choice = vulkan::choose_device(instance->devices(), options.device);
        else if (options.device != "auto") throw Error("--device {} cannot be used: {}; use --device cpu", options.device, why_not);
        else choice.reason = why_not;
        if (!choice.index) {
            place = fmt::format("on the CPU ({})", choice.reason);
            return;
        }
        device = vulkan::Device::open(instance, instance->devices()[*choice.index], allowed_features(options));
    }

    void place_model(const std::function<void(double)>& progress)
    {
        if (!device) {
            if (options.vram_budget) notes.push_back("--vram-budget does nothing on the CPU");
            return;
        }
        // The margin is for the desktop, and for what the driver allocates by itself.
        const uint64_t free = device->info().free_memory, margin = std::max<uint64_t>(256 << 20, free / 20);
        const uint64_t budget = options.vram_budget ? *options.vram_budget : free - std::min(free, margin);
        plan = hearth::place(needs, budget);
        const std::string& name = device->info().name;
        if (plan.layers.empty() && options.vram_budget)
            throw Error(
                "--vram-budget {:.1f} MiB is too small for anything: activations and the first layer need {:.1f} MiB; give more, or use --device cpu",
                double(budget) / mib, double(least_budget(needs)) / mib);
        if (plan.layers.empty()) {
            place = fmt::format("on the CPU ({} has {:.0f} MiB free, and {:.0f} are the least that help)", name, double(free) / mib,
                                double(least_budget(needs)) / mib);
            return;
        }
        gpu = std::make_unique<GpuModel>(device, weights, plan, progress);

        uint64_t resident = 0, all = 0;
        for (size_t l = 0; l < needs.layers.size(); ++l) {
            all += needs.layers[l].groups;
            if (l < plan.layers.size()) resident += plan.layers[l].resident.size();
        }
        place = fmt::format("on {}: attention of {} of {} layers, {:.0f} % of the neurons{}, {:.1f} of {:.1f} MiB; the rest on the CPU", name,
                            plan.layers.size(), needs.layers.size(), 100.0 * double(resident) / double(all), plan.head ? ", head" : "",
                            double(plan.bytes) / mib, double(budget) / mib);
        if (resident == all) place = fmt::format("on {}, all of it: {:.1f} of {:.1f} MiB", name, double(plan.bytes) / mib, double(budget) / mib);
    }
};

Engine::Engine(const EngineOptions& options, const std::function<void(double)>& progress) : machinery_(std::make_shared<Machinery>(options))
{
    machinery_->open_device();
    machinery_->place_model(progress);
}

Session Engine::session(bool timing) { return Session(machinery_, timing); }

const Config& Engine::config() const { return machinery_->weights.config; }
const Weights& Engine::weights() const { return machinery_->weights; }
const Tokenizer& Engine::tokenizer() const { return machinery_->tokenizer; }
const Plan& Engine::plan() const { return machinery_->plan; }
const Needs& Engine::needs() const { return machinery_->needs; }
uint32_t Engine::context() const { return machinery_->shape.context; }
uint32_t Engine::batch() const { return machinery_->shape.batch; }
unsigned Engine::threads() const { return machinery_->team.size(); }
bool Engine::on_device() const { return machinery_->gpu != nullptr; }
uint64_t Engine::device_bytes() const { return machinery_->device ? machinery_->device->allocated() : 0; }
const std::vector<std::string>& Engine::notes() const { return machinery_->notes; }

std::string Engine::summary() const
{
    const uint64_t count = parameters(machinery_->weights);
    return fmt::format("{}: {:.1f} M parameters, {:.2f} bits per weight, {}; {} threads ({})", config().name, double(count) / 1e6,
                       8.0 * double(machinery_->file->file_bytes()) / double(count), machinery_->place, threads(), host::kernels().name);
}

std::vector<std::string> Engine::take_validation_messages()
{
    return machinery_->instance ? machinery_->instance->take_messages() : std::vector<std::string>();
}

// ---- session -----------------------------------------------------------------------------------------------------------

struct Session::State {
    CpuModel cpu;
    std::optional<GpuSession> gpu;
    Scheduler scheduler;

    State(Machinery& m, bool timing)
        : cpu(m.weights, m.team, m.gpu ? uint32_t(m.gpu->layers().size()) : 0, m.shape.batch, m.shape.context, m.shape.exact),
          gpu(m.gpu ? std::make_optional<GpuSession>(*m.gpu, m.shape, timing) : std::nullopt),
          scheduler(cpu, m.gpu.get(), gpu ? &*gpu : nullptr, m.team, m.weights.config)
    {
    }
};

Session::Session(std::shared_ptr<Machinery> machinery, bool timing)
    : machinery_(std::move(machinery)), state_(std::make_unique<State>(*machinery_, timing))
{
}
Session::Session(Session&&) noexcept = default;
Session::~Session() = default;

void Session::check_room(size_t tokens) const
{
    const uint32_t context = machinery_->shape.context, most = machinery_->weights.config.context;
    if (position_ + tokens <= context) return;
    throw Error("the text needs {} positions and the context has {}: {}", position_ + tokens, context,
                position_ + tokens <= most ? fmt::format("use -c {} or more", position_ + tokens)
                                           : fmt::format("shorten it to {}, all that this model knows", most));
}

std::span<const float> Session::feed(std::span<const Token> tokens, const std::function<bool()>& stop)
{
    check_room(tokens.size());
    for (size_t first = 0; first < tokens.size(); first += machinery_->shape.batch) {
        if (stop && stop()) return {};
        const auto batch = tokens.subspan(first, std::min<size_t>(machinery_->shape.batch, tokens.size() - first));
        const bool last = first + batch.size() == tokens.size();
        const FeedStats stats = state_->scheduler.feed(
            position_, batch,
            {.count = last ? 1u : 0u, .take = [&](uint32_t, std::span<const float> logits) { last_.assign(logits.begin(), logits.end()); }});
        position_ += uint32_t(batch.size());
        if (on_stats) on_stats(stats);
    }
    return last_;
}

void Session::feed(std::span<const Token> tokens, const LogitsSink& each)
{
    check_room(tokens.size());
    for (size_t first = 0; first < tokens.size(); first += machinery_->shape.batch) {
        const auto batch = tokens.subspan(first, std::min<size_t>(machinery_->shape.batch, tokens.size() - first));
        const FeedStats stats = state_->scheduler.feed(
            position_, batch, {.count = uint32_t(batch.size()), .take = [&](uint32_t t, std::span<const float> logits) { each(first + t, logits); }});
        position_ += uint32_t(batch.size());
        if (on_stats) on_stats(stats);
    }
}

}    // namespace hearth
