#include "engine/batcher.h"

#include <algorithm>

namespace hearth {

struct Batcher::Text {
    Id id;
    Request request;
    Sampler sampler;
    std::optional<Session> session;
    size_t prompted = 0;          // tokens of the prompt that were run
    std::optional<Token> last;    // what is to be run next; nothing while the prompt is not done
    uint64_t written = 0;
    std::optional<End> end;
};

Batcher::Batcher(Engine& engine) : engine_(engine) {}
Batcher::~Batcher() = default;

Batcher::Id Batcher::add(Request request)
{
    HEARTH_CHECK(request.prompt.size() > (request.from ? request.from->position() : 0) && request.on_token);
    engine_.check_room(request.prompt.size());
    auto text = std::make_unique<Text>(Text{.id = next_, .request = std::move(request), .sampler = Sampler({})});
    text->sampler = Sampler(text->request.sampling);
    for (const Token t : text->request.prompt) text->sampler.accept(t);
    waiting_.push_back(std::move(text));
    return next_++;
}

void Batcher::cancel(Id id)
{
    for (auto* texts : {&waiting_, &running_})
        for (auto& text : *texts)
            if (text->id == id && !text->end) text->end = End::cancelled;
}

bool Batcher::step()
{
    remove_ended();
    while (!waiting_.empty() && running_.size() < engine_.sequences()) {
        Text& text = *waiting_.front();
        text.session.emplace(text.request.from ? text.request.from->fork() : engine_.session());
        text.prompted = text.session->position();
        running_.push_back(std::move(waiting_.front()));
        waiting_.pop_front();
    }
    prompt();
    write();
    remove_ended();
    return !running_.empty() || !waiting_.empty();
}

/// The next piece of the first prompt that is not done; then it is another's turn.
void Batcher::prompt()
{
    const auto found = std::ranges::find_if(running_, [](const auto& text) { return !text->last && !text->end; });
    if (found == running_.end()) return;
    Text& text = **found;
    text.session->on_stats = on_stats;
    const std::span<const Token> rest = std::span(text.request.prompt).subspan(text.prompted),
                                 piece = rest.first(std::min<size_t>(rest.size(), engine_.batch()));
    if (piece.size() < rest.size()) text.session->feed(piece);
    else if (const std::optional<Token> token = text.session->next(piece, text.sampler)) take(text, *token);
    text.prompted += piece.size();
    std::rotate(found, found + 1, running_.end());
}

/// A token of every text whose prompt is done, as many texts at a time as are few rows.
void Batcher::write()
{
    std::vector<Text*> texts;
    for (const auto& text : running_)
        if (text->last && !text->end) texts.push_back(text.get());
    for (size_t first = 0; first < texts.size(); first += engine_.few()) {
        const auto some = std::span(texts).subspan(first, std::min<size_t>(engine_.few(), texts.size() - first));
        std::vector<Turn> turns;
        std::vector<std::pair<Text*, Token>> next;    // taken when the batch is done, since on_token may do anything
        for (Text* text : some) {
            Turn turn = {.session = &*text->session, .tokens = std::span(&*text->last, 1)};
            if (text->sampler.greedy())
                turn.take_best = [text, &next](size_t, Token token) { next.emplace_back(text, token); };
            else
                turn.take = [text, &next](size_t, std::span<const float> logits) {
                    next.emplace_back(text, text->sampler.sample(logits));
                };
            turns.push_back(std::move(turn));
        }
        const FeedStats stats = engine_.together(turns);
        if (on_stats) on_stats(stats);
        for (const auto& [text, token] : next) take(*text, token);
    }
}

void Batcher::take(Text& text, Token token)
{
    text.last = token;
    ++text.written;
    if (text.end) return;    // cancelled meanwhile
    const bool goes_on = text.request.on_token(token);
    if (text.end) return;    // cancelled by it
    if (!goes_on) text.end = End::enough;
    else if (text.written >= text.request.count) text.end = End::count;
    else if (text.session->position() >= engine_.context()) text.end = End::full;
}

void Batcher::remove_ended()
{
    std::vector<std::unique_ptr<Text>> ended;
    for (auto* texts : {&running_, &waiting_})
        for (auto text = texts->begin(); text != texts->end();) {
            if (!(*text)->end) {
                ++text;
                continue;
            }
            ended.push_back(std::move(*text));
            text = texts->erase(text);
        }
    for (const auto& text : ended)
        if (text->request.on_end) text->request.on_end(*text->end);
}

}    // namespace hearth
