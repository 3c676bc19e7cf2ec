// The machine's figures as JSON: measured by `hearth tune`, read by whatever plans.
#include "engine/system/folders.h"
#include "tools/hearth/cli.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <vector>

namespace hearth::tools {

namespace {

template <class F>
void each_figure(SideRates& r, F&& f)
{
    f("read", r.read);
    f("vector", r.vector);
    f("signs", r.signs);
    f("step_us", r.step_us);
}

template <class F>
void each_figure(Machine& m, F&& f)
{
    f("submit_us", m.submit_us);
    f("round_trip_us", m.round_trip_us);
    f("release_us", m.release_us);
    f("upload", m.upload);
    f("together", m.together);
}

nlohmann::json side_json(SideRates r)
{
    nlohmann::json rows;
    for (size_t i = 0; i < std::size(weight_formats); ++i)
        rows[std::string(weight_formats[i].name)] = {{"dot", r.rows[i].dot},       {"gate", r.rows[i].gate},
                                                     {"fired", r.rows[i].fired},   {"passed", r.rows[i].passed},
                                                     {"row_us", r.rows[i].row_us}, {"neuron_us", r.rows[i].neuron_us}};
    nlohmann::json json = {{"rows", rows}};
    each_figure(r, [&](const char* name, double& x) { json[name] = x; });
    json["norm_us"] = r.norm_us;
    json["attention"] = {{"kv", r.attention.kv},
                         {"products", r.attention.products},
                         {"keys_us", r.attention.keys_us},
                         {"query_us", r.attention.query_us},
                         {"prompt", r.attention.prompt}};
    return json;
}

double figure(const nlohmann::json& at, const char* name)
{
    const double x = at.at(name).get<double>();
    if (!(x >= 0)) throw Error("{} is {}", name, x);
    return x;
}

/// What files of earlier versions do not have.
double younger_figure(const nlohmann::json& at, const char* name) { return at.contains(name) ? figure(at, name) : 0; }

/// GB/s that something is divided by.
double rate(const nlohmann::json& at, const char* name)
{
    const double x = figure(at, name);
    if (x == 0) throw Error("{} is 0", name);
    return x;
}

uint32_t whole(const nlohmann::json& at, const char* name)
{
    const nlohmann::json& x = at.at(name);
    if (!x.is_number_unsigned() || x.get<uint64_t>() > UINT32_MAX)
        throw Error("{} is {}, expected a whole number", name, printable(x.dump()));
    return x.get<uint32_t>();
}

SideRates side_from(const nlohmann::json& json)
{
    SideRates r;
    const nlohmann::json& measured = json.at("rows");
    RowRates slowest = {INFINITY, INFINITY, INFINITY};
    std::vector<RowRates*> younger;    // formats that were added after the file was made
    for (size_t i = 0; i < std::size(weight_formats); ++i) {
        const auto row = measured.find(weight_formats[i].name);
        RowRates& rates = r.rows[i];
        if (row == measured.end()) {
            younger.push_back(&rates);
            continue;
        }
        rates = {.dot = rate(*row, "dot"),
                 .gate = rate(*row, "gate"),
                 .fired = rate(*row, "fired"),
                 .passed = younger_figure(*row, "passed"),
                 .row_us = younger_figure(*row, "row_us"),
                 .neuron_us = younger_figure(*row, "neuron_us")};
        slowest = {std::min(slowest.dot, rates.dot), std::min(slowest.gate, rates.gate),
                   std::min(slowest.fired, rates.fired)};
    }
    if (younger.size() == std::size(weight_formats)) throw Error("it has no weight format");
    for (RowRates* rates : younger) *rates = slowest;
    each_figure(r, [&](const char* name, double& x) { x = figure(json, name); });
    r.norm_us = json.contains("norm_us") ? figure(json, "norm_us") : r.step_us;
    if (json.contains("attention")) {
        const nlohmann::json& a = json.at("attention");
        r.attention = {rate(a, "kv"), figure(a, "products"), figure(a, "keys_us"), figure(a, "query_us"),
                       younger_figure(a, "prompt")};
    } else {
        r.attention.kv = rate(json, "kv");
    }
    return r;
}

/// Of the formats that were measured.
nlohmann::json products_json(const Machine& m)
{
    nlohmann::json json = nlohmann::json::object();
    for (size_t f = 0; f < std::size(weight_formats); ++f) {
        nlohmann::json format;
        if (m.host_products[f] > 0) format["host"] = m.host_products[f];
        if (m.host_sum_us[f] > 0) format["host_sum_us"] = m.host_sum_us[f];
        if (m.laid_out[f] > 0) format["laid_out"] = m.laid_out[f];
        for (const Product p : products)
            if (const double rate = m.products[f][size_t(p)]; rate > 0) format[std::string(product_name(p))] = rate;
        if (!format.is_null()) json[std::string(weight_formats[f].name)] = format;
    }
    return json;
}

void read_products(const nlohmann::json& json, Machine& m)
{
    for (size_t f = 0; f < std::size(weight_formats); ++f) {
        const nlohmann::json format = json.value(std::string(weight_formats[f].name), nlohmann::json::object());
        const auto figure = [&](std::string_view name) { return std::max(format.value(std::string(name), 0.0), 0.0); };
        m.host_products[f] = figure("host");
        m.host_sum_us[f] = figure("host_sum_us");
        m.laid_out[f] = figure("laid_out");
        for (const Product p : products) m.products[f][size_t(p)] = figure(product_name(p));
    }
}

nlohmann::json variants_json(const RowVariants& variants)
{
    nlohmann::json json = nlohmann::json::object();
    for (size_t c = 0; c < std::size(matrix_classes); ++c)
        for (size_t f = 0; f < std::size(weight_formats); ++f)
            if (const std::optional<RowVariant>& v = variants.choice[c][f])
                json[std::string(matrix_classes[c].name)][std::string(weight_formats[f].name)] = {
                    {"subgroup", v->subgroup},
                    {"subgroups", v->subgroups},
                    {"rows", v->rows},
                    {"int_dot", v->int_dot},
                    {"chunks", v->chunks}};
    return json;
}

/// What is not there was not measured.
RowVariants variants_from(const nlohmann::json& json)
{
    RowVariants variants;
    for (size_t c = 0; c < std::size(matrix_classes); ++c)
        for (size_t f = 0; f < std::size(weight_formats); ++f) {
            const auto of_class = json.find(matrix_classes[c].name);
            if (of_class == json.end() || !of_class->contains(weight_formats[f].name)) continue;
            const nlohmann::json& v = of_class->at(std::string(weight_formats[f].name));
            variants.choice[c][f] =
                RowVariant{whole(v, "subgroup"), whole(v, "subgroups"), whole(v, "rows"), v.at("int_dot"),
                           v.contains("chunks") ? whole(v, "chunks") : 1};    // older files have none
        }
    return variants;
}

bool is_fastest(const InstructionSet& chosen)
{
    std::string_view fastest;
    for (const InstructionSet& set : instruction_sets())
        if (set.here) fastest = set.id;
    return chosen.id == fastest;
}

}    // namespace

nlohmann::json to_json(const Machine& machine)
{
    Machine m = machine;
    nlohmann::json json = {{"device", m.device},
                           {"driver", m.driver},
                           {"system", m.system},
                           {"kernels", m.kernels},
                           {"threads", m.threads},
                           {"software", m.software},
                           {"host", side_json(m.host)},
                           {"on_device", side_json(m.on_device)},
                           {"row_variants", variants_json(m.row_variants)},
                           {"products", products_json(m)}};
    each_figure(m, [&](const char* name, double& x) { json[name] = x; });
    if (m.small_host) json["small_host"] = side_json(*m.small_host);
    return json;
}

Machine read_machine(const std::filesystem::path& path)
{
    std::ifstream file(path);
    if (!file) throw Error("{} cannot be read: measure this machine with `hearth tune`", path.string());
    try {
        const nlohmann::json json = nlohmann::json::parse(file);
        Machine m = {.device = json.at("device"),
                     .driver = json.at("driver"),
                     .system = json.value("system", ""),    // older files have none
                     .kernels = json.at("kernels"),
                     .threads = whole(json, "threads"),
                     .software = json.at("software"),
                     .host = side_from(json.at("host")),
                     .on_device = side_from(json.at("on_device")),
                     .row_variants = variants_from(
                         json.value("row_variants", nlohmann::json::object()))};    // older files have none
        each_figure(m, [&](const char* name, double& x) { x = figure(json, name); });
        if (json.contains("small_host")) m.small_host = side_from(json.at("small_host"));
        read_products(json.value("products", nlohmann::json::object()), m);    // older files have none
        return m;
    } catch (const std::exception& e) {
        throw Error("{} is not a file of `hearth tune` ({}): measure this machine again", path.string(), e.what());
    }
}

std::filesystem::path machine_path(const std::string& device, const std::string& driver, unsigned threads)
{
    const std::filesystem::path folder = cache_folder();
    if (folder.empty()) return {};
    std::string name = fmt::format("machine {} {} {}", device.empty() ? "cpu" : device, driver, threads);
    if (!is_fastest(instruction_set())) name += fmt::format(" {}", instruction_set().id);
    for (char& ch : name)
        if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '-';
    return folder / (name + ".json");
}

std::optional<Machine> measured_machine(const std::string& device, const std::string& driver, unsigned threads)
{
    const std::filesystem::path path = machine_path(device, driver, threads);
    std::error_code ec;
    if (path.empty() || !std::filesystem::exists(path, ec)) return {};
    return read_machine(path);
}

}    // namespace hearth::tools
