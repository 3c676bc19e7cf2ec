#include "engine/engine.h"

#include "engine/model/other_kinds.h"
#include "engine/plan/costs.h"
#include "engine/plan/hotness.h"
#include "engine/run/diagnosis.h"
#include "engine/tune/profiler.h"
#include "engine/run/scheduler.h"
#include "engine/run/sequence.h"
#include "engine/tune/tune.h"
#include "engine/system/limits.h"

#include <algorithm>

namespace hearth {

namespace {

constexpr double mib = 1 << 20;
constexpr uint32_t most_sequences = 256;
constexpr uint32_t most_batch = 4096;    // far below what a dispatch may have of workgroups in one direction

vulkan::Features allowed_features(const EngineOptions& options)
{
    return {.fp16 = !options.without_fp16, .int_dot = !options.without_int_dot, .matrices = !options.without_matrices};
}

std::shared_ptr<const Gguf> open_model(const std::filesystem::path& path, const std::vector<Override>& overrides)
{
    auto file = std::make_shared<const Gguf>(path, overrides);
    refuse_other_kinds(*file);
    return file;
}

uint64_t parameters(const Weights& w)
{
    const auto count = [](const Matrix& m) { return uint64_t(m.rows) * m.cols; };
    uint64_t sum = count(w.embedding) + (w.output.data == w.embedding.data ? 0 : count(w.output));
    for (const LayerWeights& l : w.layers)
        for (const Matrix* m :
             {&l.q, &l.k, &l.v, &l.o, &l.ffn.gate, &l.ffn.up, &l.ffn.either_down(), &l.router.scores, &l.fc1, &l.fc2})
            sum += count(*m);
    return sum;
}

SessionShape session_shape(const Config& c, const EngineOptions& o)
{
    const auto [context, batch, kv] = std::tuple(o.context, o.batch, o.kv);
    if (o.sequences == 0 || o.sequences > most_sequences)
        throw Error("{} sequences at once cannot be run: use a number from 1 to {}", o.sequences, most_sequences);
    if (batch == 0 || batch > most_batch)
        throw Error("batches of {} tokens cannot be run: use -b with a number from 1 to {}", batch, most_batch);
    if (context > c.context)
        throw Error("{} was trained for {} positions, and -c asks for {}: use -c {} or less", c.name, c.context,
                    context, c.context);
    if (const uint32_t most = c.most_positions(); context > most)
        throw Error("{} turns its heads in another way beyond {} positions, and -c asks for {}: longer contexts cannot "
                    "be run, use -c {} or less",
                    c.name, most, context, most);
    for (const WeightType type : {kv.k, kv.v})
        if (const WeightFormat& f = format_of(type); c.head_dim % f.block != 0)
            throw Error("{} keeps blocks of {} numbers, and the heads of {} have {}: leave its KV cache in f16", f.name,
                        f.block, c.name, c.head_dim);
    const uint32_t positions = context ? context : std::min(c.most_positions(), 4096u);
    const uint32_t rows = std::min(batch, positions);
    return {.batch = rows,
            .context = positions,
            .sequences = o.sequences,
            .few = std::clamp(std::max(o.few, o.sequences), 1u, std::min(host::most_few, rows)),
            .kv = kv,
            .sparsity = std::vector<LayerSparsity>(c.layers)};
}

}    // namespace

Needs device_needs(const Weights& weights, const EngineOptions& options)
{
    return GpuSession::needs(weights, session_shape(weights.config, options));
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
                                .matrices = d.features.matrices,
                                .unfit = d.unfit});
    const vulkan::DeviceChoice choice = vulkan::choose_device(instance->devices(), "auto");
    list.chosen = choice.index;
    list.reason = choice.reason;
    return list;
}

// ---- engine ---------------------------------------------------------------------------------------------------------

struct Runner;

struct Machinery {
    EngineOptions options;
    std::shared_ptr<const Gguf> file;
    Tokenizer tokenizer;
    Weights weights;
    SessionShape shape;
    host::Team team;
    Needs needs;
    Hotness hotness;
    std::vector<LayerUse> use;
    std::optional<Profile> profile;
    std::optional<Machine> machine;
    PlanReport report;
    std::shared_ptr<vulkan::Instance> instance;
    std::shared_ptr<vulkan::Device> device;
    std::unique_ptr<GpuModel> gpu;
    std::string place;    // "on the CPU (why)" or "on DEVICE ..."
    std::vector<std::string> notes;

