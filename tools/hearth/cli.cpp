#include "tools/hearth/cli.h"
#include "tools/hearth/confine.h"

#include <chrono>
#include <cmath>
#include <csignal>

namespace hearth::tools {

std::string rate(uint64_t tokens, double us)
{
    return us > 0 ? fmt::format("{:.1f} tokens/s", double(tokens) * 1e6 / us) : "-";
}

Engine load_engine(const EngineOptions& options, const std::string& more)
{
    ProgressBar bar("loading");
    confinement().files(false, options.device != "cpu");
    Engine engine(options, [&](double share) { bar.show(share); });
    confinement().calls();
    for (const std::string& note : engine.notes()) say("note: {}", note);
    engine.on_notice([](const std::string& notice) { say("warning: {}", notice); });
    say("{}{}", engine.summary(), more);
    return engine;
}

// ---- interruption ---------------------------------------------------------------------------------------------------

namespace {

volatile std::sig_atomic_t interrupt_seen = 0;

void on_interrupt(int)
{
    interrupt_seen = 1;
    end_clearly_on(SIGINT);
}

}    // namespace

void catch_interrupt()
{
    interrupt_seen = 0;
    std::signal(SIGINT, on_interrupt);
}
bool interrupted() { return interrupt_seen != 0; }

// ---- progress -------------------------------------------------------------------------------------------------------

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

ProgressBar::ProgressBar(std::string what) : what_(std::move(what)), start_(seconds()) {}

ProgressBar::~ProgressBar()
{
    if (visible_) std::fputs("\r\x1b[K", stderr);
}

namespace {

/// "about 12 min left"; nothing while nobody can know.
std::string time_left(double elapsed, double done, double to_do)
{
    if (elapsed < 2 || done <= 0) return "";
    const double left = elapsed * to_do / done;
    if (left < 90) return fmt::format(", about {:.0f} s left", left);
    return left < 5400 ? fmt::format(", about {:.0f} min left", left / 60)
                       : fmt::format(", about {:.1f} h left", left / 3600);
}

}    // namespace

void ProgressBar::show(double share)
{
    const double now = seconds();
    if (first_share_ < 0) first_share_ = share;
    if (now - start_ < 2 || now - drawn_ < 0.1 || !on_terminal(stderr)) return;
    constexpr int width = 30;
    const int full = int(share * width);
    const std::string line = fmt::format("\r{} [{:#<{}}{:.<{}}] {:3.0f} %{}\x1b[K", what_, "", full, "", width - full,
                                         share * 100, time_left(now - start_, share - first_share_, 1 - share));
    std::fputs(line.c_str(), stderr);
    drawn_ = now;
    visible_ = true;
}

// ---- output ---------------------------------------------------------------------------------------------------------

std::string dump(const nlohmann::json& json, int indent)
{
    return json.dump(indent, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
}

namespace {

void write_out(std::string_view text)
{
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
        throw Error("standard output cannot be written: {}", std::generic_category().message(errno));
}

}    // namespace

void print(std::string_view lines) { write_out(printable_lines(lines)); }

void colour_prompt(bool on) { write_out(on ? "\x1b[33m" : "\x1b[0m"); }

void print_text(std::string_view text)
{
    static const bool terminal = on_terminal(stdout);
    if (terminal) write_out(visible(text, "\n\t"));
    else write_out(text);
}

namespace {

/// Whoever is confined may write there. It is asked for before the file is made.
std::filesystem::path allowed(const std::filesystem::path& path)
{
    std::filesystem::path target = WholeFile::target_of(path);
    confinement().allow(target);
    return target;
}

}    // namespace

OutputFile::OutputFile(const std::filesystem::path& path) : WholeFile(allowed(path), {.devices = true}) {}

// ---- statistics -----------------------------------------------------------------------------------------------------

void StatsTotals::add(const FeedStats& s)
{
#define COUNTER(type, name, meaning) name += s.name;
    BATCH_COUNTERS(COUNTER)
#undef COUNTER
    feeds += 1;
    bytes += s.bytes();
    for (const Stage& stage : s.stages) {
        StageTotal& total = stages[{stage.on_device, std::string(stage.name), stage.layer}];
        total.count += 1;
        total.bytes += stage.bytes;
        total.us += stage.us;
    }
    layers.resize(s.layers.size());
    for (size_t l = 0; l < s.layers.size(); ++l) {
        LayerCounts counts = s.layers[l];
        if (s.tokens > 1) counts.host_gates = counts.missed = 0;    // a prefill looks at all of them
        else of_decode += counts;
        layers[l] += counts;
    }
}

namespace {

template <class Counted>
nlohmann::json counters_json(const Counted& counted)
{
    nlohmann::json out;
    each_counter(counted, [&](const char* name, auto value) { out[name] = value; });
    return out;
}

nlohmann::json layers_json(const std::vector<LayerCounts>& layers)
{
    nlohmann::json out = nlohmann::json::array();
    for (const LayerCounts& l : layers) {
        out.push_back(counters_json(l));
        out.back().update({{"resident", l.resident}, {"split", l.split}});
    }
    return out;
}

}    // namespace

nlohmann::json StatsTotals::json() const
{
    nlohmann::json list = nlohmann::json::array();
    for (const auto& [key, total] : stages)
        list.push_back({{"name", std::get<1>(key)},
                        {"layer", std::get<2>(key)},
                        {"on", std::get<0>(key) ? "device" : "host"},
                        {"count", total.count},
                        {"bytes", total.bytes},
                        {"us", total.us}});
    const uint64_t fired = of_decode.active_device + of_decode.active_host;
    nlohmann::json out = counters_json(*this);
    out.update({{"batches", feeds},
                {"bytes", bytes},
                {"served", fired ? double(of_decode.active_device) / double(fired) : 0.0},
                {"stages", list},
                {"layers", layers_json(layers)}});
    return out;
}

nlohmann::json to_json(const FeedStats& s)
{
    nlohmann::json list = nlohmann::json::array();
    for (const Stage& stage : s.stages)
        list.push_back({{"name", stage.name},
                        {"layer", stage.layer},
                        {"on", stage.on_device ? "device" : "host"},
                        {"bytes", stage.bytes},
                        {"us", stage.us}});
    nlohmann::json out = counters_json(s);
    out.update({{"position", s.position}, {"bytes", s.bytes()}, {"stages", list}, {"layers", layers_json(s.layers)}});
    return out;
}

}    // namespace hearth::tools
