#include "engine/model/normal_form.h"

#include "engine/error.h"
#include "engine/model/utf8.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

namespace hearth {

std::string normal_form_c(std::string_view text)
{
    // Nothing below U+0300, whose first byte is this, is changed or joins with a neighbour: most texts are done here.
    if (std::ranges::none_of(text, [](char c) { return uint8_t(c) >= 0xcc; })) return std::string(text);
    std::string normal;
    normal.reserve(text.size());
    for (const Utf8Run& run : utf8_runs(text)) {
        if (!run.valid) {
            normal += run.text;
            continue;
        }
        utf8proc_uint8_t* composed = nullptr;
        const utf8proc_ssize_t bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(run.text.data()), utf8proc_ssize_t(run.text.size()),
                                                    &composed, utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
        const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owned(composed, std::free);
        if (bytes < 0) throw Error("a text of {} bytes is too long to be tokenised at once; split it", text.size());
        normal.append(reinterpret_cast<const char*>(composed), size_t(bytes));
    }
    return normal;
}

}    // namespace hearth
