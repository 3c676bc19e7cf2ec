#include "tools/hearth/windows.h"

#include <algorithm>

namespace hearth::tools {

size_t positions(const WindowShape& s)
{
    return s.convention == Convention::llama_cpp ? s.context + s.stride / 2 : s.context;
}

std::vector<Window> windows(const WindowShape& s, size_t tokens)
{
    std::vector<Window> out;
    const size_t length = positions(s);
    if (s.convention == Convention::hearth) {
        const size_t run = length - 1, stride = s.stride ? std::min(s.stride, run) : run;
        for (size_t begin = 0, done = 0; done < tokens; begin += stride) {
            const size_t end = std::min(begin + run, tokens);
            out.push_back({begin, end, done, Window::Bos::before});
            done = end;
        }
        return out;
    }
    const size_t stride = s.stride ? s.stride : length;
    const size_t count = !s.stride ? tokens / length : tokens > length ? (tokens - length + stride - 1) / stride : 0;
    for (size_t i = 0; i < count; ++i) {
        const size_t begin = i * stride, end = begin + length;
        if (s.stride) out.push_back({begin, end, end - std::min(stride, length - 1), Window::Bos::none});
        else out.push_back({begin, end, begin + length / 2 + 1, s.add_bos ? Window::Bos::instead : Window::Bos::none});
    }
    return out;
}

}    // namespace hearth::tools
