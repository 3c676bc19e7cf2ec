// A mutator that knows GGUF: it changes keys and tensors and writes a file whose counts, lengths and offsets are right
// again, so that what comes after the format is reached. One change in four is of plain bytes, which is how the format
// itself is tried.
#include "shaders/blocks.h"
#include "tests/fuzz/parts.h"
#include "tests/gguf_writer.h"

#include <fmt/format.h>

#include <optional>
#include <random>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace hearth::fuzz {

namespace {

constexpr uint32_t text_type = 8, array_type = 9;
constexpr uint32_t scalar_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};    // by type; 0: texts and arrays

/// A value's type, and its elements as they lie in the file: one, or of an array any number.
struct Value {
    uint32_t type = 0;
    bool array = false;
    std::vector<std::string> elements;    // texts without their lengths
};

struct Key {
    std::string name;
    Value value;
};

struct Tensor {
    std::string name;
    uint32_t type = 0;
    std::vector<uint64_t> shape;
    std::string bytes;
};

struct File {
    std::string magic;
    uint32_t version = 0, alignment = 32;
    std::vector<Key> keys;
    std::vector<Tensor> tensors;
};

/// Reads on; nothing where the bytes end.
struct Cursor {
    std::string_view bytes;
    size_t at = 0;
    bool good = true;

    std::string_view take(uint64_t n)
    {
        good = good && n <= bytes.size() - at;
        if (!good) return {};
        at += n;
        return bytes.substr(at - n, n);
    }
    template <class T>
    T number()
    {
        T x = 0;
        if (const std::string_view b = take(sizeof x); good) std::memcpy(&x, b.data(), sizeof x);
        return x;
    }
    std::string text() { return std::string(take(number<uint64_t>())); }
};

std::string element(Cursor& c, uint32_t type)
{
    return type == text_type ? c.text() : std::string(c.take(scalar_bytes[type]));
}

std::optional<File> parse(std::string_view bytes)
{
    Cursor c{bytes};
    File f;
    f.magic = c.take(4);
    f.version = c.number<uint32_t>();
    const uint64_t tensors = c.number<uint64_t>(), keys = c.number<uint64_t>();
    for (uint64_t i = 0; i < keys && c.good; i++) {
        Key k{c.text(), {}};
        k.value.type = c.number<uint32_t>();
        uint64_t n = 1;
        if (k.value.type == array_type) {
            k.value.array = true;
            k.value.type = c.number<uint32_t>();
            n = c.number<uint64_t>();
        }
        if (k.value.type >= std::size(scalar_bytes) || k.value.type == array_type) return {};
        for (uint64_t e = 0; e < n && c.good; e++) k.value.elements.push_back(element(c, k.value.type));
        if (k.name == "general.alignment" && c.good && !k.value.array && k.value.elements[0].size() == 4)
            std::memcpy(&f.alignment, k.value.elements[0].data(), 4);
        else f.keys.push_back(std::move(k));
    }
    std::vector<uint64_t> offsets;
    for (uint64_t i = 0; i < tensors && c.good; i++) {
        Tensor t;
        t.name = c.text();
        const uint32_t rank = c.number<uint32_t>();
        if (rank > 8) return {};
        for (uint32_t d = 0; d < rank; d++) t.shape.push_back(c.number<uint64_t>());
        t.type = c.number<uint32_t>();
        offsets.push_back(c.number<uint64_t>());
        f.tensors.push_back(std::move(t));
    }
    if (!c.good || !std::has_single_bit(f.alignment) || f.alignment > 4096) return {};
    const std::string_view data =
        bytes.substr(std::min<uint64_t>((c.at + f.alignment - 1) / f.alignment * f.alignment, bytes.size()));
    for (size_t i = 0; i < f.tensors.size(); i++) {    // a tensor is what lies before the next one
        uint64_t end = data.size();
        for (const uint64_t other : offsets)
            if (other > offsets[i]) end = std::min(end, other);
        if (offsets[i] < end) f.tensors[i].bytes = data.substr(offsets[i], end - offsets[i]);
    }
    return f;
}

void append_number(std::string& out, auto x) { out.append(reinterpret_cast<const char*>(&x), sizeof x); }

std::string stored(const Value& v)
{
    std::string out;
    if (v.array) append_number(out, array_type);
    append_number(out, v.type);
    if (v.array) append_number(out, uint64_t(v.elements.size()));
    for (const std::string& e : v.elements) {
        if (v.type == text_type) append_number(out, uint64_t(e.size()));
        out += e;
    }
    return out;
}

