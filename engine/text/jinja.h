// Chat templates: the part of Jinja2 that they are written in (https://jinja.palletsprojects.com/en/stable/templates/),
// with the settings of transformers' `apply_chat_template`: trim_blocks, lstrip_blocks, loop controls, `{% generation
// %}`, its `tojson`, raise_exception and strftime_now. Values behave as Python's. A template is foreign code: it sees
// only what it is given, and its steps, depth, memory and output are limited. Every character knows whether the
// template wrote it or whether it came in with a value: only the former may become a control token.
#pragma once

#include "engine/error.h"

#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace hearth::jinja {

/// A part of a text.
struct Piece {
    std::string text;
    bool own = false;    // the template wrote it; else it came in with a value that is not its own

    bool operator==(const Piece&) const = default;
};

/// A value that a template is given.
struct Data {
    using Text = std::vector<Piece>;
    using List = std::vector<Data>;
    using Dict = std::vector<std::pair<std::string, Data>>;
    std::variant<std::monostate, bool, int64_t, double, Text, List, Dict> value;    // the first is None

    Data() = default;
    Data(bool b) : value(b) {}
    Data(int64_t i) : value(i) {}
    Data(double d) : value(d) {}
    Data(Text text) : value(std::move(text)) {}
    Data(List list) : value(std::move(list)) {}
    Data(Dict dict) : value(std::move(dict)) {}

    static Data text(std::string_view text, bool own = false) { return Text{{std::string(text), own}}; }
};

struct Limits {
    uint64_t steps = 20'000'000;         // of the interpreter; a long text counts as several
    uint64_t memory = 256ull << 20;      // bytes of values at one time
    uint64_t output = 64ull << 20;       // bytes
    std::optional<std::time_t> now{};    // what strftime_now tells; the time of day where not given
};

/// What is wrong with a template, or what it does that is not done here.
class TemplateError : public Error {
  public:
    TemplateError(uint32_t line, std::string_view what) : Error("line {}: {}", line, what), line(line), what_alone(what)
    {
    }
    uint32_t line;
    std::string what_alone;    // without the line
};

/// The template says itself, by raise_exception, that it does not take this conversation.
class TemplateRefusal : public TemplateError {
    using TemplateError::TemplateError;
};

struct Program;    // a template as the interpreter reads it

class Template {
  public:
    /// Throws TemplateError where the text is not Jinja.
    explicit Template(std::string_view source);
    Template(Template&&) noexcept;
    Template& operator=(Template&&) noexcept;
    ~Template();

    /// The text, neighbours of one origin being one piece. Throws TemplateError; TemplateRefusal where the template
    /// raises an exception itself.
    std::vector<Piece> render(const Data::Dict& variables, const Limits& limits = {}) const;

  private:
    std::unique_ptr<const Program> program_;
};

/// The text of pieces.
std::string text_of(const std::vector<Piece>& pieces);

}    // namespace hearth::jinja
