// Names are UTF-8 in all of this program, and libstdc++ makes paths of them by mbrtowc, which follows the locale of the
// C library; msvcrt.dll has none of UTF-8 (a manifest that makes it the code page is heeded by Windows 10 of 1903 and
// newer only, and not by msvcrt's "C" locale). So these functions of mingw-w64, which are linked statically, are
// replaced by ones that read UTF-8. With other C libraries a locale does it: program_windows.cpp.
#if defined(__MINGW32__) && !defined(_UCRT)

#include <cerrno>
#include <cwchar>

namespace {

constexpr auto invalid = size_t(-1), unfinished = size_t(-2);

/// How many bytes the character has that begins so; 0: none does.
size_t length_of(unsigned char lead)
{
    return lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
}

size_t fail()
{
    errno = EILSEQ;
    return invalid;
}

}    // namespace

extern "C" {

/// A character of four bytes is two words: the first call takes three bytes for the one, and leaves the other in the
/// state for the next, which takes the last byte.
size_t mbrtowc(wchar_t* to, const char* from, size_t bytes, mbstate_t* state)
{
    static mbstate_t own;
    if (!state) state = &own;
    if (!from) return *state = 0;
    if (bytes == 0) return unfinished;
    wchar_t ignored = 0;
    wchar_t& word = to ? *to : ignored;
    if (*state) {
        word = wchar_t(*state);
        *state = 0;
        return 1;
    }
    const auto lead = static_cast<unsigned char>(*from);
    const size_t length = length_of(lead);
    if (length == 0) return fail();
    unsigned code = length == 1 ? lead : lead & (0x7fu >> length);
    for (size_t i = 1; i < length; ++i) {
        if (i == bytes) return unfinished;
        const auto next = static_cast<unsigned char>(from[i]);
        if (next >> 6 != 2) return fail();
        code = code << 6 | (next & 63u);
    }
    constexpr unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return fail();
    if (code >= 0x10000) {
        word = wchar_t(0xd800 + ((code - 0x10000) >> 10));
        *state = int(0xdc00 + ((code - 0x10000) & 0x3ff));
        return 3;
    }
    word = wchar_t(code);
    return code ? length : 0;
}

size_t mbrlen(const char* from, size_t bytes, mbstate_t* state)
{
    static mbstate_t own;
    return mbrtowc(nullptr, from, bytes, state ? state : &own);
}

size_t mbsrtowcs(wchar_t* to, const char** from, size_t most, mbstate_t* state)
{
    static mbstate_t own;
    const char* at = *from;
    for (size_t count = 0;; ++count) {
        if (to && count == most) {
            *from = at;
            return count;
        }
        wchar_t word = 0;
        const size_t taken = mbrtowc(&word, at, 4, state ? state : &own);
        if (taken == invalid || taken == unfinished) return fail();
        if (to) to[count] = word;
        if (taken == 0) {
            if (to) *from = nullptr;
            return count;
        }
        at += taken;
    }
}
}

#endif