    /// Looks at everything, loads nothing.
    explicit Machinery(const EngineOptions& o)
        : options(o), file(open_model(o.model, o.overrides)), tokenizer(*file),
          weights(describe_weights(file, down_layout())), team(threads_for(o.threads))
    {
        notes = tokenizer.notes();
        for (const std::string& what : file->overridden()) notes.push_back("overridden: " + what);
        const Config& c = weights.config;
        const bool needs_zeros = o.sparsity == Sparsity::exact || o.sparsity == Sparsity::predict;
        if (needs_zeros && !host::makes_zeros(c.activation))
            throw Error(
                "--sparsity {} needs a ReLU model, and the activations of {} are never zero: use --sparsity dense",
                o.sparsity == Sparsity::exact ? "exact" : "predict", c.name);
        if (c.experts && (o.sparsity == Sparsity::predict || o.sparsity == Sparsity::threshold))
            throw Error("--sparsity {} is for models without experts, and the router of {} says already what fires: "
                        "use --sparsity dense",
                        o.sparsity == Sparsity::predict ? "predict" : "threshold", c.name);
        if (o.rebalance && o.sparsity == Sparsity::dense && !c.experts)
            throw Error("--rebalance on follows which neurons fire, and --sparsity dense computes them all: add "
                        "--sparsity exact or predict");
        if (o.cpu_experts && !c.experts && o.device != "cpu")
            notes.push_back(fmt::format(
                "--cpu-moe and --n-cpu-moe do nothing: {} has no experts; --disable-gpu-index keeps all neurons in RAM",
                c.name));
        find_profile();
        shape = session_shape(c, o);
        shape.rebalance = o.rebalance;
        find_hotness();
        choose_sparsity();
        needs = GpuSession::needs(weights, shape);
        open_device();
        if (o.machine)
            machine = o.machine(device ? device->info().name : "", device ? device->info().driver : "", team.size());
        if (machine && device && !machine->has_device()) machine.reset();
        if (o.submit) shape.submit = *o.submit;
        else if (machine && device && machine->release_us < machine->round_trip_us) shape.submit = SubmitMode::ahead;
        shape.stream_from = stream_from();
    }

    /// Tokens from which on cold groups are streamed.
    uint32_t stream_from() const
    {
        if (options.stream) return *options.stream > 0 ? std::max(*options.stream, 2u) : UINT32_MAX;
        if (device && machine)
            if (const auto measured = hearth::stream_from(weights, *machine)) return *measured;
        constexpr uint32_t usual = 64;    // of a GPU that nobody has measured
        return device && device->info().kind != vulkan::DeviceKind::software ? usual : UINT32_MAX;
    }

    DownLayout down_layout() const
    {
        return options.sparsity == Sparsity::dense ? DownLayout::dense : DownLayout::by_neurons;
    }

    /// The profile named by the options, in the model, or beside it.
    void find_profile()
    {
        const Config& c = weights.config;
        std::filesystem::path path = options.profile;
        std::error_code ec;
        if (path.empty() && has_profile(*file)) profile = read_profile(*file, *file, c.layers, c.firing(), c.dim);
        if (path.empty() && !profile && std::filesystem::exists(profile_path(options.model), ec))
            path = profile_path(options.model);
        if (!path.empty()) profile = read_profile(Gguf(path), *file, c.layers, c.firing(), c.dim);
    }

