#include "host/sparse.h"

#include <bit>
#include <cstring>

namespace hearth::host {

namespace {

uint32_t value_bytes(WeightType values) { return values == WeightType::q8_0 ? 1 : 2; }

/// Where the value of weight i lies in a dense row.
const std::byte* value_at(WeightType values, const std::byte* row, uint32_t i)
{
    if (values == WeightType::q8_0) return row + i / 32 * sizeof(BlockQ8_0) + offsetof(BlockQ8_0, q) + i % 32;
    return row + i * sizeof(uint16_t);
}

bool is_zero(WeightType values, const std::byte* value)
{
    if (values == WeightType::q8_0) return *value == std::byte(0);
    uint16_t half;
    std::memcpy(&half, value, sizeof half);
    return (half & 0x7fff) == 0;
}

uint32_t mask_of(const std::byte* row, uint32_t block)
{
    uint32_t mask;
    std::memcpy(&mask, row + block * sizeof mask, sizeof mask);
    return mask;
}

}    // namespace

uint32_t count_zeros(WeightType values, const std::byte* row, uint32_t n)
{
    uint32_t zeros = 0;
    for (uint32_t i = 0; i < n; i++) zeros += is_zero(values, value_at(values, row, i));
    return zeros;
}

void compress_row(WeightType values, const std::byte* row, uint32_t n, std::vector<std::byte>& out)
{
    const SparseParts parts = sparse_parts(sparse_type_of(values), n);
    const uint32_t size = value_bytes(values);
    const size_t begin = out.size();
    out.resize(begin + sparse_row_bytes(sparse_type_of(values), n, n - count_zeros(values, row, n)));
    std::byte *const to = &out[begin], *value = to + parts.values;
    uint16_t stored = 0;
    for (uint32_t i = 0; i < n; i += 32) {
        if (i % sparse_span == 0)
            std::memcpy(to + parts.starts + i / sparse_span * sizeof stored, &stored, sizeof stored);
        uint32_t mask = 0;
        for (uint32_t k = 0; k < 32; k++) {
            const std::byte* const from = value_at(values, row, i + k);
            if (is_zero(values, from)) continue;
            mask |= 1u << k;
            std::memcpy(value, from, size);
            value += size;
            stored++;
        }
        std::memcpy(to + i / 8, &mask, sizeof mask);
        if (values == WeightType::q8_0)
            std::memcpy(to + parts.scales + i / 16, row + i / 32 * sizeof(BlockQ8_0), sizeof(uint16_t));
    }
    std::memcpy(to + parts.starts + (n + sparse_span - 1) / sparse_span * sizeof stored, &stored, sizeof stored);
}

void expand_row(const Matrix& m, uint64_t r, std::byte* dense)
{
    const WeightType values = values_of(m.type);
    const SparseParts parts = sparse_parts(m.type, m.cols);
    const std::byte *const row = m.row(r), *value = row + parts.values;
    const uint32_t size = value_bytes(values);
    std::memset(dense, 0, hearth::row_bytes(values, m.cols));
    for (uint32_t b = 0; b < m.cols / 32; b++) {
        if (values == WeightType::q8_0)
            std::memcpy(dense + b * sizeof(BlockQ8_0), row + parts.scales + b * sizeof(uint16_t), sizeof(uint16_t));
        for (uint32_t mask = mask_of(row, b); mask; mask &= mask - 1, value += size)
            std::memcpy(const_cast<std::byte*>(value_at(values, dense, b * 32 + uint32_t(std::countr_zero(mask)))),
                        value, size);
    }
}

uint64_t first_broken_row(const Matrix& m)
{
    const SparseParts parts = sparse_parts(m.type, m.cols);
    const auto is_sound = [&](uint64_t r) {
        const std::byte* const row = m.row(r);
        if (m.row_bytes(r) < parts.values) return false;
        const auto noted = [&](uint32_t span) {
            uint16_t count;
            std::memcpy(&count, row + parts.starts + span * sizeof count, sizeof count);
            return count;
        };
        uint32_t stored = 0;
        for (uint32_t b = 0; b < m.cols / 32; b++) {
            if (b * 32 % sparse_span == 0 && noted(b * 32 / sparse_span) != stored) return false;
            stored += uint32_t(std::popcount(mask_of(row, b)));
        }
        return noted((m.cols + sparse_span - 1) / sparse_span) == stored &&
               m.row_bytes(r) == sparse_row_bytes(m.type, m.cols, stored);
    };
    for (uint64_t r = 0; r < m.rows; r++)
        if (!is_sound(r)) return r;
    return m.rows;
}

}    // namespace hearth::host
