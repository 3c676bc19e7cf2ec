#include "engine/engine.h"

#include "engine/model/config.h"
#include "engine/model/other_kinds.h"
#include "engine/plan/host_reads.h"
#include "engine/run/diagnosis.h"
#include "engine/run/importance_meter.h"
#include "engine/run/embedded_rows.h"
#include "engine/tune/profiler.h"
#include "engine/run/scheduler.h"
#include "engine/run/sequence.h"
#include "engine/tune/tune.h"
#include "engine/system/large_pages.h"
#include "engine/system/limits.h"
#include "engine/vision/device_tower.h"

#include <algorithm>

namespace hearth {

namespace {

vulkan::Features allowed_features(const EngineOptions& options)
{
    return {.fp16 = !options.without_fp16,
            .int_dot = !options.without_int_dot,
            .int64 = !options.without_int64,
            .matrices = !options.without_matrices};
}

std::shared_ptr<const Gguf> open_model(const EngineOptions& o, Cut cut = Cut::refused)
{
    auto file = std::make_shared<const Gguf>(o.model, o.overrides, cut);
    refuse_other_kinds(*file);
    return file;
}

uint64_t parameters(const Weights& w)
{
    const auto count = [](const Matrix& m) { return uint64_t(m.rows) * m.cols; };
    uint64_t sum = count(w.embedding) + (w.output.data == w.embedding.data ? 0 : count(w.output));
    for (const LayerWeights& l : w.layers) each_matrix(l, [&](const Matrix& m) { sum += count(m); });
    return sum;
}

}    // namespace

Needs device_needs(const Weights& weights, const DecisionOptions& options)
{
    return GpuSession::needs(weights, session_shape(options, weights.config));
}

Needs session_needs(const Weights& weights, const SessionShape& shape) { return GpuSession::needs(weights, shape); }

namespace {

/// As vulkan::choose_device, by the figures of that workshop.
vulkan::DeviceChoice choose_device(const vulkan::Instance& instance, std::string_view wanted, Workshop& workshop)
{
    return vulkan::choose_device(instance.devices(), wanted, [&](const vulkan::DeviceInfo& d) {
        const std::optional<Machine> figures = workshop.figures(&d);
        return figures ? figures->on_device.read : 0;
    });
}

}    // namespace

DeviceList list_devices(std::string_view wanted, const MachineLookup& machine)
{
    DeviceList list = {.loader = vulkan::open_loader() != nullptr};
    Workshop workshop({.machine = machine});
    const auto instance = workshop.instance(list.reason);
    if (!instance) return list;
    for (const vulkan::DeviceInfo& d : instance->devices())
        list.devices.push_back({.name = d.name,
                                .driver = d.driver,
                                .kind = std::string(vulkan::kind_name(d.kind)),
                                .vendor = d.vendor,
                                .number = d.number,
                                .luid = d.luid,
                                .memory = d.memory,
                                .free_memory = d.free_memory,
                                .window = d.window,
                                .subgroup_size = d.subgroup_size,
                                .min_subgroup_size = d.min_subgroup_size,
                                .max_subgroup_size = d.max_subgroup_size,
                                .fp16 = d.features.fp16,
                                .int_dot = d.features.int_dot,
                                .matrices = d.features.matrices,
                                .unfit = d.unfit});
    if (wanted == "cpu") return list;
    try {
        const vulkan::DeviceChoice choice = choose_device(*instance, wanted, workshop);
        list.chosen = choice.index;
        list.reason = choice.reason;
    } catch (const Error& e) {
        list.refused = e.what();
    }
    return list;
}

// ---- engine ---------------------------------------------------------------------------------------------------------

namespace {

/// The device that is wanted, in that workshop; where there is none, nullptr and why.
std::shared_ptr<vulkan::Device> open_device(const EngineOptions& o, Workshop& workshop, std::string& why_none)
{
    if (o.device == "cpu" || o.gpu_layers == 0) return nullptr;
    const auto instance = workshop.instance(why_none);
    if (!instance && o.device != "auto")
        throw Error("--device {} cannot be used: {}; use --device cpu", o.device, why_none);
    if (!instance) return nullptr;
    const vulkan::DeviceChoice choice = choose_device(*instance, o.device, workshop);
    if (choice.index) return workshop.device(instance->devices()[*choice.index], allowed_features(o));
    why_none = choice.reason;
    return nullptr;
}

MachineFacts machine_facts(Workshop& workshop, const vulkan::Device* device, const std::string& why_none)
{
    MachineFacts facts = {.why_none = why_none, .figures = workshop.figures(device ? &device->info() : nullptr)};
    if (device)
        facts.device = DeviceFacts{.name = device->info().name,
                                   .software = device->info().kind == vulkan::DeviceKind::software,
                                   .free = device->free_memory(),
                                   .promised = workshop.promised(*device)};
    return facts;
}

std::string short_of_memory(const std::string& device, const vulkan::MemoryState& state)
{
    constexpr double mib = 1 << 20;
    return fmt::format(
        "{} has {:.0f} MiB left for this program, which holds {:.0f} MiB: another one has taken memory, and "
        "tokens may get much slower; close it, or start again with --vram-budget {:.0f}MiB",
        device, double(state.budget) / mib, double(state.used) / mib, double(state.budget) * 0.95 / mib);
}

/// A device reads neurons of experts alone, whether they are in its slots or pass through it.
DownLayout down_layout(const EngineOptions& o, const Gguf& file, bool device)
{
    if (o.sparsity != Sparsity::dense) return DownLayout::by_neurons;
    const bool passing = o.stream.value_or(0) > 0;
    const bool host_only = !device || (!passing && (o.disable_gpu_index || o.cpu_experts >= read_config(file).layers));
    return host_only ? DownLayout::as_stored : DownLayout::dense;
}

void append(std::vector<std::string>& to, const std::vector<std::string>& more)
{
    to.insert(to.end(), more.begin(), more.end());
}

/// `progress` of a part of the work that begins at `from` and is such a share of all.
Progress part_of(const Progress& progress, double from, double share)
{
    return [=](double done) {
        if (progress) progress(from + done * share);
    };
}

}    // namespace

struct Runner;

namespace {

/// A profile is of a model's weights, so a header has none.
FiringSources sources_of(const EngineOptions& o, const Gguf& file, const Config& c)
{
    if (!file.complete()) return {};
    return find_sources(file, c, o.model, o.profile, !o.reset_gpu_index && !o.disable_gpu_index);
}

}    // namespace

/// A model that was looked at and not loaded, and the machine that it is to run on: all that a decision rests on.
struct FoundModel {
    EngineOptions options;
    std::shared_ptr<Workshop> workshop;
    std::shared_ptr<const Gguf> file;
    std::string why_no_device;
    std::shared_ptr<vulkan::Device> device;
    std::optional<Tokenizer> tokenizer;    // a header may come without
    Weights weights;                       // described only, until they are loaded
    FiringSources sources;
    Computation computation;
    Needs needs;
    std::shared_ptr<const TowerWeights> tower;    // null: it sees nothing
    TowerNeeds tower_needs;
    std::string why_blind;    // then a sentence
    MachineFacts machine;
    std::vector<std::string> notes;