    /// What fires: by the profile, else by what PowerInfer left beside its models, else by what is usual.
    void find_hotness()
    {
        const Config& c = weights.config;
        constexpr double usual_activity = 0.1;    // of a ReLU model
        if (c.experts) {
            hotness = profile && profile->positions > 0
                          ? hotness_of(*profile, c.neurons_together())
                          : even_hotness(c.layers, c.neurons, double(c.experts_used) / c.experts);
            return;
        }
        if (!host::makes_zeros(c.activation)) {
            hotness = even_hotness(c.layers, c.neurons,
                                   options.sparsity == Sparsity::threshold && profile && profile->calibration
                                       ? 1 - profile->calibration->sparsity
                                       : 1);
            return;
        }
        if (profile && profile->positions > 0) {
            hotness = hotness_of(*profile);
            return;
        }
        std::error_code ec;
        const std::filesystem::path index_path = gpu_index_of(options.model),
                                    folder = activation_folder_of(options.model);
        std::optional<GpuIndex> index;
        std::optional<ActivationStatistics> statistics;
        if (!options.reset_gpu_index && !options.disable_gpu_index && std::filesystem::exists(index_path, ec)) try {
                index = read_gpu_index(index_path, c);
            } catch (const Error& e) {
                throw Error("{}; --reset-gpu-index does without it", e.what());
            }
        // Other models may lie in the same folder, so these are read for PowerInfer's own only.
        if (file->powerinfer() && std::filesystem::is_directory(folder, ec))
            statistics = read_activation_statistics(folder, c);
        if (index && statistics && missorted(*index, *statistics)) {
            notes.push_back(
                fmt::format("{} was made by a PowerInfer that mixed up layers, so the neurons are placed by {} alone",
                            index_path.filename().string(), folder.filename().string()));
            index.reset();
        }
        if (index)
            notes.push_back(
                fmt::format("the neurons that {} names go to the GPU first", index_path.filename().string()));
        else if (statistics)
            notes.push_back(fmt::format("the neurons that fire most by {} go to the GPU first", folder.string()));
        hotness = index || statistics ? hotness_of(index ? &*index : nullptr, statistics ? &*statistics : nullptr,
                                                   c.neurons, usual_activity)
                                      : even_hotness(c.layers, c.neurons, usual_activity);
    }

    std::vector<std::vector<uint32_t>> orders() const
    {
        std::vector<std::vector<uint32_t>> orders;
        for (const LayerHotness& layer : hotness) orders.push_back(layer.order);
        return orders;
    }

    /// What decode leaves out of layer l.
    LayerSparsity layer_sparsity(uint32_t l) const
    {
        const std::string& name = weights.config.name;
        switch (options.sparsity) {
        case Sparsity::dense: return {};
        case Sparsity::exact: return {.cut = 0};
        case Sparsity::threshold:
            if (!profile || !profile->calibration)
                throw Error("--sparsity threshold needs cuts measured for {}: run `hearth profile` with --calibrate",
                            name);
            return {.cut = profile->calibration->cuts[l]};
        case Sparsity::predict: break;
        }
        const bool has_lowrank = weights.layers[l].fc1.rows > 0;
        Predictor predictor = options.predictor;
        if (predictor == Predictor::none) predictor = has_lowrank ? Predictor::lowrank : Predictor::sign;
        if (predictor == Predictor::lowrank) {
            if (!has_lowrank)
                throw Error("--predictor lowrank needs fc1 and fc2 in every layer, which {} does not have: use "
                            "--predictor sign, or train them with "
                            "tools/models/train_predictor.py",
                            name);
            return {.cut = 0, .predictor = Predictor::lowrank};
        }
        if (!profile)
            throw Error("--predictor sign needs a profile of {}: make one with `hearth profile MODEL -f TEXT`", name);
        return {
            .cut = 0, .predictor = Predictor::sign, .agreements = sign_threshold(profile->layers[l], options.recall)};
    }

    /// What decode leaves out, and what it is expected to read.
    void choose_sparsity()
    {
        const Config& c = weights.config;
        for (uint32_t l = 0; l < c.layers; ++l) {
            const LayerProfile* p = profile && profile->positions > 0 ? &profile->layers[l] : nullptr;
            shape.sparsity[l] = layer_sparsity(l);
            LayerUse layer = {
                .fired = hotness[l].by_group(), .skips = shape.sparsity[l].cut >= 0, .routed = c.experts > 0};
            if (p && shape.sparsity[l].predictor == Predictor::sign)
                layer.looked_at = sign_quality(*p, shape.sparsity[l].agreements).predicted;
            if (p && shape.sparsity[l].predictor == Predictor::lowrank) layer.looked_at = lowrank_quality(*p).predicted;
            use.push_back(std::move(layer));
        }
    }

