// hearth chat: a conversation in the frame that the model was trained for. Each turn feeds only what is new; the rest is in the KV cache.
#include "engine/model/chat_template.h"
#include "tools/cli.h"
#include "tools/line_reader.h"

namespace hearth::tools {

namespace {

struct ChatOptions {
    EngineOptions engine;
    SamplerOptions sampler;
    std::optional<std::string> system;
    std::string family;    // empty: recognised by the model's template
    int64_t count = -1;
};

std::string family_names()
{
    std::string names;
    for (const ChatTemplate& family : chat_templates()) names += fmt::format("{}{}", names.empty() ? "" : ", ", family.name);
    return names;
}

constexpr const char* template_key = "tokenizer.chat_template";

const ChatTemplate& family_of(const ChatOptions& o, const Gguf& file)
{
    if (!o.family.empty()) return *find_chat_template(o.family);
    if (!file.keys().contains(template_key))
        throw Error("{} has no chat template: choose one with --template, of {}, or let `hearth run` continue a text", o.engine.model.string(),
                    family_names());
    const std::string_view jinja = file.string(template_key);
    if (const ChatTemplate* family = recognise_chat_template(jinja)) return *family;
    throw Error("{} has a chat template that this version does not know, beginning with '{:.120}': choose the one that it comes nearest to with "
                "--template, of {}",
                o.engine.model.string(), printable(jinja), family_names());
}

class Conversation {
  public:
    Conversation(Engine& engine, const ChatTemplate& family, std::string system, const ChatOptions& o)
        : system(std::move(system)), engine_(engine), tokenizer_(engine.tokenizer()), family_(family), stops_(stop_tokens(tokenizer_, family)),
          session_(engine.session()), sampler_(o.sampler), most_(o.count)
    {
        session_.on_stats = [this](const FeedStats& s) { (answering_ ? answers_ : prompts_).add(s); };
    }

    std::string system;    // read by the first turn

    bool empty() const { return turns_.empty(); }

    /// Writes the answer to stdout. Ctrl-C, since the line was read, ends it; what was written of it stays in the conversation.
    void ask(const std::string& line)
    {
        std::vector<Token> ids = encode(tokenizer_, family_, chat_pieces(family_, {.first = empty(), .system = system, .user = line}));
        if (ids.empty() || (empty() && tokenizer_.add_bos() && ids[0] != tokenizer_.bos())) ids.insert(ids.begin(), tokenizer_.bos());
        if (tokens_.size() + ids.size() > engine_.context()) {
            const std::string now = empty() ? "say less" : "/undo takes back the last turn, /reset forgets the conversation";
            return say("the context has {} positions, of which {} are taken, and this turn needs {}: {}, or start with a larger -c",
                       engine_.context(), tokens_.size(), ids.size(), now);
        }
        turns_.push_back({tokens_.size(), line});
        tokens_.insert(tokens_.end(), ids.begin(), ids.end());
        sampler_.forget();
        for (const Token t : tokens_) sampler_.accept(t);

        answering_ = false;
        const std::optional<Token> next = session_.next(std::span(tokens_).subspan(session_.position()), sampler_, interrupted);
        if (!next) {
            take_back();
            return say("stopped before the answer began; this turn is forgotten");
        }
        answer(*next);
    }

    /// Forgets the last turn; returns what was said in it.
    std::string take_back()
    {
        const Turn turn = turns_.back();
        turns_.pop_back();
        tokens_.resize(turn.begin);
        session_.rewind(std::min(session_.position(), uint32_t(turn.begin)));
        return turn.line;
    }

    void reset()
    {
        turns_.clear();
        tokens_.clear();
        session_.reset();
    }

    /// As the model reads it, control tokens written out.
    std::string text() const
    {
        std::string text;
        Decoder decoder(tokenizer_);
        for (const Token t : tokens_) {
            text += decoder.push(t);
            if (tokenizer_.control(t)) text += tokenizer_.piece(t);
        }
        return text + decoder.finish();
    }

    std::string stats() const
    {
        return fmt::format("turns: {}; positions: {} of {}; prompts: {} tokens, {}; answers: {} tokens, {}", turns_.size(), tokens_.size(),
                           engine_.context(), prompts_.tokens, rate(prompts_.tokens, prompts_.us), answers_.tokens,
                           rate(answers_.tokens, answers_.us));
    }

  private:
    struct Turn {
        size_t begin;    // in tokens_
        std::string line;
    };

    void answer(Token next)
    {
        answering_ = true;
        Decoder decoder(tokenizer_);
        std::string why_stopped;
        for (int64_t i = 0; most_ < 0 || i < most_; ++i) {
            if (std::find(stops_.begin(), stops_.end(), next) != stops_.end()) break;    // the frame's own end is fed with the next turn
            if (tokens_.size() == engine_.context()) {
                why_stopped = fmt::format("the context of {} positions is full: /undo takes back the last turn, /reset forgets the conversation, or "
                                          "start with a larger -c",
                                          engine_.context());
                break;
            }
            print(decoder.push(next));
            tokens_.push_back(next);
            if (i + 1 == most_) break;    // what follows it is asked for only when it is fed with the next turn
            if (interrupted()) {
                why_stopped = "stopped";
                break;
            }
            next = *session_.next(std::span(&next, 1), sampler_);
        }
        print(decoder.finish() + "\n");
        if (!why_stopped.empty()) say("{}", why_stopped);
    }

