#include "tools/hearth/confine.h"

#include "tools/hearth/cli.h"

namespace hearth::tools {

void Confinement::add_option(CLI::App& app, bool by_default)
{
    app.add_option_function<std::string>(
           "--confine", [this](const std::string& text) { asked_ = text == "on"; },
           "on: before the model is read, give up the network, other programs, and writing of all but the files that "
           "are named here, so that a hostile file gains nothing; the history of a chat and compiled kernels are not "
           "kept then (Linux; Windows: writing and other programs, where no file is written and no GPU used)")
        ->check(CLI::IsMember({"on", "off"}))
        ->default_str(by_default ? "on" : "off")
        ->type_name("on|off");
}

void Confinement::files(bool by_default, bool device)
{
    on_ = asked_.value_or(by_default);
    if (!on_) return;
    files_confined_ = confine_files(outputs_, device);
    if (!files_confined_) cannot(fmt::format("this system cannot keep files from being written ({})", confining_files));
}

void Confinement::calls()
{
    if (!on_) return;
    if (!confine_calls(!files_confined_))
        cannot(fmt::format("this system cannot keep the network and other programs away ({})", confining_calls));
}

void Confinement::cannot(const std::string& what) const
{
    if (asked_) throw Error("{}: use --confine off", what);
#ifdef __linux__
    say("note: {}", what);
#endif
}

Confinement& confinement()
{
    static Confinement one;
    return one;
}

}    // namespace hearth::tools
