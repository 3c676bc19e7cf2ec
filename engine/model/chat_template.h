// How a conversation stands in the text that a model reads: the frame of each turn, by family of chat template. A GGUF carries the template as a Jinja
// program (`tokenizer.chat_template`); it is not run but recognised by its words.
#pragma once

#include "engine/model/tokenizer.h"

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hearth {

/// A family of templates. In the strings "{bos}" and "{eos}" stand for the model's own tokens.
struct ChatTemplate {
    using Words = std::string_view[6];    // unused ones are empty

    enum class System {
        own_turn,        // before the first user's turn, in a frame of its own
        always,          // the same, and the frame stands there without a system prompt, too
        in_user_turn,    // within the first user's frame: the family has no system role
    };

    struct Frame {
        std::string_view before, after;
    };

    std::string_view name;
    Words words = {};               // all of them stand in the family's templates, and in those of no row above
    Words without = {};             // none of these does
    Words marks = {};               // what in the frames is a token of its own
    std::string_view begin = {};    // of the conversation
    System system_place = System::own_turn;
    Frame system, user, assistant;    // assistant: its `before` ends the user's turn, its `after` is written when the next turn comes
    Words stops = {};                 // tokens that end an answer, beside the model's EOS
    bool trims = false;               // white space around what is said is left out
    bool marks_eat_space = false;     // white space after a mark is no token
    std::string_view default_system = {};
};

/// Every family, the first match first; "none" is the last: plain text, without frames.
std::span<const ChatTemplate> chat_templates();

/// The row of that name; nullptr where there is none.
const ChatTemplate* find_chat_template(std::string_view name);

/// The family of a template's Jinja text; nullptr where it is not known.
const ChatTemplate* recognise_chat_template(std::string_view jinja);

/// The system prompt that the template's text gives a conversation without one; the family's where it names none; may be empty.
std::string default_system(const ChatTemplate& family, std::string_view jinja);

/// A part of a text. What users say is Kind::text, whatever it looks like.
struct ChatPiece {
    enum class Kind { text, mark, bos, eos };
    Kind kind;
    std::string text;    // of text and mark
};

/// What is fed before an answer.
struct ChatTurn {
    bool first = true;          // else it ends the last answer
    std::string_view system;    // of the first turn
    std::string_view user;
};
std::vector<ChatPiece> chat_pieces(const ChatTemplate& family, const ChatTurn& turn);

/// Ids of pieces. A mark that the vocabulary lacks is text; a mark in what users say is spelled in single bytes.
std::vector<Token> encode(const Tokenizer& tokenizer, const ChatTemplate& family, std::span<const ChatPiece> pieces);

/// The tokens that end an answer: those that the model has (Tokenizer::ends), and those of the family's stops that the vocabulary has.
std::vector<Token> stop_tokens(const Tokenizer& tokenizer, const ChatTemplate& family);

}    // namespace hearth
