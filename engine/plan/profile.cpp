#include "engine/plan/profile.h"

#include "engine/file/gguf_writer.h"
#include "engine/system/checksum.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <functional>
#include <numeric>

namespace hearth {

namespace {

constexpr std::string_view prefix = "hearth.profile.";
constexpr uint32_t format_version = 2;    // 1 is the same without a checksum
constexpr uint64_t most_count = uint64_t(1)
                                << 53;    // of anything: doubles hold it, and sums stay there instead of passing it
constexpr uint32_t most_stride = uint32_t(1) << 31;

uint32_t words_for(uint64_t neurons) { return ceil_div(neurons, 32); }

constexpr std::string_view checksum_key = "hearth.profile.checksum";

std::string key_of(std::string_view name) { return std::string(prefix) + std::string(name); }
std::string key_of(uint32_t layer, std::string_view name) { return fmt::format("{}blk.{}.{}", prefix, layer, name); }

GgufKeys keys_of(const Profile& p)
{
    GgufKeys keys;
    keys.add(key_of("version"), format_version);
    keys.add(key_of("model"), std::string_view(p.model));
    keys.add(key_of("positions"), p.positions);
    keys.add(key_of("stride"), p.stride);
    keys.add(key_of("sampled"), p.sampled);
    std::vector<std::string> texts;
    std::vector<uint64_t> progress;
    for (const Profile::Text& t : p.texts) {
        texts.push_back(t.key);
        progress.insert(progress.end(), {t.done, t.total});
    }
    keys.add(key_of("texts"), std::span<const std::string>(texts));
    keys.add(key_of("progress"), std::span<const uint64_t>(progress));
    for (uint32_t l = 0; l < p.layers.size(); ++l) {
        const LayerProfile& layer = p.layers[l];
        const auto counts = [&](const char* name, const std::vector<uint64_t>& values) {
            keys.add(key_of(l, name), std::span<const uint64_t>(values));
        };
        counts("fired", layer.fired);
        keys.add(key_of(l, "samples"), std::span<const uint32_t>(layer.samples));
        counts("agreeing", layer.agreeing);
        counts("agreeing_fired", layer.agreeing_fired);
        const uint64_t predicted[] = {layer.predicted, layer.predicted_fired};
        keys.add(key_of(l, "predicted"), std::span<const uint64_t>(predicted));
        counts("activation", layer.activation);
    }
    if (const auto& c = p.calibration) {
        const double figures[] = {c->sparsity, c->dense_nll, c->sparse_nll, double(c->tokens)};
        static constexpr const char* names[] = {"sparsity", "dense_nll", "sparse_nll", "tokens"};
        for (size_t i = 0; i < std::size(names); ++i)
            keys.add(key_of(fmt::format("calibration.{}", names[i])), figures[i]);
        keys.add(key_of("calibration.cuts"), std::span<const float>(c->cuts));
    }
    keys.add(checksum_key, std::string_view(checksum(keys.bytes())));
    return keys;
}

/// Of a profile's keys as they lie in a file, but for the one that keeps it.
std::string checksum_of(const Gguf& file)
{
    Fnv1a hash;
    for (const auto& [name, bytes] : file.raw().keys)
        if (name.starts_with(prefix) && name != checksum_key) hash.add(bytes);
    return hash.hex();
}

}    // namespace

// ---- bins -----------------------------------------------------------------------------------------------------------

uint32_t activation_bin(float magnitude)
{
    if (!(magnitude >= 0x1p-12f)) return 0;
    return std::min(activation_bins - 1, 1 + uint32_t(16 * std::log2(magnitude * 0x1p12f)));
}

float activation_edge(uint32_t bin) { return bin == 0 ? 0.0f : std::exp2(float(bin - 1) / 16) * 0x1p-12f; }

// ---- files ----------------------------------------------------------------------------------------------------------

std::string model_key(const Gguf& model)
{
    Fnv1a hash;
    hash.add(model.string("general.architecture", ""));
    for (const GgufTensor& t : model.tensors()) {
        hash.add(fmt::format("{} {} {}", t.name, t.type, fmt::join(t.shape, "x")));
        constexpr uint64_t some = 4096;
        const std::string_view bytes(reinterpret_cast<const char*>(t.data), t.bytes);
        hash.add(bytes.substr(0, some));
        if (bytes.size() > some) hash.add(bytes.substr(bytes.size() / 2, some));
        if (bytes.size() > some) hash.add(bytes.substr(bytes.size() - some));
    }
    return hash.hex();
}

Profile empty_profile(const Gguf& model, uint32_t layers, uint32_t neurons, uint32_t dim)
{
    Profile p;
    p.model = model_key(model);
    p.layers.resize(layers);
    for (LayerProfile& l : p.layers) {
        l.fired.resize(neurons);
        l.agreeing.resize(dim + 1);
        l.agreeing_fired.resize(dim + 1);
        l.activation.resize(activation_bins);
    }
    return p;
}

std::filesystem::path profile_path(const std::filesystem::path& model) { return model.string() + ".profile"; }

bool has_profile(const Gguf& file) { return file.keys().contains("hearth.profile.version"); }

Profile read_profile(const Gguf& file, const Gguf& model, uint32_t layers, uint32_t neurons, uint32_t dim)
{
    const std::string path = file.path().string();
    if (!has_profile(file)) throw Error("{} is not a profile: make one with `hearth profile`", path);
    const uint32_t version = file.u32("hearth.profile.version");
    if (version < 1 || version > format_version)
        throw Error(
            "{} is a profile of version {}, and this program reads 1 to {}: make it again with `hearth profile --anew`",
            path, version, format_version);
    if (version > 1 && file.string(checksum_key, "") != checksum_of(file))
        throw Error("{} is damaged: its checksum is wrong; make it again with `hearth profile --anew`", path);
    Profile p = empty_profile(model, layers, neurons, dim);
    if (file.string("hearth.profile.model") != p.model)
        throw Error("{} is the profile of another model than {}: make one for it with `hearth profile --anew`", path,
                    model.path().string());

    const auto damaged = [&](const std::string& key) -> Error {
        return Error("{} is damaged: {} is not what it should be; make it again with `hearth profile --anew`", path,
                     key);
    };
    const auto integers = [&](const std::string& key, std::optional<uint64_t> count) -> const std::vector<int64_t>& {
        const std::vector<int64_t>* values = file.integers(key);
        const auto too_many = [](int64_t v) { return uint64_t(v) > most_count; };
        if (!values || (count && values->size() != *count) || std::ranges::any_of(*values, too_many))
            throw damaged(key);
        return *values;
    };
    const auto number = [&](const char* name) {
        const auto found = file.keys().find(key_of(name));
        const uint64_t* const n = found == file.keys().end() ? nullptr : std::get_if<uint64_t>(&found->second);
        if (!n || *n > most_count) throw damaged(key_of(name));
        return *n;
    };
    p.positions = number("positions");
    p.stride = file.u32("hearth.profile.stride");
    p.sampled = number("sampled");
    if (p.stride == 0 || !std::has_single_bit(p.stride) || p.sampled > most_samples || p.sampled > p.positions)
        throw damaged(key_of("sampled"));
    const std::vector<std::string_view>& texts = file.strings("hearth.profile.texts");
    const std::vector<int64_t>& progress = integers(key_of("progress"), 2 * texts.size());
    for (size_t i = 0; i < texts.size(); ++i)
        p.texts.push_back({std::string(texts[i]), uint64_t(progress[2 * i]), uint64_t(progress[2 * i + 1])});
    for (uint32_t l = 0; l < layers; ++l) {
        LayerProfile& layer = p.layers[l];
        const auto read = [&](const char* name, auto& to, uint64_t count) {
            const std::vector<int64_t>& values = integers(key_of(l, name), count);
            to.assign(values.begin(), values.end());
        };
        read("fired", layer.fired, neurons);
        read("samples", layer.samples, p.sampled * words_for(neurons));
        read("agreeing", layer.agreeing, dim + 1);
        read("agreeing_fired", layer.agreeing_fired, dim + 1);
        std::vector<uint64_t> predicted;
        read("predicted", predicted, 2);
        layer.predicted = predicted[0];
        layer.predicted_fired = predicted[1];
        read("activation", layer.activation, activation_bins);
        for (const uint64_t n : layer.fired)
            if (n > p.positions) throw damaged(key_of(l, "fired"));
    }
    if (file.keys().contains("hearth.profile.calibration.sparsity")) {
        const auto figure = [&](const char* name, double most) {
            const std::string key = key_of(fmt::format("calibration.{}", name));
            const double x = file.f32(key);
            if (!(x >= 0 && x <= most)) throw damaged(key);
            return x;
        };
        const std::vector<double>* cuts = file.floats("hearth.profile.calibration.cuts");
        if (!cuts || cuts->size() != layers ||
            !std::ranges::all_of(*cuts, [](double cut) { return cut >= 0 && cut <= FLT_MAX; }))
            throw damaged(key_of("calibration.cuts"));
        p.calibration = {.sparsity = figure("sparsity", 1),
                         .cuts = {cuts->begin(), cuts->end()},
                         .dense_nll = figure("dense_nll", FLT_MAX),
                         .sparse_nll = figure("sparse_nll", FLT_MAX),
                         .tokens = uint64_t(figure("tokens", double(most_count)))};
    }
    return p;
}

void write_profile(const std::filesystem::path& path, const Profile& profile)
{
    const std::string bytes = keys_of(profile).file();
    const std::string_view parts[] = {bytes};
    write_whole(path, parts);
}

void embed_profile(const Gguf& model, const Profile& profile, const std::filesystem::path& out)
{
    embed_keys(model, prefix, keys_of(profile), out);
}

// ---- adding up ------------------------------------------------------------------------------------------------------

namespace {

/// Drops every second sample.
void halve_samples(Profile& p)
{
    for (LayerProfile& l : p.layers) {
        const size_t words = words_for(l.fired.size());
        for (uint64_t s = 0; s < p.sampled; s += 2)
            std::copy_n(l.samples.begin() + std::ptrdiff_t(s * words), words,
                        l.samples.begin() + std::ptrdiff_t(s / 2 * words));
        l.samples.resize((p.sampled + 1) / 2 * words);
    }
    p.sampled = (p.sampled + 1) / 2;
    p.stride = std::min(p.stride, most_stride / 2) * 2;
}

}    // namespace

void thin_samples(Profile& p)
{
    while (p.sampled > most_samples) halve_samples(p);
}

void merge(Profile& into, Profile from)
{
    if (into.model != from.model || into.layers.size() != from.layers.size())
        throw Error("profiles of different models cannot be merged");
    for (const Profile::Text& t : from.texts)
        for (const Profile::Text& have : into.texts)
            if (have.key == t.key)
                throw Error("a text is in both profiles, and would count twice: merge profiles of different texts");
    into.texts.insert(into.texts.end(), from.texts.begin(), from.texts.end());
    into.calibration.reset();    // it is of other cuts
    while (into.stride < from.stride) halve_samples(into);
    while (from.stride < into.stride) halve_samples(from);
    const auto sum = [](uint64_t a, uint64_t b) { return std::min(a + b, most_count); };
    const auto add = [&](auto& to, const auto& more) {
        std::transform(to.begin(), to.end(), more.begin(), to.begin(), sum);
    };
    for (size_t i = 0; i < into.layers.size(); ++i) {
        LayerProfile &l = into.layers[i], &m = from.layers[i];
        add(l.fired, m.fired);
        add(l.agreeing, m.agreeing);
        add(l.agreeing_fired, m.agreeing_fired);
        add(l.activation, m.activation);
        l.predicted = sum(l.predicted, m.predicted);
        l.predicted_fired = sum(l.predicted_fired, m.predicted_fired);
        l.samples.insert(l.samples.end(), m.samples.begin(), m.samples.end());
    }
    into.positions = sum(into.positions, from.positions);
    into.sampled += from.sampled;
    thin_samples(into);
}

// ---- what follows from it -------------------------------------------------------------------------------------------

std::vector<uint32_t> placement_order(const LayerProfile& layer, uint64_t sampled)
{
    const uint32_t neurons = uint32_t(layer.fired.size()), words = words_for(neurons);
    std::vector<uint32_t> order(neurons);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return layer.fired[a] > layer.fired[b]; });

    const size_t row = (sampled + 63) / 64;    // words of 64 sampled positions, neuron by neuron
    std::vector<uint64_t> when(neurons * row);
    for (uint64_t s = 0; s < sampled; ++s)
        for (uint32_t n = 0; n < neurons; ++n)
            when[n * row + s / 64] |= uint64_t(layer.samples[s * words + n / 32] >> n % 32 & 1) << s % 64;

    // Within a band of about equally hot neurons, each group is the hottest one left and those that fire most with it.
    constexpr uint32_t bands = 8;
    const uint32_t band = std::max(group_neurons, ceil_div(ceil_div(neurons, bands), group_neurons) * group_neurons);
    std::vector<uint32_t> together(neurons);
    for (uint32_t first = 0; first < neurons; first += band) {
        const uint32_t end = std::min(neurons, first + band);
        for (uint32_t g = first; g + group_neurons < end; g += group_neurons) {
            for (uint32_t i = g + 1; i < end; ++i) {
                uint32_t common = 0;
                for (size_t w = 0; w < row; ++w)
                    common += uint32_t(std::popcount(when[order[g] * row + w] & when[order[i] * row + w]));
                together[order[i]] = common;
            }
            std::stable_sort(order.begin() + g + 1, order.begin() + end,
                             [&](uint32_t a, uint32_t b) { return together[a] > together[b]; });
            std::stable_sort(order.begin() + g + group_neurons, order.begin() + end, [&](uint32_t a, uint32_t b) {
                return layer.fired[a] > layer.fired[b] || (layer.fired[a] == layer.fired[b] && a < b);
            });
        }
    }
    return order;
}

