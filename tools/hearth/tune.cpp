// hearth tune: measures this machine once, so that plans fit it.
#include "tools/hearth/cli.h"

namespace hearth::tools {

namespace {

struct TuneOptions {
    EngineOptions engine;
    std::string output;
    bool json = false;
};

std::string table(const Machine& m)
{
    std::string out = fmt::format("{}, {} threads ({}), {}\n\n", m.has_device() ? m.device : "no device", m.threads,
                                  m.kernels, m.has_device() ? m.driver : "the CPU alone");
    out +=
        "| GB/s | CPU: matrix | gates | fired | GPU: matrix | gates | fired |\n|---|---:|---:|---:|---:|---:|---:|\n";
    const auto cell = [&](double gb_per_s, bool there) {
        return there ? fmt::format("{:.2f}", gb_per_s) : std::string("-");
    };
    for (size_t i = 0; i < std::size(weight_formats); ++i) {
        const RowRates &h = m.host.rows[i], &d = m.on_device.rows[i];
        out += fmt::format("| {} | {:.2f} | {:.2f} | {:.2f} | {} | {} | {} |\n", weight_formats[i].name, h.dot, h.gate,
                           h.fired, cell(d.dot, m.has_device()), cell(d.gate, m.has_device()),
                           cell(d.fired, m.has_device()));
    }
    out +=
        fmt::format("| plain reading | {:.2f} | | | {} | | |\n", m.host.read, cell(m.on_device.read, m.has_device()));
    // In F16, of heads that share no keys.
    const auto cache = [](const AttentionRates& a) {
        constexpr double width = 128, bytes = 4 * width;
        return bytes / (1000 * a.us(bytes, 2 * width, 1, 1));
    };
    out += fmt::format("| KV cache | {:.2f} | | | {} | | |\n", cache(m.host.attention),
                       cell(cache(m.on_device.attention), m.has_device()));
    if (!m.has_device()) return out;
    out += "\nRows of a matrix on the GPU: subgroups of a workgroup x invocations, rows that a subgroup takes at once, "
           "i: in integers\n\n|";
    for (const MatrixClass& c : matrix_classes) out += fmt::format(" | {}", c.name);
    out += " |\n|---|---|---|---|---|\n";
    for (size_t i = 0; i < std::size(weight_formats); ++i) {
        out += fmt::format("| {}", weight_formats[i].name);
        for (const auto& choice : m.row_variants.choice)
            out += choice[i] ? fmt::format(" | {} x {}, {}{}", choice[i]->subgroups, choice[i]->subgroup,
                                           choice[i]->rows, choice[i]->int_dot ? " i" : "")
                             : " | -";
        out += " |\n";
    }
    out += "\nMany tokens, in billions of products a second, and what is laid out for the GPU in GB/s\n\n| | CPU | "
           "laid out";
    for (const Product p : products) out += fmt::format(" | GPU, {}", product_name(p));
    out += " |\n|---|---:|---:|---:|---:|---:|---:|\n";
    for (size_t i = 0; i < std::size(weight_formats); ++i) {
        out += fmt::format("| {} | {:.1f} | {:.2f}", weight_formats[i].name, m.host_products[i], m.laid_out[i]);
        for (const double rate : m.products[i]) out += fmt::format(" | {}", cell(rate, rate > 0));
        out += " |\n";
    }
    out += fmt::format("\na step on the GPU {:.1f} us, on the CPU {:.1f} us; submit {:.1f} us, submit and notice "
                       "{:.1f} us, release and notice {:.1f} us\n",
                       m.on_device.step_us, m.host.step_us, m.submit_us, m.round_trip_us, m.release_us);
    out +=
        fmt::format("upload {:.2f} GB/s; both sides at once read {:.2f} times what the faster reads alone{}\n",
                    m.upload, m.together, m.together < 1.2 ? ": they share one memory, so a split gains little" : "");
    return out;
}

void tune(const TuneOptions& o)
{
    Machine m;
    std::vector<std::string> warnings;    // said behind the bar, not through it
    {
        ProgressBar bar("measuring");
        m = measure_machine(
            o.engine, [&](double share) { bar.show(share); },
            [&](const std::string& what) { warnings.push_back(what); });
    }
    for (const std::string& what : warnings) say("warning: {}", what);
    const std::filesystem::path path =
        o.output.empty() ? machine_path(m.device, m.driver, m.threads) : std::filesystem::path(o.output);
    if (!path.empty()) {
        std::error_code ec;
        if (o.output.empty()) std::filesystem::create_directories(path.parent_path(), ec);
        OutputFile(path).finish(dump(to_json(m)));
    }
    print(o.json ? dump(to_json(m)) : table(m));
    if (!path.empty()) say("kept in {}", path.string());
}

}    // namespace

Command add_tune(CLI::App& app)
{
    auto o = std::make_shared<TuneOptions>();
    group(app, "Device and memory");
    add_device_options(app, o->engine);
    group(app, "Output");
    app.add_option("-o,--output", o->output, "the file to write (default: where `plan`, `run` and `bench` look for it)")
        ->check(not_empty());
    app.add_flag("--json", o->json, "print the figures as JSON");
    return [o] { tune(*o); };
}

}    // namespace hearth::tools