std::string written(const File& f)
{
    GgufWriter w;
    w.magic = f.magic;
    w.version = f.version;
    w.alignment = f.alignment;
    for (const Key& k : f.keys) w.raw_key(k.name, stored(k.value));
    for (const Tensor& t : f.tensors) w.tensor(t.name, t.type, t.shape, t.bytes);
    return w.bytes();
}

class Mutator {
  public:
    Mutator(unsigned seed, size_t room) : random_(seed), room_(room) {}

    void change(File& f)
    {
        const uint32_t what = below(20);
        if (what < 9 && !f.keys.empty()) change_key(f);
        else if (what < 18 && !f.tensors.empty()) change_tensor(f);
        else if (what == 18) f.magic = f.magic == "GGUF" ? "PWRI" : "GGUF";
        else f.alignment = 8u << below(5);
    }

    /// Of another file some keys and tensors, instead of those of the same name.
    void cross(File& f, const File& other)
    {
        const auto take_some = [&](auto& into, const auto& from) {
            for (const auto& one : from) {
                if (below(4)) continue;
                const auto same = std::ranges::find(into, one.name, [](const auto& x) { return x.name; });
                if (same == into.end()) into.push_back(one);
                else *same = one;
            }
        };
        take_some(f.keys, other.keys);
        take_some(f.tensors, other.tensors);
    }

    uint32_t below(uint32_t n) { return uint32_t(random_() % n); }

  private:
    template <class T>
    T& any(std::vector<T>& all)
    {
        return all[below(uint32_t(all.size()))];
    }

    void mutate(std::string& bytes, size_t most)
    {
        const size_t size = std::min(bytes.size(), most);
        bytes.resize(std::max<size_t>(most, 1));
        bytes.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(bytes.data()), size, bytes.size()));
    }

    uint64_t number(uint64_t old)
    {
        constexpr uint64_t odd[] = {0,
                                    1,
                                    2,
                                    31,
                                    32,
                                    33,
                                    255,
                                    256,
                                    65535,
                                    65536,
                                    1u << 24,
                                    INT32_MAX,
                                    uint64_t(INT32_MAX) + 1,
                                    UINT32_MAX,
                                    1ull << 32,
                                    1ull << 62,
                                    INT64_MAX,
                                    UINT64_MAX};
        switch (below(6)) {
        case 0: return old + 1;
        case 1: return old - 1;
        case 2: return old * 2;
        case 3: return old / 2;
        case 4: return below(64);
        default: return odd[below(std::size(odd))];
        }
    }

    void change_element(uint32_t type, std::string& e)
    {
        if (type == text_type) return mutate(e, e.size() + 16);
        if (type == 6 || type == 12 || below(3) == 0) {    // a float's bits, or anything's
            const size_t size = e.size();
            mutate(e, size);
            return e.resize(size);
        }
        uint64_t x = 0;
        std::memcpy(&x, e.data(), e.size());
        x = number(x);
        std::memcpy(e.data(), &x, e.size());
    }

    void change_key(File& f)
    {
        const size_t at = below(uint32_t(f.keys.size()));
        Key& k = f.keys[at];
        Value& v = k.value;
        switch (below(12)) {
        case 0: f.keys.erase(f.keys.begin() + ptrdiff_t(at)); break;
        case 1: mutate(k.name, k.name.size() + 8); break;
        case 2: k.value = Value(any(f.keys).value); break;
        case 3: std::swap(k.value, any(f.keys).value); break;
        case 4: {    // another type of the same or another width
            const uint32_t type = below(std::size(scalar_bytes));
            if (type == array_type || type == text_type || v.type == text_type) break;
            v.type = type;
            for (std::string& e : v.elements) e.resize(scalar_bytes[type]);
            break;
        }
        case 5:
            if (v.array && !v.elements.empty()) v.elements.resize(below(uint32_t(v.elements.size())));
            break;
        case 6:
            if (v.array && !v.elements.empty())
                v.elements.insert(v.elements.begin() + below(uint32_t(v.elements.size())),
                                  std::string(any(v.elements)));
            break;
        case 7:
            if (v.array && !v.elements.empty()) std::swap(any(v.elements), any(v.elements));
            break;
        case 8:    // a number becomes a list, a list a number
            v.array = !v.array;
            if (!v.array) v.elements.resize(1, std::string(scalar_bytes[v.type], '\0'));
            break;
        default:
            if (!v.elements.empty()) change_element(v.type, any(v.elements));
        }
    }

    void change_tensor(File& f)
    {
        const size_t at = below(uint32_t(f.tensors.size()));
        Tensor& t = f.tensors[at];
        switch (below(10)) {
        case 0: f.tensors.erase(f.tensors.begin() + ptrdiff_t(at)); return;
        case 1: {
            Tensor copy = t;
            copy.name += "x";
            f.tensors.push_back(std::move(copy));
            return;
        }
        case 2: t.name = std::string(any(f.tensors).name); return;
        case 3: mutate(t.name, t.name.size() + 8); return;
        case 4: t.type = below(4) ? uint32_t(weight_formats[below(std::size(weight_formats))].type) : below(45); break;
        case 5:
        case 6:
            if (t.shape.empty()) t.shape.push_back(1);
            else any(t.shape) = number(any(t.shape));
            break;
        case 7:
            if (t.shape.size() < 4 && below(2)) t.shape.push_back(1 + below(3));
            else if (t.shape.size() > 1) t.shape.pop_back();
            break;
        default: mutate(t.bytes, t.bytes.size()); break;
        }
        fit(t);
    }

    /// As many bytes as type and shape say, where there is room for them.
    void fit(Tensor& t)
    {
        const WeightFormat* const format = find_format(t.type);
        if (t.shape.empty() || (format && is_sparse(format->type))) return;
        uint64_t bytes = format ? t.shape[0] / format->block : t.shape[0];
        const uint64_t unit = format ? format->block_bytes : t.type == 26 ? 4 : 1;
        for (size_t d = 1; d < t.shape.size(); d++)
            bytes = t.shape[d] && bytes > room_ / t.shape[d] ? room_ : bytes * t.shape[d];
        if (bytes <= room_ / unit) t.bytes.resize(bytes * unit);
    }

    std::minstd_rand random_;
    size_t room_;
};