    /// Opens the wanted device; says in `place` why where there is none.
    void open_device()
    {
        if (options.device == "cpu" || options.gpu_layers == 0) {
            place = "on the CPU, as asked";
            return;
        }
        std::string why_not;
        vulkan::Workshop own;
        vulkan::Workshop& workshop = options.workshop ? *options.workshop : own;
        instance = workshop.instance({.validation = options.validation}, why_not);
        vulkan::DeviceChoice choice;
        if (instance) choice = vulkan::choose_device(instance->devices(), options.device);
        else if (options.device != "auto")
            throw Error("--device {} cannot be used: {}; use --device cpu", options.device, why_not);
        else choice.reason = why_not;
        if (!choice.index) {
            place = fmt::format("on the CPU ({})", choice.reason);
            return;
        }
        device = workshop.device(instance, instance->devices()[*choice.index], allowed_features(options));
    }

    /// What is free on the device, less a margin for the desktop and for what the driver allocates by itself.
    uint64_t free_budget() const
    {
        const uint64_t free = device->info().free_memory;
        return free - std::min(free, std::max<uint64_t>(256 << 20, free / 20));
    }

    Limits limits() const
    {
        const uint32_t layers = weights.config.layers;
        const uint32_t wanted = options.gpu_layers.value_or(UINT32_MAX);
        return {.layers = std::min(wanted, layers),
                .head = wanted > layers,
                .host_ffn = options.disable_gpu_index ? layers
                            : weights.config.experts  ? std::min(options.cpu_experts, layers)
                                                      : 0};
    }

    PlanReport make_plan(std::optional<uint64_t> budget, double position) const
    {
        PlanReport r;
        Costs even = even_costs(needs);
        for (size_t l = 0; l < use.size(); ++l) even.layers[l].activity = use[l].fired;
        r.costs = machine ? expected_costs(weights, needs, use,
                                           weights.config.kv_heads * shape.kv.row_bytes(weights.config.head_dim),
                                           *machine, position)
                          : even;
        if (machine && shape.submit == SubmitMode::ahead) {
            r.costs.submit = 0;
            r.costs.seam = machine->release_us;
        }
        if (device) {
            r.budget = budget ? *budget : free_budget();
            const bool fastest = options.placement == Placement::fastest ||
                                 (options.placement == Placement::automatic && !options.gpu_layers &&
                                  device->info().kind != vulkan::DeviceKind::software);
            const auto place = [&](const Needs& n) {
                const bool by_time = machine && fastest && !options.disable_gpu_index;
                return by_time ? place_fastest(n, r.costs, r.budget, limits())
                               : place_most(n, r.costs, r.budget, limits());
            };
            r.plan = place(needs);
            size_t split = 0;
            for (size_t l = 0; l < r.plan.layers.size(); ++l)
                split += r.plan.layers[l].resident.size() < needs.layers[l].groups;
            if (split > 0 && shape.stream_from <= shape.batch) {
                const uint64_t ring = ring_bytes(needs, std::min(options.ring_bytes, r.budget / 16));
                Needs with = needs;
                with.scratch += ring;
                if (Plan plan = place(with); !plan.layers.empty()) r.plan = std::move(plan), r.ring = ring;
            }
        }
        if (machine) r.expected_us = hearth::expected_us(r.costs, r.plan);
        for (size_t l = 0; l < use.size(); ++l) {
            double here = 0, all = 0;
            const size_t resident = l < r.plan.layers.size() ? r.plan.layers[l].resident.size() : 0;
            for (size_t g = 0; g < use[l].fired.size(); ++g) {
                all += use[l].fired[g];
                if (g < resident) here += use[l].fired[g];
            }
            r.served.push_back(all > 0 ? here / all : 0);
        }
        return r;
    }

    void load(const std::function<void(double)>& progress)
    {
        // Now that nothing speaks against it. Transposing takes about as long as reading what was transposed.
        const double first = !weights.transposed ? 0 : device ? 0.5 : 1;
        const auto share_of = [&](double from, double length) {
            return [=](double share) {
                if (progress) progress(from + share * length);
            };
        };
        weights = load_weights(file, down_layout(), team.size(), share_of(0, first));
        if (weights.transposed)
            notes.push_back(fmt::format("{} stores ffn_down by columns, so it was transposed in memory at load; "
                                        "`hearth quantize{}` writes files that "
                                        "need no transposing",
                                        options.model.filename().string(),
                                        options.sparsity == Sparsity::threshold ? " --by-neurons" : ""));
        file->check_unchanged();
        needs =
            GpuSession::needs(weights, shape);    // what was transposed may have become larger than it was expected to
        report = make_plan(options.vram_budget, usual_position());
        shape.ring_bytes = report.ring;
        check_memory();
        place_weights(share_of(first, 1 - first));
    }

