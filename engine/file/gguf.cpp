#include "engine/file/gguf.h"

#include "engine/file/other_format.h"
#include "host/sparse.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

namespace hearth {

static_assert(std::endian::native == std::endian::little, "GGUF files are read as they lie");

// ---- the format -----------------------------------------------------------------------------------------------------

namespace {

/// Names of ggml's types that are no formats of weights here, for messages and lists, those included that it once had
/// (4, 5, 31 to 33, 36 to 38).
constexpr struct {
    uint32_t type;
    std::string_view name;
} other_types[] = {
    {4, "Q4_2"},
    {5, "Q4_3"},
    {9, "Q8_1"},
    {15, "Q8_K"},
    {16, "IQ2_XXS"},
    {17, "IQ2_XS"},
    {18, "IQ3_XXS"},
    {19, "IQ1_S"},
    {21, "IQ3_S"},
    {22, "IQ2_S"},
    {24, "I8"},
    {25, "I16"},
    {26, "I32"},
    {27, "I64"},
    {28, "F64"},
    {29, "IQ1_M"},
    {31, "Q4_0_4_4"},
    {32, "Q4_0_4_8"},
    {33, "Q4_0_8_8"},
    {34, "TQ1_0"},
    {35, "TQ2_0"},
    {36, "IQ4_NL_4_4"},
    {37, "IQ4_NL_4_8"},
    {38, "IQ4_NL_8_8"},
    {40, "NVFP4"},
    {41, "Q1_0"},
    {42, "Q2_0"},
    // ik_llama.cpp's own
    {133, "Q6_0"},
    {134, "IQ1_BN"},
    {135, "IQ2_BN"},
    {137, "IQ2_K"},
    {138, "IQ3_K"},
    {139, "IQ4_K"},
    {140, "IQ5_K"},
    {141, "IQ6_K"},
    {144, "IQ4_KS"},
    {145, "IQ2_KS"},
    {146, "IQ4_KSS"},
    {152, "IQ5_KS"},
    {153, "IQ2_KT"},
    {154, "IQ3_KT"},
    {155, "IQ4_KT"},
    {156, "IQ3_KS"},
    {157, "IQ2_KL"},
    {158, "IQ1_KT"},
};

enum class Class { unsigned_integer, signed_integer, real, boolean, text, array };

/// The types of values, by their number in the file.
constexpr struct {
    Class kind;
    uint32_t bytes;    // of one number; the least that a text or an array takes
} value_types[] = {
    {Class::unsigned_integer, 1},
    {Class::signed_integer, 1},
    {Class::unsigned_integer, 2},
    {Class::signed_integer, 2},
    {Class::unsigned_integer, 4},
    {Class::signed_integer, 4},
    {Class::real, 4},
    {Class::boolean, 1},
    {Class::text, 8},
    {Class::array, 12},
    {Class::unsigned_integer, 8},
    {Class::signed_integer, 8},
    {Class::real, 8},
};

constexpr uint32_t i8 = 24, i32 = 26;

/// PowerInfer's ggml is of 2023, when 16, 17 and 18 were I8, I16 and I32. Today they are 24, 25 and 26, and the old
/// numbers other types.
constexpr uint32_t todays_type(uint32_t powerinfers)
{
    return powerinfers >= 16 && powerinfers <= 18 ? powerinfers + 8 : powerinfers;
}

constexpr uint64_t least_alignment = 8, most_alignment = 1 << 20;
constexpr uint64_t most_bytes = 1ull << 46;    // of a file of which only the beginning is there

/// Reads on from where it stands; nothing is believed about a length before the bytes are seen to be there.
class Reader {
  public:
    Reader(const std::string& file, std::string_view bytes) : file_(file), bytes_(bytes) {}

    uint64_t position() const { return at_; }

    std::string_view take(uint64_t n, const char* what)
    {
        if (n > bytes_.size() - at_) cut_short(what);
        at_ += n;
        return bytes_.substr(at_ - n, n);
    }

    template <class T>
    T number(const char* what)
    {
        T value;
        std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
        return value;
    }

    std::string_view text(const char* what) { return take(number<uint64_t>(what), what); }

