// The JSON of a report, both ways. What is read may be a stranger's: every field must be there, of its type and within
// its bounds, and nothing else.
#include "tools/hearth/report.h"

#include "tools/hearth/cli.h"
#include "tools/hearth/text.h"

#include <algorithm>
#include <cmath>
#include <concepts>

namespace hearth::tools {

namespace {

using OrderedJson = nlohmann::ordered_json;    // only written: looking a key up takes as long as there are keys
using Json = nlohmann::json;

constexpr size_t most_bytes = 16 << 20, most_items = 1024, most_letters = 4096;
constexpr double most_number = 1e18;

template <class T>
concept HasFields = requires(T& value)
{
    each_field(value, [](const char*, auto&) {});
};

// ---- writing --------------------------------------------------------------------------------------------------------

template <class T>
OrderedJson json_of_value(const T& value)
{
    return value;
}

template <class T>
OrderedJson json_of_value(const std::vector<T>& values);

template <HasFields T>
OrderedJson json_of_value(const T& value)
{
    OrderedJson out = OrderedJson::object();
    each_field(const_cast<T&>(value), [&](const char* name, auto& field) { out[name] = json_of_value(field); });
    return out;
}

template <class T>
OrderedJson json_of_value(const std::vector<T>& values)
{
    OrderedJson out = OrderedJson::array();
    for (const T& value : values) out.push_back(json_of_value(value));
    return out;
}

// ---- reading --------------------------------------------------------------------------------------------------------

/// `where` names a value in messages: "machines[0].devices[1].decode".
[[noreturn]] void wrong(const std::string& where, std::string_view expected)
{
    throw Error("{} is not {}", where, expected);
}

void read_value(const Json& json, const std::string& where, std::string& out)
{
    if (!json.is_string()) wrong(where, "a text");
    out = json.get<std::string>();
    if (out.size() > most_letters) wrong(where, fmt::format("a text of at most {} bytes", most_letters));
}

void read_value(const Json& json, const std::string& where, bool& out)
{
    if (!json.is_boolean()) wrong(where, "true or false");
    out = json.get<bool>();
}

void read_value(const Json& json, const std::string& where, double& out)
{
    if (json.is_number()) out = json.get<double>();
    if (!json.is_number() || !(out >= 0 && out <= most_number)) wrong(where, "a number from 0 to 1e18");
}

template <std::unsigned_integral T>
void read_value(const Json& json, const std::string& where, T& out)
{
    if (!json.is_number_unsigned() || json.get<uint64_t>() > std::min<uint64_t>(T(-1), uint64_t(most_number)))
        wrong(where, "a whole number that is not too large");
    out = json.get<T>();
}

template <HasFields T>
void read_value(const Json& json, const std::string& where, T& out);

template <class T>
void read_value(const Json& json, const std::string& where, std::vector<T>& out)
{
    if (!json.is_array() || json.size() > most_items) wrong(where, fmt::format("a list of at most {}", most_items));
    out.resize(json.size());
    for (size_t i = 0; i < out.size(); ++i) read_value(json[i], fmt::format("{}[{}]", where, i), out[i]);
}

template <HasFields T>
void read_value(const Json& json, const std::string& where, T& out)
{
    if (!json.is_object()) wrong(where, "an object");
    size_t known = 0;
    each_field(out, [&](const char* name, auto& field) {
        const auto found = json.find(name);
        if (found == json.end()) throw Error("{} has no \"{}\"", where, name);
        read_value(*found, fmt::format("{}.{}", where, name), field);
        ++known;
    });
    if (known != json.size()) throw Error("{} has keys that this version does not know", where);
}

// ---- what holds beyond types ----------------------------------------------------------------------------------------

void check_rates(const std::vector<double>& runs)
{
    if (runs.empty()) throw Error("a test has no runs");
    if (std::ranges::any_of(runs, [](double r) { return r <= 0; })) throw Error("a run has no speed");
}

void check_device(const DeviceResult& d)
{
    for (const PartResult& p : d.parts)
        if (std::ranges::find(part_states, p.state) == std::end(part_states))
            throw Error("a part is '{}', which no part can be", p.state);
    if (d.decode.size() > 1) throw Error("a device has several results of decode");
    for (const SpeedResult& s : d.decode) check_rates(s.tokens_per_s);
    for (const SpeedResult& s : d.prefill) check_rates(s.tokens_per_s);
    for (const SplitResult& s : d.splits) {
        check_rates(s.decode.tokens_per_s);
        if (s.resident > 1) throw Error("a device has more than all neurons");
    }
    for (const TogetherResult& t : d.together) {
        check_rates(t.tokens_per_s);
        if (t.sequences == 0) throw Error("no sequences decode together");
    }
}

}    // namespace

std::string to_json_text(const BenchReport& report)
{
    OrderedJson json = {{"hearth_report", report_version}, {"machines", json_of_value(report.machines)}};
    return json.dump(1, ' ', true, OrderedJson::error_handler_t::replace) + "\n";
}

BenchReport read_report(const std::filesystem::path& path)
{
    try {
        std::error_code ec;
        if (const uintmax_t bytes = std::filesystem::file_size(path, ec); !ec && bytes > most_bytes)
            throw Error("it has {} bytes, and {} are the most", bytes, most_bytes);
        const Json json = Json::parse(read_bytes(path.string()));
        if (!json.is_object() || !json.contains("hearth_report")) throw Error("it has no \"hearth_report\"");
        uint32_t version = 0;
        read_value(json["hearth_report"], "hearth_report", version);
        if (version != report_version)
            throw Error("it is of version {}, and this program reads {}", version, report_version);
        if (json.size() != 2 || !json.contains("machines")) throw Error("it has other keys than \"machines\"");
        BenchReport report;
        read_value(json["machines"], "machines", report.machines);
        for (const MachineResult& m : report.machines)
            for (const DeviceResult& d : m.devices) check_device(d);
        return report;
    } catch (const std::exception& e) {
        throw Error("{} is not a report of `hearth bench --report` ({}): measure that machine again", path.string(),
                    e.what());
    }
}

}    // namespace hearth::tools
