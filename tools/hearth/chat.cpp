// hearth chat: a conversation in the frame that the model was trained for. Each turn feeds only what is new; the rest
// is in the KV cache.
#include "engine/system/folders.h"
#include "tools/hearth/conversation.h"
#include "tools/hearth/images.h"
#include "tools/hearth/line_reader.h"
#include "tools/hearth/text.h"

namespace hearth::tools {

namespace {

struct ChatOptions {
    EngineOptions engine;
    SamplerOptions sampler;
    std::optional<std::string> system;
    std::string format;    // of --template; empty: the model's
    TextOptions first;     // what is said first, before anything is read
    ImageOptions images;
    bool single_turn = false;
    int64_t count = -1;
};

using jinja::Data;
using jinja::Piece;

class Conversation {
  public:
    Conversation(Engine& engine, const ChatTemplate& format, const ChatOptions& o)
        : system(o.system), engine_(engine), eyes_(engine, o.images.mode), tokenizer_(engine.tokenizer()),
          format_(format), encoder_(tokenizer_, format), stops_(encoder_.stops()), session_(engine.session()),
          sampler_(o.sampler), most_(o.count)
    {
        session_.on_stats = [this](const FeedStats& s) { (answering_ ? answers_ : prompts_).add(s); };
        limits_.now = std::time(nullptr);    // a date in the text stays what it was when the conversation began
        say_loose_marks(encoder_);
    }

    std::optional<std::string> system;    // where not given, the template's own, if it has one

    bool empty() const { return turns_.empty(); }

    /// The next turn is about this image, too. Throws Error where there is none.
    void show(const std::filesystem::path& image)
    {
        catch_interrupt();
        auto rows = eyes_.look(image);
        if (!rows) return say("stopped; {} is not part of the conversation", image.string());
        shown_.push_back(std::move(rows));
        say("{}: {} tokens, part of what is said next", image.string(), shown_.back()->tokens.size());
    }

    /// Writes the answer to stdout. Ctrl-C, since the line was read, ends it; what was written of it stays in the
    /// conversation.
    void ask(const std::string& line)
    {
        turns_.push_back({tokens_.size(), line, std::exchange(shown_, {}), {}, false});
        std::vector<Token> ids;
        std::string opened;
        try {
            const std::vector<Piece> prompt = format_.render(messages(), true, limits_);
            ids = encoder_.encode(prompt, images());
            opened = opened_thought(prompt);
            prompt_text_ = text_of(prompt);
        } catch (const jinja::TemplateRefusal& refusal) {
            drop();
            return say("the model's chat template does not take this conversation: {}", printable(refusal.what_alone));
        } catch (const jinja::TemplateError& error) {
            throw not_rendered(format_, error);
        } catch (const Error& error) {
            drop();
            return say("{}", error.what());
        }
        // What a template makes of a conversation may change from its beginning on; mostly it grows.
        size_t kept = 0;
        while (kept < std::min(size_t(session_.position()), ids.size() - 1) && tokens_[kept] == ids[kept]) kept++;
        if (ids.size() > engine_.context()) {
            drop();
            const std::string now =
                empty() ? "say less" : "/undo takes back the last turn, /reset forgets the conversation";
            return say("the context has {} positions, of which {} are taken, and this turn needs {}: {}, or start with "
                       "a larger -c",
                       engine_.context(), tokens_.size(), ids.size() - kept, now);
        }
        session_.rewind(uint32_t(kept));
        tokens_ = std::move(ids);
        sampler_.forget();
        for (const Token t : tokens_) sampler_.accept(t);

        answering_ = false;
        const std::optional<Token> next = session_.next(std::span(tokens_).subspan(kept), sampler_, interrupted);
        if (!next) {
            take_back();
            return say("stopped before the answer began; this turn is forgotten");
        }
        answer(*next, opened);
    }

    /// Forgets the last turn, but for its images, which are part of the next; returns what was said in it.
    std::string take_back()
    {
        const Turn turn = turns_.back();
        drop();
        tokens_.resize(std::min(tokens_.size(), turn.begin));
        session_.rewind(std::min(session_.position(), uint32_t(tokens_.size())));
        return turn.line;
    }

    void reset()
    {
        turns_.clear();
        tokens_.clear();
        shown_.clear();
        session_.reset();
    }

    /// As the model reads it, control tokens written out.
    std::string text() const
    {
        std::string text;
        Decoder decoder(tokenizer_);
        for (size_t i = 0; i < tokens_.size(); ++i) {
            const Token t = tokens_[i];
            text += decoder.push(t);
            if (is_row(t)) text += i == 0 || !is_row(tokens_[i - 1]) ? image_mark : "";
            else if (tokenizer_.control(t)) text += tokenizer_.piece(t);
        }
        return text + decoder.finish();
    }

