#include "tools/hearth/windows.h"
#include "tests/support.h"

using namespace hearth::tools;

namespace {

using enum Window::Bos;

/// How often each token is predicted.
std::vector<int> counts(const std::vector<Window>& all, size_t tokens)
{
    std::vector<int> n(tokens);
    for (const Window& w : all)
        for (size_t t = w.first; t < w.end; ++t) n.at(t) += 1;
    return n;
}

}    // namespace

TEST_SUITE("windows")
{
    TEST_CASE("windows that follow each other predict every token once, with or without a stride")
    {
        CHECK(windows({.context = 5}, 10) ==
              std::vector<Window>{{0, 4, 0, before}, {4, 8, 4, before}, {8, 10, 8, before}});
        CHECK(windows({.context = 5, .stride = 2}, 7) ==
              std::vector<Window>{{0, 4, 0, before}, {2, 6, 4, before}, {4, 7, 6, before}});
        for (size_t tokens = 1; tokens < 40; ++tokens)
            for (size_t context = 2; context < 12; ++context)
                for (size_t stride = 0; stride < context; ++stride) {
                    const auto all = windows({.context = context, .stride = stride}, tokens);
                    CHECK(counts(all, tokens) == std::vector<int>(tokens, 1));
                    for (const Window& w : all) CHECK(w.end - w.begin < context);
                    for (size_t i = 1; i < all.size(); ++i)
                        if (stride) CHECK(all[i].first - all[i].begin >= context - 1 - stride);
                }
    }

    // The numbers are those that tools/perplexity of llama.cpp comes to: first = n_ctx / 2, and n_ctx - first - 1
    // tokens of each of tokens / n_ctx chunks.
    TEST_CASE("llama.cpp's convention counts the second half of each whole window")
    {
        const WindowShape shape = {.convention = Convention::llama_cpp, .context = 8};
        CHECK(windows(shape, 18) == std::vector<Window>{{0, 8, 5, instead}, {8, 16, 13, instead}});
        CHECK(windows(shape, 7).empty());
        CHECK(windows({.convention = Convention::llama_cpp, .context = 7, .add_bos = false}, 7) ==
              std::vector<Window>{{0, 7, 4, none}});
        for (size_t context = 2; context < 12; ++context)
            for (size_t tokens = context; tokens < 40; ++tokens) {
                const auto all = windows({.convention = Convention::llama_cpp, .context = context}, tokens);
                CHECK(all.size() == tokens / context);
                for (const Window& w : all) CHECK(w.end - w.first == context - context / 2 - 1);
            }
    }

    // n_ctx grows by half the stride; (tokens - n_ctx + stride - 1) / stride chunks; of each the logits n_ctx - stride
    // - 1 to n_ctx - 2.
    TEST_CASE("llama.cpp's strided windows are longer by half the stride, and their last stride tokens count")
    {
        const WindowShape shape = {.convention = Convention::llama_cpp, .context = 8, .stride = 4};
        CHECK(positions(shape) == 10);
        CHECK(windows(shape, 20) == std::vector<Window>{{0, 10, 6, none}, {4, 14, 10, none}, {8, 18, 14, none}});
        CHECK(windows(shape, 10).empty());
        for (size_t tokens = 11; tokens < 60; ++tokens) {
            const auto all = windows(shape, tokens);
            CHECK(all.size() == (tokens - 10 + 3) / 4);
            CHECK(all.back().end <= tokens);
        }
    }
}