    /// Whether the memory of this machine holds the KV cache of the host's layers. It is taken as the conversation
    /// grows, so nothing else would say so in time.
    void check_memory() const
    {
        const Config& c = weights.config;
        const uint64_t layers = c.layers - report.plan.layers.size(),
                       bytes =
                           layers * c.kv_heads * shape.pages() * host::page_positions * shape.kv.row_bytes(c.head_dim);
        const std::optional<uint64_t> available = available_memory();
        if (!available || bytes <= *available) return;
        throw Error(
            "the KV cache of {} positions needs {:.1f} MiB of memory and {:.1f} MiB are available: use a smaller -c{}",
            uint64_t(shape.context) * shape.sequences, double(bytes) / mib, double(*available) / mib,
            shape.kv.k == WeightType::f16 && c.head_dim % 32 == 0 ? ", or -ctk q8_0 -ctv q8_0" : "");
    }

    /// To the device what the plan puts there, and says in `place` what that is.
    void place_weights(const std::function<void(double)>& progress)
    {
        if (!device) {
            if (options.vram_budget) notes.push_back("--vram-budget does nothing on the CPU");
            if (options.gpu_layers.value_or(0) > 0) notes.push_back("--gpu-layers (-ngl) does nothing on the CPU");
            if (options.cpu_experts)
                notes.push_back("--cpu-moe and --n-cpu-moe do nothing on the CPU, where all experts are");
            return;
        }
        const Plan& plan = report.plan;
        const std::string& name = device->info().name;
        if (report.budget < least_budget(needs)) {
            if (options.vram_budget)
                throw Error("--vram-budget {:.1f} MiB is too small for anything: activations and the first layer need "
                            "{:.1f} MiB; give more, or use "
                            "--device cpu",
                            double(report.budget) / mib, double(least_budget(needs)) / mib);
            place = fmt::format("on the CPU ({} has {:.0f} MiB free, and {:.0f} are the least that help)", name,
                                double(device->info().free_memory) / mib, double(least_budget(needs)) / mib);
            return;
        }
        if (plan.layers.empty()) {
            place = fmt::format(
                "on the CPU, which is expected to be faster alone than with {} (--placement most uses it all the same)",
                name);
            return;
        }
        gpu = std::make_unique<GpuModel>(
            device, weights,
            ModelLayout{plan, orders(), shape.sparsity, machine ? machine->row_variants : RowVariants(),
                        machine ? machine->products : ProductRates(), shape.ring_bytes > 0},
            team, progress);

        uint64_t resident = 0, all = 0;
        for (size_t l = 0; l < needs.layers.size(); ++l) {
            all += needs.layers[l].groups;
            if (l < plan.layers.size()) resident += plan.layers[l].resident.size();
        }
        place = fmt::format(
            "on {}: attention of {} of {} layers, {:.0f} % of the neurons{}, {:.1f} of {:.1f} MiB; the rest on the CPU",
            name, plan.layers.size(), needs.layers.size(), 100.0 * double(resident) / double(all),
            plan.head ? ", head" : "", double(plan.bytes) / mib, double(report.budget) / mib);
        if (resident == all && plan.head)
            place = fmt::format("on {}, all of it: {:.1f} of {:.1f} MiB", name, double(plan.bytes) / mib,
                                double(report.budget) / mib);
    }

    /// Whether the model's file is what it was. Asking costs a system call, so it is not asked for every token.
    void check_file()
    {
        constexpr double every_us = 200'000;
        const double now = clock_us();
        if (now < next_check_us) return;
        file->check_unchanged();
        next_check_us = now + every_us;
    }

    /// What runs its batches, made for the first session and shared by all that watch the same.
    std::shared_ptr<Runner> runner_for(const Watching& watching);
    std::weak_ptr<Runner> runner;

    double next_check_us = 0;
    double usual_position() const { return std::min(shape.context / 4.0, 512.0); }    // of a conversation's middle
};

Planner::Planner(const EngineOptions& options) : machinery_(std::make_shared<Machinery>(options)) {}
PlanReport Planner::plan(std::optional<uint64_t> budget, double position) const
{
    return machinery_->make_plan(budget, position);
}
const Config& Planner::config() const { return machinery_->weights.config; }
const Needs& Planner::needs() const { return machinery_->needs; }
const std::string& Planner::device() const
{
    return machinery_->device ? machinery_->device->info().name : machinery_->place;
}
const std::vector<std::string>& Planner::notes() const { return machinery_->notes; }

