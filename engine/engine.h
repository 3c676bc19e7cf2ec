// The only door: a Workshop is this machine, an Engine a model loaded on it, a Session one conversation with that.
#pragma once

#include "engine/text/tokenizer.h"
#include "engine/model/importance.h"
#include "engine/model/weights.h"
#include "engine/plan/activity.h"
#include "engine/plan/decide.h"
#include "engine/plan/machine.h"
#include "engine/plan/profile.h"
#include "engine/plan/stats.h"
#include "engine/run/embedded_rows.h"
#include "engine/run/sampler.h"
#include "engine/vision/vision.h"
#include "engine/workshop.h"

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace hearth {

struct EngineOptions : WorkshopOptions, DecisionOptions {
    std::filesystem::path model;
    std::vector<Override> overrides;    // of the model's keys
    // The part of it that looks at images; empty: the one beside the model, if there is one; nothing: none will come.
    std::optional<std::filesystem::path> mmproj;
    std::filesystem::path profile;    // empty: the one in the model or beside it, if there is one
    bool reset_gpu_index = false;     // PowerInfer's split beside the model is not read
    bool without_fp16 = false;        // leave optional abilities of the device unused
    bool without_int_dot = false;
    bool without_int64 = false;
    bool without_matrices = false;
    bool check_predictor = false;    // count what the predictor misses; slower
    // What the CPU reads moves to memory in large pages; where it and the file fit into memory together, if not given.
    std::optional<bool> large_pages;
    std::shared_ptr<Workshop> workshop;    // shared with other models: then its own options count, and not those above;
                                           // none: one of this model's own
};

/// A Vulkan device as `hearth devices` shows it.
struct DeviceDescription {
    std::string name, driver, kind;
    uint32_t vendor, number;                 // by which the PCI bus knows it
    std::string luid;                        // by which Windows knows it; empty elsewhere
    uint64_t memory, free_memory, window;    // all of it, what is free, what the host can write to
    uint32_t subgroup_size, min_subgroup_size, max_subgroup_size;
    bool fp16, int_dot, matrices;
    std::string unfit;    // why it cannot be used; empty where it can
};

struct DeviceList {
    std::vector<DeviceDescription> devices;
    bool loader = false;             // Vulkan's is there
    std::optional<size_t> chosen;    // what is wanted
    std::string reason;              // why that one, or why none
    std::string refused;             // a sentence: why what is wanted cannot be had; empty where it can
};

/// `wanted` as --device has it; what was measured of them decides which is the best.
DeviceList list_devices(std::string_view wanted, const MachineLookup& machine);

/// Device memory for all of a model, by pieces, with the context, batch, sequences and types of the cache of `options`.
Needs device_needs(const Weights& weights, const DecisionOptions& options = {});
/// The same for sessions that are decided.
Needs session_needs(const Weights& weights, const SessionShape& shape);

struct Batch;
struct Runner;
struct Watching;
class Sequence;
struct FoundModel;     // looked at ...
struct LoadedModel;    // ... and loaded; engine.cpp

/// The wanted logits of a batch of tokens: the token's place in what was fed, and its logits (vocab), valid during the
/// call.
using LogitsSink = std::function<void(size_t, std::span<const float>)>;

class Session {
  public:
    /// Runs tokens at the next positions; returns the logits (vocab) of the last one, valid until the next call.
    /// Throws Error if they do not fit into the context. `stop` is asked between batches; if it says true, the rest is
    /// left out and the result is empty.
    std::span<const float> feed(std::span<const Token> tokens, const std::function<bool()>& stop = {});

    /// Runs tokens likewise and lets the sampler choose the one behind them; nothing if `stop` said so. A greedy
    /// sampler needs no logits: the device finds its token.
    std::optional<Token> next(std::span<const Token> tokens, Sampler& sampler, const std::function<bool()>& stop = {});

    /// The same as feed, with the logits of every token.
    void feed(std::span<const Token> tokens, const LogitsSink& each);

    uint32_t position() const;
    /// Forgets the conversation.
    void reset() { rewind(0); }
    /// Goes back to a position that it was at: what was fed since is forgotten.
    void rewind(uint32_t position);

    /// Another one that stands where this one does: what was fed is shared, not computed again.
    Session fork() const;

    /// Called after each batch.
    std::function<void(const FeedStats&)> on_stats;

    Session(Session&&) noexcept;
    Session& operator=(Session other) noexcept;
    ~Session();

  private:
    friend class Engine;
    Session(std::shared_ptr<LoadedModel> model, const Watching& watching);
    Session(const Session& other, std::unique_ptr<Sequence> sequence);
    void watch(ActivitySink sink);
    /// Runs tokens in batches; want(first, batch) says which logits of a batch are wanted. False if `stop` said so.
    bool each_batch(std::span<const Token> tokens, const std::function<bool()>& stop,
                    const std::function<void(size_t, Batch&)>& want);

    std::shared_ptr<LoadedModel> model_;
    std::shared_ptr<Runner> runner_;
    std::unique_ptr<Sequence> sequence_;
    std::vector<float> last_;
};

/// What one session does in a batch of several: some tokens at its next positions, and who hears of what is behind the
/// last `wanted` of them: the token's place in `tokens`, and its logits (vocab), valid during the call, or only the
/// most probable token. One of the two is set.
struct Turn {
    Session* session;
    std::span<const Token> tokens;
    size_t wanted = 1;
    LogitsSink take = {};
    std::function<void(size_t, Token)> take_best = {};
};

/// Plans without loading.
class Planner {
  public:
    /// Of a file that is cut, the header is enough.
    explicit Planner(const EngineOptions& options);
    /// Of a file that is open, or a header alone, whatever options.model is.
    Planner(const EngineOptions& options, std::shared_ptr<const Gguf> file);
    /// No budget: what is free on the device, less a margin.
    Decision plan(std::optional<uint64_t> budget, double position) const;
    /// What planned_steps asks for; valid as long as this is.
    PlannedModel planned_model() const;
    const std::optional<Machine>& machine() const;

    const Config& config() const;
    const Needs& needs() const;
    bool sees() const;    // it has a vision tower
    /// Of an image of so many tiles; nothing where the machine was not measured, or for who sees nothing.
    std::optional<double> look_us(const TowerPlan& plan, uint32_t tiles) const;
    std::string device() const;    // its name, or why there is none
    const std::vector<std::string>& notes() const;

  private:
    std::shared_ptr<FoundModel> model_;
};

/// Measures this machine as `options` would use it: its device and threads.
/// `warn` hears of kernels that give wrong results on the device, and so are not used, a sentence each.
Machine measure_machine(const EngineOptions& options, const std::function<void(double)>& progress,
                        const std::function<void(const std::string&)>& warn);

class Engine;
class ImportanceMeter;
class Profiler;

/// Fills a profile from windows of text.
class Profiling {
  public:
    /// Both must outlive this.
    Profiling(Engine& engine, Profile& profile);
    ~Profiling();
    /// Runs a window of no more than a batch from position 0 and counts what fires. If this throws, nothing of the
    /// window is counted.
    void window(std::span<const Token> tokens);

  private:
    std::unique_ptr<Profiler> profiler_;
    std::unique_ptr<Session> session_;
};

/// Measures on windows of text how much the columns of a model's matrices count, with the host alone.
class ImportanceMeasuring {
  public:
    /// It must outlive this.
    explicit ImportanceMeasuring(Engine& engine);
    ~ImportanceMeasuring();
    /// Runs a window of no more tokens than the context has, from position 0.
    void window(std::span<const Token> tokens);
    /// Of all windows so far; the caller knows which texts they were.
    Importance measured() const;

  private:
    std::unique_ptr<ImportanceMeter> meter_;
};

class Engine {
  public:
    /// Loads a model and puts it where the plan says. `progress` hears the share that is transposed and uploaded.
    explicit Engine(const EngineOptions& options, const std::function<void(double)>& progress = {});

    /// One at a time. `timing`: every stage on the device gets timestamps.
    Session session(bool timing = false);

    /// Runs the next tokens of several sessions, each of them once, in one batch: every weight is read once for all of
    /// them, and each gets the bits that it gets alone, token by token. At most few() tokens in all. Throws Error, and
    /// no session has moved, where they do not fit into a context or the KV cache.
    FeedStats together(std::span<const Turn> turns);
    uint32_t few() const;
    /// Throws Error where a session's context has fewer positions.
    void check_room(size_t positions) const;
    uint32_t sequences() const;

    /// Gives rows of embeddings (any number, config().dim), those of an image say, tokens that stand for them in what
    /// is fed, as long as the result lives. The same rows have the same tokens.
    std::shared_ptr<const EmbeddedRows> embed(std::vector<float> rows);

    /// What looks at images, where the plan has it. Throws Error where there is nothing that could.
    Vision& vision();

    /// A session whose every batch, layer by layer, is shown to `watch`: inputs and gates of the feed-forward blocks.
    /// Slower.
    Session profiling_session(ActivitySink watch);
    host::Team& team();

    /// The profile in use, if there is one; and what decode leaves out, layer by layer.
    const std::optional<Profile>& profile() const;
    const std::vector<LayerSparsity>& sparsity() const;

    const Config& config() const;
    const Weights& weights() const;
    const Tokenizer& tokenizer() const;
    const Plan& plan() const;
    const TowerPlan& tower_plan() const;
    /// This machine's figures, where it was measured.
    const std::optional<Machine>& machine() const;
    /// What the plan promised for a token at `position`.
    std::optional<double> expected_us(double position) const;
    /// What planned_steps asks for; valid as long as this is.
    PlannedModel planned_model() const;
    uint32_t context() const;    // positions of a session
    uint32_t batch() const;
    unsigned threads() const;
    bool on_device() const;
    /// Until nothing of loading goes on beside the first tokens any more (EngineOptions::large_pages): for those who
    /// measure.
    void settle();
    uint64_t large_page_bytes() const;    // that the host reads from large pages by now
    /// Reads up to a quarter of a gigabyte of the weights with the host's threads; GB/s. What the memory gives differs
    /// from moment to moment on many machines, so this is to be asked between the tokens that are compared with it.
    double read_speed();
    uint64_t device_bytes() const;        // allocated there now, by all models of the workshop
    uint64_t take_most_device_bytes();    // the most at one time since this was asked last

    /// What everything on the device would take, and the least that is of use.
    const Needs& needs() const;

    /// One line: model, bits per weight, device, split. And what the user should know of the load, one sentence each.
    std::string summary() const;
    const std::vector<std::string>& notes() const;
    /// Who hears, between batches, what the user should know while it runs, a sentence each.
    void on_notice(std::function<void(const std::string&)> hear);

    std::vector<std::string> take_validation_messages();

  private:
    std::shared_ptr<LoadedModel> model_;
};

}    // namespace hearth
