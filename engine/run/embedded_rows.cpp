#include "engine/run/embedded_rows.h"

#include "engine/error.h"

#include <algorithm>
#include <numeric>

namespace hearth {

std::shared_ptr<const EmbeddedRows> RowTable::add(std::vector<float> values)
{
    HEARTH_CHECK(!values.empty() && values.size() % dim_ == 0);
    std::erase_if(rows_, [](const auto& entry) { return entry.second.expired(); });
    for (const auto& [_, known] : rows_)
        if (auto rows = known.lock(); rows && rows->values == values) return rows;
    const size_t count = values.size() / dim_;
    if (count >= no_token - next_) throw Error("more rows of images than have numbers: start anew");
    auto rows = std::make_shared<EmbeddedRows>(EmbeddedRows{std::vector<Token>(count), std::move(values)});
    std::iota(rows->tokens.begin(), rows->tokens.end(), next_);
    rows_.emplace(next_, rows);
    next_ += Token(count);
    return rows;
}

const float* RowTable::find(Token token) const
{
    auto found = rows_.upper_bound(token);
    HEARTH_CHECK(found != rows_.begin());
    --found;
    const std::shared_ptr<const EmbeddedRows> rows = found->second.lock();
    HEARTH_CHECK(rows && token - found->first < rows->tokens.size());
    return &rows->values[size_t(token - found->first) * dim_];    // lives as long as who fed it has the rows
}

void RowTable::fill(Batch& batch) const
{
    if (std::ranges::none_of(batch.tokens, is_row)) return;
    batch.embeddings.resize(batch.tokens.size());
    for (size_t r = 0; r < batch.tokens.size(); ++r)
        batch.embeddings[r] = is_row(batch.tokens[r]) ? find(batch.tokens[r]) : nullptr;
}

}    // namespace hearth
