// Which tokens of a text perplexity predicts, and from what: the conventions differ from program to program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hearth::tools {

enum class Convention {
    hearth,       // every token is predicted once: windows follow each other, each begins with BOS
    llama_cpp,    // of llama-perplexity: the second half of each whole window counts, and nothing else
};

/// Tokens [begin, end) of a text are fed, of which [first, end) are predicted.
struct Window {
    size_t begin, end, first;
    enum class Bos { none, before, instead } bos;    // goes before the tokens, or takes the place of the first one
    bool operator==(const Window&) const = default;
};

struct WindowShape {
    Convention convention = Convention::hearth;
    size_t context = 256;    // positions of a window
    size_t stride = 0;       // from window to window, 0: as long as a window
    bool add_bos = true;     // whether the model's texts begin with BOS
};

/// Positions that a window takes. With a stride llama-perplexity makes windows longer than asked for, by half of it.
size_t positions(const WindowShape& shape);

/// Of `hearth` windows `tokens` is the text alone. Windows that move by a stride less than their length predict what no
/// window before did, each from at least context - stride positions.
///
/// Of `llama_cpp` it is the text with its BOS. As in tools/perplexity of llama.cpp: without a stride, tokens / context
/// windows, in each of which the first token becomes BOS and tokens context / 2 + 1 and on are predicted; with a
/// stride, windows of context + stride / 2 that move by it, each of which predicts its last `stride` tokens, and whose
/// first token stays what it is.
std::vector<Window> windows(const WindowShape& shape, size_t tokens);

}    // namespace hearth::tools
