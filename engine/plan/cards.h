// Computers that nobody here has measured: cards, processors and memories from their makers' figures, and what Hearth
// is expected to make of them, as the same Machine that `hearth tune` fills.
#pragma once

#include "engine/plan/machine.h"

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace hearth {

/// What cards of one architecture have in common.
struct CardGeneration {
    std::string_view name;
    // Arithmetic by type, in multiples of fp32's: vectors of fp16, matrices of fp16 summed in fp32 (0: there are none,
    // or Hearth does not use them), dot products of four int8 each.
    double fp16, matrix, int8;
    double reached;             // share of the memory's bandwidth that decode kernels reach
    std::string_view source;    // of the arithmetic, and of the share
};

struct Card {
    std::string_view name;    // as it is sold: "RTX 4090"
    const CardGeneration* generation;
    double gib;               // of its own memory; 0: it is integrated and uses the host's
    double gb_per_s;          // of that memory; 0: the host's
    double tflops;            // of fp32, by its maker's boost clock
    uint32_t pcie, lanes;     // of the link that it is made for; 0: integrated
    std::string_view page;    // below https://www.techpowerup.com/gpu-specs/

    bool integrated() const { return gib == 0; }
};

struct Processor {
    std::string_view name;
    uint32_t cores;       // physical, those for performance where there are two kinds
    double ghz;           // that all of these cores hold
    uint32_t flops;       // of fp32 that a core makes in a cycle
    double read_limit;    // GB/s that its cores can fetch from memory together; 0: no less than the memory gives
    std::string_view kernels, source;
};

struct Memory {
    std::string_view name;    // "DDR5-5600": two channels of 64 bits, unless it says otherwise
    double gb_per_s;          // by its clock and width
    double read;              // share of it that plain reading reaches, as measured
    std::string_view source;
};

struct Link {
    uint32_t pcie, lanes;
    double gb_per_s() const;    // of one direction, after encoding
};

std::span<const Card> all_cards();
std::span<const Processor> all_processors();
std::span<const Memory> all_memories();

/// By a name, or a part of one that only one has: case, blanks and dashes do not matter ("4090", "rx7900xtx"). Throws
/// Error with those that come near.
const Card& find_card(std::string_view name);
const Processor& find_processor(std::string_view name);
const Memory& find_memory(std::string_view name);

/// A computer of these. Where `card` is nullptr it has no GPU. `link`: what the card's slot gives, where that is less
/// than what it is made for.
struct Computer {
    const Card* card = nullptr;
    const Processor* processor = nullptr;
    const Memory* memory = nullptr;
    std::optional<Link> link;

    std::string name() const;
};

/// The figures that `tune` is expected to measure on it.
Machine expected_machine(const Computer& computer);

}    // namespace hearth