    Engine& engine_;
    const Tokenizer& tokenizer_;
    const ChatTemplate& family_;
    const std::vector<Token> stops_;
    Session session_;
    Sampler sampler_;
    const int64_t most_;    // tokens of an answer; negative: any number

    std::vector<Token> tokens_;    // the first session_.position() of them were fed; the last of an answer that was cut short was not yet
    std::vector<Turn> turns_;
    bool answering_ = false;
    StatsTotals prompts_, answers_;
};

struct ChatCommand {
    std::string_view name, argument, help;
    void (*run)(Conversation& conversation, const std::string& argument);    // nullptr: it ends the program
};

void list_commands(Conversation&, const std::string&);

constexpr ChatCommand commands[] = {
    {"/help", "", "this list", list_commands},
    {"/reset", "", "forget the conversation",
     [](Conversation& c, const std::string&) {
         c.reset();
         say("the conversation is forgotten");
     }},
    {"/system", "[TEXT]", "forget the conversation and begin the next with this system prompt; without TEXT: show it",
     [](Conversation& c, const std::string& text) {
         if (text.empty()) return say("the system prompt is {}", c.system.empty() ? "empty" : "\"" + c.system + "\"");
         c.system = text;
         c.reset();
         say("a new conversation with this system prompt");
     }},
    {"/undo", "", "take back the last turn",
     [](Conversation& c, const std::string&) {
         if (c.empty()) return say("nothing was said yet");
         say("taken back: {}", c.take_back());
     }},
    {"/retry", "", "answer the last turn anew",
     [](Conversation& c, const std::string&) {
         if (c.empty()) return say("nothing was said yet");
         c.ask(c.take_back());
     }},
    {"/show", "", "the conversation as the model reads it", [](Conversation& c, const std::string&) { say("{}", c.text()); }},
    {"/stats", "", "positions and tokens so far", [](Conversation& c, const std::string&) { say("{}", c.stats()); }},
    {"/quit", "", "end; so do Ctrl-D and, while nothing is answered, Ctrl-C", nullptr},
};

void list_commands(Conversation&, const std::string&)
{
    for (const ChatCommand& c : commands) say("{:<16} {}", fmt::format("{} {}", c.name, c.argument), c.help);
    say("Ctrl-C stops an answer. A line that shall begin with a / begins with a space before it.");
}

/// False if the line ends the program.
bool obey(Conversation& conversation, std::string_view line)
{
    const size_t space = line.find(' '), begin = line.find_first_not_of(' ', space);
    const std::string_view name = line.substr(0, space), argument = begin < line.size() ? line.substr(begin) : "";
    for (const ChatCommand& c : commands) {
        if (c.name != name) continue;
        if (c.run) c.run(conversation, std::string(argument));
        return c.run;
    }
    say("there is no command {}: /help lists them", printable(name));
    return true;
}

void chat(const ChatOptions& o)
{
    std::string system;
    const ChatTemplate* family;
    {
        const Gguf file(o.engine.model);    // before the weights are loaded, which takes a while
        family = &family_of(o, file);
        system = o.system ? *o.system : default_system(*family, file.string(template_key, ""));
    }
    Engine engine = load_engine(o.engine, fmt::format("; chat template {}", family->name));
    Conversation conversation(engine, *family, system, o);
    LineReader reader(chat_history_path());
    if (reader.on_terminal()) say("/help lists the commands");
    while (const std::optional<std::string> line = reader.read()) {
        if (line->starts_with('/')) {
            if (!obey(conversation, *line)) break;
        } else if (line->find_first_not_of(" \t") != line->npos) conversation.ask(*line);
    }
    say("{}", conversation.stats());
}

}    // namespace

Command add_chat(CLI::App& app)
{
    auto o = std::make_shared<ChatOptions>();
    add_engine_options(app, o->engine);
    app.add_option("--system", o->system, "system prompt; the template's own where not given");
    app.add_option("--template", o->family,
                   "frame of the turns: " + family_names() + " (plain text); recognised by the model's chat template where not given")
        ->check([](const std::string& name) {
            return find_chat_template(name) ? "" : "there is no template '" + printable(name) + "', only " + family_names();
        });
    app.add_option("-n,--predict", o->count, "tokens of an answer at most; -1: until the model ends it or the context is full")
        ->capture_default_str();
    app.add_option("-s,--seed", o->sampler.seed, "seed of the random choice")->capture_default_str();
    add_sampler_options(app, o->sampler);
    return [o] { chat(*o); };
}

}    // namespace hearth::tools