Machine measure_machine(const EngineOptions& options, const std::function<void(double)>& progress,
                        const std::function<void(const std::string&)>& warn)
{
    std::shared_ptr<vulkan::Device> device;
    std::string why_not;
    if (options.device != "cpu") {
        const auto instance = vulkan::Instance::open({}, why_not);
        if (!instance && options.device != "auto")
            throw Error("--device {} cannot be used: {}; use --device cpu", options.device, why_not);
        if (instance)
            if (const vulkan::DeviceChoice choice = vulkan::choose_device(instance->devices(), options.device);
                choice.index)
                device = vulkan::Device::open(instance, instance->devices()[*choice.index], allowed_features(options));
    }
    host::Team team(threads_for(options.threads));
    return measure_machine(team, device, progress, warn);
}

Engine::Engine(const EngineOptions& options, const std::function<void(double)>& progress)
    : machinery_(std::make_shared<Machinery>(options))
{
    machinery_->load(progress);
}

const std::optional<Machine>& Engine::machine() const { return machinery_->machine; }

std::optional<double> Engine::expected_us(double position) const
{
    if (!machinery_->machine) return {};
    Costs costs = machinery_->make_plan(machinery_->report.budget, position).costs;
    return hearth::expected_us(costs, machinery_->report.plan);
}

double Engine::read_speed()
{
    constexpr uint64_t enough = 256 << 20;
    uint64_t bytes = 0, sum = 0;
    double start = 0;
    machinery_->team.hold([&] {
        start = clock_us();
        for (const LayerWeights& l : machinery_->weights.layers)
            for (const Matrix* m : {&l.ffn.gate, &l.ffn.either_down()}) {
                if (bytes >= enough) return;
                const std::byte* const from = m->row(0) + -reinterpret_cast<uintptr_t>(m->row(0)) % alignof(uint64_t);
                const size_t words = (m->bytes() - size_t(from - m->row(0))) / sizeof(uint64_t);
                sum += host::sum_words(machinery_->team, {reinterpret_cast<const uint64_t*>(from), words});
                bytes += m->bytes();
            }
    });
    HEARTH_CHECK(bytes > 0);
    const volatile uint64_t kept = sum;    // so that the reading is not left out
    (void)kept;
    return double(bytes) / (clock_us() - start) / 1000;
}

Session Engine::session(bool timing) { return Session(machinery_, {.timing = timing}); }

host::Team& Engine::team() { return machinery_->team; }
const std::optional<Profile>& Engine::profile() const { return machinery_->profile; }
const std::vector<LayerSparsity>& Engine::sparsity() const { return machinery_->shape.sparsity; }

Session Engine::profiling_session(ActivitySink watch)
{
    Session session(machinery_, {.activity = true});
    session.watch(std::move(watch));
    return session;
}

const Config& Engine::config() const { return machinery_->weights.config; }
const Weights& Engine::weights() const { return machinery_->weights; }
const Tokenizer& Engine::tokenizer() const { return machinery_->tokenizer; }
const Plan& Engine::plan() const { return machinery_->report.plan; }
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
    return fmt::format("{}: {:.1f} M parameters, {:.2f} bits per weight, {}; {} threads ({})", config().name,
                       double(count) / 1e6, 8.0 * double(machinery_->file->file_bytes()) / double(count),
                       machinery_->place, threads(), host::kernels().name);
}

Profiling::Profiling(Engine& engine, Profile& profile)
    : profiler_(std::make_unique<Profiler>(profile, engine.weights(), engine.team()))
{
    session_ =
        std::make_unique<Session>(engine.profiling_session([this](const LayerActivity& a) { profiler_->hear(a); }));
}
Profiling::~Profiling() = default;

void Profiling::window(std::span<const Token> tokens)
{
    profiler_->discard();
    session_->reset();
    session_->feed(tokens);
    profiler_->commit(uint32_t(tokens.size()));
}

std::vector<std::string> Engine::take_validation_messages()
{
    return machinery_->instance ? machinery_->instance->take_messages() : std::vector<std::string>();
}

