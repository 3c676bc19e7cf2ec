#include "engine/model/powerinfer.h"

#include "host/kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

namespace hearth {

// ---- the index ------------------------------------------------------------------------------------------------------

std::filesystem::path gpu_index_of(const std::filesystem::path& model)
{
    std::filesystem::path path = model;
    return path += ".generated.gpuidx";
}

std::filesystem::path activation_folder_of(const std::filesystem::path& model)
{
    return model.parent_path() / "activation";
}

GpuIndex read_gpu_index(const std::filesystem::path& path, const Config& config)
{
    const Gguf file(path);
    const std::string name = path.string();
    if (file.string("general.architecture") != "generic.gpu_index")
        throw Error("{} is not PowerInfer's index of a GPU's neurons", name);
    const uint32_t layers = file.u32("generic.gpu_index.block_count");
    if (layers != config.layers || file.tensors().size() != 2 * uint64_t(layers))
        throw Error("{} has {} layers and {} tensors, and the model {} layers; it belongs to another model", name,
                    layers, file.tensors().size(), config.layers);

    GpuIndex index{file.u64("split.vram_capacity"), {}};
    for (uint32_t l = 0; l < layers; l++) {
        const std::string tensor = fmt::format("blk.{}.gpu_idx", l);
        const std::span<const int32_t> on_gpu = file.numbers(tensor, config.neurons),
                                       bucket = file.numbers(fmt::format("blk.{}.gpu_bucket", l));
        std::vector<uint32_t>& ids = index.layers.emplace_back();
        for (uint32_t i = 0; i < config.neurons; i++) {
            if (on_gpu[i] != 0 && on_gpu[i] != 1)
                throw Error("{} is damaged: {} of neuron {} is {}, expected 0 or 1", name, tensor, i, on_gpu[i]);
            if (on_gpu[i]) ids.push_back(i);
        }
        if (!std::ranges::equal(ids, bucket, {}, {}, [](int32_t id) { return uint32_t(id); }))
            throw Error("{} is damaged: {} and blk.{}.gpu_bucket name different neurons", name, tensor, l);
    }
    return index;
}

// ---- tensors of torch -----------------------------------------------------------------------------------------------

namespace {

template <class T>
T element(const std::byte* bytes)
{
    T x;
    std::memcpy(&x, bytes, sizeof x);
    return x;
}

template <class T>
double plain(const std::byte* x)
{
    return double(element<T>(x));
}

double half(const std::byte* x)
{
    float y;
    host::kernels().of(WeightType::f16).decode(x, &y, 1);
    return y;
}

double bfloat(const std::byte* x) { return std::bit_cast<float>(uint32_t(element<uint16_t>(x)) << 16); }

struct Storage {
    std::string_view name;    // torch's
    uint32_t bytes;           // of an element
    double (*number)(const std::byte* element);
};

constexpr Storage storages[] = {
    {"DoubleStorage", 8, plain<double>}, {"FloatStorage", 4, plain<float>},  {"HalfStorage", 2, half},
    {"BFloat16Storage", 2, bfloat},      {"LongStorage", 8, plain<int64_t>}, {"IntStorage", 4, plain<int32_t>},
};

/// A part of a file that is read from front to back; every step is checked against its end.
class Bytes {
  public:
    Bytes(const std::string& path, std::string_view bytes) : path_(path), bytes_(bytes) {}

    std::string_view take(uint64_t n)
    {
        if (n > bytes_.size()) damaged();
        const std::string_view taken = bytes_.substr(0, n);
        bytes_.remove_prefix(n);
        return taken;
    }

    /// A little-endian integer of 1 to 8 bytes.
    uint64_t number(uint32_t bytes)
    {
        uint64_t n = 0;
        std::memcpy(&n, take(bytes).data(), bytes);
        return n;
    }

    bool skip(std::string_view expected)
    {
        if (!bytes_.starts_with(expected)) return false;
        bytes_.remove_prefix(expected.size());
        return true;
    }

    [[noreturn]] void damaged() const { throw Error("{} is cut short or damaged; copy it again", path_); }

