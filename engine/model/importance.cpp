#include "engine/model/importance.h"

#include "engine/file/gguf_writer.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

namespace hearth {

namespace {

constexpr std::string_view sums_suffix = ".in_sum2", counts_suffix = ".counts", kind = "imatrix";

/// What a tensor's shape would be as a matrix: (rows, columns); of more dimensions than two, rows of all.
struct Shape {
    uint64_t rows = 1, columns = 1;
};

Shape shape_of(const GgufTensor& t)
{
    Shape shape;
    if (!t.shape.empty()) shape.columns = t.shape[0];
    for (size_t i = 1; i < t.shape.size(); ++i) shape.rows *= t.shape[i];
    return shape;
}

/// One file, and what its messages begin with.
struct Reader {
    const std::filesystem::path& path;
    const Gguf& file;

    template <class... T>
    [[noreturn]] void refuse(fmt::format_string<T...> format, T&&... values) const
    {
        throw Error("{}: {}", path.string(), fmt::format(format, std::forward<T>(values)...));
    }

    /// The numbers of a tensor, none of them negative.
    std::vector<float> numbers(const GgufTensor& t) const
    {
        if (t.type != uint32_t(WeightType::f32)) refuse("{} is {}, and not F32", t.name, t.type_name());
        const std::span<const float> all(reinterpret_cast<const float*>(t.data), t.bytes / sizeof(float));
        for (const float x : all)
            if (!std::isfinite(x) || x < 0)
                refuse("{} has the number {}, which no sum of squares can be: make the file again", t.name, x);
        return {all.begin(), all.end()};
    }