    FoundModel(const EngineOptions& o, std::shared_ptr<const Gguf> found)
        : options(o), workshop(o.workshop ? o.workshop : std::make_shared<Workshop>(o)), file(std::move(found)),
          device(open_device(o, *workshop, why_no_device)), weights(describe_weights(file, layout())),
          sources(sources_of(o, *file, weights.config)), computation(decide_computation(o, weights, sources)),
          needs(GpuSession::needs(weights, computation.shape))
    {
        if (file->complete() || file->keys().contains("tokenizer.ggml.model")) tokenizer.emplace(*file);
        find_tower();
        machine = machine_facts(*workshop, device.get(), why_no_device);
        computation.shape.matrices = device && device->features().matrices;
        if (machine.figures) machine.figures = figures_for(weights, *machine.figures);
        if (tokenizer) append(notes, tokenizer->notes());
        if (!file->complete())
            notes.push_back(
                fmt::format("only the header of {} is there: sizes are known, and a profile is not looked for",
                            weights.config.name));
        for (const std::string& what : file->overridden()) notes.push_back("overridden: " + what);
        append(notes, computation.notes);
    }

    DownLayout layout() const { return down_layout(options, *file, device != nullptr); }
    ModelFacts facts() const { return {weights, computation, needs, tower ? &tower_needs : nullptr}; }
    PlannedModel planned() const { return {weights, needs, computation.shape, computation.use}; }