// ---- session --------------------------------------------------------------------------------------------------------

/// What runs batches of a loaded model: one for all of its sequences.
struct Runner {
    Watching watching;
    PagePool pool;
    HostLayers host;
    std::optional<GpuSession> device;
    std::optional<Rebalancer> rebalancer;
    Scheduler scheduler;
    Diagnosis diagnosis;

    Runner(Machinery& m, const Watching& w)
        : watching(w), pool(m.shape.pages()), host(m.weights, m.team,
                                                   {.first_layer = m.gpu ? uint32_t(m.gpu->layers().size()) : 0,
                                                    .batch = m.shape.batch,
                                                    .pages = m.shape.pages(),
                                                    .kv = m.shape.kv,
                                                    .sparsity = m.shape.sparsity,
                                                    .check_predictor = m.options.check_predictor}),
          device(m.gpu ? std::make_optional<GpuSession>(*m.gpu, m.shape, watching) : std::nullopt),
          rebalancer(device && m.shape.rebalance ? std::make_optional<Rebalancer>(*m.gpu, *device) : std::nullopt),
          scheduler(host, m.gpu.get(), device ? &*device : nullptr, rebalancer ? &*rebalancer : nullptr, m.team,
                    m.weights.config),
          diagnosis{m.weights, m.team, m.shape.batch, m.shape.kv, m.gpu ? m.device->info().name : ""}
    {
    }

    auto copier()
    {
        return [this](uint32_t from, uint32_t to) { scheduler.copy_page(from, to); };
    }

    /// `texts`: of the batch's sequences, to find out why numbers are not finite.
    FeedStats feed(const Batch& batch, const std::function<std::vector<std::vector<Token>>()>& texts)
    {
        try {
            return scheduler.feed(batch);
        } catch (const NotFiniteNumbers&) {
            throw diagnosis.of(texts());
        }
    }
};

/// The runner in use, if it watches the same; else one of its own.
std::shared_ptr<Runner> Machinery::runner_for(const Watching& watching)
{
    std::shared_ptr<Runner> found = runner.lock();
    if (found && found->watching == watching) return found;
    found.reset();    // its memory is given back first, if nobody else has it
    found = std::make_shared<Runner>(*this, watching);
    runner = found;
    return found;
}

Session::Session(std::shared_ptr<Machinery> machinery, const Watching& watching)
    : machinery_(std::move(machinery)), runner_(machinery_->runner_for(watching)),
      sequence_(std::make_unique<Sequence>(runner_->pool))
{
}
Session::Session(const Session& other, std::unique_ptr<Sequence> sequence)
    : machinery_(other.machinery_), runner_(other.runner_), sequence_(std::move(sequence))
{
}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session other) noexcept
{
    std::swap(machinery_, other.machinery_);
    std::swap(runner_, other.runner_);
    std::swap(sequence_, other.sequence_);
    std::swap(last_, other.last_);
    std::swap(on_stats, other.on_stats);
    return *this;
}
Session::~Session() = default;

Session Session::fork() const { return Session(*this, std::make_unique<Sequence>(*sequence_)); }
uint32_t Session::position() const { return sequence_->position(); }
void Session::rewind(uint32_t position) { sequence_->rewind(position); }
void Session::watch(ActivitySink sink) { runner_->host.watch = std::move(sink); }

void Session::check_room(size_t tokens) const
{
    const uint32_t context = machinery_->shape.context, most = machinery_->weights.config.most_positions();
    if (position() + tokens <= context) return;
    throw Error("the text needs {} positions and the context has {}: {}", position() + tokens, context,
                position() + tokens <= most
                    ? fmt::format("use -c {} or more", position() + tokens)
                    : fmt::format("shorten it to {}, all that this model can be run with", most));
}

