// hearth profile: runs texts and counts which neurons fire. What it finds makes plans and predictors better.
#include "tools/hearth/cli.h"
#include "tools/hearth/confine.h"
#include "tools/hearth/conversation.h"
#include "tools/hearth/images.h"
#include "tools/hearth/text.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace hearth::tools {

namespace {

struct ProfileOptions {
    EngineOptions engine;
    ImageOptions images;
    std::vector<std::string> files, merge;
    std::string output, embed, imatrix;
    int64_t limit = 0;
    std::optional<double> calibrate;    // share of the neurons to leave out
    bool json = false;
    bool anew = false;
};

/// A text, and the images in it.
struct Text {
    std::vector<Token> tokens;
    Images images;
};

/// What tells one text from another: its words, what its images show, and how it is cut into windows.
std::string text_key(std::span<const Token> tokens, const Images& images, uint32_t window)
{
    uint64_t hash = 0xcbf29ce484222325u ^ window;
    const auto add = [&](uint32_t x) { hash = (hash ^ x) * 0x100000001b3u; };
    for (const Token t : tokens) add(is_row(t) ? no_token : t);    // a row's number is one of this run
    for (const auto& image : images)
        for (const float x : image->values) add(std::bit_cast<uint32_t>(x));
    return fmt::format("{:016x}", hash);
}

/// Windows of at most so many tokens, one behind the other. None ends within an image that would fit into the next.
std::vector<std::span<const Token>> windows_of(std::span<const Token> tokens, size_t most)
{
    std::vector<std::span<const Token>> windows;
    while (!tokens.empty()) {
        size_t end = std::min(most, tokens.size());
        const auto within_image = [&](size_t at) {
            return at > 0 && at < tokens.size() && is_row(tokens[at - 1]) && is_row(tokens[at]);
        };
        size_t before = end;
        while (within_image(before)) --before;
        if (before > 0) end = before;
        windows.push_back(tokens.first(end));
        tokens = tokens.subspan(end);
    }
    return windows;
}

/// The tokens of the texts, in which the images stand where they say <image>, one after the other.
std::vector<Text> with_images(const ProfileOptions& o, const std::vector<std::string>& texts, const Engine& engine,
                              Eyes& eyes)
{
    std::vector<Text> all;
    size_t shown = 0;
    for (size_t i = 0; i < texts.size(); ++i) {
        const std::string &text = texts[i], &file = o.files[i];
        Text& out = all.emplace_back();
        for (size_t places = o.images.images.empty() ? 0 : places_for_images(text); places > 0; --places, ++shown) {
            if (shown == o.images.images.size())
                throw Error("{} has more places for images ({}) than are given: name as many with --image", file,
                            image_mark);
            const std::filesystem::path& path = o.images.images[shown];
            out.images.push_back(eyes.look(path));
            if (!out.images.back()) throw Error("interrupted");
            if (const size_t rows = out.images.back()->tokens.size(); rows >= engine.context())
                throw Error("{} takes {} positions, and a window has {}: use -c {} or more", path.string(), rows,
                            engine.context(), rows + 256);
        }
        if (out.images.empty()) out.tokens = engine.tokenizer().encode(text);
        else out.tokens = encode_with_images(engine.tokenizer(), text, out.images);
        if (!out.images.empty() && engine.tokenizer().add_bos()) out.tokens.erase(out.tokens.begin());
        if (out.tokens.empty()) throw Error("{} has no tokens: name a file with a text", file);
    }
    if (shown < o.images.images.size())
        throw Error("{} stands nowhere: a text says {} where each image belongs", o.images.images[shown].string(),
                    image_mark);
    return all;
}

/// The share of the neurons, or experts, that make 80 % of what fires.
double hot_share(const LayerProfile& layer)
{
    std::vector<uint64_t> counts = layer.fired;
    std::sort(counts.rbegin(), counts.rend());
    const uint64_t all = std::accumulate(counts.begin(), counts.end(), uint64_t(0));
    uint64_t sum = 0;
    size_t n = 0;
    while (n < counts.size() && double(sum) < 0.8 * double(all)) sum += counts[n++];
    return double(n) / double(counts.size());
}

double activity(const Profile& p, const LayerProfile& layer)
{
    return double(std::accumulate(layer.fired.begin(), layer.fired.end(), uint64_t(0))) /
           double(std::max<uint64_t>(p.positions, 1)) / double(layer.fired.size());
}

std::string table(const Profile& p, const Weights& weights, double recall)
{
    if (weights.config.experts) {
        std::string out = fmt::format(
            "{} positions of {} texts\n\n| layer | experts of a token | 80 % of it by |\n|---:|---:|---:|\n",
            p.positions, p.texts.size());
        for (size_t l = 0; l < p.layers.size(); ++l)
            out +=
                fmt::format("| {} | {:.2f} of {} | {:.0f} % |\n", l, activity(p, p.layers[l]) * weights.config.experts,
                            weights.config.experts, 100 * hot_share(p.layers[l]));
        return out;
    }
    const bool lowrank = weights.layers[0].fc1.rows > 0;
    std::string out =
        fmt::format("{} positions of {} texts, {} of them sampled\n\n| layer | fire | 80 % of it by | sign: recall | "
                    "precision | looked at |{}\n"
                    "|---:|---:|---:|---:|---:|---:|{}\n",
                    p.positions, p.texts.size(), p.sampled,
                    lowrank ? " low rank: recall | precision | looked at |" : "", lowrank ? "---:|---:|---:|" : "");
    const auto quality = [](const PredictorQuality& q) {
        return fmt::format(" {:.1f} % | {:.0f} % | {:.1f} % |", 100 * q.recall, 100 * q.precision, 100 * q.predicted);
    };
    for (size_t l = 0; l < p.layers.size(); ++l) {
        const LayerProfile& layer = p.layers[l];
        out += fmt::format("| {} | {:.2f} % | {:.0f} % |", l, 100 * activity(p, layer), 100 * hot_share(layer)) +
               quality(sign_quality(layer, sign_threshold(layer, recall))) +
               (lowrank ? quality(lowrank_quality(layer)) : "") + "\n";
    }
    return out;
}

nlohmann::json json_of(const Profile& p, double recall)
{
    nlohmann::json layers = nlohmann::json::array();
    const auto quality = [](const PredictorQuality& q) {
        return nlohmann::json{{"recall", q.recall}, {"precision", q.precision}, {"looked_at", q.predicted}};
    };
    for (const LayerProfile& layer : p.layers)
        layers.push_back({{"fired", layer.fired},
                          {"activity", activity(p, layer)},
                          {"hot_share", hot_share(layer)},
                          {"sign", quality(sign_quality(layer, sign_threshold(layer, recall)))},
                          {"lowrank", quality(lowrank_quality(layer))}});
    return {{"positions", p.positions}, {"sampled", p.sampled}, {"layers", layers}};
}

/// The mean over the words among the first so many tokens, in windows, one token at a time: as decode runs them.
double mean_nll(const EngineOptions& options, const Text& text, size_t count)
{
    const std::span<const Token> tokens = std::span(text.tokens).first(count);
    Engine engine(options);
    Images images;    // another engine gives the same rows the same numbers, since it gives them in the same order
    for (const auto& image : text.images) {
        images.push_back(engine.embed(image->values));
        HEARTH_CHECK(images.back()->tokens == image->tokens);
    }
    uint64_t words = 0;
    Session session = engine.session();
    const size_t run = engine.context() - 1;
    double sum = 0;
    for (size_t done = 0; done < tokens.size(); ++done) {
        if (done % run == 0) session.reset();
        const Token before = done % run == 0 ? engine.tokenizer().bos() : tokens[done - 1];
        const std::span<const float> logits = session.feed(std::span(&before, 1));
        if (is_row(tokens[done])) continue;
        sum += negative_log_likelihood(logits, tokens[done]);
        ++words;
    }
    return sum / double(std::max<uint64_t>(words, 1));
}

/// Chooses cuts that leave out the wanted share of the neurons in every layer, and measures on the text what they cost.
void calibrate(Profile& p, const ProfileOptions& o, const std::filesystem::path& path, const Text& text)
{
    constexpr size_t most = 2000;    // tokens: a percent of the perplexity shows
    const size_t count = std::min(most, text.tokens.size());
    p.calibration = Calibration{.sparsity = *o.calibrate, .tokens = count};
    for (const LayerProfile& layer : p.layers) p.calibration->cuts.push_back(activation_cut(layer, *o.calibrate));
    write_profile(path, p);
    EngineOptions options = o.engine;
    options.profile = path;
    options.sparsity = Sparsity::dense;
    p.calibration->dense_nll = mean_nll(options, text, count);
    options.sparsity = Sparsity::threshold;
    p.calibration->sparse_nll = mean_nll(options, text, count);
    say("leaving out {:.0f} % of the neurons takes the perplexity from {:.3f} to {:.3f} ({:+.1f} %), on the first {} "
        "tokens",
        100 * *o.calibrate, std::exp(p.calibration->dense_nll), std::exp(p.calibration->sparse_nll),
        100 * std::expm1(p.calibration->sparse_nll - p.calibration->dense_nll), count);
}

void profile(ProfileOptions o)
{
    const std::filesystem::path path =
        o.output.empty() ? profile_path(o.engine.model) : std::filesystem::path(o.output);
    std::vector<std::string> texts;
    for (const std::string& file : o.files) texts.push_back(read_text_file(file));
    o.engine.batch = std::max(o.engine.batch, o.engine.context);    // a window is a batch
    catch_interrupt();
    confinement().allow(path);
    if (!o.embed.empty()) confinement().allow(o.embed);
    Engine engine = load_engine(o.images.images.empty() ? o.engine : seeing(o.engine));
    const Weights& weights = engine.weights();
    const Config& c = engine.config();

    if (o.calibrate && host::makes_zeros(c.activation))
        throw Error(
            "--calibrate is for models whose activations are never zero, and {} is a ReLU model: use --sparsity exact",
            c.name);
    if (o.calibrate && c.experts)
        throw Error("--calibrate is for models without experts, and {} is a mixture of experts, of which a token needs "
                    "few anyway",
                    c.name);
    Profile p = empty_profile(*weights.file, c.layers, c.firing(), c.dim);
    std::error_code ec;
    if (!o.anew && std::filesystem::exists(path, ec))
        p = read_profile(Gguf(path), *weights.file, c.layers, c.firing(), c.dim);
    for (const std::string& other : o.merge)
        merge(p, read_profile(Gguf(other), *weights.file, c.layers, c.firing(), c.dim));

    Eyes eyes(engine, o.images.mode);
    const std::vector<Text> read = with_images(o, texts, engine, eyes);
    write_profile(path, p);    // before the work, so that a place that cannot be written is told at once
    Profiling profiling(engine, p);
    ProgressBar bar("profiling");
    double written = seconds();
    for (size_t i = 0; i < texts.size() && !interrupted(); ++i) {
        std::span<const Token> tokens = read[i].tokens;
        if (o.limit) tokens = tokens.first(std::min(tokens.size(), size_t(o.limit)));
        const std::vector<std::span<const Token>> windows = windows_of(tokens, engine.context() - 1);
        const std::string key = text_key(tokens, read[i].images, engine.context());
        auto text = std::find_if(p.texts.begin(), p.texts.end(), [&](const Profile::Text& t) { return t.key == key; });
        if (text == p.texts.end()) text = p.texts.insert(p.texts.end(), {key, 0, windows.size()});
        if (text->done == text->total)
            say("note: {} is in {} already, and does not count twice", o.files[i], path.string());
        for (; text->done < text->total && !interrupted(); ++text->done) {
            const std::span<const Token> window = windows[text->done];
            std::vector<Token> input = {engine.tokenizer().bos()};
            input.insert(input.end(), window.begin(), window.end());
            profiling.window(input);
            bar.show((double(i) + double(text->done) / double(text->total)) / double(texts.size()));
            if (seconds() - written > 10) {    // so that nothing that stops this costs more
                text->done += 1;
                write_profile(path, p);
                text->done -= 1;
                written = seconds();
            }
        }
    }
    if (o.calibrate && !interrupted()) calibrate(p, o, path, read.at(0));
    write_profile(path, p);
    if (!o.embed.empty()) embed_profile(*weights.file, p, o.embed);
    print(o.json ? dump(json_of(p, o.engine.recall)) : table(p, weights, o.engine.recall));
    say("kept in {}{}", path.string(), interrupted() ? "; interrupted: the same command goes on from here" : "");
}

/// An importance matrix of the texts, in place of a profile.
void measure_importance(ProfileOptions o)
{
    std::vector<std::string> texts;
    for (const std::string& file : o.files) texts.push_back(read_text_file(file));
    if (texts.empty()) throw Error("an importance matrix is measured on a text: name one with -f");
    catch_interrupt();
    confinement().allow(o.imatrix);
    o.engine.device = "cpu";    // where every input can be seen
    Engine engine = load_engine(o.engine);
    std::vector<std::vector<Token>> tokens;
    size_t all = 0, done = 0;
    for (size_t i = 0; i < texts.size(); ++i) {
        tokens.push_back(engine.tokenizer().encode(texts[i]));
        if (o.limit) tokens[i].resize(std::min(tokens[i].size(), size_t(o.limit)));
        if (tokens[i].empty()) throw Error("{} has no tokens: name a file with a text", o.files[i]);
        all += tokens[i].size();
    }
    ImportanceMeasuring measuring(engine);
    {
        ProgressBar bar("measuring");
        for (const std::vector<Token>& text : tokens)
            for (const std::span<const Token> window : windows_of(text, engine.context() - 1)) {
                if (interrupted()) throw Error("interrupted; {} was not written", o.imatrix);
                std::vector<Token> input = {engine.tokenizer().bos()};
                input.insert(input.end(), window.begin(), window.end());
                measuring.window(input);
                bar.show(double(done += window.size()) / double(all));
            }
    }
    Importance measured = measuring.measured();
    measured.texts = o.files;
    write_importance(o.imatrix, measured);
    say("{}: {} matrices, measured on {} tokens in {} windows", o.imatrix, measured.matrices.size(), all,
        measured.windows);
}

}    // namespace

