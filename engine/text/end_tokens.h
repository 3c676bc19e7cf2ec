// Which tokens end an answer. Most models have several: the end of a text, of a turn, of a message to a tool.
#pragma once

#include "engine/text/vocabulary.h"

namespace hearth {

/// `eos` first, then what the file's keys say (`tokenizer.ggml.eos_token_id`, eos_token_ids, eot_token_id,
/// eom_token_id: numbers or lists of them), then the tokens whose names leave no doubt. Each once.
/// Throws Error, naming key and value, where a key names no token.
std::vector<Token> end_tokens(const Gguf& file, const Vocabulary& vocabulary, Token eos);

}    // namespace hearth