/// Lets one tensor begin where another does, or near it.
void share(std::string& bytes, const File& f, Mutator& mutator)
{
    if (f.tensors.empty()) return;
    const auto offset_of = [&](const Tensor& t) {    // where in the table it stands
        std::string name;
        append_number(name, uint64_t(t.name.size()));
        const size_t at = bytes.find(name + t.name);
        const size_t offset = at + name.size() + t.name.size() + 4 + 8 * t.shape.size() + 4;
        return at == bytes.npos || offset + 8 > bytes.size() ? bytes.npos : offset;
    };
    const size_t from = offset_of(f.tensors[mutator.below(uint32_t(f.tensors.size()))]),
                 to = offset_of(f.tensors[mutator.below(uint32_t(f.tensors.size()))]);
    if (from == bytes.npos || to == bytes.npos) return;
    uint64_t offset;
    std::memcpy(&offset, &bytes[from], sizeof offset);
    offset += mutator.below(4) * f.alignment;
    std::memcpy(&bytes[to], &offset, sizeof offset);
}

size_t put(const std::string& bytes, uint8_t* data, size_t max_size)
{
    const size_t size = std::min(bytes.size(), max_size);
    std::memcpy(data, bytes.data(), size);
    return size;
}

std::string_view view(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

}    // namespace

}    // namespace hearth::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed)
{
    using namespace hearth::fuzz;
    Mutator mutator(seed, max_size);
    std::vector<std::string> parts;    // most inputs have one
    for (const std::string_view part : split_parts(view(data, size))) parts.emplace_back(part);
    std::string& part = parts[mutator.below(uint32_t(parts.size()))];
    std::optional<File> file = mutator.below(4) ? parse(part) : std::nullopt;
    if (!file) return LLVMFuzzerMutate(data, size, max_size);
    for (uint32_t n = 1 + mutator.below(3); n > 0; n--) mutator.change(*file);
    part = written(*file);
    if (mutator.below(16) == 0) share(part, *file, mutator);
    const std::string all = fmt::format("{}", fmt::join(parts, part_separator));
    return all.size() > max_size ? LLVMFuzzerMutate(data, size, max_size) : put(all, data, max_size);
}

extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t* a, size_t a_size, const uint8_t* b, size_t b_size,
                                            uint8_t* out, size_t max_size, unsigned seed)
{
    using namespace hearth::fuzz;
    std::optional<File> file = parse(view(a, a_size));
    const std::optional<File> other = parse(view(b, b_size));
    if (!file || !other || split_parts(view(a, a_size)).size() > 1) return 0;
    Mutator(seed, max_size).cross(*file, *other);
    const std::string bytes = written(*file);
    return bytes.size() > max_size ? 0 : put(bytes, out, max_size);
}
