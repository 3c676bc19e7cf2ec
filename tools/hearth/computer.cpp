#include "tools/hearth/computer.h"

#include <charconv>

namespace hearth::tools {

namespace {

/// "4x8": PCIe 4 over 8 lanes.
Link parse_link(const std::string& text)
{
    Link link = {};
    const char* const end = text.data() + text.size();
    const auto [x, error] = std::from_chars(text.data(), end, link.pcie);
    const bool good = error == std::errc() && x != end && *x == 'x' &&
                      std::from_chars(x + 1, end, link.lanes).ptr == end && link.pcie >= 1 && link.pcie <= 7 &&
                      link.lanes >= 1 && link.lanes <= 16;
    if (!good)
        throw CLI::ValidationError("--link", fmt::format("'{}' is no link: write 4x8 for PCIe 4, 8 lanes", text));
    return link;
}

}    // namespace

void add_computer_options(CLI::App& app, ComputerOptions& o, const std::string& processor)
{
    group(app, "Device and memory");
    app.add_option(processor, o.processor, "the processor")->capture_default_str()->type_name("NAME");
    app.add_option("--ram", o.memory, "its memory: DDR4-3200, DDR5-6000, ...")
        ->capture_default_str()
        ->type_name("NAME");
    app.add_option_function<std::string>(
           "--ram-size", [&o](const std::string& text) { o.ram = parse_size("--ram-size", text); },
           "how much of it there is; what does not fit is said")
        ->type_name("SIZE");
    app.add_option("--link", o.link, "what the card's slot gives: 4x8 is PCIe 4 with 8 lanes (default: all it can use)")
        ->type_name("LINK");
}

Computer computer_of(const ComputerOptions& o, const std::string& card)
{
    Computer computer = {.card = card == "cpu" ? nullptr : &find_card(card),
                         .processor = &find_processor(o.processor),
                         .memory = &find_memory(o.memory),
                         .link = {}};
    if (!o.link.empty()) computer.link = parse_link(o.link);
    return computer;
}

void set_computer(Scenario& s, const ComputerOptions& o, const Computer& computer, uint64_t memory)
{
    s.machine = expected_machine(computer);
    s.host_memory = o.ram;
    if (!computer.card) return;
    s.shares_memory = computer.card->integrated();
    const uint64_t own = s.shares_memory ? o.ram.value_or(64ull << 30) / 2 : uint64_t(computer.card->gib * 0x1p30);
    s.device_memory = memory ? memory : own;
}

}    // namespace hearth::tools
