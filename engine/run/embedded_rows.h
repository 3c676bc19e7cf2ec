// Rows of embeddings that stand in a text in the place of tokens, such as those of an image.
#pragma once

#include "engine/run/batch.h"

#include <map>
#include <memory>

namespace hearth {

/// Some rows, and the tokens that stand for them.
struct EmbeddedRows {
    std::vector<Token> tokens;
    std::vector<float> values;    // (tokens.size(), dim)
};

/// Gives rows their tokens, and finds them again when a text is run. A token stands for one row and no other, whatever
/// becomes of it, so texts can be compared by their tokens: what was fed once is known again.
class RowTable {
  public:
    explicit RowTable(uint32_t dim) : dim_(dim) {}

    /// Rows (any number, dim). Those that somebody still has keep their tokens.
    std::shared_ptr<const EmbeddedRows> add(std::vector<float> values);

    /// Puts the embeddings of a batch's rows beside the tokens that stand for them. Somebody must still have each.
    void fill(Batch& batch) const;

  private:
    const float* find(Token token) const;

    uint32_t dim_;
    Token next_ = first_row_token;
    std::map<Token, std::weak_ptr<const EmbeddedRows>> rows_;    // by the first of their tokens
};

}    // namespace hearth
