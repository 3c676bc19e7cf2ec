// Weights on their way to the device: rows of a file's matrices laid out as kernels read them, and vectors.
#pragma once

#include "engine/device/layout.h"
#include "engine/vulkan/commands.h"
#include "host/linear.h"
#include "host/predict.h"

#include <atomic>
#include <cstring>
#include <functional>

namespace hearth {

/// Calls with the share done (0 to 1) while something takes long.
using Progress = std::function<void(double)>;

inline constexpr uint32_t sign_columns = 128;    // in a quad of sign bits

class WeightUpload {
  public:
    /// All must outlive this. `progress` hears the share of `total` bytes that is done.
    WeightUpload(vulkan::Uploader& uploader, host::Team& team, uint64_t total, const Progress& progress)
        : uploader_(uploader), team_(team), total_(total), progress_(progress)
    {
    }

    template <class T>
    vulkan::Slice vector(vulkan::Pool& pool, const std::vector<T>& x)
    {
        if (x.empty()) return {};
        const vulkan::Slice slice = pool.take(x.size() * sizeof(T));
        uploader_.upload(slice, 1, slice.bytes,
                         [&](std::byte* to, uint64_t, uint64_t) { std::memcpy(to, x.data(), slice.bytes); });
        return slice;
    }

    /// Room for so many rows.
    GpuMatrix place(vulkan::Pool& pool, const RowLayout& layout, uint32_t rows, uint32_t cols)
    {
        GpuMatrix out = {layout, rows, cols, {}};
        if (rows > 0) out.memory = pool.take(out.bytes());
        return out;
    }

    /// Rows source(0), source(1), ... of m; a row number past the end is a row of zeros.
    template <class Source>
    GpuMatrix matrix(vulkan::Pool& pool, const Matrix& m, uint32_t rows, Source&& source)
    {
        GpuMatrix out = place(pool, layout_of(m), rows, m.cols);
        fill(out, m, source);
        return out;
    }

    template <class Source>
    void fill(GpuMatrix& out, const Matrix& m, Source&& source)
    {
        if (out.rows == 0) return;
        const uint64_t unit = out.unit(), size = out.unit_bytes();
        std::atomic<uint64_t> row_bytes = 0;
        uploader_.upload(out.memory, ceil_div(out.rows, unit), size,
                         [&](std::byte* to, uint64_t first, uint64_t count) {
                             host::parallel_rows(team_, uint32_t(count), size, [&](uint32_t from, uint32_t end) {
                                 uint64_t bytes = 0;
                                 std::vector<uint64_t> rows;
                                 for (uint64_t u = from; u < end; ++u) {
                                     rows.clear();
                                     for (uint64_t r = (first + u) * unit;
                                          r < std::min<uint64_t>((first + u + 1) * unit, out.rows); ++r)
                                         rows.push_back(source(r));
                                     bytes += lay_out_unit(m, out, rows, to + u * size);
                                 }
                                 row_bytes += bytes;
                             });
                             out.row_bytes = row_bytes;
                             done_ += count * size;
                             if (progress_) progress_(double(done_) / double(total_));
                         });
    }

    /// The layout of gpu::PredictSign, for `neurons` of which the last may have no row.
    vulkan::Slice signs(vulkan::Pool& pool, const host::SignRows& rows, uint32_t neurons)
    {
        const uint32_t quads = ceil_div(rows.cols(), sign_columns);
        const vulkan::Slice slice = pool.take(uint64_t(quads) * neurons * 16);
        uploader_.upload(slice, quads, uint64_t(neurons) * 16, [&](std::byte* to, uint64_t first, uint64_t count) {
            for (uint64_t q = first; q < first + count; ++q)
                for (uint32_t n = 0; n < neurons; ++n, to += 16) {
                    uint64_t words[2] = {};
                    for (uint64_t i = 0; i < 2 && n < rows.rows() && 2 * q + i < rows.words(); ++i)
                        words[i] = rows.row(n)[2 * q + i];
                    std::memcpy(to, words, sizeof words);
                }
        });
        return slice;
    }

    GpuMatrix matrix(vulkan::Pool& pool, const Matrix& m)
    {
        return matrix(pool, m, m.rows, [](uint64_t row) { return row; });
    }

  private:
    vulkan::Uploader& uploader_;
    host::Team& team_;
    uint64_t total_, done_ = 0;
    const Progress& progress_;
};

}    // namespace hearth