    /// A name that can stand in a message.
    std::string_view name(const char* what)
    {
        const std::string_view s = text(what);
        const auto control = [](char c) { return uint8_t(c) < 32 || c == 127; };
        if (s.empty() || std::any_of(s.begin(), s.end(), control))
            throw Error("{} is damaged: the {} before byte {} is not text; copy or convert it again", file_, what, at_);
        return s;
    }

    GgufValue value(std::string_view key)
    {
        const uint32_t type = value_type(key);
        switch (value_types[type].kind) {
        case Class::unsigned_integer: return integer(type);
        case Class::signed_integer: return int64_t(integer(type));
        case Class::boolean: return integer(type) != 0;
        case Class::real: return real(type);
        case Class::text: return text("value of a key");
        case Class::array: break;
        }
        return array(key);
    }

  private:
    [[noreturn]] void cut_short(const char* what) const
    {
        throw Error("{} is cut short or damaged: the {} at byte {} runs past its end; copy or convert it again", file_,
                    what, at_);
    }

    uint32_t value_type(std::string_view key)
    {
        const uint32_t type = number<uint32_t>("value of a key");
        if (type >= std::size(value_types))
            throw Error("{} is damaged: the key {} is of the unknown type {}", file_, key, type);
        return type;
    }

    /// An integer or bool, extended to 64 bits.
    uint64_t integer(uint32_t type)
    {
        const auto [kind, bytes] = value_types[type];
        uint64_t bits = 0;
        std::memcpy(&bits, take(bytes, "value of a key").data(), bytes);
        const uint32_t unused = 64 - 8 * bytes;
        return kind == Class::signed_integer ? uint64_t(int64_t(bits << unused) >> unused) : bits;
    }

    double real(uint32_t type)
    {
        return value_types[type].bytes == 4 ? number<float>("value of a key") : number<double>("value of a key");
    }

    GgufValue array(std::string_view key)
    {
        const uint32_t type = value_type(key);
        const auto [kind, bytes] = value_types[type];
        if (kind == Class::array)
            throw Error("{}: the key {} is an array of arrays, which this version cannot read", file_, key);
        const uint64_t count = number<uint64_t>("value of a key");
        if (count > (bytes_.size() - at_) / bytes) cut_short("array of values");
        const auto fill = [&](auto values, auto next) {
            values.reserve(count);
            for (uint64_t i = 0; i < count; i++) values.push_back(next());
            return values;
        };
        if (kind == Class::text) return fill(std::vector<std::string_view>(), [&] { return text("array of texts"); });
        if (kind == Class::real) return fill(std::vector<double>(), [&] { return real(type); });
        return fill(std::vector<int64_t>(), [&] { return int64_t(integer(type)); });
    }

