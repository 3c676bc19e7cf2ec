#include "engine/model/requantise.h"

#include "engine/model/families.h"
#include "engine/model/importance.h"
#include "engine/file/gguf_writer.h"
#include "engine/file/not_finite.h"
#include "engine/model/weights.h"
#include "engine/system/limits.h"
#include "host/arena.h"
#include "host/kernels.h"
#include "host/quantise.h"
#include "host/sparse.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace hearth {

double RequantisedTensor::error() const { return squares > 0 ? std::sqrt(error_squares / squares) : 0; }

RequantisedTensor Requantised::total() const
{
    RequantisedTensor sum;
    for (const RequantisedTensor& t : tensors) {
        sum.weights += t.weights;
        sum.bytes_before += t.bytes_before;
        sum.bytes += t.bytes;
        sum.squares += t.squares;
        sum.error_squares += t.error_squares;
    }
    return sum;
}

namespace {

constexpr std::string_view profile_prefix = "hearth.profile.";
constexpr std::string_view replaced_keys[] = {"general.file_type", "general.quantization_version",
                                              "hearth.sparse.tensors", "hearth.sparse.types", "hearth.sparse.columns"};

/// A tensor on its way from one file to the other.
struct Job {
    const GgufTensor* source = nullptr;
    WeightType type = WeightType::f32;
    bool transposed = false;
    std::string name;    // in the copy
    std::string_view note;
    std::vector<uint32_t> starts =
        {};                  // of sparse rows (Matrix::starts), which `type` is the type of the values of; else empty
    uint32_t stacked = 0;    // matrices, one below the other, where the source's shape does not say so
    std::vector<float> importance = {};    // (experts, cols): what an error in a column counts; empty: all count alike

