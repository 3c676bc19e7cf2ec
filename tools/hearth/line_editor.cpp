// By libedit, which is opened at run time: a machine without it loses the history, not the program.
#include "tools/hearth/line_editor.h"

#include "engine/text/utf8.h"
#include "tools/hearth/cli.h"

#include <clocale>
#include <fstream>

#include <dlfcn.h>
#include <fcntl.h>
#include <histedit.h>
#include <unistd.h>

namespace hearth::tools {

namespace {

constexpr size_t history_lines = 1000;

std::wstring to_wide(std::string_view text)
{
    std::wstring wide;
    for (size_t at = 0; at < text.size();) {
        const auto [state, bytes] = first_character(text.substr(at));
        const uint8_t lead = uint8_t(text[at]);
        wchar_t code = bytes == 1 ? lead : lead & (0x7f >> bytes);
        for (size_t i = 1; i < bytes; ++i) code = code << 6 | (uint8_t(text[at + i]) & 63);
        wide += state == Utf8::whole ? code : L'\ufffd';
        at += bytes;
    }
    return wide;
}

std::string to_utf8(std::wstring_view wide)
{
    std::string text;
    for (const wchar_t character : wide) {
        const uint32_t code = uint32_t(character);
        const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
        text += more ? char(0xff00 >> (more + 1) | code >> 6 * more) : char(code);
        for (int i = more - 1; i >= 0; --i) text += char(0x80 | (code >> 6 * i & 63));
    }
    return text;
}

/// What is used of libedit; all nullptr where it cannot be opened.
struct Libedit {
    decltype(&::el_init) el_init = nullptr;
    decltype(&::el_end) el_end = nullptr;
    decltype(&::el_wset) el_wset = nullptr;
    decltype(&::el_wgets) el_wgets = nullptr;
    decltype(&::el_source) el_source = nullptr;
    decltype(&::el_resize) el_resize = nullptr;
    decltype(&::history_winit) history_winit = nullptr;
    decltype(&::history_wend) history_wend = nullptr;
    decltype(&::history_w) history_w = nullptr;

    Libedit()
    {
        void* library = nullptr;
        for (const char* name :
             {"libedit.so.2", "libedit.so.0", "libedit.so", "libedit.dylib"})    // Debian's; that of most others
            if (!library) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
        if (!library) return;
        const auto find = [&](auto& function, const char* name) {
            function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
            return function != nullptr;
        };
        complete = find(el_init, "el_init") && find(el_end, "el_end") && find(el_wset, "el_wset") &&
                   find(el_wgets, "el_wgets") && find(el_source, "el_source") && find(el_resize, "el_resize") &&
                   find(history_winit, "history_winit") && find(history_wend, "history_wend") &&
                   find(history_w, "history_w");
    }
    bool complete = false;
};

const Libedit& libedit()
{
    static const Libedit library;
    return library;
}

class LibeditEditor : public LineEditor {
  public:
    explicit LibeditEditor(std::filesystem::path file) : file_(std::move(file))
    {
        // Libedit shows characters as the locale says; in the plain one it would show everything but ASCII by numbers.
        const char* locale = std::setlocale(LC_CTYPE, "");
        if (!locale || std::string_view(locale) == "C" || std::string_view(locale) == "POSIX")
            std::setlocale(LC_CTYPE, "C.UTF-8");

        const Libedit& lib = libedit();
        history_ = lib.history_winit();
        editor_ = lib.el_init("hearth", stdin, stderr, stderr);
        if (!history_ || !editor_) throw std::bad_alloc();
        lib.history_w(history_, &event_, H_SETSIZE, int(history_lines));
        lib.history_w(history_, &event_, H_SETUNIQUE, 1);
        lib.el_wset(editor_, EL_EDITOR, L"emacs");
        lib.el_wset(editor_, EL_PROMPT, prompt);
        lib.el_wset(editor_, EL_GETCFN, next_character);
        lib.el_wset(editor_, EL_HIST, lib.history_w, history_);
        lib.el_wset(editor_, EL_BIND, L"^R", L"em-inc-search-prev", nullptr);
        lib.el_source(editor_, nullptr);    // the user's own keys
        load();
    }

    ~LibeditEditor() override
    {
        libedit().el_end(editor_);
        libedit().history_wend(history_);
    }

    std::optional<std::string> read() override
    {
        libedit().el_resize(editor_);
        int count = 0;
        const wchar_t* got = libedit().el_wgets(editor_, &count);
        if (!got || count <= 0 || interrupted()) return {};
        std::string line = to_utf8({got, size_t(count)});
        while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
        if (line.find_first_not_of(" \t") != line.npos && line != last_) {
            enter(line);
            keep(line);
        }
        return line;
    }

  private:
    static wchar_t* prompt(EditLine*)
    {
        static wchar_t text[] = L"> ";
        return text;
    }

    /// 1 with the character; 0 at the end. Called from C, so nothing is thrown.
    static int next_character(EditLine*, wchar_t* character)
    {
        std::string bytes;
        try {
            do {
                char byte;
                if (!read_input(&byte, 1, interrupted)) return 0;
                bytes += byte;
            } while (first_character(bytes).state == Utf8::unfinished);
        } catch (const Error&) {
            return 0;
        }
        *character = to_wide(bytes)[0];
        return 1;
    }

    void enter(const std::string& line)
    {
        libedit().history_w(history_, &event_, H_ENTER, to_wide(line).c_str());
        last_ = line;
    }

    void load()
    {
        if (file_.empty()) return;
        std::vector<std::string> lines;
        std::ifstream in(file_);
        for (std::string line; std::getline(in, line);) lines.push_back(line);
        const size_t kept = std::min(lines.size(), history_lines);
        std::for_each(lines.end() - ptrdiff_t(kept), lines.end(), [&](const std::string& line) { enter(line); });
        if (lines.size() <= 2 * history_lines) return;
        std::string text;
        std::for_each(lines.end() - ptrdiff_t(kept), lines.end(),
                      [&](const std::string& line) { text += line + "\n"; });
        try {
            WholeFile out(file_, {.for_owner = true});
            out.write(text);
            out.finish();
        } catch (const std::exception& e) {
            not_kept(e.what());
        }
    }

    /// At once, and as one write: several conversations at a time each add their lines, and none is lost if the program
    /// is.
    void keep(const std::string& line)
    {
        if (file_.empty()) return;
        std::error_code ec;
        std::filesystem::create_directories(file_.parent_path(), ec);
        const int fd = open(file_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC,
                            0600);    // what was said is nobody else's business
        const std::string bytes = line + "\n";
        const bool good = fd != -1 && write(fd, bytes.data(), bytes.size()) == ssize_t(bytes.size());
        if (!good) not_kept(std::generic_category().message(errno));
        if (fd != -1) close(fd);
    }

    void not_kept(const std::string& why)
    {
        say("note: the history is not kept: {}: {}", file_.string(), why);
        file_.clear();
    }

    std::filesystem::path file_;
    std::string last_;
    EditLine* editor_ = nullptr;
    HistoryW* history_ = nullptr;
    HistEventW event_ = {};
};

}    // namespace

std::unique_ptr<LineEditor> open_line_editor(std::filesystem::path history)
{
    if (libedit().complete) return std::make_unique<LibeditEditor>(std::move(history));
    say("note: without libedit there is no history of lines: install it (Debian, Ubuntu: libedit2)");
    return nullptr;
}

}    // namespace hearth::tools