  protected:
    const std::string& path_;
    std::string_view bytes_;
};

/// The files in a zip file as torch writes it: not compressed, each in a folder that has the archive's name. Without
/// zip64, which begins at 4 GiB.
class Zip {
  public:
    Zip(const std::string& path, std::string_view bytes) : path_(path), bytes_(bytes)
    {
        // The directory's end is the file's: 22 bytes, then a comment that they give the length of.
        constexpr uint64_t end_bytes = 22, longest_comment = UINT16_MAX;
        uint64_t at = bytes.size() < end_bytes ? 0 : bytes.size() - end_bytes;
        const uint64_t least = at > longest_comment ? at - longest_comment : 0;
        while (at > least && !bytes.substr(at).starts_with("PK\5\6")) at--;
        Bytes end = part(at, end_bytes, "PK\5\6");
        end.take(6);    // numbers of disks, files on this one
        const uint64_t count = end.number(2), size = end.number(4), begin = end.number(4);
        Bytes directory = part(begin, size);
        for (uint64_t i = 0; i < count; i++) {
            if (!directory.skip("PK\1\2")) directory.damaged();
            directory.take(6);    // versions, flags
            Entry e;
            e.method = directory.number(2);
            directory.take(8);    // time, date, checksum
            e.stored = directory.number(4);
            e.size = directory.number(4);
            const uint64_t name = directory.number(2), extra = directory.number(2), comment = directory.number(2);
            directory.take(8);    // disk, attributes
            e.at = directory.number(4);
            e.name = directory.take(name);
            directory.take(extra + comment);
            entries_.push_back(e);
        }
    }

    /// A file by its name within the folder; nothing where there is none.
    std::optional<std::string_view> find(std::string_view name) const
    {
        for (const Entry& e : entries_) {
            const size_t folder = e.name.find('/');
            if (folder == e.name.npos || e.name.substr(folder + 1) != name) continue;
            if (e.method != 0 || e.stored != e.size)
                throw Error("{} is compressed, which torch.save does not do; save it again", path_);
            Bytes local = part(e.at, bytes_.size() - std::min<uint64_t>(e.at, bytes_.size()), "PK\3\4");
            local.take(22);    // the same as in the directory
            const uint64_t name_bytes = local.number(2), extra = local.number(2);
            if (local.take(name_bytes) != e.name) local.damaged();
            local.take(extra);
            return local.take(e.size);
        }
        return {};
    }

    std::string_view get(std::string_view name) const
    {
        const auto found = find(name);
        if (!found)
            throw Error("{} has no {} in it, so torch.save did not write it; save it again", path_, printable(name));
        return *found;
    }

  private:
    struct Entry {
        std::string_view name;
        uint64_t method, stored, size, at;
    };

    Bytes part(uint64_t at, uint64_t n, std::string_view signature = "") const
    {
        Bytes b(path_, bytes_.substr(std::min<uint64_t>(at, bytes_.size())));
        Bytes p(path_, b.take(n));
        if (!p.skip(signature)) p.damaged();
        return p;
    }

    const std::string& path_;
    std::string_view bytes_;
    std::vector<Entry> entries_;
};

/// A tensor as its pickle describes it.
struct TorchTensor {
    std::string_view storage, key;    // torch's name of the type; the file under data/
    uint64_t numel;                   // of the storage
    uint64_t offset;                  // elements
    std::vector<uint64_t> shape, strides;
};

/// The pickle of a plain tensor is one sentence, of which only the numbers and names differ; it is read as that
/// sentence and never run.
///     _rebuild_tensor_v2(("storage", torch.FloatStorage, "0", "cpu", numel), offset, (n,), (stride,), False,
///     OrderedDict())
class Pickle : Bytes {
  public:
    using Bytes::Bytes;

    TorchTensor tensor()
    {
        TorchTensor t;
        word("\x80\2");    // protocol 2
        word("ctorch._utils\n_rebuild_tensor_v2\n");
        word("(");
        word("(");
        if (text() != "storage") refuse();
        word("ctorch\n");
        t.storage = line();
        t.key = text();
        text();    // the device
        t.numel = integer();
        word("t");
        word("Q");    // what the storage's description stands for
        t.offset = integer();
        t.shape = integers();
        t.strides = integers();
        if (!skip("\x88")) word("\x89");    // whether it has a gradient
        word("ccollections\nOrderedDict\n");
        word(")");
        word("R");
        word("t");
        word("R");
        word(".");
        if (t.shape.size() != t.strides.size()) refuse();
        return t;
    }

  private:
    [[noreturn]] void refuse() const
    {
        throw Error(
            "{} holds something else than a plain tensor; save it again with torch.save(tensor.detach().clone(), path)",
            path_);
    }

    void word(std::string_view expected)
    {
        if (!skip(expected)) refuse();
        memo();
    }

    /// A value may be followed by the number it could be called by later; a plain tensor repeats none.
    void memo()
    {
        if (skip("q")) take(1);
        else if (skip("r")) take(4);
    }

    std::string_view line()
    {
        const size_t n = bytes_.find('\n');
        if (n == bytes_.npos) refuse();
        const std::string_view taken = take(n);
        word("\n");
        return taken;
    }

    std::string_view text()
    {
        if (!skip("X")) refuse();
        const std::string_view taken = take(number(4));
        memo();
        return taken;
    }

    std::optional<uint64_t> integer_if_any()
    {
        if (skip("K")) return number(1);
        if (skip("M")) return number(2);
        if (skip("J")) return number(4);
        return {};
    }