    uint32_t experts() const { return stacked ? stacked : source->shape.size() > 2 ? uint32_t(source->shape[2]) : 1; }
    uint32_t source_rows() const
    {
        return source->shape.size() > 1
                   ? uint32_t(source->shape[1]) * (source->shape.size() > 2 ? uint32_t(source->shape[2]) : 1)
                   : 1;
    }
    uint32_t source_cols() const { return uint32_t(source->shape[0]); }
    uint32_t rows() const { return transposed ? source_cols() * experts() : source_rows(); }
    uint32_t cols() const { return transposed ? source_rows() / experts() : source_cols(); }
    Matrix matrix() const
    {
        return {WeightType(source->type), source_rows(), source_cols(), source->data, 0, source->starts};
    }
    bool copied() const { return !transposed && WeightType(source->type) == type && !sparse(); }
    bool keeps_values() const { return !transposed && values_of(WeightType(source->type)) == type; }
    bool sparse() const { return !starts.empty(); }
    const float* importance_of(uint32_t row) const { return &importance[size_t(row / (rows() / experts())) * cols()]; }
    WeightType stored_type() const { return sparse() ? sparse_type_of(type) : type; }
    std::vector<uint64_t> shape() const
    {
        if (stacked > 1) return {cols(), source_cols(), stacked};
        return transposed ? std::vector<uint64_t>{cols(), rows()} : source->shape;
    }
    uint64_t dense_bytes() const { return rows() * row_bytes(type, cols()); }
    uint64_t bytes() const
    {
        return sparse() ? uint64_t(starts.back()) * sparse_row_unit + sparse_slack : dense_bytes();
    }
};

bool is_predictor(std::string_view name) { return name.ends_with(".fc1.weight") || name.ends_with(".fc2.weight"); }

/// The better type that a mixture has for a matrix; nullptr where it is like most.
const Exception* exception_of(std::span<const Exception> exceptions, const GgufTensor& t, const Config& c)
{
    const auto at = layer_part(t.name);
    if (!at) return nullptr;
    const auto found = std::ranges::find_if(
        exceptions, [&](const Exception& e) { return at->part.starts_with(e.part) && e.where(c, at->layer); });
    return found == exceptions.end() ? nullptr : &*found;
}

/// For rows that are no whole blocks of 256.
struct Fallback {
    WeightType type, instead;
};

constexpr Fallback fallbacks[] = {
    {WeightType::q2_k, WeightType::q4_0}, {WeightType::q3_k, WeightType::q4_0}, {WeightType::q4_k, WeightType::q5_0},
    {WeightType::q5_k, WeightType::q5_1}, {WeightType::q6_k, WeightType::q8_0},
};

/// Of a job that is a plain down projection; else it stays as it is.
void store_by_neurons(Job& job)
{
    constexpr std::string_view plain[] = {".ffn_down.weight", ".ffn_down_exps.weight"};
    for (const std::string_view name : plain) {
        if (!job.name.ends_with(name)) continue;
        job.transposed = true;
        job.name.replace(job.name.size() - name.size(), name.size(), ".ffn_down_t.weight");
        job.note = "by neurons now";
    }
}

/// Of a job that is a down projection by neurons: as all programs store it, that of experts with a dimension for them.
void store_by_columns(Job& job, uint32_t experts)
{
    std::string name = name_by_columns(job.name, experts > 0);
    if (name == job.name) return;
    job.transposed = true;
    job.stacked = std::max(experts, 1u);
    job.name = std::move(name);
    job.note = "by columns now";
}

Job job_of(const Gguf& model, const GgufTensor& t, const Quantisation& how, const RequantiseOptions& options,
           const Config& config)
{
    const WeightType sensitive = options.sensitive.value_or(how.sensitive);
    constexpr std::string_view router = ".ffn_gate_inp.weight";
    Job job = {.source = &t, .name = std::string(t.name)};
    if (t.shape.size() == 1 || job.source_rows() == 1) return job;    // norms
    job.type = how.matrices;
    if (options.plain) store_by_columns(job, config.experts);
    else if (options.by_neurons || config.experts || host::makes_zeros(config.activation)) store_by_neurons(job);
    const WeightType from = values_of(WeightType(t.type));
    if (t.name.ends_with(router)) {
        job.type = from;
        job.note = "a router";
        return job;
    }
    const bool head = t.name == "output.weight" || (t.name == "token_embd.weight" && !model.find("output.weight"));
    const auto better = [&](WeightType type) {    // nobody asked for more bytes than the source has
        const bool stays =
            row_bytes(from, 256) <= row_bytes(type, 256) && (!job.transposed || host::find_quantiser(from));
        job.type = stays ? from : type;
    };
    if ((head || is_predictor(t.name)) && sensitive != how.matrices) {
        better(sensitive);
        job.note = head ? "the output" : "a predictor";
    } else if (const Exception* exception = exception_of(how.exceptions, t, config)) {
        better(exception->type);
        if (job.note.empty()) job.note = "counts more";
    }
    const Fallback* fallback = std::ranges::find(fallbacks, job.type, &Fallback::type);
    if (job.cols() % format_of(job.type).block && fallback != std::end(fallbacks)) {
        job.type = fallback->instead;
        job.note = "its rows are no whole blocks of 256";
    }
    if (job.cols() % format_of(job.type).block) {
        job.type = from == WeightType::bf16 ? from : WeightType::f16;
        job.note = "its rows are no whole blocks";
    }
    return job;
}

/// Rows [first, first + count) of what will be stored; `first` is a multiple of the source's block where it is
/// transposed. out is (count, cols).
void read_rows(const Job& job, uint32_t first, uint32_t count, float* out)
{
    const Matrix source = job.matrix();
    if (!job.transposed) {
        const auto decode = host::kernels().of(source.type).decode;
        for (uint32_t r = 0; r < count; r++)
            decode(source.row(first + r), out + uint64_t(r) * source.cols, source.cols);
        return;
    }
    constexpr uint32_t slab = 16;        // stored rows at a time: what they write into a row of `out` is a cache line
    const uint32_t rows = job.cols();    // stored ones of a matrix
    std::vector<float> decoded(slab * count);
    const auto decode = host::kernels().of(source.type).decode_part;
    for (uint32_t here; count > 0; first += here, count -= here, out += uint64_t(here) * rows) {    // matrix by matrix
        const uint32_t expert = first / source.cols, column = first % source.cols;
        here = std::min(count, source.cols - column);
        for (uint32_t r = 0; r < rows; r += slab) {
            const uint32_t some = std::min(slab, rows - r);
            for (uint32_t i = 0; i < some; i++)
                decode(source.row(uint64_t(expert) * rows + r + i), source.cols, column, here, &decoded[i * here]);
            for (uint32_t c = 0; c < here; c++)
                for (uint32_t i = 0; i < some; i++) out[uint64_t(c) * rows + r + i] = decoded[i * here + c];
        }
    }
}

struct Squares {
    double of_weights = 0, of_errors = 0;
};

/// In a fixed number of sums, which compilers keep in vector registers.
void add_squares(const float* x, const float* stored, uint32_t n, Squares& sum)
{
    constexpr uint32_t lanes = 8;
    double w[lanes] = {}, e[lanes] = {};
    const auto add = [&](uint32_t i, uint32_t lane) {
        const double weight = x[i], error = weight - stored[i];
        w[lane] += weight * weight;
        e[lane] += error * error;
    };
    uint32_t i = 0;
    for (; i + lanes <= n; i += lanes)
        for (uint32_t k = 0; k < lanes; k++) add(i + k, k);
    for (; i < n; i++) add(i, 0);
    for (uint32_t k = 0; k < lanes; k++) sum.of_weights += w[k], sum.of_errors += e[k];
}

/// Rows of a format that were made together, and what was lost.
struct Chunk {
    std::vector<std::byte> bytes;
    Squares squares;
};

/// The same values: encoding them again could choose other scales.
Chunk keep_chunk(const Job& job, uint32_t first, uint32_t count)
{
    const Matrix source = job.matrix();
    const uint64_t stride = row_bytes(job.type, source.cols);
    const auto decode = host::kernels().of(job.type).decode;
    std::vector<float> x(source.cols);
    Chunk chunk;
    chunk.bytes.resize(count * stride);
    for (uint32_t r = 0; r < count; r++) {
        std::byte* const to = &chunk.bytes[r * stride];
        if (is_sparse(source.type)) host::expand_row(source, first + r, to);
        else std::memcpy(to, source.row(first + r), stride);
        decode(to, x.data(), source.cols);
        add_squares(x.data(), x.data(), source.cols, chunk.squares);
    }
    return chunk;
}

/// Some weights of a source are not finite; which of them, its tensor tells.
struct NotFiniteWeights {};

[[noreturn]] void refuse_weights(const Gguf& model, const GgufTensor& t, host::Team& team)
{
    throw Error(
        "{}: {}: the file is broken, so convert or download the model again", model.path().string(),
        not_finite_weights(team, t).value_or(fmt::format("{} holds weights that are not finite numbers", t.name)));
}

Chunk make_chunk(const Gguf& model, const Job& job, uint32_t first, uint32_t count)
{
    if (job.keeps_values()) {
        Chunk kept = keep_chunk(job, first, count);
        if (!std::isfinite(kept.squares.of_weights)) throw NotFiniteWeights();
        return kept;
    }
    const uint32_t cols = job.cols();
    const uint64_t stride = row_bytes(job.type, cols);
    const host::RowQuantiser& quantiser = *host::find_quantiser(job.type);
    const auto decode = host::kernels().of(job.type).decode;
    std::vector<float> x(uint64_t(count) * cols), stored(cols);
    read_rows(job, first, count, x.data());
    Chunk chunk;
    chunk.bytes.resize(count * stride);
    for (uint32_t r = 0; r < count; r++) {
        const float* row = &x[uint64_t(r) * cols];
        std::byte* const to = &chunk.bytes[r * stride];
        if (job.importance.empty()) quantiser.encode(row, to, cols);
        else quantiser.encode_weighted(row, job.importance_of(first + r), to, cols);
        decode(to, stored.data(), cols);
        add_squares(row, stored.data(), cols, chunk.squares);
    }
    if (!std::isfinite(chunk.squares.of_weights)) throw NotFiniteWeights();
    if (!std::isfinite(chunk.squares.of_errors))
        throw Error("{}: {} has weights that are beyond the range of fp16, which also scales blocks: use bf16",
                    model.path().string(), job.source->name);
    return chunk;
}

/// Rows of a chunk; 256 are whole blocks of every format.
uint32_t chunk_rows(const Job& job) { return job.transposed ? 256 : 16; }

/// Makes a tensor's rows, some at a time, dense, and gives them to `take` in order.
void make_rows(const Gguf& model, const Job& job, host::Team& team, const std::function<void(const Chunk&)>& take,
               const std::function<void(double)>& done)
{
    const uint32_t together = chunk_rows(job);
    const uint64_t chunk_bytes = together * row_bytes(job.type, job.cols());
    const uint64_t batch = std::max<uint64_t>(2 * team.size(), (16 << 20) / chunk_bytes);    // chunks in memory
    const uint64_t chunks = (uint64_t(job.rows()) + together - 1) / together;
    for (uint64_t begin = 0; begin < chunks; begin += batch) {
        std::vector<Chunk> made(std::min(batch, chunks - begin));
        try {
            team.parallel(uint32_t(made.size()), [&](uint32_t i) {
                const uint32_t first = uint32_t(begin + i) * together;
                made[i] = make_chunk(model, job, first, std::min(together, job.rows() - first));
            });
        } catch (const NotFiniteWeights&) {
            refuse_weights(model, *job.source, team);
        }
        for (const Chunk& chunk : made) take(chunk);
        done(double(begin + made.size()) / double(chunks));
    }
}

void convert(const Gguf& model, const Job& job, host::Team& team, ModelFile& file, RequantisedTensor& result,
             const std::function<void(double)>& done)
{
    const auto write = [&](const std::vector<std::byte>& bytes) {
        file.write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    };
    const uint64_t stride = row_bytes(job.type, job.cols());
    std::vector<std::byte> sparse;
    make_rows(
        model, job, team,
        [&](const Chunk& chunk) {
            if (job.sparse()) {
                sparse.clear();
                for (uint64_t at = 0; at < chunk.bytes.size(); at += stride)
                    host::compress_row(job.type, &chunk.bytes[at], job.cols(), sparse);
            }
            write(job.sparse() ? sparse : chunk.bytes);
            result.squares += chunk.squares.of_weights;
            result.error_squares += chunk.squares.of_errors;
        },
        done);
    if (job.sparse()) write(std::vector<std::byte>(sparse_slack));
}

// ---- zeros ----------------------------------------------------------------------------------------------------------

/// Less is not worth that rows differ in length.
constexpr double least_saving = 0.1;

/// Whether some chunks of a tensor have so many zeros that all of it may be worth a look.
bool may_have_zeros(const Job& job)
{
    constexpr uint32_t looks = 4;
    const uint32_t chunks = (job.rows() + chunk_rows(job) - 1) / chunk_rows(job);
    uint64_t zeros = 0, all = 0;
    for (uint32_t i = 0; i < std::min(looks, chunks); i++) {
        const uint32_t first = uint32_t(uint64_t(chunks) * i / looks) * chunk_rows(job),
                       count = std::min(chunk_rows(job), job.rows() - first);
        std::vector<float> x(uint64_t(count) * job.cols());
        read_rows(job, first, count, x.data());
        zeros += uint64_t(std::ranges::count(x, 0.0f));
        all += x.size();
    }
    return double(zeros) > 2 * least_saving * double(all);    // a bit for each weight is to be saved first
}

/// Where the rows of a tensor would lie if they were sparse; empty where that saves too little.
std::vector<uint32_t> sparse_starts(const Gguf& model, const Job& job, host::Team& team)
{
    std::vector<uint32_t> starts = {0};
    const uint64_t stride = row_bytes(job.type, job.cols());
    uint64_t end = 0;    // in units
    make_rows(
        model, job, team,
        [&](const Chunk& chunk) {
            for (uint64_t at = 0; at < chunk.bytes.size(); at += stride) {
                const uint32_t stored = job.cols() - host::count_zeros(job.type, &chunk.bytes[at], job.cols());
                end += sparse_row_bytes(sparse_type_of(job.type), job.cols(), stored) / sparse_row_unit;
                starts.push_back(uint32_t(end));
            }
        },
        [](double) {});
    const bool worth =
        end <= UINT32_MAX && double(end) * sparse_row_unit < (1 - least_saving) * double(job.dense_bytes());
    return worth ? starts : std::vector<uint32_t>();
}

/// What the zeros of all matrices save, and what they could not.
struct Zeros {
    uint64_t matrices = 0, bytes = 0, dense_bytes = 0;    // stored without zeros
    uint64_t kept = 0;                                    // matrices of formats that store zeros like other weights
    uint64_t of_experts = 0;                              // matrices that are stored dense for being of experts
};

/// Looks for zeros that are worth leaving out, and has those tensors' rows sparse. Experts' tensors have three
/// dimensions, and sparse rows two.
Zeros find_zeros(const Gguf& model, bool experts, std::vector<Job>& jobs, host::Team& team,
                 const std::function<void(double)>& progress)
{
    Zeros found;
    for (size_t i = 0; i < jobs.size(); i++, progress(double(i) / double(jobs.size()))) {
        Job& job = jobs[i];
        Job sparse = job;
        store_by_neurons(sparse);    // the engine takes sparse rows of a down projection no other way
        if (sparse.rows() < 2 || sparse.cols() % 32 || sparse.cols() > sparse_most || !may_have_zeros(job)) continue;
        if (experts && job.name.find(".ffn_") != job.name.npos) {
            found.of_experts++;
            continue;
        }
        if (!find_sparse_format(job.type)) {
            found.kept++;
            continue;
        }
        sparse.starts = sparse_starts(model, sparse, team);
        if (!sparse.sparse()) continue;
        job = std::move(sparse);
        found.matrices++;
        found.bytes += job.bytes();
        found.dense_bytes += job.dense_bytes();
    }
    return found;
}

/// The keys that tell where sparse rows are (GgufTensor::starts).
void add_sparse_keys(const std::vector<Job>& jobs, GgufKeys& keys)
{
    std::vector<std::string> names, types;
    std::vector<uint32_t> columns;
    for (const Job& job : jobs) {
        if (!job.sparse()) continue;
        names.push_back(job.name);
        types.emplace_back(format_of(job.type).name);
        columns.push_back(job.cols());
    }
    if (names.empty()) return;
    keys.add("hearth.sparse.tensors", std::span<const std::string>(names));
    keys.add("hearth.sparse.types", std::span<const std::string>(types));
    keys.add("hearth.sparse.columns", std::span<const uint32_t>(columns));
}

/// A tensor, in two where its rows are sparse.
void add_entries(const Gguf& model, const Job& job, std::vector<GgufEntry>& entries)
{
    if (!job.sparse()) {
        entries.push_back({job.name, uint32_t(job.type), job.shape(), job.bytes()});
        return;
    }
    const uint32_t i8 = model.powerinfer() ? 16 : 24, i32 = i8 + 2;    // PowerInfer's numbers are of 2023
    entries.push_back({job.name + ".starts", i32, {job.starts.size()}, job.starts.size() * sizeof(uint32_t)});
    entries.push_back({job.name, i8, {job.bytes()}, job.bytes()});
}

/// The same bytes. Its weights count in the sum of squares, so that the error of the whole model is one of all its
/// weights.
void copy(const Gguf& model, const Job& job, host::Team& team, ModelFile& file, RequantisedTensor& result,
          const std::function<void(double)>& done)
{
    constexpr uint32_t together = 256;
    const Matrix source = job.matrix();
    const uint32_t chunks = (source.rows + together - 1) / together;
    std::vector<Squares> squares(chunks);
    team.parallel(chunks, [&](uint32_t i) {
        std::vector<float> x(source.cols);
        for (uint32_t r = i * together; r < std::min(source.rows, (i + 1) * together); r++) {
            host::kernels().of(source.type).decode(source.row(r), x.data(), source.cols);
            add_squares(x.data(), x.data(), source.cols, squares[i]);
        }
    });
    for (const Squares& s : squares) result.squares += s.of_weights;
    if (!std::isfinite(result.squares)) refuse_weights(model, *job.source, team);
    constexpr uint64_t piece = 16 << 20;
    const std::string_view bytes(reinterpret_cast<const char*>(source.data), source.bytes());
    for (uint64_t at = 0; at < bytes.size(); at += piece) {
        file.write(bytes.substr(at, piece));
        done(double(at) / double(bytes.size()));
    }
}

/// Gives jobs what an importance matrix has for them. In a down projection by neurons a column of others' files is a
/// row, whose weights count alike.
void weigh(const Importance& importance, const std::filesystem::path& from, std::vector<Job>& jobs, Requantised& result)
{
    const std::string file = from.string();
    std::vector<std::string_view> without;
    uint32_t weighted = 0;
    for (Job& job : jobs) {
        const host::RowQuantiser* const quantiser = host::find_quantiser(job.type);
        const bool by_neurons = job.name.ends_with(".ffn_down_t.weight");
        if (job.keeps_values() || job.sparse() || !quantiser->encode_weighted || by_neurons) continue;
        const auto found = importance.matrices.find(job.name);
        if (found == importance.matrices.end()) {
            without.push_back(job.name);
            continue;
        }
        job.importance = column_weights(found->second);
        HEARTH_CHECK(job.importance.size() == size_t(job.experts()) * job.cols());
        ++weighted;
    }
    if (weighted == 0)
        result.notes.push_back(fmt::format("{} changed nothing: types of 4 to 6 bits in blocks, and of fewer, are what "
                                           "it helps",
                                           file));
    if (!without.empty())
        result.notes.push_back(fmt::format("{}{} is not in {}: quantised without", without[0],
                                           without.size() > 1 ? fmt::format(" (and {} more)", without.size() - 1) : "",
                                           file));
}

GgufKeys keys_of(const Gguf& model, bool with_profile, uint32_t file_type)
{
    GgufKeys keys;
    for (const auto& [name, bytes] : model.raw().keys)
        if (std::ranges::find(replaced_keys, name) == std::end(replaced_keys) && !name.starts_with("split.") &&
            (with_profile || !name.starts_with(profile_prefix)))
            keys.copy(bytes);
    keys.add("general.file_type", file_type);
    keys.add("general.quantization_version", uint32_t(2));    // of ggml's block formats
    return keys;
}

/// Writing over the model that is being read would end in the middle of it.
void refuse_same_file(const Gguf& model, const std::filesystem::path& out)
{
    for (const std::filesystem::path& file : model.files()) {
        std::error_code ec;
        if (std::filesystem::equivalent(file, out, ec))
            throw Error("{} is the model that is read: name another file to write", out.string());
    }
}

/// Whether other programs can read the copy, and compute with it what this one does.
void note_readers(const Gguf& model, const Config& config, const RequantiseOptions& options,
                  const std::vector<Job>& jobs, Requantised& result)
{
    const auto note = [&](const std::string& what) { result.notes.push_back(what); };
    const bool by_neurons =
        std::ranges::any_of(jobs, [](const Job& j) { return j.name.ends_with(".ffn_down_t.weight"); });
    const bool predictors =
        std::ranges::any_of(model.tensors(), [](const GgufTensor& t) { return is_predictor(t.name); });
    if (by_neurons || std::ranges::any_of(jobs, &Job::sparse))
        note("the copy has down projections by neurons (ffn_down_t), or matrices without their zeros, which other "
             "programs do not read; --plain writes one "
             "that they do");
    if (!options.plain) return;
    if (predictors)
        note("the predictors (fc1, fc2) were left out: other programs refuse tensors that they do not know");
    if (config.architecture == "bamboo" || config.architecture == "opt")
        note(fmt::format("few other programs know the architecture {}, so that they may not read the copy all the same",
                         config.architecture));
    else if (config.activation != find_family(config.architecture)->activation || config.floor > 0)
        note(fmt::format(
            "other programs do not read {}, and compute {} where this model has {}: their text would be wrong",
            activation_key, activation_name(find_family(config.architecture)->activation),
            activation_name(config.activation)));
}

}    // namespace

