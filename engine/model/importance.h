// How much each column of a model's matrices counts, measured on a text: for `hearth quantize`, and files of it.
#pragma once

#include "engine/file/gguf.h"

#include <map>

namespace hearth {

/// Of each matrix: sums of the squares of what its columns were multiplied with. What a column's weights lose does so
/// much harm: the error of w . x has the mean square sum_i E[x_i^2] e_i^2, where errors e_i of weights have nothing to
/// do with each other. (As in llama.cpp's importance matrices, of which this is the form.)
struct Importance {
    struct OfMatrix {
        uint64_t columns = 0;
        std::vector<float> sums;      // (experts, columns)
        std::vector<float> counts;    // (experts), of inputs; a matrix that is not of experts has one
    };
    std::map<std::string, OfMatrix, std::less<>> matrices;    // by the names that others' files have: name_by_columns
    std::vector<std::string> texts;
    uint32_t windows = 0, window = 0;    // of how many tokens
};

/// A tensor's name in a file that has down projections by columns, as all programs know it.
std::string name_by_columns(std::string_view tensor, bool experts);

/// The layer of "blk.N.part" and its part; nothing where it is no such name.
struct LayerPart {
    uint32_t layer;
    std::string_view part;
};
std::optional<LayerPart> layer_part(std::string_view tensor);

/// Reads a file of this model's matrices. In it, general.type is imatrix, the matrix NAME has the tensors NAME.in_sum2
/// (experts, columns) and NAME.counts (experts, 1), both F32. Throws Error where it is no such file, has numbers that
/// cannot be, or is another model's.
Importance read_importance(const std::filesystem::path& path, const Gguf& model, uint32_t experts);

/// Writes the same, whole or not at all.
void write_importance(const std::filesystem::path& path, const Importance& importance);

/// What the columns of a matrix count, (experts, columns), positive and 1 in the mean of an expert: 1 where nothing was
/// seen.
std::vector<float> column_weights(const Importance::OfMatrix& measured);

}    // namespace hearth
