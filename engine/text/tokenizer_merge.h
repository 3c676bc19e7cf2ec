// Byte pair encoding: of all neighbours the two whose union is wanted most become one, until no union is wanted.
#pragma once

#include "engine/text/vocabulary.h"

#include <optional>
#include <queue>

namespace hearth {

/// A piece of a text on its way to a token. One that became part of its left neighbour is empty.
struct Symbol {
    std::string_view text;
    Token id;      // of the text, where unions are looked up by ids
    bool fixed;    // does not merge
    uint32_t previous = 0, next = 0;
};

struct Union {
    double score;    // the highest is merged first, the leftmost among equals
    Token id;
};

/// Merges neighbours in n log n. `unite(left, right)` gives their Union, or nothing; the texts of neighbours lie side
/// by side.
template <class Unite>
void merge_neighbours(std::vector<Symbol>& symbols, const Unite& unite)
{
    struct Merge {
        double score;
        Token id;
        uint32_t left, right;
        size_t bytes;    // of both; another number by the time it is looked at means that one of them has changed

        bool operator<(const Merge& other) const
        {
            return score < other.score || (score == other.score && left > other.left);
        }
    };
    constexpr uint32_t nothing = UINT32_MAX;
    if (symbols.size() >= nothing)
        throw Error("a text of {} characters is too long to be tokenised at once; split it", symbols.size());

    std::priority_queue<Merge> merges;
    const auto propose = [&](uint32_t left, uint32_t right) {
        if (left == nothing || right == nothing || symbols[left].fixed || symbols[right].fixed) return;
        if (const std::optional<Union> both = unite(symbols[left], symbols[right]))
            merges.push({both->score, both->id, left, right, symbols[left].text.size() + symbols[right].text.size()});
    };
    for (uint32_t i = 0; i < symbols.size(); i++) {
        symbols[i].previous = i ? i - 1 : nothing;
        symbols[i].next = i + 1 < symbols.size() ? i + 1 : nothing;
        if (i) propose(i - 1, i);
    }
    while (!merges.empty()) {
        const Merge merge = merges.top();
        merges.pop();
        Symbol &left = symbols[merge.left], &right = symbols[merge.right];
        if (left.text.empty() || right.text.empty() || left.text.size() + right.text.size() != merge.bytes) continue;
        left.text = {left.text.data(), merge.bytes};
        left.id = merge.id;
        left.next = right.next;
        if (right.next != nothing) symbols[right.next].previous = merge.left;
        right.text = {};
        propose(left.previous, merge.left);
        propose(merge.left, left.next);
    }
}

}    // namespace hearth