Command add_profile(CLI::App& app)
{
    auto o = std::make_shared<ProfileOptions>();
    o->engine.context = 256;
    add_engine_options(app, o->engine);
    add_tower_options(app, o->engine);
    add_image_options(app, o->images);
    app.get_option("--image")->description("a picture that stands where a text says <image>; again for the next one");
    app.get_option("-c")->description("tokens in a window, BOS included")->capture_default_str();
    app.add_option("-f,--file", o->files,
                   "a text, or several: whatever the model will be used for; - is standard input")
        ->check(not_empty());
    app.add_option("-n,--tokens", o->limit, "only the first n tokens of each text")
        ->check(CLI::Range(int64_t(1), int64_t(1) << 40));
    group(app, "Output");
    app.add_option("-o,--output", o->output, "the profile to write, or to go on with (default: MODEL.profile)")
        ->check(not_empty());
    app.add_option("--merge", o->merge, "profiles of the same model and other texts, to add")->check(not_empty());
    app.add_option("--embed", o->embed, "write a copy of the model with the profile in it")->check(not_empty());
    app.add_option("--calibrate", o->calibrate,
                   "SiLU models: share of the neurons, such as 0.4, that --sparsity threshold shall leave out; says "
                   "what it costs on the first text")
        ->check(number_between(0, 1));
    auto* imatrix = app.add_option("--imatrix", o->imatrix,
                                   "instead of a profile, write an importance matrix of the texts: what the columns of "
                                   "the matrices are multiplied with, for `hearth quantize --imatrix` and others' "
                                   "programs; measured on the CPU")
                        ->check(not_empty());
    app.add_flag("--anew", o->anew, "do not go on with a profile that is there");
    app.add_flag("--json", o->json, "print all counts as JSON");
    for (const char* name : {"-o", "--merge", "--embed", "--calibrate", "--anew", "--json", "--image"})
        imatrix->excludes(app.get_option(name));
    return [o, &app] {
        if (!o->imatrix.empty()) return measure_importance(*o);
        // An image of LLaVA 1.5 takes 576 of them.
        if (!o->images.images.empty() && app.get_option("-c")->empty()) o->engine.context = 1024;
        profile(*o);
    };
}

}    // namespace hearth::tools