    std::string stats() const
    {
        const std::string images = eyes_.images() ? fmt::format("; {}", images_note(eyes_)) : "";
        return fmt::format("turns: {}; positions: {} of {}{}; prompts: {} tokens, {}; answers: {} tokens, {}",
                           turns_.size(), tokens_.size(), engine_.context(), images, prompts_.tokens,
                           rate(prompts_.tokens, prompts_.us), answers_.tokens, rate(answers_.tokens, answers_.us));
    }

  private:
    struct Turn {
        size_t begin;    // in tokens_
        std::string line;
        Images images;
        Data::Text answer;    // which marks in it the model wrote as tokens is part of it
        bool answered;
    };

    Data::List messages() const
    {
        Data::List messages;
        if (system) messages.push_back(format_.message("system", {{*system, false}}));
        for (const Turn& turn : turns_) {
            messages.push_back(format_.user_message(turn.line, turn.images.size()));
            if (turn.answered) messages.push_back(format_.message("assistant", turn.answer));
        }
        return messages;
    }

    /// Of all turns.
    std::vector<std::span<const Token>> images() const
    {
        std::vector<std::span<const Token>> all;
        for (const Turn& turn : turns_)
            for (const auto& image : turn.images) all.emplace_back(image->tokens);
        return all;
    }

    /// The last turn was none; its images stay.
    void drop()
    {
        shown_.insert(shown_.begin(), turns_.back().images.begin(), turns_.back().images.end());
        turns_.pop_back();
    }

    /// Many answers begin with a space ("ASSISTANT:" is followed by one), which some templates write themselves: the
    /// answer goes without it where the text continues so as the model wrote it.
    void settle(Turn& turn)
    {
        if (turn.answer.empty() || !turn.answer[0].text.starts_with(' ')) return;
        const Data::Text as_written = turn.answer;
        const std::string before = prompt_text_ + text_of(as_written);
        const auto continues = [&] {
            try {
                return text_of(format_.render(messages(), false, limits_)).starts_with(before);
            } catch (const jinja::TemplateError&) {
                return false;
            }
        };
        if (continues()) return;
        std::string& first = turn.answer[0].text;
        first.erase(0, first.find_first_not_of(' '));
        if (!continues()) turn.answer = as_written;
    }

    /// `opened`: a thought that the prompt began for it.
    void answer(Token next, const std::string& opened)
    {
        answering_ = true;
        Turn& turn = turns_.back();
        turn.answered = true;
        const auto add = [&](std::string_view text, bool own) {
            if (!text.empty()) turn.answer.push_back({std::string(text), own});
        };
        print_text(opened);
        add(opened, true);
        Decoder decoder(tokenizer_);
        std::string why_stopped;
        for (int64_t i = 0; most_ < 0 || i < most_; ++i) {
            if (std::find(stops_.begin(), stops_.end(), next) != stops_.end())
                break;    // the template's own end is fed with the next turn
            if (tokens_.size() == engine_.context()) {
                why_stopped = fmt::format("the context of {} positions is full: /undo takes back the last turn, /reset "
                                          "forgets the conversation, or "
                                          "start with a larger -c",
                                          engine_.context());
                break;
            }
            std::string text = decoder.push(next);
            if (encoder_.is_mark(next)) {
                const std::string_view mark = tokenizer_.piece(next);
                if (text.ends_with(mark)) text.resize(text.size() - mark.size());    // a user-defined one is text, too
                add(text, false);
                add(mark, true);
                if (!tokenizer_.control(next) || is_thought_mark(mark)) text += mark;
            } else add(text, false);
            print_text(text);
            tokens_.push_back(next);
            if (i + 1 == most_) break;    // what follows it is asked for only when it is fed with the next turn
            if (interrupted()) {
                why_stopped = "stopped";
                break;
            }
            next = *session_.next(std::span(&next, 1), sampler_);
        }
        const std::string rest = decoder.finish();
        add(rest, false);
        settle(turn);
        print_text(rest + "\n");
        if (!why_stopped.empty()) say("{}", why_stopped);
    }

    Engine& engine_;
    Eyes eyes_;
    const Tokenizer& tokenizer_;
    const ChatTemplate& format_;
    ChatEncoder encoder_;
    const std::vector<Token> stops_;
    Session session_;
    Sampler sampler_;
    const int64_t most_;    // tokens of an answer; negative: any number
    jinja::Limits limits_;

