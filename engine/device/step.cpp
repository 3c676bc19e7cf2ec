#include "engine/device/step.h"

#include "engine/error.h"

#include <algorithm>
#include <cstddef>
#include <map>

namespace hearth {

namespace {

static_assert(gpu::page_positions == host::page_positions);

/// Where its lists begin, in bytes.
struct Layout {
    uint64_t rows, tiles, pages, wanted, end;

    explicit Layout(const StepRoom& room)
    {
        const auto aligned = [](uint64_t bytes) { return (bytes + 15) / 16 * 16; };
        rows = aligned(sizeof(gpu::Step));
        tiles = aligned(rows + room.rows * sizeof(gpu::Row));
        pages = aligned(tiles + room.rows * 2 * sizeof(uint32_t));
        wanted = aligned(pages + room.pages * sizeof(uint32_t));
        end = aligned(wanted + room.rows * sizeof(uint32_t));
    }
};

}    // namespace

uint64_t StepRoom::bytes() const { return Layout(*this).end; }

gpu::Step& write_step(const StepRoom& room, void* to, uint64_t address, std::span<const host::Row> rows, uint32_t tile,
                      std::span<const uint32_t> wanted, uint64_t broken)
{
    HEARTH_CHECK(rows.size() <= room.rows && wanted.size() <= rows.size());
    const Layout layout(room);
    const auto at = [&](uint64_t offset) { return static_cast<std::byte*>(to) + offset; };
    auto* const row = reinterpret_cast<gpu::Row*>(at(layout.rows));
    auto* const page = reinterpret_cast<uint32_t*>(at(layout.pages));
    struct Tile {
        uint32_t first, count;
    };
    auto* const tiles = reinterpret_cast<Tile*>(at(layout.tiles));

    struct Table {
        uint32_t first, pages;
    };
    std::map<const uint32_t*, Table> tables;    // of each sequence
    for (const host::Row& r : rows) {
        Table& table = tables[r.pages];
        table.pages = std::max(table.pages, (r.sees + host::page_positions - 1) / host::page_positions);
    }
    uint32_t pages = 0;
    for (auto& [from, table] : tables) {
        HEARTH_CHECK(pages + table.pages <= room.pages);
        std::copy_n(from, table.pages, page + pages);
        table.first = pages;
        pages += table.pages;
    }
    uint32_t tile_count = 0;
    for (uint32_t r = 0; r < rows.size(); ++r) {
        row[r] = {rows[r].position, rows[r].sees, tables[rows[r].pages].first};
        const bool goes_on = r > 0 && rows[r].pages == rows[r - 1].pages && tiles[tile_count - 1].count < tile;
        if (goes_on) ++tiles[tile_count - 1].count;
        else tiles[tile_count++] = {r, 1};
    }
    std::copy(wanted.begin(), wanted.end(), reinterpret_cast<uint32_t*>(at(layout.wanted)));
    gpu::Step& step = *static_cast<gpu::Step*>(to);
    step = {.tokens = uint32_t(rows.size()),
            .tiles = tile_count,
            .head_first = 0,
            .head_tokens = 0,
            .row = address + layout.rows,
            .pages = address + layout.pages,
            .tile = address + layout.tiles,
            .wanted = address + layout.wanted,
            .broken = broken};
    return step;
}

}    // namespace hearth
