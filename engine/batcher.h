// Many texts at once: requests wait for a place, go through the model together, and end one by one.
#pragma once

#include "engine/engine.h"

#include <deque>

namespace hearth {

/// Runs requests of an engine together, as many as it has sequences; the others wait for their turn. A prompt is run in
/// pieces of at most a batch, one between every two steps of the texts that are being written, so that nobody waits
/// long. What a request gets does not depend on the others: its tokens are those that it gets alone. Not to be used by
/// two threads at once.
///
///     Batcher batcher(engine);
///     batcher.add({.prompt = tokens, .on_token = [&](Token t) { return print(t); }});
///     while (batcher.step()) {}
class Batcher {
  public:
    enum class End {
        enough,    // on_token said so
        count,     // as many tokens as it asked for
        full,      // its context is full
        cancelled,
    };
    struct Request {
        std::vector<Token> prompt;        // at least a token
        const Session* from = nullptr;    // has read the prompt's beginning, less than all of it, and is forked; it
                                          // counts as one of the engine's sequences
        SamplerOptions sampling = {};
        uint64_t count = UINT64_MAX;             // of tokens, at the most
        std::function<bool(Token)> on_token;     // each token as it comes; false: that was enough
        std::function<void(End)> on_end = {};    // once, after the last token
    };
    using Id = uint64_t;

    /// The engine must outlive this.
    explicit Batcher(Engine& engine);
    ~Batcher();
    Batcher(const Batcher&) = delete;
    Batcher& operator=(const Batcher&) = delete;

    /// Throws Error where the prompt is longer than the context.
    Id add(Request request);
    /// Ends a request, also one that waits; nothing happens where there is none of this number. May be called from
    /// on_token.
    void cancel(Id id);

    /// A piece of one prompt, if one is not done, and a token of each text whose prompt is. False where nothing is left
    /// to do. An Error ends the step, and the requests stay as they were.
    bool step();

    size_t running() const { return running_.size(); }
    size_t waiting() const { return waiting_.size(); }

    /// Called after each batch.
    std::function<void(const FeedStats&)> on_stats;

  private:
    struct Text;
    void prompt();
    void write();
    void take(Text& text, Token token);
    void remove_ended();

    Engine& engine_;
    Id next_ = 1;
    std::deque<std::unique_ptr<Text>> waiting_, running_;    // running: the one whose prompt is next comes first
};

}    // namespace hearth