    std::vector<Token> tokens_;    // the first session_.position() of them were fed; the last of an answer that was cut
                                   // short was not yet
    std::vector<Turn> turns_;
    Images shown_;               // for the next turn
    std::string prompt_text_;    // before the last answer
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
         if (text.empty())
             return say("the system prompt is {}",
                        c.system ? "\"" + *c.system + "\"" : "the chat template's own, if it has one");
         c.system = text;
         c.reset();
         say("a new conversation with this system prompt");
     }},
    {"/image", "FILE", "show the model a picture; what is said next is about it",
     [](Conversation& c, const std::string& file) {
         if (file.empty()) return say("which one? /image FILE");
         try {
             c.show(file);
         } catch (const Error& error) {
             say("{}", error.what());
         }
     }},
    {"/undo", "", "take back the last turn; its images are part of the next one",
     [](Conversation& c, const std::string&) {
         if (c.empty()) return say("nothing was said yet");
         say("taken back: {}", c.take_back());
     }},
    {"/retry", "", "answer the last turn anew",
     [](Conversation& c, const std::string&) {
         if (c.empty()) return say("nothing was said yet");
         c.ask(c.take_back());
     }},
    {"/show", "", "the conversation as the model reads it",
     [](Conversation& c, const std::string&) { say("{}", c.text()); }},
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

/// Before the weights are loaded, which takes a while: can this template be rendered at all?
void try_out(const ChatTemplate& format, const ChatOptions& o)
{
    Data::List messages;
    if (o.system) messages.push_back(format.message("system", {{*o.system, false}}));
    messages.push_back(format.message("user", {{"a question", false}}));
    try {
        format.render(messages, true);
    } catch (const jinja::TemplateRefusal& refusal) {
        throw Error("the model's chat template does not take this conversation: {}{}", printable(refusal.what_alone),
                    o.system ? "; leave out --system, and say it with the first question"
                             : "; choose another with --template");
    } catch (const jinja::TemplateError& error) {
        throw not_rendered(format, error);
    }
}

void chat(const ChatOptions& o)
{
    const Gguf file(o.engine.model, o.engine.overrides);
    const ChatTemplate format = choose_template(o.format, &file);
    try_out(format, o);
    Engine engine = load_engine(seeing(o.engine),
                                o.format.empty() ? "" : fmt::format("; chat template {}", printable(format.name())));
    Conversation conversation(engine, format, o);
    for (const std::filesystem::path& image : o.images.images) conversation.show(image);
    const auto ended = [&] { return o.single_turn && !conversation.empty(); };
    if (std::string first = read_text(o.first); !first.empty()) {
        if (!o.first.file.empty() && first.ends_with('\n')) first.pop_back();
        catch_interrupt();
        conversation.ask(first);
    }
    LineReader reader(chat_history_path());
    if (reader.on_terminal() && !ended()) say("/help lists the commands");
    while (!ended()) {
        const std::optional<std::string> line = reader.read();
        if (!line) break;
        if (line->starts_with('/')) {
            if (!obey(conversation, *line)) break;
        } else if (line->find_first_not_of(" \t") != line->npos) conversation.ask(*line);
    }
    say("{}{}", conversation.stats(), seed_note(o.sampler));
}

}    // namespace

Command add_chat(CLI::App& app)
{
    auto o = std::make_shared<ChatOptions>();
    add_engine_options(app, o->engine);
    add_text_options(app, o->first, false);
    add_tower_options(app, o->engine);
    add_image_options(app, o->images);
    app.get_option("--image")->description("a picture (PNG, JPEG, WebP, GIF, BMP) that what is said first is about; "
                                           "again for another");
    app.get_option("--prompt")->description("what is said first");
    app.get_option("--file")->description("a file with what is said first");
    auto* system =
        app.add_option("--system", o->system, "system prompt; the template's own where not given")->type_name("TEXT");
    app.add_option_function<std::string>(
           "--system-file", [o](const std::string& file) { o->system = read_text_file(file); },
           "a file with the system prompt")
        ->check(not_empty())
        ->excludes(system)
        ->type_name("FILE");
    app.add_option(
           "--template", o->format,
           "what stands around the turns: one of the model's templates by name, a file with one (Jinja), or one of " +
               template_names() + " (plain text); the model's own where not given")
        ->check(not_empty())
        ->type_name("NAME");
    app.add_option("-n,--predict", o->count,
                   "tokens of an answer at most; -1: until the model ends it or the context is full")
        ->capture_default_str()
        ->type_name("N");
    app.add_flag("--single-turn", o->single_turn, "end after the first answer");
    add_sampler_options(app, o->sampler);
    return [o] { chat(*o); };
}

}    // namespace hearth::tools
