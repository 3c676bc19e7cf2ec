#include "engine/file/not_finite.h"

#include "host/numbers.h"

#include <cmath>

namespace hearth {

std::optional<std::string> not_finite_weights(host::Team& team, const GgufTensor& tensor)
{
    if (!find_format(tensor.type)) return {};
    uint64_t rows = 1;
    for (size_t d = 1; d < tensor.shape.size(); d++) rows *= tensor.shape[d];
    const Matrix all = {
        WeightType(tensor.type), uint32_t(rows), uint32_t(tensor.shape[0]), tensor.data, 0, tensor.starts};
    const auto found = host::find_not_finite(team, all);
    if (!found) return {};
    return fmt::format("{} holds {} {}, the first ({}) in row {}, column {}", printable(tensor.name), found->count,
                       found->count == 1 ? "weight that is not a finite number" : "weights that are not finite numbers",
                       std::isnan(found->value) ? "NaN"
                       : found->value > 0       ? "inf"
                                                : "-inf",
                       found->row, found->column);
}

}    // namespace hearth
