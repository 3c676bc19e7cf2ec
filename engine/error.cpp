#include "engine/error.h"

#include <cstdio>
#include <cstdlib>

namespace hearth {

void broken(const char* what, const char* file, int line)
{
    fmt::print(stderr, "hearth: internal error: {} does not hold ({}:{}); please report this\n", what, file, line);
    std::abort();
}

}  // namespace hearth