std::string requantised_header(const std::shared_ptr<const Gguf>& model, const Quantisation& how,
                               const RequantiseOptions& options)
{
    const Config config = describe_weights(model).config;
    std::vector<GgufEntry> entries;
    for (const GgufTensor& t : model->tensors())
        if (!options.plain || !is_predictor(t.name))
            add_entries(*model, job_of(*model, t, how, options, config), entries);
    return model_header(model->raw().magic, keys_of(*model, false, how.file_type), model->alignment(), entries);
}

Requantised requantise(const std::shared_ptr<const Gguf>& model, const Quantisation& how,
                       const RequantiseOptions& options, const std::filesystem::path& out,
                       const std::function<void(double)>& progress)
{
    const Config config = describe_weights(model).config;    // throws where it is no model that can be run
    model->check_sparse_rows();
    refuse_same_file(*model, out);
    std::optional<Importance> importance;
    if (!options.importance.empty()) importance = read_importance(options.importance, *model, config.experts);
    host::Team team(threads_for(options.threads));
    std::vector<Job> jobs;
    std::vector<GgufEntry> entries;
    Requantised result;
    for (const GgufTensor& t : model->tensors())
        if (!options.plain || !is_predictor(t.name)) jobs.push_back(job_of(*model, t, how, options, config));
    constexpr double looking = 0.3;    // of the work, where there are zeros
    const Zeros zeros = options.dense || options.plain ? Zeros()
                                                       : find_zeros(*model, config.experts > 0, jobs, team,
                                                                    [&](double share) { progress(looking * share); });
    if (importance) weigh(*importance, options.importance, jobs, result);
    for (const Job& job : jobs) {
        add_entries(*model, job, entries);
        result.tensors.push_back({.name = job.name,
                                  .from = format_of(WeightType(job.source->type)).name,
                                  .to = format_of(job.stored_type()).name,
                                  .weights = uint64_t(job.rows()) * job.cols(),
                                  .bytes_before = job.source->bytes,
                                  .bytes = job.bytes(),
                                  .note = job.note});
    }
    const bool same = std::ranges::all_of(jobs, &Job::copied) && jobs.size() == model->tensors().size();
    GgufKeys keys = keys_of(*model, same, how.file_type);
    add_sparse_keys(jobs, keys);
    if (options.plain && model->powerinfer() && !model->keys().contains(activation_key))
        keys.add(activation_key, activation_name(config.activation));
    ModelFile file(out, options.plain ? "GGUF" : model->raw().magic, keys, model->alignment(), std::move(entries));

    const double all = double(result.total().bytes_before);
    double before = 0;
    for (size_t i = 0; i < jobs.size(); i++) {
        const double bytes = double(jobs[i].source->bytes);
        const auto done = [&](double share) { progress(looking + (1 - looking) * (before + share * bytes) / all); };
        if (jobs[i].sparse())
            file.write(
                {reinterpret_cast<const char*>(jobs[i].starts.data()), jobs[i].starts.size() * sizeof(uint32_t)});
        if (jobs[i].copied()) copy(*model, jobs[i], team, file, result.tensors[i], done);
        else convert(*model, jobs[i], team, file, result.tensors[i], done);
        before += bytes;
    }
    model->check_unchanged();
    file.finish();

    if (std::ranges::any_of(jobs,
                            [](const Job& j) { return !j.keeps_values() && is_quantised(WeightType(j.source->type)); }))
        result.notes.push_back(fmt::format(
            "{} is quantised already, and its errors and those made now add up: better start from the original model",
            model->path().string()));
    if (zeros.matrices > 0)
        result.notes.push_back(
            fmt::format("{} matrices have zeros and are stored without them: {:.1f} MB instead of {:.1f}",
                        zeros.matrices, double(zeros.bytes) / 1e6, double(zeros.dense_bytes) / 1e6));
    if (zeros.kept > 0)
        result.notes.push_back(fmt::format(
            "{} matrices have zeros, which {} stores like other weights: only f16 and q8_0 get smaller by them",
            zeros.kept, how.name));
    if (zeros.of_experts > 0)
        result.notes.push_back(
            fmt::format("{} matrices of experts have zeros, which are stored like other weights", zeros.of_experts));
    if (!same && model->keys().contains("hearth.profile.version"))
        result.notes.push_back(
            fmt::format("the profile in {} is of its weights and was left out: make one with `hearth profile {}`",
                        model->path().string(), out.string()));
    note_readers(*model, config, options, jobs, result);
    return result;
}

}    // namespace hearth
