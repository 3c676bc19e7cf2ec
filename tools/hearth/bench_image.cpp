#include "tools/hearth/bench_image.h"

#include "engine/system/limits.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace hearth::tools {

namespace {

/// Of an answer with the dense model's, whose most probable tokens both are given.
struct Agreement {
    uint32_t tokens = 0, same = 0, same_at_first = 0;    // where both find the same most probable; how many at first
    double divergence = 0;    // of the probabilities from the dense model's (Kullback-Leibler), in nats, the mean
};

/// Of one image, run by run.
struct Row {
    std::string image;
    size_t tokens = 0;    // of the image
    std::vector<double> looking_ms, prefill_ms, first_ms, decode_tokens_per_s;
    uint64_t host_bytes = 0, device_bytes = 0;
    std::optional<Agreement> agreement;
};

double median(std::vector<double> x)
{
    if (x.empty()) return 0;
    std::ranges::nth_element(x, x.begin() + ptrdiff_t(x.size() / 2));
    return x[x.size() / 2];
}

std::vector<Token> text_of(const Engine& engine, const EmbeddedRows& image, const std::vector<Token>& behind)
{
    std::vector<Token> text = {engine.tokenizer().bos()};
    text.insert(text.end(), image.tokens.begin(), image.tokens.end());
    text.insert(text.end(), behind.begin(), behind.end());
    return text;
}

std::vector<double> probabilities(std::span<const float> logits)
{
    const double top = std::ranges::max(logits);
    std::vector<double> p;
    double sum = 0;
    for (const float l : logits) sum += p.emplace_back(std::exp(l - top));
    for (double& x : p) x /= sum;
    return p;
}

Agreement agreement_with(Engine& dense, Engine& engine, const EmbeddedRows& image, const ImageBench& o,
                         const std::vector<Token>& behind)
{
    const auto same_image = dense.embed(image.values);
    Session theirs = dense.session(), ours = engine.session();
    std::span<const float> p = theirs.feed(text_of(dense, *same_image, behind), interrupted),
                           q = ours.feed(text_of(engine, image, behind), interrupted);
    Agreement out;
    for (; !p.empty() && !q.empty(); ++out.tokens) {
        const auto expected = probabilities(p), found = probabilities(q);
        for (size_t i = 0; i < expected.size(); ++i)
            if (expected[i] > 0) out.divergence += expected[i] * std::log(expected[i] / std::max(found[i], 1e-300));
        const Token next = Token(std::ranges::max_element(expected) - expected.begin());
        const bool same = next == Token(std::ranges::max_element(found) - found.begin());
        if (same && out.same == out.tokens) ++out.same_at_first;
        out.same += same;
        if (out.tokens + 1 >= o.count || interrupted()) break;
        p = theirs.feed(std::span(&next, 1)), q = ours.feed(std::span(&next, 1));
    }
    if (interrupted()) throw Error("interrupted");
    out.divergence /= ++out.tokens;
    return out;
}

/// One run, `behind` being the text behind the image; what the image became.
std::shared_ptr<const EmbeddedRows> measure_once(Engine& engine, Eyes& eyes, const ImageBench& o,
                                                 const std::vector<Token>& behind, Row& row)
{
    const double looked_before = eyes.us();
    auto image = eyes.look(row.image);
    if (!image) throw Error("interrupted");
    const double looking_ms = (eyes.us() - looked_before) / 1000;
    const std::vector<Token> text = text_of(engine, *image, behind);
    engine.check_room(text.size() + o.count);

    Session session = engine.session();
    Sampler sampler({.temperature = o.temperature, .seed = 1});
    double us = 0;
    session.on_stats = [&](const FeedStats& s) { us += s.us; };
    std::optional<Token> next = session.next(text, sampler, interrupted);
    const double prefill_ms = us / 1000;
    us = 0;
    for (uint32_t i = 0; next && i < o.count; ++i) next = session.next(std::span(&*next, 1), sampler);
    if (!next || interrupted()) throw Error("interrupted");
    row.tokens = image->tokens.size();
    row.looking_ms.push_back(looking_ms);
    row.prefill_ms.push_back(prefill_ms);
    row.first_ms.push_back(looking_ms + prefill_ms);
    if (o.count > 0) row.decode_tokens_per_s.push_back(o.count * 1e6 / us);
    return image;
}

std::string as_text(const ImageBench& o, const std::vector<Row>& rows)
{
    const bool csv = o.format == "csv";
    std::string out =
        csv ? "image,tokens,looking_ms,prefill_ms,first_token_ms,decode_tokens_per_s,host_bytes,device_bytes"
            : "| image | tokens | looking ms | prefill ms | first token ms | decode tokens/s | most RAM MB | GPU MB |";
    if (o.dense) out += csv ? ",same_tokens,same_at_first,divergence" : " same tokens | at first | divergence |";
    out += csv       ? "\n"
           : o.dense ? "\n|---|---|---|---|---|---|---|---|---|---|---|\n"
                     : "\n|---|---|---|---|---|---|---|---|\n";
    for (const Row& r : rows) {
        const double looking = median(r.looking_ms), prefill = median(r.prefill_ms), first = median(r.first_ms),
                     decode = median(r.decode_tokens_per_s);
        if (csv)
            out += fmt::format("{},{},{:.3f},{:.3f},{:.3f},{:.3f},{},{}", r.image, r.tokens, looking, prefill, first,
                               decode, r.host_bytes, r.device_bytes);
        else
            out +=
                fmt::format("| {} | {} | {:.1f} | {:.1f} | {:.1f} | {:.2f} | {:.0f} | {:.0f} |", r.image, r.tokens,
                            looking, prefill, first, decode, double(r.host_bytes) / 1e6, double(r.device_bytes) / 1e6);
        if (const auto& a = r.agreement)
            out += csv ? fmt::format(",{},{},{:.3g}", a->same, a->same_at_first, a->divergence)
                       : fmt::format(" {} of {} | {} | {:.2g} |", a->same, a->tokens, a->same_at_first, a->divergence);
        out += "\n";
    }
    return out;
}

std::string as_json(const Engine& engine, const ImageBench& o, const std::vector<Row>& rows)
{
    nlohmann::json images = nlohmann::json::array();
    for (const Row& r : rows) {
        images.push_back({{"image", r.image},
                          {"tokens", r.tokens},
                          {"looking_ms", r.looking_ms},
                          {"prefill_ms", r.prefill_ms},
                          {"first_token_ms", r.first_ms},
                          {"decode_tokens_per_s", r.decode_tokens_per_s},
                          {"host_bytes", r.host_bytes},
                          {"device_bytes", r.device_bytes}});
        if (const auto& a = r.agreement)
            images.back()["agreement"] = {{"tokens", a->tokens},
                                          {"same", a->same},
                                          {"same_at_first", a->same_at_first},
                                          {"divergence", a->divergence}};
    }
    return dump({{"model", engine.config().name},
                 {"summary", engine.summary()},
                 {"threads", engine.threads()},
                 {"prompt", o.prompt},
                 {"predict", o.count},
                 {"images", images}});
}

}    // namespace

std::string bench_images(Engine& engine, const ImageBench& o)
{
    std::mt19937_64 random(0);
    std::vector<Token> behind(o.prompt);
    for (Token& t : behind) t = Token(random() % engine.config().vocab);
    Eyes eyes(engine, o.images.mode);
    std::vector<Row> rows;
    for (const std::filesystem::path& image : o.images.images) {
        Row row = {.image = image.string()};
        Row warm = row;
        const auto seen = measure_once(engine, eyes, o, behind, warm);    // the most of it counts, too
        for (uint32_t r = 0; r < o.repetitions; ++r) measure_once(engine, eyes, o, behind, row);
        row.host_bytes = peak_memory().value_or(0);
        row.device_bytes = engine.take_most_device_bytes();
        if (o.dense && o.count > 0) row.agreement = agreement_with(*o.dense, engine, *seen, o, behind);
        rows.push_back(std::move(row));
    }
    return o.format == "json" ? as_json(engine, o, rows) : as_text(o, rows);
}

}    // namespace hearth::tools
