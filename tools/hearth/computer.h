// Computers that are not here, by their parts: what --card, --processor, --ram and --link say.
#pragma once

#include "engine/plan/cards.h"
#include "engine/plan/simulate.h"
#include "tools/hearth/cli.h"

#include <optional>
#include <string>

namespace hearth::tools {

struct ComputerOptions {
    std::string processor = "Core i9-13900K", memory = "DDR5-5600", link;
    std::optional<uint64_t> ram;    // bytes; empty: as much as is needed
};

/// --processor, --ram, --ram-size and --link; the card is the subcommand's. `processor`: its names, of which --cpu is
/// one where this is not the instruction set of the host.
void add_computer_options(CLI::App& app, ComputerOptions& options, const std::string& processor = "--processor");

/// Throws Error where a part is not known. `card`: "cpu" for none. The parts are rows of tables, and stay.
Computer computer_of(const ComputerOptions& options, const std::string& card);

/// A scenario's machine and memory. `memory`: as if the card had so much; 0: its own.
void set_computer(Scenario& scenario, const ComputerOptions& options, const Computer& computer, uint64_t memory);

}    // namespace hearth::tools
