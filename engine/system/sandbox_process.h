// The processes of a sandbox (Linux).
#pragma once

#include "engine/system/sandbox.h"

namespace hearth {

struct ProcessPlan {
    std::vector<std::string> arguments, environment;    // the first argument is the program's path; it says "begun" and
                                                        // a line end on stdout, and from then on its time counts
    std::string input;                                  // on standard input
    std::string filter;                                 // of seccomp
    std::vector<Sandbox::Place> places;
    Sandbox::Limits limits;
};

struct Finished {
    std::string out, talk;    // the beginnings of stdout and stderr
    int status = -1, signal = 0;
    bool late = false;      // it was ended, since its time was over
    std::string failure;    // of the sandbox itself, a clause; empty: it was set up
};

Finished run_in_bubblewrap(const std::string& bubblewrap, const ProcessPlan& plan);
Finished run_in_namespaces(const ProcessPlan& plan);

/// A program of the user's own, with what it says on stdout.
struct Started {
    std::string out;
    int status = -1;
};
Started start_and_read(const std::vector<std::string>& arguments);

}    // namespace hearth