  private:
    /// One that nobody named need not be there, nor be of a kind that is known.
    void find_tower()
    {
        if (!options.mmproj) return;
        const uint32_t dim = weights.config.dim;
        try {
            tower =
                read_tower_of(options.mmproj->empty() ? hearth::find_tower(options.model, dim) : *options.mmproj, dim);
            tower_needs = DeviceTower::needs(*tower);
            if (options.mmproj->empty())
                notes.push_back(fmt::format("images are looked at with {}", tower->blocks.file->path().string()));
        } catch (const Error& error) {
            if (!options.mmproj->empty()) throw;
            why_blind = error.what();
        }
    }
};

/// The same, decided and loaded: what sessions run.
struct LoadedModel : FoundModel {
    Decision decision;
    const SessionShape& shape = decision.shape;
    host::Team& team = workshop->team();
    RowTable rows{weights.config.dim};
    Promise promise;                  // of what the plan takes on the device
    std::unique_ptr<GpuModel> gpu;    // null: all is the host's
    std::optional<Vision> vision;     // from the first image on
    LargePages large_pages;           // of what the host reads
    std::function<void(const std::string&)> on_notice;
    double memory_next_us = 0;    // when the driver is asked for memory again
    bool told_short = false;

    LoadedModel(const EngineOptions& o, const Progress& progress) : FoundModel(o, open_model(o))
    {
        // Transposing takes about as long as reading what was transposed.
        const double share = !weights.transposed ? 0 : device ? 0.5 : 1;
        read_weights(part_of(progress, 0, share));
        machine.memory = available_memory();
        decision = decide(options, facts(), machine, usual_position(computation.shape));
        if (!decision.unfit.empty()) throw Error("{}", decision.unfit);
        append(notes, decision.notes);
        if (device && !options.without_matrices && device->info().features.matrices && !device->features().matrices)
            notes.push_back(fmt::format("{} gives wrong results with cooperative matrices, so prompts are read without "
                                        "them, which is slower; update its driver",
                                        device->info().name));
        if (device) promise = workshop->promise(*device, decision.plan.bytes + decision.tower.bytes);
        if (!decision.plan.layers.empty()) upload(part_of(progress, share, 1 - share));
        enlarge_pages();
    }
    LoadedModel(const LoadedModel&) = delete;
    LoadedModel& operator=(const LoadedModel&) = delete;

