// Sequences and the pages of KV cache that they stand on.
#pragma once

#include "engine/run/batch.h"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace hearth {

/// Which pages of the KV cache are in use, and by how many sequences each. A page's number is the same in every layer,
/// on the host and on the device.
class PagePool {
  public:
    explicit PagePool(uint32_t pages) : users_(pages) {}

    uint32_t size() const { return uint32_t(users_.size()); }
    uint32_t unused() const { return size() - used_; }
    /// Throws Error where fewer pages than so many are unused.
    void require(size_t pages) const;
    /// A page that nobody uses; there must be one.
    uint32_t take();
    void share(uint32_t page) { ++users_[page]; }
    void give_back(uint32_t page);
    bool is_shared(uint32_t page) const { return users_[page] > 1; }

  private:
    std::vector<uint32_t> users_;
    uint32_t used_ = 0;
};

/// One conversation: what was fed, and its pages. Copies share pages; a shared page is copied before it is written to.
class Sequence {
  public:
    explicit Sequence(PagePool& pool) : pool_(&pool) {}
    Sequence(const Sequence& other);
    Sequence(Sequence&& other) noexcept;
    Sequence& operator=(Sequence other) noexcept;
    ~Sequence();

    uint32_t position() const { return uint32_t(fed_.size()); }
    const std::vector<Token>& fed() const { return fed_; }
    std::span<const uint32_t> pages() const { return pages_; }

    /// Makes room for so many positions more. `copy(from, to)` copies a page in every layer. Throws Error where the
    /// pool has too few pages left; then nothing has changed.
    void make_room(uint32_t positions, const std::function<void(uint32_t, uint32_t)>& copy);
    /// Adds rows for the next tokens to a batch; there must be room. They are valid until room is made again.
    void add_rows(std::span<const Token> tokens, Batch& batch) const;
    /// Those tokens went through the layers.
    void went(std::span<const Token> tokens) { fed_.insert(fed_.end(), tokens.begin(), tokens.end()); }
    /// What will have been fed then.
    std::vector<Token> with(std::span<const Token> tokens) const;
    /// What was fed from this position on is forgotten, and its pages are given back.
    void rewind(uint32_t position);

  private:
    PagePool* pool_;
    std::vector<uint32_t> pages_;
    std::vector<Token> fed_;
};

}    // namespace hearth
