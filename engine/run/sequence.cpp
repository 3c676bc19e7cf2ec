#include "engine/run/sequence.h"

#include "engine/error.h"

#include <algorithm>
#include <utility>

namespace hearth {

namespace {

uint32_t pages_for(size_t positions) { return uint32_t((positions + host::page_positions - 1) / host::page_positions); }

}    // namespace

void PagePool::require(size_t pages) const
{
    if (pages > unused())
        throw Error("the KV cache is full: all sequences together use {} of its {} positions; end one of them, or make "
                    "room with a larger -c",
                    size_t(used_) * host::page_positions, size_t(size()) * host::page_positions);
}

uint32_t PagePool::take()
{
    const auto page = std::find(users_.begin(), users_.end(), 0u);
    HEARTH_CHECK(page != users_.end());
    *page = 1;
    ++used_;
    return uint32_t(page - users_.begin());
}

void PagePool::give_back(uint32_t page)
{
    HEARTH_CHECK(users_[page] > 0);
    if (--users_[page] == 0) --used_;
}

Sequence::Sequence(const Sequence& other) : pool_(other.pool_), pages_(other.pages_), fed_(other.fed_)
{
    for (const uint32_t page : pages_) pool_->share(page);
}

Sequence::Sequence(Sequence&& other) noexcept
    : pool_(other.pool_), pages_(std::exchange(other.pages_, {})), fed_(std::exchange(other.fed_, {}))
{
}

Sequence& Sequence::operator=(Sequence other) noexcept
{
    std::swap(pool_, other.pool_);
    std::swap(pages_, other.pages_);
    std::swap(fed_, other.fed_);
    return *this;
}

Sequence::~Sequence()
{
    for (const uint32_t page : pages_) pool_->give_back(page);
}

void Sequence::make_room(uint32_t positions, const std::function<void(uint32_t, uint32_t)>& copy)
{
    const size_t needed = pages_for(position() + positions);
    // Of the pages that are there only the last is written to, if it is not full.
    uint32_t* const last = position() % host::page_positions != 0 ? &pages_.back() : nullptr;
    const bool copies = last && positions > 0 && pool_->is_shared(*last);
    pool_->require(needed - std::min(needed, pages_.size()) + copies);
    if (copies) {
        const uint32_t own = pool_->take();
        copy(*last, own);
        pool_->give_back(std::exchange(*last, own));
    }
    while (pages_.size() < needed) pages_.push_back(pool_->take());
}

void Sequence::add_rows(std::span<const Token> tokens, Batch& batch) const
{
    batch.tokens.insert(batch.tokens.end(), tokens.begin(), tokens.end());
    for (uint32_t at = position(); at < position() + tokens.size(); ++at)
        batch.rows.push_back({at, at + 1, pages_.data()});
}

std::vector<Token> Sequence::with(std::span<const Token> tokens) const
{
    std::vector<Token> all = fed_;
    all.insert(all.end(), tokens.begin(), tokens.end());
    return all;
}

void Sequence::rewind(uint32_t position)
{
    HEARTH_CHECK(position <= this->position());
    fed_.resize(position);
    for (; pages_.size() > pages_for(position); pages_.pop_back()) pool_->give_back(pages_.back());
}

}    // namespace hearth