    /// Says, once until there is room again, that the driver leaves less device memory to this program than it holds:
    /// another one has taken it, and drivers then move memory to where kernels reach it slowly, and say nothing.
    void watch_memory()
    {
        constexpr double every_us = 200'000;
        const double now = clock_us();
        if (!gpu || !on_notice || now < memory_next_us) return;
        memory_next_us = now + every_us;
        const auto state = device->memory_state();
        const bool short_of = state && state->budget < state->used;
        if (short_of && !told_short) on_notice(short_of_memory(device->info().name, *state));
        told_short = short_of;
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

    /// Throws Error where the context has fewer positions.
    void check_room(size_t positions) const
    {
        const uint32_t most = weights.config.most_positions();
        if (positions <= shape.context) return;
        throw Error("the text needs {} positions and the context has {}: {}", positions, shape.context,
                    positions <= most ? fmt::format("use -c {} or more", positions)
                                      : fmt::format("shorten it to {}, all that this model can be run with", most));
    }

    /// What runs its batches, made for the first session and shared by all that watch the same.
    std::shared_ptr<Runner> runner_for(const Watching& watching);

  private:
    std::weak_ptr<Runner> runner;
    double next_check_us = 0;

    /// To the host's memory; most of it stays in the file, which is mapped.
    void read_weights(const Progress& progress)
    {
        weights = load_weights(file, layout(), team.size(), progress);
        if (weights.transposed)
            notes.push_back(fmt::format("{} stores ffn_down by columns, so it was transposed in memory at load; "
                                        "`hearth quantize{}` writes files that need no transposing",
                                        options.model.filename().string(),
                                        options.sparsity == Sparsity::threshold ? " --by-neurons" : ""));
        file->check_unchanged();
        // What was transposed may have become larger than it was expected to.
        needs = GpuSession::needs(weights, computation.shape);
    }

    /// Of what the host reads again and again, if that pays: it takes about as long as reading it once from a file that
    /// is in memory, and as much memory again.
    void enlarge_pages()
    {
        constexpr uint64_t least = 32 << 20;    // less stays in the caches, or is read quickly anyhow
        const std::vector<std::span<const std::byte>> parts = read_by_host(weights, decision.plan);
        uint64_t bytes = 0;
        for (const std::span<const std::byte>& part : parts) bytes += part.size();
        const bool fits = bytes >= least && machine.memory && 2 * bytes <= *machine.memory;
        if (!options.large_pages.value_or(fits)) return;
        if (large_pages_to_be_had()) large_pages = LargePages(parts);
        else if (options.large_pages) notes.push_back("--large-pages on has no effect: this system gives none");
    }

    /// To the device, what the plan puts there.
    void upload(const Progress& progress)
    {
        ModelLayout layout = {.plan = decision.plan,
                              .orders = computation.orders(),
                              .sparsity = shape.sparsity,
                              .streams = shape.ring_bytes > 0};
        if (machine.figures) {
            layout.row_variants = machine.figures->row_variants;
            layout.products = machine.figures->products;
        }
        gpu = std::make_unique<GpuModel>(device, weights, layout, team, progress);
    }
};

Planner::Planner(const EngineOptions& options) : Planner(options, open_model(options, Cut::allowed)) {}
Planner::Planner(const EngineOptions& options, std::shared_ptr<const Gguf> file)
    : model_(std::make_shared<FoundModel>(options, std::move(file)))
{
}
Decision Planner::plan(std::optional<uint64_t> budget, double position) const
{
    DecisionOptions options = model_->options;
    options.vram_budget = budget;
    return decide(options, model_->facts(), model_->machine, position);
}
PlannedModel Planner::planned_model() const { return model_->planned(); }
const std::optional<Machine>& Planner::machine() const { return model_->machine.figures; }
const Config& Planner::config() const { return model_->weights.config; }
const Needs& Planner::needs() const { return model_->needs; }
std::string Planner::device() const
{
    return model_->device ? model_->device->info().name : place_without(model_->machine);
}
const std::vector<std::string>& Planner::notes() const { return model_->notes; }

Machine measure_machine(const EngineOptions& options, const std::function<void(double)>& progress,
                        const std::function<void(const std::string&)>& warn)
{
    Workshop workshop(options);
    std::string why_none;
    return measure_machine(workshop.team(), open_device(options, workshop, why_none), progress, warn);
}

bool Planner::sees() const { return model_->tower != nullptr; }
std::optional<double> Planner::look_us(const TowerPlan& plan, uint32_t tiles) const
{
    if (!model_->tower || !model_->machine.figures) return {};
    return hearth::look_us(tower_facts(*model_->tower, model_->tower_needs), plan, *model_->machine.figures, tiles);
}

Engine::Engine(const EngineOptions& options, const std::function<void(double)>& progress)
    : model_(std::make_shared<LoadedModel>(options, progress))
{
}

const std::optional<Machine>& Engine::machine() const { return model_->machine.figures; }

std::optional<double> Engine::expected_us(double position) const
{
    if (!model_->machine.figures) return {};
    const Decision& d = model_->decision;
    return hearth::expected_us(costs_at(model_->facts(), model_->machine, d.shape.submit, position), d.plan);
}

PlannedModel Engine::planned_model() const { return model_->planned(); }

void Engine::settle() { model_->large_pages.wait(); }
uint64_t Engine::large_page_bytes() const { return model_->large_pages.bytes(); }

double Engine::read_speed()
{
    constexpr uint64_t enough = 256 << 20;
    uint64_t bytes = 0, sum = 0;
    double start = 0;
    model_->team.hold([&] {
        start = clock_us();
        for (const LayerWeights& l : model_->weights.layers)
            for (const Matrix* m : {&l.ffn.gate, &l.ffn.either_down()}) {
                if (bytes >= enough) return;
                const std::byte* const from = m->row(0) + -reinterpret_cast<uintptr_t>(m->row(0)) % alignof(uint64_t);
                const size_t words = (m->bytes() - size_t(from - m->row(0))) / sizeof(uint64_t);
                sum += host::sum_words(model_->team, {reinterpret_cast<const uint64_t*>(from), words});
                bytes += m->bytes();
            }
    });
    HEARTH_CHECK(bytes > 0);
    const volatile uint64_t kept = sum;    // so that the reading is not left out
    (void)kept;
    return double(bytes) / (clock_us() - start) / 1000;
}

Session Engine::session(bool timing) { return Session(model_, {.timing = timing}); }

std::shared_ptr<const EmbeddedRows> Engine::embed(std::vector<float> rows) { return model_->rows.add(std::move(rows)); }

Vision& Engine::vision()
{
    LoadedModel& m = *model_;
    if (!m.tower)
        throw Error("{}", m.why_blind.empty() ? "no image was expected: set EngineOptions::mmproj" : m.why_blind);
    if (m.vision) return *m.vision;
    if (m.decision.tower.room == 0) return m.vision.emplace(m.tower, m.team);
    TowerLayout layout = {.room = m.decision.tower.room};
    if (m.machine.figures) {
        layout.row_variants = m.machine.figures->row_variants;
        layout.products = m.machine.figures->products;
    }
    return m.vision.emplace(m.tower, m.team, m.device, layout);
}

host::Team& Engine::team() { return model_->team; }
const std::optional<Profile>& Engine::profile() const { return model_->sources.profile; }
const std::vector<LayerSparsity>& Engine::sparsity() const { return model_->shape.sparsity; }

Session Engine::profiling_session(ActivitySink watch)
{
    Session session(model_, {.activity = true});
    session.watch(std::move(watch));
    return session;
}

const Config& Engine::config() const { return model_->weights.config; }
const Weights& Engine::weights() const { return model_->weights; }
const Tokenizer& Engine::tokenizer() const { return *model_->tokenizer; }
const Plan& Engine::plan() const { return model_->decision.plan; }
const TowerPlan& Engine::tower_plan() const { return model_->decision.tower; }
const Needs& Engine::needs() const { return model_->needs; }
uint32_t Engine::context() const { return model_->shape.context; }
uint32_t Engine::batch() const { return model_->shape.batch; }
unsigned Engine::threads() const { return model_->team.size(); }
bool Engine::on_device() const { return model_->gpu != nullptr; }
uint64_t Engine::device_bytes() const { return model_->device ? model_->device->allocated() : 0; }
uint64_t Engine::take_most_device_bytes() { return model_->device ? model_->device->take_most_allocated() : 0; }
const std::vector<std::string>& Engine::notes() const { return model_->notes; }
void Engine::on_notice(std::function<void(const std::string&)> hear) { model_->on_notice = std::move(hear); }

std::string Engine::summary() const
{
    const uint64_t count = parameters(model_->weights);
    return fmt::format("{}: {:.1f} M parameters, {:.2f} bits per weight, {}; {} threads ({})", config().name,
                       double(count) / 1e6, 8.0 * double(model_->file->file_bytes()) / double(count),
                       model_->decision.place, threads(), host::kernels().name);
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

ImportanceMeasuring::ImportanceMeasuring(Engine& engine)
    : meter_(std::make_unique<ImportanceMeter>(engine.weights(), engine.team(), engine.context()))
{
}
ImportanceMeasuring::~ImportanceMeasuring() = default;
void ImportanceMeasuring::window(std::span<const Token> tokens) { meter_->window(tokens); }
Importance ImportanceMeasuring::measured() const { return meter_->measured(); }

std::vector<std::string> Engine::take_validation_messages() { return model_->workshop->take_validation_messages(); }

// ---- session --------------------------------------------------------------------------------------------------------

/// What runs batches of a loaded model: one for all of its sequences.
struct Runner {
    Watching watching;
    const RowTable& rows;
    PagePool pool;
    HostLayers host;
    std::optional<GpuSession> device;
    std::optional<Rebalancer> rebalancer;
    Scheduler scheduler;
    Diagnosis diagnosis;

    Runner(LoadedModel& m, const Watching& w)
        : watching(w), rows(m.rows), pool(m.shape.pages()),
          host(m.weights, m.team,
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
          diagnosis{m.weights, m.team, m.shape.batch, m.shape.kv, m.rows, m.gpu ? m.device->info().name : ""}
    {
    }

    auto copier()
    {
        return [this](uint32_t from, uint32_t to) { scheduler.copy_page(from, to); };
    }

    /// `texts`: of the batch's sequences, to find out why numbers are not finite.
    FeedStats feed(Batch& batch, const std::function<std::vector<std::vector<Token>>()>& texts)
    {
        rows.fill(batch);
        try {
            return scheduler.feed(batch);
        } catch (const NotFiniteNumbers&) {
            throw diagnosis.of(texts());
        }
    }
};

/// The runner in use, if it watches the same; else one of its own.
std::shared_ptr<Runner> LoadedModel::runner_for(const Watching& watching)
{
    std::shared_ptr<Runner> found = runner.lock();
    if (found && found->watching == watching) return found;
    found.reset();    // its memory is given back first, if nobody else has it
    found = std::make_shared<Runner>(*this, watching);
    runner = found;
    return found;
}

Session::Session(std::shared_ptr<LoadedModel> model, const Watching& watching)
    : model_(std::move(model)), runner_(model_->runner_for(watching)),
      sequence_(std::make_unique<Sequence>(runner_->pool))
{
}
Session::Session(const Session& other, std::unique_ptr<Sequence> sequence)
    : model_(other.model_), runner_(other.runner_), sequence_(std::move(sequence))
{
}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session other) noexcept
{
    std::swap(model_, other.model_);
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

bool Session::each_batch(std::span<const Token> tokens, const std::function<bool()>& stop,
                         const std::function<void(size_t, Batch&)>& want)
{
    model_->check_room(position() + tokens.size());
    for (size_t first = 0; first < tokens.size(); first += model_->shape.batch) {
        if (stop && stop()) return false;
        model_->check_file();
        model_->watch_memory();
        const auto some = tokens.subspan(first, std::min<size_t>(model_->shape.batch, tokens.size() - first));
        sequence_->make_room(uint32_t(some.size()), runner_->copier());
        Batch batch = {.work = host::work_of_text(some.size())};
        sequence_->add_rows(some, batch);
        want(first, batch);
        const FeedStats stats =
            runner_->feed(batch, [&] { return std::vector<std::vector<Token>>{sequence_->with(some)}; });
        sequence_->went(some);
        if (on_stats) on_stats(stats);
    }
    return true;
}

void Engine::check_room(size_t positions) const { model_->check_room(positions); }
uint32_t Engine::few() const { return model_->shape.few; }
uint32_t Engine::sequences() const { return model_->shape.sequences; }

FeedStats Engine::together(std::span<const Turn> turns)
{
    model_->check_file();
    model_->watch_memory();
    Batch batch = {.work = host::Work::few};
    std::vector<const Turn*> turn_of;    // of each row
    std::vector<size_t> place_of;        // in its turn
    bool best = true;
    HEARTH_CHECK(!turns.empty());
    Runner& runner = *turns[0].session->runner_;
    for (const Turn& turn : turns) {
        HEARTH_CHECK(turn.session->model_ == model_ && !turn.tokens.empty() && turn.wanted <= turn.tokens.size());
        HEARTH_CHECK(turn.session->runner_.get() == &runner);    // else its pages are another pool's
        HEARTH_CHECK(std::ranges::count(turns, turn.session, &Turn::session) == 1);
        model_->check_room(turn.session->position() + turn.tokens.size());
        best = best && turn.take_best;
    }
    for (const Turn& turn : turns) {
        Session& session = *turn.session;
        session.sequence_->make_room(uint32_t(turn.tokens.size()), runner.copier());
        session.sequence_->add_rows(turn.tokens, batch);
        for (size_t i = 0; i < turn.tokens.size(); ++i) {
            if (i + turn.wanted >= turn.tokens.size()) batch.wanted.push_back(uint32_t(turn_of.size()));
            turn_of.push_back(&turn);
            place_of.push_back(i);
        }
    }
    HEARTH_CHECK(batch.size() <= few());
    if (best) batch.take_best = [&](uint32_t row, Token token) { turn_of[row]->take_best(place_of[row], token); };
    else
        batch.take = [&](uint32_t row, std::span<const float> logits) {
            const Turn& turn = *turn_of[row];
            if (turn.take_best) turn.take_best(place_of[row], most_probable(logits));
            else turn.take(place_of[row], logits);
        };
    FeedStats stats = runner.feed(batch, [&] {
        std::vector<std::vector<Token>> texts;
        for (const Turn& turn : turns) texts.push_back(turn.session->sequence_->with(turn.tokens));
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
