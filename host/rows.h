// Rows of a batch, as the CPU's operators know them: nothing here knows a conversation.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hearth::host {

/// Positions of a page, which is the unit of the KV cache: a sequence has a list of pages, and its page i holds its
/// positions from page_positions i on. In attention they share a running maximum, and they are a thread's share where
/// heads are few and the context is long.
inline constexpr uint32_t page_positions = 256;

/// Where a row of a batch stands in its sequence, and what it may see.
struct Row {
    uint32_t position;
    uint32_t sees;            // the positions before this one: position + 1, or more where a span sees all of itself
    const uint32_t* pages;    // of its sequence, as far as it sees
};

/// How a batch is computed.
enum class Work : uint8_t {
    few,     // every weight is read once for all rows, what fires for none is left out; a row has the bits that it has
             // alone
    many,    // tiles of rows, and all neurons, since nearly all fire for one of them
};

/// Of so many rows of a text that is read.
constexpr Work work_of_text(size_t rows) { return rows == 1 ? Work::few : Work::many; }

/// Rows of the first kind at the most.
inline constexpr uint32_t most_few = 16;

}    // namespace hearth::host
