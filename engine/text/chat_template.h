// How a conversation stands in the text that a model reads: what the template in its file (`tokenizer.chat_template`, a
// Jinja program) makes of it, and which tokens that becomes.
#pragma once

#include "engine/text/jinja.h"
#include "engine/text/tokenizer.h"

#include <map>
#include <set>
#include <span>

namespace hearth {

/// Templates by name, for files that have none; "none" is the last: plain text, without frames.
struct NamedTemplate {
    std::string_view name, jinja;
};
std::span<const NamedTemplate> chat_templates();
const NamedTemplate* find_chat_template(std::string_view name);    // nullptr where there is none

/// The templates that a file has, its own first choice first, with what they are called: "default", "tool_use", "rag".
std::vector<NamedTemplate> file_templates(const Gguf& file);

/// One turn as a template is given it. What was said is none of the template's own, except where `content` says so: a
/// token that the model wrote.
jinja::Data chat_message(std::string_view role, jinja::Data::Text content);

/// What stands in a text, and in what most templates write, where an image is.
inline constexpr std::string_view image_mark = "<image>";
size_t places_for_images(std::string_view text);

/// Messages from outside as templates are given them: roles (a word) count as the template's own, since it makes marks
/// of them ('<|' + role + '|>').
void own_roles(jinja::Data& messages);

class ChatTemplate {
  public:
    /// `file` may be nullptr; else its tokens are the variables bos_token, eos_token and so on. Throws TemplateError
    /// where `jinja` is none.
    ChatTemplate(std::string name, std::string_view jinja, const Gguf* file);

    const std::string& name() const { return name_; }
    const std::string& source() const { return source_; }

    /// A turn as this template takes it: its content is a text, or, of some that know images, a list of parts.
    jinja::Data message(std::string_view role, const jinja::Data::Text& content) const;
    /// A user's turn with so many images: they stand where its text has image_mark, and those that are left before it.
    jinja::Data user_message(std::string_view text, size_t images) const;

    /// `variables` come before those of the file. Throws TemplateError or TemplateRefusal.
    std::vector<jinja::Piece> render(jinja::Data::Dict variables, const jinja::Limits& limits = {}) const;

    /// Of a list of messages, without tools.
    std::vector<jinja::Piece> render(const jinja::Data::List& messages, bool answer,
                                     const jinja::Limits& limits = {}) const;

  private:
    void add_tokens(const Gguf* file);
    bool shows_question() const;

    std::string name_, source_;
    jinja::Template template_;
    jinja::Data::Dict tokens_;
    bool parts_ = false;    // it takes lists of parts, and no texts
};

/// A tokenizer for one template's texts. What the template writes becomes the control tokens that it names. What was
/// inserted never does.
class ChatEncoder {
  public:
    /// Both must outlive this.
    ChatEncoder(const Tokenizer& tokenizer, const ChatTemplate& format) : tokenizer_(tokenizer), format_(format) {}

    /// Ids, with BOS where the model wants it and the template does not write it. They are those of the model's own
    /// tokenizer (of transformers, of a text with special tokens), but for marks in what was inserted, which are
    /// spelled in single bytes. The template's marks of images, one after the other, become the tokens of `images`.
    /// Throws Error where it writes fewer of them.
    std::vector<Token> encode(std::span<const jinja::Piece> pieces,
                              std::span<const std::span<const Token>> images = {});

    /// The tokens that end an answer: those that the model has, and the mark that the template writes behind one.
    std::vector<Token> stops();

    /// A token that is more than its text: it came from a template or from the model itself, never from what was
    /// inserted.
    bool is_mark(Token id) const;

    /// Marks that the vocabulary has as ordinary tokens, each once: they were taken as marks all the same.
    const std::set<std::string>& loose_marks() const { return loose_marks_; }

  private:
    struct Mark {
        Token id;
        size_t bytes;
    };
    std::optional<Mark> mark_at(std::string_view text);
    std::optional<Mark> loose_mark_at(std::string_view text);
    void encode_text(std::string_view text, std::optional<Token> mark,
                     std::vector<Token>& ids) const;    // `mark`: what the text follows

    const Tokenizer& tokenizer_;
    const ChatTemplate& format_;
    std::set<std::string> loose_marks_;
    std::map<std::string, std::optional<Token>, std::less<>> candidates_;    // for loose marks
};

/// What the last of a prompt's own text opens and leaves open for the answer, from there on ("<think>\n"); empty where
/// it opens nothing.
std::string opened_thought(std::span<const jinja::Piece> prompt);

/// Whether it is one of the marks around a model's thoughts, which a reader wants to see.
bool is_thought_mark(std::string_view text);

}    // namespace hearth