    const std::string& file_;
    std::string_view bytes_;
    uint64_t at_ = 0;
};

/// a * b; all ones where that does not fit, which is larger than any file.
uint64_t product(uint64_t a, uint64_t b) { return b && a > UINT64_MAX / b ? UINT64_MAX : a * b; }

}    // namespace

std::string GgufTensor::type_name() const
{
    const WeightFormat* const format = find_format(type);
    if (format && (starts || !is_sparse(format->type))) return std::string(format->name);
    for (const auto& [number, name] : other_types)
        if (number == type) return std::string(name);
    return fmt::format("type {}", type);
}

Gguf::Gguf(const std::filesystem::path& path, Alone, Cut cut)
    : path_(path), file_(std::in_place, path), bytes_(file_->bytes())
{
    parse(cut);
}

namespace {

/// A path that is no directory: what to do about one depends on what is in it.
const std::filesystem::path& no_folder(const std::filesystem::path& path)
{
    std::error_code ec;
    if (std::filesystem::is_directory(path, ec)) throw Error("{} is {}", printable(path.string()), what_folder(path));
    return path;
}

}    // namespace

Gguf::Gguf(const std::filesystem::path& path, const std::vector<Override>& overrides, Cut cut)
    : Gguf(no_folder(path), Alone(), cut)
{
    if (u32("split.count", 1) > 1) open_parts();
    read_sparse();
    apply(overrides);
}

namespace {

constexpr uint32_t most_parts = 99999;    // that five digits can number

/// The name of part `no`, from 0, of a model whose parts are called `stem`.
std::string part_name(std::string_view stem, uint32_t no, uint32_t count)
{
    return fmt::format("{}-{:05}-of-{:05}.gguf", stem, no + 1, count);
}

}    // namespace

void Gguf::open_parts()
{
    const std::filesystem::path asked = path_;
    const uint32_t count = u32("split.count"), tensors = u32("split.tensors.count", 0);
    if (count > most_parts)
        throw Error("{} is damaged: split.count is {}, expected {} at the most", asked.string(), count, most_parts);
    const uint32_t no = u32("split.no");
    if (no >= count) throw Error("{} is damaged: it is part {} of {}", asked.string(), no + 1, count);
    const std::string name = asked.filename().string(), end = part_name("", no, count);
    if (!name.ends_with(end))
        throw Error("{} is part {} of {} of a model: give it back its name, which ended in {}, to find the others",
                    asked.string(), no + 1, count, end);
    const std::string stem = name.substr(0, name.size() - end.size());

    // Of the first part all is kept; of the others the tensors.
    std::vector<Gguf> parts;
    for (uint32_t i = 0; i < count; i++) {
        const std::filesystem::path path = std::filesystem::path(asked).replace_filename(part_name(stem, i, count));
        std::error_code error;
        if (!std::filesystem::exists(path, error))
            throw Error("{} is a part of a model, and {} is missing: put all parts into one folder", asked.string(),
                        path.filename().string());
        parts.push_back(Gguf(path, Alone()));
        const Gguf& part = parts.back();
        if (part.u32("split.count", 1) != count || part.u32("split.no", 0) != i ||
            part.u32("split.tensors.count", 0) != tensors)
            throw Error("{} is not part {} of {} of the model that {} is a part of: copy the parts of one model into "
                        "one folder",
                        path.string(), i + 1, count, name);
    }
    *this = std::move(parts.front());
    first_ = std::exchange(path_, asked);
    parts.erase(parts.begin());
    for (const Gguf& part : parts)
        for (const GgufTensor& t : part.tensors_) {
            if (!index_.emplace(t.name, tensors_.size()).second)
                throw Error("{} has the tensor {}, as another part has: copy the parts of one model into one folder",
                            part.path_.string(), t.name);
            tensors_.push_back(t);
        }
    if (tensors_.size() != tensors)
        throw Error("{}: all parts together have {} tensors, and split.tensors.count is {}: copy the parts of one "
                    "model into one folder",
                    asked.string(), tensors_.size(), tensors);
    parts_ = std::move(parts);
}

std::vector<std::filesystem::path> Gguf::files() const
{
    std::vector<std::filesystem::path> files = {parts_.empty() ? path_ : first_};
    for (const Gguf& part : parts_) files.push_back(part.path_);
    return files;
}

uint64_t Gguf::file_bytes() const
{
    uint64_t sum = std::max<uint64_t>(bytes_.size(), whole_bytes_);
    for (const Gguf& part : parts_) sum += part.file_bytes();
    return sum;
}

bool Gguf::complete() const { return std::ranges::all_of(tensors_, &GgufTensor::there); }

Gguf::Gguf(const std::filesystem::path& name, std::string_view bytes) : path_(name), bytes_(bytes)
{
    parse();
    read_sparse();
}

Gguf Gguf::of_header(const std::filesystem::path& name, std::string header, const std::vector<Override>& overrides)
{
    Gguf file;
    file.bytes_ = file.owned_.emplace_back(std::move(header));
    file.path_ = name;
    file.parse(Cut::allowed);
    file.read_sparse();
    file.apply(overrides);
    return file;
}

void Gguf::parse(Cut cut)
{
    const std::string file = path_.string();
    if (bytes_.empty()) throw Error("{} is empty; copy or convert the model again", file);
    powerinfer_ = bytes_.starts_with("PWRI");
    if (!powerinfer_ && !bytes_.starts_with("GGUF")) throw Error("{} is {}", printable(file), other_format(bytes_));

    Reader reader(file, bytes_);
    raw_.magic = reader.take(4, "magic");
    version_ = reader.number<uint32_t>("header");
    if (version_ != 0 && (version_ & 0xffff) == 0)
        throw Error("{} is a big-endian GGUF file, which this program cannot read; convert the model again", file);
    if (version_ != 2 && version_ != 3)
        throw Error("{} is a GGUF file of version {}, and this program reads 2 and 3; convert the model again", file,
                    version_);
    const uint64_t tensor_count = reader.number<uint64_t>("header");
    const uint64_t key_count = reader.number<uint64_t>("header");

    for (uint64_t i = 0; i < key_count; i++) {
        const uint64_t start = reader.position();
        const std::string_view key = reader.name("name of a key");
        if (!keys_.emplace(key, reader.value(key)).second)
            throw Error("{} is damaged: it has the key {} twice", file, key);
        raw_.keys.emplace_back(key, bytes_.substr(start, reader.position() - start));
    }

    const uint64_t alignment = u32("general.alignment", 32);
    if (!std::has_single_bit(alignment) || alignment < least_alignment || alignment > most_alignment)
        throw Error("{}: general.alignment is {}, expected a power of two from {} to {}", file, alignment,
                    least_alignment, most_alignment);

    std::vector<uint64_t> offsets;
    const uint64_t table = reader.position();
    for (uint64_t i = 0; i < tensor_count; i++) {
        GgufTensor t;
        t.name = reader.name("name of a tensor");
        if (!index_.emplace(t.name, tensors_.size()).second)
            throw Error("{} is damaged: it has the tensor {} twice", file, t.name);
        const uint32_t rank = reader.number<uint32_t>("table of tensors");
        if (rank < 1 || rank > 4)
            throw Error("{} is damaged: the tensor {} has {} dimensions, expected 1 to 4", file, t.name, rank);
        for (uint32_t d = 0; d < rank; d++) t.shape.push_back(reader.number<uint64_t>("table of tensors"));
        t.type = reader.number<uint32_t>("table of tensors");
        if (powerinfer_) t.type = todays_type(t.type);
        offsets.push_back(reader.number<uint64_t>("table of tensors"));
        tensors_.push_back(std::move(t));
    }
    raw_.tensors = bytes_.substr(table, reader.position() - table);
    raw_.tensor_count = tensor_count;
    if (tensors_.empty()) return;

    // Offsets count from the first multiple of the alignment after the table.
    const uint64_t begin = (reader.position() + alignment - 1) / alignment * alignment;
    raw_.data = bytes_.substr(std::min<uint64_t>(begin, bytes_.size()));
    for (size_t i = 0; i < tensors_.size(); i++) {
        GgufTensor& t = tensors_[i];
        const WeightFormat* const format = find_format(t.type);
        if (format && is_sparse(format->type))
            throw Error("{} is damaged: {} has the type {}, which the GGUF format does not have", file, t.name, t.type);
        if (format) {
            if (t.shape[0] % format->block)
                throw Error("{} is damaged: a row of {} has {} weights, which is not a multiple of {} as {} demands",
                            file, t.name, t.shape[0], format->block, format->name);
            t.bytes = product(t.shape[0] / format->block, format->block_bytes);
            for (size_t d = 1; d < t.shape.size(); d++) t.bytes = product(t.bytes, t.shape[d]);
        } else if (t.type == i32 || t.type == i8) {
            t.bytes = t.type == i8 ? 1 : sizeof(int32_t);
            for (const uint64_t n : t.shape) t.bytes = product(t.bytes, n);
        }
        if (offsets[i] % alignment)
            throw Error("{} is damaged: {} begins at {}, which is not a multiple of {}", file, t.name, offsets[i],
                        alignment);
        t.there = begin <= bytes_.size() && offsets[i] <= bytes_.size() - begin &&
                  t.bytes <= bytes_.size() - begin - offsets[i];
        if (!t.there && (cut == Cut::refused || offsets[i] > most_bytes || t.bytes > most_bytes - offsets[i]))
            throw Error("{} is cut short or damaged: the weights of {} run past its end; copy or convert it again",
                        file, t.name);
        // As a number: what lies behind the bytes that there are is nobody's, and has its place all the same.
        t.data = reinterpret_cast<const std::byte*>(    // NOLINT(performance-no-int-to-ptr)
            reinterpret_cast<uintptr_t>(bytes_.data()) + begin + offsets[i]);
        whole_bytes_ = std::max(whole_bytes_, begin + offsets[i] + t.bytes);
    }
    refuse_overlaps();
}

/// Tensors that share bytes would let a small file ask for any amount of memory.
void Gguf::refuse_overlaps() const
{
    std::vector<const GgufTensor*> by_place;
    for (const GgufTensor& t : tensors_)
        if (t.bytes > 0) by_place.push_back(&t);
    std::ranges::sort(by_place, {}, &GgufTensor::data);
    for (size_t i = 1; i < by_place.size(); i++)
        if (by_place[i - 1]->data + by_place[i - 1]->bytes > by_place[i]->data)
            throw Error("{} is damaged: the weights of {} and {} overlap; copy or convert it again", path_.string(),
                        by_place[i - 1]->name, by_place[i]->name);
}

/// Gives tensors with rows of our own types their type and shape, once it is sure where their rows lie.
void Gguf::read_sparse()
{
    const std::string file = path_.string();
    if (!keys_.contains("hearth.sparse.tensors")) return;
    const std::vector<std::string_view>&names = strings("hearth.sparse.tensors"),
          &types = strings("hearth.sparse.types");
    const std::vector<int64_t>* columns = integers("hearth.sparse.columns");
    if (!columns || columns->size() != names.size() || types.size() != names.size())
        throw Error(
            "{} is damaged: the keys hearth.sparse.tensors, .types and .columns do not have as many values each", file);
    std::set<std::string> used;
    for (size_t i = 0; i < names.size(); i++) {
        const auto broken = [&](const std::string& what) {
            throw Error("{} is damaged: the sparse tensor {} {}", file, names[i], what);
        };
        const std::string& starts_name = *used.insert(fmt::format("{}.starts", names[i])).first;
        const GgufTensor *const found = find(names[i]), *const list = find(starts_name);
        if (list && !list->there) broken("needs the whole file: what its rows take is not in the header");
        if (!found || found->type != i8 || found->shape.size() != 1)
            broken("is missing, or not an I8 tensor of one dimension");
        if (!list || list->type != i32 || list->shape.size() != 1 || list->shape[0] < 2 || list->shape[0] > UINT32_MAX)
            broken(fmt::format("lacks its rows' places: {} is missing, or not an I32 tensor of one dimension",
                               starts_name));
        const WeightFormat* const values = std::ranges::find(weight_formats, types[i], &WeightFormat::name);
        const WeightFormat* const format =
            values == std::end(weight_formats) ? nullptr : find_sparse_format(values->type);
        if (!format) broken(fmt::format("has values of the type {}, expected F16 or Q8_0", types[i]));
        const int64_t n = (*columns)[i];
        if (n <= 0 || n > sparse_most || n % format->block)
            broken(fmt::format("has {} columns, expected a multiple of {} up to {}", n, format->block, sparse_most));
        const uint32_t* const starts = reinterpret_cast<const uint32_t*>(list->data);
        const uint64_t rows = list->shape[0] - 1, least = sparse_row_bytes(format->type, uint32_t(n), 0);
        for (uint64_t r = 0; r < rows; r++)
            if (starts[r + 1] < starts[r] || uint64_t(starts[r + 1] - starts[r]) * sparse_row_unit < least)
                broken(fmt::format("has no room for row {}", r));
        if (starts[0] != 0 || uint64_t(starts[rows]) * sparse_row_unit + sparse_slack != found->bytes)
            broken(fmt::format("has {} bytes, and its rows want {}", found->bytes,
                               uint64_t(starts[rows]) * sparse_row_unit + sparse_slack));
        GgufTensor& t = tensors_[index_.at(names[i])];
        t.type = uint32_t(format->type);
        t.shape = {uint64_t(n), rows};
        t.starts = starts;
    }
    std::erase_if(tensors_, [&](const GgufTensor& t) { return used.contains(std::string(t.name)); });
    index_.clear();
    for (size_t i = 0; i < tensors_.size(); i++) index_.emplace(tensors_[i].name, i);
}

void Gguf::check_sparse_rows() const
{
    for (const GgufTensor& t : tensors_) {
        if (!t.starts) continue;
        const Matrix m = {WeightType(t.type), uint32_t(t.shape[1]), uint32_t(t.shape[0]), t.data, 0, t.starts};
        if (const uint64_t r = host::first_broken_row(m); r < m.rows)
            throw Error(
                "{} is damaged: the bits of row {} of {} are of more or fewer weights than it has; make the file again",
                path_.string(), r, t.name);
    }
}

void Gguf::check_unchanged() const
{
    if (file_) file_->check_unchanged();
    for (const Gguf& part : parts_) part.check_unchanged();
}

// ---- what it holds --------------------------------------------------------------------------------------------------

const GgufTensor* Gguf::find(std::string_view name) const
{
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
}

const GgufValue* Gguf::value(std::string_view key) const
{
    const auto found = keys_.find(key);
    return found == keys_.end() ? nullptr : &found->second;
}

template <class T>
const T& Gguf::get(std::string_view key, const char* expected) const
{
    const GgufValue* v = value(key);
    if (!v) throw Error("{} has no key {}; convert the model again", path_.string(), key);
    const T* held = std::get_if<T>(v);
    if (!held)
        throw Error("{}: the key {} is not {}; convert the model again, or give another value with --override",
                    path_.string(), key, expected);
    return *held;
}

uint64_t Gguf::u64(std::string_view key) const
{
    const GgufValue* v = value(key);
    const int64_t* number = v ? std::get_if<int64_t>(v) : nullptr;
    if (number && *number < 0) throw Error("{}: the key {} is {}, expected 0 or more", path_.string(), key, *number);
    return number ? uint64_t(*number) : get<uint64_t>(key, "an integer");
}

uint32_t Gguf::u32(std::string_view key) const
{
    const uint64_t n = u64(key);
    if (n > UINT32_MAX) throw Error("{}: the key {} is {}, expected less than 2^32", path_.string(), key, n);
    return uint32_t(n);
}

float Gguf::f32(std::string_view key) const
{
    const double x = get<double>(key, "a number with a point");
    if (!(std::abs(x) <= FLT_MAX))
        throw Error("{}: the key {} is {}, expected a finite number", path_.string(), key, x);
    return float(x);
}

std::string_view Gguf::string(std::string_view key) const { return get<std::string_view>(key, "a text"); }

const std::vector<std::string_view>& Gguf::strings(std::string_view key) const
{
    return get<std::vector<std::string_view>>(key, "an array of texts");
}

uint32_t Gguf::u32(std::string_view key, uint32_t fallback) const { return value(key) ? u32(key) : fallback; }

float Gguf::f32(std::string_view key, float fallback) const { return value(key) ? f32(key) : fallback; }

bool Gguf::boolean(std::string_view key, bool fallback) const
{
    return value(key) ? get<bool>(key, "true or false") : fallback;
}

std::string_view Gguf::string(std::string_view key, std::string_view fallback) const
{
    return value(key) ? string(key) : fallback;
}

const std::vector<double>* Gguf::floats(std::string_view key) const
{
    return value(key) ? &get<std::vector<double>>(key, "an array of numbers with a point") : nullptr;
}

const std::vector<int64_t>* Gguf::integers(std::string_view key) const
{
    return value(key) ? &get<std::vector<int64_t>>(key, "an array of integers") : nullptr;
}

std::span<const int32_t> Gguf::numbers(std::string_view tensor, std::optional<uint64_t> n) const
{
    const GgufTensor* t = find(tensor);
    if (!t) throw Error("{} has no tensor {}", path_.string(), tensor);
    if (t->type != i32) throw Error("{}: {} is {}, expected I32", path_.string(), tensor, t->type_name());
    if (!t->there) throw Error("{} is cut short: {} is not in it; copy it again", path_.string(), tensor);
    if (t->shape.size() != 1 || (n && t->shape[0] != *n))
        throw Error("{}: {} is {}, expected {}", path_.string(), tensor, fmt::join(t->shape, " x "),
                    n ? fmt::format("{}", *n) : "one dimension");
    return {reinterpret_cast<const int32_t*>(t->data), t->shape[0]};
}

}    // namespace hearth