    Importance::OfMatrix matrix(std::string_view name) const
    {
        const std::string counts_name = std::string(name) + std::string(counts_suffix),
                          sums_name = std::string(name) + std::string(sums_suffix);
        const GgufTensor *const sums = file.find(sums_name), *const counts = file.find(counts_name);
        if (!sums) refuse("{} is there without {}", counts_name, sums_name);
        if (!counts) refuse("{} is there without {}", sums_name, counts_name);
        const Shape of_sums = shape_of(*sums), of_counts = shape_of(*counts);
        if (of_counts.columns != 1 || of_counts.rows != of_sums.rows)
            refuse("{} has {} x {} numbers, and {} wants {} x 1", counts_name, of_counts.rows, of_counts.columns,
                   sums_name, of_sums.rows);
        return {.columns = of_sums.columns, .sums = numbers(*sums), .counts = numbers(*counts)};
    }
};

/// Columns and experts of a model's matrices, as other programs store them.
std::map<std::string, Shape, std::less<>> shapes_of(const Gguf& model, uint32_t experts)
{
    std::map<std::string, Shape, std::less<>> shapes;
    for (const GgufTensor& t : model.tensors()) {
        if (t.shape.size() < 2) continue;
        const std::string name = name_by_columns(t.name, experts > 0);
        const bool by_neurons = name != t.name;
        const uint64_t matrices = by_neurons ? std::max(experts, 1u) : t.shape.size() > 2 ? t.shape[2] : 1;
        shapes[name] = {matrices, by_neurons ? t.shape[1] / matrices : t.shape[0]};
    }
    return shapes;
}

}    // namespace

std::string name_by_columns(std::string_view tensor, bool experts)
{
    constexpr std::string_view by_neurons = ".ffn_down_t.weight";
    std::string name(tensor);
    if (tensor.ends_with(by_neurons))
        name.replace(name.size() - by_neurons.size(), by_neurons.size(),
                     experts ? ".ffn_down_exps.weight" : ".ffn_down.weight");
    return name;
}

std::optional<LayerPart> layer_part(std::string_view name)
{
    constexpr std::string_view prefix = "blk.";
    LayerPart found = {};
    if (!name.starts_with(prefix)) return {};
    const auto [end, error] = std::from_chars(name.data() + prefix.size(), name.data() + name.size(), found.layer);
    if (error != std::errc() || end == name.data() + name.size()) return {};
    found.part = name.substr(size_t(end + 1 - name.data()));
    return found;
}

Importance read_importance(const std::filesystem::path& path, const Gguf& model, uint32_t experts)
{
    const Gguf file(path);
    const Reader reader{path, file};
    if (const std::string_view type = file.string("general.type", "not there"); type != kind)
        reader.refuse("its general.type is {}, and that of an importance matrix {}: `hearth profile --imatrix` and "
                      "llama-imatrix make such files",
                      type, kind);
    Importance read;
    read.windows = file.u32("imatrix.chunk_count", 0);
    read.window = file.u32("imatrix.chunk_size", 0);
    if (file.keys().contains("imatrix.datasets"))
        for (const std::string_view text : file.strings("imatrix.datasets")) read.texts.emplace_back(text);
    const auto shapes = shapes_of(model, experts);
    for (const GgufTensor& t : file.tensors()) {
        const std::string_view suffix = t.name.ends_with(sums_suffix) ? sums_suffix : counts_suffix;
        if (!t.name.ends_with(suffix)) reader.refuse("{} is no tensor of an importance matrix", t.name);
        const std::string_view name = t.name.substr(0, t.name.size() - suffix.size());
        if (read.matrices.contains(name)) continue;
        const auto expected = shapes.find(name);
        if (expected == shapes.end())
            reader.refuse("{} is of a matrix that {} does not have: the file belongs to another model", t.name,
                          model.path().string());
        Importance::OfMatrix matrix = reader.matrix(name);
        if (matrix.columns != expected->second.columns || matrix.counts.size() != expected->second.rows)
            reader.refuse("{} is of {} x {} columns, and the matrix of {} has {} x {}: the file belongs to another "
                          "model",
                          t.name, matrix.counts.size(), matrix.columns, model.path().string(), expected->second.rows,
                          expected->second.columns);
        read.matrices.emplace(name, std::move(matrix));
    }
    if (read.matrices.empty()) reader.refuse("it is of no matrix at all: make the file again");
    file.check_unchanged();
    return read;
}

void write_importance(const std::filesystem::path& path, const Importance& importance)
{
    GgufKeys keys;
    keys.add("general.type", kind);
    keys.add("imatrix.datasets", std::span<const std::string>(importance.texts));
    keys.add("imatrix.chunk_count", importance.windows);
    keys.add("imatrix.chunk_size", importance.window);
    std::vector<GgufEntry> entries;
    const uint32_t f32 = uint32_t(WeightType::f32);
    for (const auto& [name, m] : importance.matrices) {
        const uint64_t experts = m.counts.size();
        entries.push_back({name + std::string(sums_suffix), f32, {m.columns, experts}, m.sums.size() * sizeof(float)});
        entries.push_back({name + std::string(counts_suffix), f32, {1, experts}, experts * sizeof(float)});
    }
    ModelFile file(path, "GGUF", keys, 32, std::move(entries));
    const auto write = [&](const std::vector<float>& numbers) {
        file.write({reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float)});
    };
    for (const auto& [name, m] : importance.matrices) {
        write(m.sums);
        write(m.counts);
    }
    file.finish();
}

std::vector<float> column_weights(const Importance::OfMatrix& m)
{
    // A text shows some columns less than others will: none counts for nothing.
    constexpr double least = 0.01;
    std::vector<float> weights(m.sums.size(), 1.0f);
    for (size_t e = 0; e < m.counts.size(); ++e) {
        const auto first = m.sums.begin() + ptrdiff_t(e * m.columns);
        const double mean = std::accumulate(first, first + ptrdiff_t(m.columns), 0.0) / double(m.columns);
        if (m.counts[e] == 0 || !(mean > 0)) continue;
        for (size_t i = 0; i < m.columns; ++i)
            weights[e * m.columns + i] = float((first[ptrdiff_t(i)] / mean + least) / (1 + least));
    }
    return weights;
}

}    // namespace hearth
