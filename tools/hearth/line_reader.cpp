// On a terminal lines are edited by libedit, which is opened at run time: a machine without it loses the history, not
// the program. Windows' console brings editing and a history of its own.
#include "tools/hearth/line_reader.h"

#include "engine/text/utf8.h"
#include "tools/hearth/cli.h"
#include "tools/hearth/text.h"

#include <fstream>
#include <iostream>

#ifdef _WIN32
#include <io.h>
#else
#include <clocale>
#include <dlfcn.h>
#include <fcntl.h>
#include <histedit.h>
#include <poll.h>
#include <unistd.h>
#endif

namespace hearth::tools {

#ifdef _WIN32

class LineReader::Editor {};

LineReader::LineReader(std::filesystem::path) : on_terminal_(_isatty(0)) {}

std::optional<std::string> LineReader::read()
{
    catch_interrupt();
    if (on_terminal_) std::fputs("> ", stderr);
    std::string line;
    if (!std::getline(std::cin, line)) {
        if (std::cin.bad()) throw Error("standard input cannot be read");
        return {};    // Ctrl-C ends the console's read, too
    }
    return without_marks(std::move(line));
}

std::filesystem::path chat_history_path() { return {}; }

#else

namespace {

constexpr size_t history_lines = 1000;

/// False where Ctrl-C came first. The wait is cut into short ones: the signal may come just before one of them, or to
/// another thread.
bool wait_for_input()
{
    pollfd input = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    while (!interrupted())
        if (poll(&input, 1, 100) > 0) return true;
    return false;
}

/// As `read`; 0, the end, where Ctrl-C came first.
size_t read_input(char* to, size_t most)
{
    while (wait_for_input()) {
        const ssize_t count = ::read(STDIN_FILENO, to, most);
        if (count >= 0) return size_t(count);
        if (errno == EIO && isatty(STDIN_FILENO)) return 0;    // the terminal went away
        if (errno != EINTR && errno != EAGAIN)
            throw Error("standard input cannot be read: {}", std::generic_category().message(errno));
    }
    return 0;
}

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

}    // namespace

class LineReader::Editor {
  public:
    explicit Editor(std::filesystem::path file) : file_(std::move(file))
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

    ~Editor()
    {
        libedit().el_end(editor_);
        libedit().history_wend(history_);
    }

    Editor(const Editor&) = delete;
    Editor& operator=(const Editor&) = delete;

    std::optional<std::string> read()
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
                if (!read_input(&byte, 1)) return 0;
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

LineReader::LineReader(std::filesystem::path history) : on_terminal_(isatty(STDIN_FILENO))
{
    if (!on_terminal_ || !isatty(STDERR_FILENO)) return;
    if (libedit().complete) editor_ = std::make_unique<Editor>(std::move(history));
    else say("note: without libedit there is no history of lines: install it (Debian, Ubuntu: libedit2)");
}

std::optional<std::string> LineReader::read()
{
    catch_interrupt();
    if (editor_) {
        std::optional<std::string> line = editor_->read();
        if (!line) say("");    // what comes next stands on a line of its own
        return line;
    }
    if (on_terminal_) std::fputs("> ", stderr);
    size_t end;
    while ((end = read_ahead_.find('\n')) == read_ahead_.npos) {
        char block[4096];
        const size_t count = read_input(block, sizeof block);
        if (interrupted() || (!count && read_ahead_.empty())) return {};
        if (!count) {    // the last line may lack its end
            end = read_ahead_.size();
            break;
        }
        read_ahead_.append(block, count);
    }
    std::string line = read_ahead_.substr(0, end);
    read_ahead_.erase(0, end + 1);
    return without_marks(std::move(line));
}

std::filesystem::path chat_history_path()
{
    const auto from = [](const char* variable) {
        const char* value = std::getenv(variable);
        return std::filesystem::path(value ? value : "");
    };
    const std::filesystem::path state = from("XDG_STATE_HOME"), home = from("HOME");
    if (!state.empty()) return state / "hearth" / "chat_history";
    return home.empty() ? home : home / ".local" / "state" / "hearth" / "chat_history";
}

#endif

/// A line of a pipe or a file, whose end may be CRLF, and which may be the first one, with a byte-order mark.
std::string LineReader::without_marks(std::string line)
{
    if (line.ends_with('\r')) line.pop_back();
    return std::exchange(first_, false) ? plain_text(std::move(line), "standard input") : line;
}

LineReader::~LineReader() = default;

}    // namespace hearth::tools