    uint64_t integer()
    {
        const auto n = integer_if_any();
        if (!n) refuse();
        return *n;
    }

    /// A tuple of any length.
    std::vector<uint64_t> integers()
    {
        std::vector<uint64_t> all;
        if (skip(")")) return all;
        const bool marked = skip("(");
        while (const auto n = integer_if_any()) all.push_back(*n);
        if (marked) word("t");
        else if (all.size() == 1) word("\x85");
        else if (all.size() == 2) word("\x86");
        else word("\x87");
        return all;
    }
};

}    // namespace

std::vector<double> read_torch_vector(const std::filesystem::path& path, std::string_view bytes, uint32_t n)
{
    const std::string file = path.string();
    if (bytes.starts_with("\x80\2\x8a\x0a"))
        throw Error("{} is in the format that torch had before version 1.6; save it again with "
                    "torch.save(torch.load(path), path)",
                    file);
    if (!bytes.starts_with("PK\3\4")) throw Error("{} is not a file of torch.save, or is damaged; copy it again", file);

    const Zip zip(file, bytes);
    const TorchTensor t = Pickle(file, zip.get("data.pkl")).tensor();
    if (t.shape.size() != 1 || t.shape[0] != n)
        throw Error("{} holds a tensor of the shape ({}), expected ({}), one number for every neuron", file,
                    fmt::join(t.shape, ", "), n);
    const auto storage = std::ranges::find(storages, t.storage, &Storage::name);
    if (storage == std::end(storages))
        throw Error("{} holds a tensor of the type {}, which this version cannot read; save it again with "
                    "torch.save(tensor.float(), path)",
                    file, printable(t.storage.substr(0, 60)));
    const std::string_view data = zip.get("data/" + std::string(t.key));
    const std::string_view order = zip.find("byteorder").value_or("little");    // older files have none
    if (order != "little" && order != "big")
        throw Error("{} is damaged: its byte order is {}", file, printable(order.substr(0, 60)));

    // The integers of the pickle are below 2^32, so the products stay below 2^64.
    if (data.size() != t.numel * storage->bytes || (n && t.offset + (n - 1) * t.strides[0] >= t.numel))
        throw Error("{} is damaged: the tensor runs past its {} bytes of data", file, data.size());
    std::vector<double> x(n);
    for (uint64_t i = 0; i < n; i++) {
        std::byte element[8];
        std::memcpy(element, data.data() + (t.offset + i * t.strides[0]) * storage->bytes, storage->bytes);
        if (order == "big") std::reverse(element, element + storage->bytes);
        x[i] = storage->number(element);
        if (!(x[i] >= 0 && std::isfinite(x[i])))
            throw Error("{}: neuron {} fires {} times, expected a finite number, 0 or more", file, i, x[i]);
    }
    return x;
}

ActivationStatistics read_activation_statistics(const std::filesystem::path& folder, const Config& config)
{
    const auto path = [&](uint32_t layer) { return folder / fmt::format("activation_{}.pt", layer); };
    ActivationStatistics statistics;
    for (uint32_t l = 0; l < config.layers; l++) {
        const MappedFile file(path(l));
        statistics.push_back(read_torch_vector(path(l), file.bytes(), config.neurons));
    }
    std::error_code ignored;
    if (std::filesystem::exists(path(config.layers), ignored))
        throw Error("{} is one more than the model has layers; the folder belongs to another model",
                    path(config.layers).string());
    return statistics;
}

// ---- the order of the layers ----------------------------------------------------------------------------------------

namespace {

/// How many of the neurons are among the neurons.size() most frequent.
uint64_t agreement(const std::vector<uint32_t>& neurons, const std::vector<double>& frequencies)
{
    if (neurons.empty()) return 0;
    std::vector<double> sorted = frequencies;
    const auto least = sorted.begin() + ptrdiff_t(neurons.size() - 1);
    std::nth_element(sorted.begin(), least, sorted.end(), std::greater());
    return uint64_t(std::ranges::count_if(neurons, [&](uint32_t i) { return frequencies[i] >= *least; }));
}

}    // namespace

bool missorted(const GpuIndex& index, const ActivationStatistics& statistics)
{
    HEARTH_CHECK(index.layers.size() == statistics.size());
    std::vector<size_t> by_name(statistics.size());
    std::iota(by_name.begin(), by_name.end(), 0);
    std::ranges::sort(by_name, {}, [](size_t l) { return std::to_string(l); });
    uint64_t by_number = 0, as_sorted = 0;
    for (size_t l = 0; l < statistics.size(); l++) {
        by_number += agreement(index.layers[l], statistics[l]);
        as_sorted += agreement(index.layers[l], statistics[by_name[l]]);
    }
    return as_sorted > by_number;
}

}    // namespace hearth
