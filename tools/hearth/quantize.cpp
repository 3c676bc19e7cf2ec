// hearth quantize: a copy of a model in another weight format, with its down projection by neurons where some are left
// out.
#include "engine/model/requantise.h"
#include "engine/plan/profile.h"
#include "tools/hearth/cli.h"
#include "tools/hearth/confine.h"

namespace hearth::tools {

namespace {

struct QuantizeOptions {
    ModelOptions model;
    std::string output, type, sensitive, imatrix;
    unsigned threads = 0;
    bool dense = false, by_neurons = false, plain = false, json = false;
};

double bits_per_weight(uint64_t bytes, uint64_t weights) { return 8 * double(bytes) / double(weights); }

std::string table(const Requantised& r)
{
    std::string out = fmt::format("{:32} {:12} {:>14} {:>9}\n", "tensor", "types", "bytes", "error");
    for (const RequantisedTensor& t : r.tensors)
        out += fmt::format("{:32} {:12} {:>14} {:>7.3f} %{}{}\n", t.name,
                           t.from == t.to ? std::string(t.to) : fmt::format("{} > {}", t.from, t.to), t.bytes,
                           100 * t.error(), t.note.empty() ? "" : "  ", t.note);
    const RequantisedTensor sum = r.total();
    out +=
        fmt::format("\n{} bytes of weights before, {} now: {:.2f} bits per weight before, {:.2f} now; error {:.3f} %\n",
                    sum.bytes_before, sum.bytes, bits_per_weight(sum.bytes_before, sum.weights),
                    bits_per_weight(sum.bytes, sum.weights), 100 * sum.error());
    return out;
}

nlohmann::json json_of(const RequantisedTensor& t)
{
    return {{"weights", t.weights}, {"bytes_before", t.bytes_before}, {"bytes", t.bytes}, {"error", t.error()}};
}

nlohmann::json json_of(const Requantised& r)
{
    nlohmann::json tensors = nlohmann::json::array();
    for (const RequantisedTensor& t : r.tensors) {
        nlohmann::json one = json_of(t);
        one.update({{"name", t.name}, {"from", t.from}, {"to", t.to}, {"note", t.note}});
        tensors.push_back(one);
    }
    return {{"tensors", tensors}, {"total", json_of(r.total())}, {"notes", r.notes}};
}

void quantize(const QuantizeOptions& o)
{
    const Quantisation& how = *find_quantisation(o.type);
    RequantiseOptions options = {
        .dense = o.dense, .by_neurons = o.by_neurons, .plain = o.plain, .threads = o.threads, .importance = o.imatrix};
    if (!o.sensitive.empty()) options.sensitive = find_quantisation(o.sensitive)->matrices;
    confinement().allow(o.output);
    confinement().all(false);
    catch_interrupt();
    const double start = seconds();
    Requantised result;
    {
        ProgressBar bar("quantizing");
        result = requantise(open_model(o.model), how, options, o.output, [&](double share) {
            if (interrupted()) throw Error("interrupted; {} was not written", o.output);
            bar.show(share);
        });
    }
    std::error_code ec;
    if (const std::filesystem::path old = profile_path(o.output); std::filesystem::exists(old, ec))
        result.notes.push_back(
            fmt::format("{} is there from before: unless it fits, make it again with `hearth profile {} --anew`",
                        old.string(), o.output));
    for (const std::string& note : result.notes) say("note: {}", note);
    print(o.json ? dump(json_of(result)) : table(result));
    const double took = seconds() - start;
    const RequantisedTensor sum = result.total();
    say("{}: {:.1f} MB in {:.1f} s, {:.2f} GB/s read", o.output, double(sum.bytes) / 1e6, took,
        double(sum.bytes_before) / took / 1e9);
}

}    // namespace

Command add_quantize(CLI::App& app)
{
    auto o = std::make_shared<QuantizeOptions>();
    std::vector<std::string> names;
    for (const Quantisation& q : quantisations) names.emplace_back(q.name);
    add_model_options(app, o->model);
    app.add_option("OUT", o->output, "the GGUF file to write")->required()->check(not_empty());
    app.add_option(
           "TYPE", o->type,
           "of the matrices; vectors are F32. The output matrix and predictors (fc1, fc2) are Q6_K at least, with "
           "q4_0 Q8_0. Types that end with _s, _m or _l, q2_k and iq4_nl are mixtures, as in others' files of "
           "these names: the values of attention, its output and the down projection of all or some layers are "
           "of a better type")
        ->required()
        ->check(CLI::IsMember(names));
    app.add_option("--output-type", o->sensitive,
                   "another type for the output matrix (the embedding where it serves as one) and predictors; nothing "
                   "gets larger than it was by it")
        ->check(CLI::IsMember(names));
    app.add_option(
           "--imatrix", o->imatrix,
           "an importance matrix of the same model: errors count as much as a text showed that they do. `hearth "
           "profile MODEL -f TEXT --imatrix FILE` makes one, and others' files (GGUF) will do")
        ->check(not_empty());
    app.add_flag("--dense", o->dense,
                 "store zeros like other weights (default: f16 and q8_0 leave them out where that saves a tenth)");
    auto* by_neurons = app.add_flag("--by-neurons", o->by_neurons,
                                    "store the down projection by neurons in any model: for --sparsity threshold");
    app.add_flag(
           "--plain", o->plain,
           "write what other programs read: the down projection by columns, zeros like other weights, no predictors")
        ->excludes(by_neurons);
    app.add_option("-t,--threads", o->threads, "CPU threads (default: one per physical core)")
        ->check(CLI::Range(0, 1024));
    group(app, "Output");
    app.add_flag("--json", o->json, "print JSON");
    confinement().add_option(app, false);
    app.footer(
        "Keys given by --override are written into the copy. "
        "In ReLU models and mixtures of experts the down projection is stored by neurons (ffn_down_t), so that it need "
        "not be transposed at "
        "load; other programs do not read that, and --plain stores it their way. Where activations are never zero it "
        "stays as others store it. "
        "Rows that are no whole blocks of 256 get blocks of 32 (Q4_0 for Q2_K and Q3_K, Q5_0 for Q4_K, Q5_1 for Q5_K, "
        "Q8_0 for Q6_K), and where they are none of those either F16. With "
        "f16 and q8_0, a matrix with many zeros (of SparseGPT, 2:4 or any other pattern) is stored without them, which "
        "inspect shows as F16_SPARSE "
        "or Q8_0_SPARSE. The error is the root of the mean square of what was lost, relative to that of the weights.");
    return [o] { quantize(*o); };
}

}    // namespace hearth::tools
