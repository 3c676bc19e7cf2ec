// Files of JSON lines: data, answers, records.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace hearth::eval {

/// The bytes of a file, which may be packed by gzip. Throws Error.
std::string unpacked(const std::filesystem::path& path);

/// A line, whose errors say where it stands.
class Line {
  public:
    Line(std::string where, std::string_view text);

    bool has(const char* key) const { return json_.contains(key); }
    const std::string& where() const { return where_; }
    const nlohmann::ordered_json& json() const { return json_; }

    /// A text, or a number as one.
    std::string text(const char* key) const;
    std::string text(const char* key, const std::string& otherwise) const { return has(key) ? text(key) : otherwise; }
    std::vector<std::string> texts(const char* key) const;    // none where there is no such key
    uint32_t number(const char* key, uint32_t otherwise) const;

  private:
    std::string where_;
    nlohmann::ordered_json json_;
};

/// All that are not empty.
std::vector<Line> read_lines(std::string_view text, const std::filesystem::path& path);

}    // namespace hearth::eval