uint32_t sign_threshold(const LayerProfile& layer, double recall)
{
    const uint64_t all = std::accumulate(layer.agreeing_fired.begin(), layer.agreeing_fired.end(), uint64_t(0));
    uint64_t kept = 0;
    for (uint32_t a = uint32_t(layer.agreeing_fired.size()); a-- > 0;) {
        kept += layer.agreeing_fired[a];
        if (double(kept) >= recall * double(all)) return a;
    }
    return 0;
}

PredictorQuality sign_quality(const LayerProfile& layer, uint32_t agreements)
{
    uint64_t all = 0, fired = 0, predicted = 0, hit = 0;
    for (uint32_t a = 0; a < layer.agreeing.size(); ++a) {
        all += layer.agreeing[a];
        fired += layer.agreeing_fired[a];
        if (a < agreements) continue;
        predicted += layer.agreeing[a];
        hit += layer.agreeing_fired[a];
    }
    const auto share = [](uint64_t a, uint64_t b) { return b ? double(a) / double(b) : 1.0; };
    return {share(hit, fired), share(hit, predicted), share(predicted, all)};
}

PredictorQuality lowrank_quality(const LayerProfile& layer)
{
    const uint64_t all = std::accumulate(layer.agreeing.begin(), layer.agreeing.end(), uint64_t(0)),
                   fired = std::accumulate(layer.agreeing_fired.begin(), layer.agreeing_fired.end(), uint64_t(0));
    const auto share = [](uint64_t a, uint64_t b) { return b ? double(a) / double(b) : 1.0; };
    return {share(layer.predicted_fired, fired), share(layer.predicted_fired, layer.predicted),
            share(layer.predicted, all)};
}

float activation_cut(const LayerProfile& layer, double sparsity)
{
    const uint64_t all = std::accumulate(layer.activation.begin(), layer.activation.end(), uint64_t(0));
    uint64_t below = 0;
    for (uint32_t bin = 0; bin < activation_bins; ++bin) {
        below += layer.activation[bin];
        if (double(below) > sparsity * double(all)) return activation_edge(bin);
    }
    return activation_edge(activation_bins - 1);
}

}    // namespace hearth
