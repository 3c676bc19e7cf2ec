#include "tools/hearth/cli.h"
#include "tools/hearth/confine.h"

#include <chrono>
#include <cmath>
#include <csignal>

#ifdef _WIN32
#include <io.h>
#define isatty _isatty
#define fileno _fileno
#else
#include <fcntl.h>
#include <unistd.h>
#endif

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
    say("{}{}", engine.summary(), more);
    return engine;
}

void prepare_streams()
{
#ifndef _WIN32
    for (const int fd : {0, 1, 2})
        if (fcntl(fd, F_GETFD) == -1)
            open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);    // the wrong way round: to use it is an error
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);
    end_clearly_on_signals();
#endif
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

bool on_terminal(std::FILE* stream) { return isatty(fileno(stream)); }

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
    static const bool terminal = isatty(fileno(stdout));
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
    tokens += s.tokens;
    feeds += 1;
    submits += s.submits;
    dispatches += s.dispatches;
    waits += s.waits;
    joins += s.joins;
    us += s.us;
    bytes += s.bytes();
    downloaded += s.downloaded;
    moved_groups += s.moved_groups;
    moved_bytes += s.moved_bytes;
    streamed_bytes += s.streamed_bytes;
    for (const Stage& stage : s.stages) {
        StageTotal& total = stages[{stage.on_device, std::string(stage.name), stage.layer}];
        total.count += 1;
        total.bytes += stage.bytes;
        total.us += stage.us;
    }
    layers.resize(s.layers.size());
    for (size_t l = 0; l < s.layers.size(); ++l) {
        LayerCounts& sum = layers[l];
        const LayerCounts& add = s.layers[l];
        sum.resident = add.resident;
        sum.split = add.split;
        sum.active_device += add.active_device;
        sum.active_host += add.active_host;
        sum.device_us += add.device_us;
        sum.host_us += add.host_us;
        sum.both_us += add.both_us;
        if (s.tokens > 1) continue;    // of decode only
        sum.host_gates += add.host_gates;
        sum.missed += add.missed;
        neurons_served += add.active_device;
        neurons_fired += add.active_device + add.active_host;
        host_neurons += add.host_neurons;
        looked_at += add.host_gates;
        fired_on_host += add.active_host;
        missed += add.missed;
    }
}

namespace {

nlohmann::json layers_json(const std::vector<LayerCounts>& layers)
{
    nlohmann::json out = nlohmann::json::array();
    for (const LayerCounts& l : layers)
        out.push_back({{"resident", l.resident},
                       {"split", l.split},
                       {"active_device", l.active_device},
                       {"active_host", l.active_host},
                       {"device_us", l.device_us},
                       {"host_gates", l.host_gates},
                       {"missed", l.missed},
                       {"host_us", l.host_us},
                       {"both_us", l.both_us}});
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
    return {{"tokens", tokens},
            {"batches", feeds},
            {"submits", submits},
            {"dispatches", dispatches},
            {"waits", waits},
            {"joins", joins},
            {"bytes", bytes},
            {"downloaded", downloaded},
            {"moved_groups", moved_groups},
            {"moved_bytes", moved_bytes},
            {"streamed_bytes", streamed_bytes},
            {"served", neurons_fired ? double(neurons_served) / double(neurons_fired) : 0.0},
            {"us", us},
            {"stages", list},
            {"layers", layers_json(layers)}};
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
    return {{"position", s.position},
            {"tokens", s.tokens},
            {"submits", s.submits},
            {"dispatches", s.dispatches},
            {"waits", s.waits},
            {"joins", s.joins},
            {"bytes", s.bytes()},
            {"downloaded", s.downloaded},
            {"us", s.us},
            {"stages", list},
            {"layers", layers_json(s.layers)}};
}

}    // namespace hearth::tools
