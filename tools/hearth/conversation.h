// What `hearth chat` and `hearth template` do with a file's chat template.
#pragma once

#include "engine/text/chat_template.h"
#include "tools/hearth/cli.h"

namespace hearth::tools {

/// "chatml, llama-3, ..."
std::string template_names();

/// The template that --template names: one of the file's own, one of the program's, or one in a file of its own. Empty:
/// the file's first. `model` may be nullptr. Throws Error where there is none, or where it is no Jinja.
ChatTemplate choose_template(const std::string& name, const Gguf* model);

/// Why a template cannot be rendered, and what to do.
Error not_rendered(const ChatTemplate& format, const jinja::TemplateError& error);

/// A conversation from JSON: a list of messages, or an object with `messages` and other variables;
/// `add_generation_prompt` is true where it is not given. Throws Error.
jinja::Data::Dict conversation(const nlohmann::ordered_json& json);

/// On stderr, about marks that the vocabulary has as ordinary tokens.
void say_loose_marks(const ChatEncoder& encoder);

}    // namespace hearth::tools
