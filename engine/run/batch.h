// A batch: the rows that go through the layers together, of one sequence or of many.
#pragma once

#include "engine/text/tokenizer.h"
#include "host/rows.h"

#include <functional>
#include <span>
#include <vector>

namespace hearth {

struct Batch {
    host::Work work = host::Work::many;
    std::vector<host::Row> rows;
    std::vector<Token> tokens;               // one a row
    std::vector<const float*> embeddings;    // (dim) each, in place of a row's token where it is not null; may be empty

    /// Rows whose logits are wanted, in ascending order.
    std::vector<uint32_t> wanted;
    /// Called for each of them, in this order: the row and its logits (vocab), valid during the call.
    std::function<void(uint32_t, std::span<const float>)> take = {};
    /// Instead: called with what is most probable behind the row. Where the device can tell, its logits stay there.
    std::function<void(uint32_t, Token)> take_best = {};

    uint32_t size() const { return uint32_t(rows.size()); }
};

}    // namespace hearth
