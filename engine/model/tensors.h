// A file's tensors by name, each checked against what the model needs it to be.
#pragma once

#include "engine/file/gguf.h"
#include "engine/model/config.h"

#include <array>
#include <numeric>
#include <set>

namespace hearth {

/// Hands out tensors by name, checked, and remembers which were used. What is wrong is an Error that names the file,
/// the tensor, what it has and what was expected. The file must outlive this.
class Tensors {
  public:
    explicit Tensors(const Gguf& file) : file_(file), path_(file.path().string()) {}

    bool has(const std::string& name) const { return file_.find(name); }

    /// Rows of a matrix that has as many as it likes, within limits; 0 where it is missing.
    uint32_t rows(const std::string& name, uint32_t most) const;

    Matrix matrix(const std::string& name, uint32_t rows, uint32_t cols);

    /// NAME.weight, and the NAME.bias of a LayerNorm.
    void norm(const std::string& name, const Config& c, std::vector<float>& weight, std::vector<float>& bias);

    std::vector<float> vector(const std::string& name, uint32_t n);

    /// A vector of floats as a matrix of one column.
    Matrix column(const std::string& name, uint32_t n);

    /// A tensor that holds several matrices, one below the other, with so many rows each.
    template <size_t n>
    std::array<Matrix, n> stacked(const std::string& name, const std::array<uint32_t, n>& rows, uint32_t cols)
    {
        const Matrix all = matrix(name, std::accumulate(rows.begin(), rows.end(), 0u), cols);
        std::array<Matrix, n> parts;
        uint64_t first = 0;
        for (size_t i = 0; i < n; first += rows[i++]) parts[i] = all.slice(uint32_t(first), rows[i]);
        return parts;
    }

    /// Matrices (experts, rows, cols), one below the other.
    Matrix experts(const std::string& name, uint32_t experts, uint32_t rows, uint32_t cols);

    /// The filters of a convolution, (rows, channels, side, side), as a matrix of a row each.
    Matrix filters(const std::string& name, uint32_t rows, uint32_t channels, uint32_t side);

    /// Tensors that are known and not needed, all whose names begin so.
    void leave(std::string_view prefix);

    /// Throws Error where a tensor was not asked for; `else_what` is what would come of it.
    void refuse_unused(std::string_view else_what) const;

  private:
    const GgufTensor& tensor(const std::string& name, std::vector<uint64_t> expected);

    const Gguf& file_;
    std::string path_;
    std::set<std::string_view> used_;
};

}    // namespace hearth
