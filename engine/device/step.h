// What changes from batch to batch, as the kernels read it: a gpu::Step and the lists that it points at, one behind the
// other, so that recorded commands stay as they are.
#pragma once

#include "host/rows.h"
#include "shaders/kernels.h"

#include <span>

namespace hearth {

/// What a step has room for.
struct StepRoom {
    uint32_t rows;
    uint32_t pages;    // in the tables of all its sequences

    uint64_t bytes() const;
};

/// Writes a batch to `to`, which is mapped, and to which the device says `address`: its rows, of any sequences, those
/// of them whose logits are wanted, and tiles of at most `tile` neighbouring rows of one sequence. The first of the
/// wanted ones are head_first = 0 and none. `broken`: address of the word that says whether numbers are not finite.
gpu::Step& write_step(const StepRoom& room, void* to, uint64_t address, std::span<const host::Row> rows, uint32_t tile,
                      std::span<const uint32_t> wanted, uint64_t broken);

}    // namespace hearth