bool Session::each_batch(std::span<const Token> tokens, const std::function<bool()>& stop,
                         const std::function<void(size_t, Batch&)>& want)
{
    check_room(tokens.size());
    for (size_t first = 0; first < tokens.size(); first += machinery_->shape.batch) {
        if (stop && stop()) return false;
        machinery_->check_file();
        const auto some = tokens.subspan(first, std::min<size_t>(machinery_->shape.batch, tokens.size() - first));
        sequence_->make_room(uint32_t(some.size()), runner_->copier());
        Batch batch = {.work = some.size() == 1 ? host::Work::few : host::Work::many,
                       .rows = {},
                       .tokens = {some.begin(), some.end()},
                       .embeddings = {},
                       .wanted = {}};
        for (uint32_t i = 0; i < some.size(); ++i) batch.rows.push_back(sequence_->row(i));
        want(first, batch);
        const FeedStats stats = runner_->feed(batch, [&] {
            std::vector<Token> fed = sequence_->fed();
            fed.insert(fed.end(), some.begin(), some.end());
            return std::vector<std::vector<Token>>{fed};
        });
        sequence_->went(some);
        if (on_stats) on_stats(stats);
    }
    return true;
}

uint32_t Engine::few() const { return machinery_->shape.few; }
uint32_t Engine::sequences() const { return machinery_->shape.sequences; }

FeedStats Engine::together(std::span<const Turn> turns)
{
    machinery_->check_file();
    Batch batch = {.work = host::Work::few};
    std::vector<const Turn*> turn_of;    // of each row
    std::vector<size_t> place_of;        // in its turn
    bool best = true;
    for (const Turn& turn : turns) {
        HEARTH_CHECK(turn.session->machinery_ == machinery_ && !turn.tokens.empty() &&
                     turn.wanted <= turn.tokens.size());
        turn.session->check_room(turn.tokens.size());
        best = best && turn.take_best;
    }
    for (const Turn& turn : turns) {
        Session& session = *turn.session;
        session.sequence_->make_room(uint32_t(turn.tokens.size()), session.runner_->copier());
        for (size_t i = 0; i < turn.tokens.size(); ++i) {
            if (i + turn.wanted >= turn.tokens.size()) batch.wanted.push_back(batch.size());
            batch.rows.push_back(session.sequence_->row(uint32_t(i)));
            batch.tokens.push_back(turn.tokens[i]);
            turn_of.push_back(&turn);
            place_of.push_back(i);
        }
    }
    HEARTH_CHECK(batch.size() > 0 && batch.size() <= few());
    if (best) batch.take_best = [&](uint32_t row, Token token) { turn_of[row]->take_best(place_of[row], token); };
    else
        batch.take = [&](uint32_t row, std::span<const float> logits) {
            const Turn& turn = *turn_of[row];
            if (turn.take_best) turn.take_best(place_of[row], most_probable(logits));
            else turn.take(place_of[row], logits);
        };
    const FeedStats stats = turns[0].session->runner_->feed(batch, [&] {
        std::vector<std::vector<Token>> texts;
        for (const Turn& turn : turns) {
            texts.push_back(turn.session->sequence_->fed());
            texts.back().insert(texts.back().end(), turn.tokens.begin(), turn.tokens.end());
        }
        return texts;
    });
    for (const Turn& turn : turns) turn.session->sequence_->went(turn.tokens);
    return stats;
}

std::span<const float> Session::feed(std::span<const Token> tokens, const std::function<bool()>& stop)
{
    const auto last_one = [&](size_t first, Batch& batch) {
        if (first + batch.size() == tokens.size()) batch.wanted = {batch.size() - 1};
        batch.take = [&](uint32_t, std::span<const float> logits) { last_.assign(logits.begin(), logits.end()); };
    };
    if (!each_batch(tokens, stop, last_one)) return {};
    return last_;
}

std::optional<Token> Session::next(std::span<const Token> tokens, Sampler& sampler, const std::function<bool()>& stop)
{
    if (!sampler.greedy()) {
        const std::span<const float> logits = feed(tokens, stop);
        return logits.empty() ? std::nullopt : std::optional(sampler.sample(logits));
    }
    std::optional<Token> best;
    const auto last_one = [&](size_t first, Batch& batch) {
        if (first + batch.size() == tokens.size()) batch.wanted = {batch.size() - 1};
        batch.take_best = [&](uint32_t, Token token) { best = token; };
    };
    if (!each_batch(tokens, stop, last_one)) return {};
    return best;
}

void Session::feed(std::span<const Token> tokens, const LogitsSink& each)
{
    each_batch(tokens, {}, [&](size_t first, Batch& batch) {
        for (uint32_t r = 0; r < batch.size(); ++r) batch.wanted.push_back(r);
        batch.take = [&each, first](uint32_t r, std::span<const float> logits) { each(first + r, logits); };
    });
}

}    // namespace hearth
