#include "tools/hearth/conversation.h"

#include <fstream>
#include <iterator>

namespace hearth::tools {

using jinja::Data;

namespace {

constexpr int most_nested = 200;    // of JSON

Data data_of(const nlohmann::ordered_json& json, bool own, int depth = 0)
{
    if (depth > most_nested) throw Error("a conversation's JSON is nested more than {} deep", most_nested);
    switch (json.type()) {
    case nlohmann::ordered_json::value_t::boolean: return Data(json.get<bool>());
    case nlohmann::ordered_json::value_t::number_integer: return Data(json.get<int64_t>());
    case nlohmann::ordered_json::value_t::number_unsigned:
        if (json.get<uint64_t>() > uint64_t(INT64_MAX))
            throw Error("a conversation's JSON has the number {}, which is too large", json.get<uint64_t>());
        return Data(int64_t(json.get<uint64_t>()));
    case nlohmann::ordered_json::value_t::number_float: return Data(json.get<double>());
    case nlohmann::ordered_json::value_t::string: return Data::text(json.get_ref<const std::string&>(), own);
    case nlohmann::ordered_json::value_t::array: {
        Data::List list;
        for (const auto& item : json) list.push_back(data_of(item, own, depth + 1));
        return Data(std::move(list));
    }
    case nlohmann::ordered_json::value_t::object: {
        Data::Dict dict;
        for (const auto& [key, value] : json.items()) dict.emplace_back(key, data_of(value, own, depth + 1));
        return Data(std::move(dict));
    }
    default: return {};
    }
}

ChatTemplate compiled(const std::string& name, std::string_view jinja, const Gguf* model)
{
    try {
        return {name, jinja, model};
    } catch (const jinja::TemplateError& error) {
        throw Error("the chat template '{}' cannot be read: {}; choose one with --template, of {}", printable(name),
                    error.what(), template_names());
    }
}

}    // namespace

std::string template_names()
{
    std::string names;
    for (const NamedTemplate& t : chat_templates()) names += fmt::format("{}{}", names.empty() ? "" : ", ", t.name);
    return names;
}

ChatTemplate choose_template(const std::string& name, const Gguf* model)
{
    std::vector<NamedTemplate> own;
    if (model) own = file_templates(*model);
    if (name.empty()) {
        if (own.empty())
            throw Error("{} has no chat template: choose one with --template, of {}, or let `hearth run -p TEXT` "
                        "continue a text",
                        model->path().string(), template_names());
        return compiled(std::string(own[0].name), own[0].jinja, model);
    }
    for (const NamedTemplate& t : own)
        if (t.name == name) return compiled(name, t.jinja, model);
    if (const NamedTemplate* known = find_chat_template(name)) return compiled(name, known->jinja, model);
    std::error_code ec;
    if (std::filesystem::exists(name, ec))
        return compiled(std::filesystem::path(name).filename().string(), read_text({"", name}), model);
    std::string others;
    for (const NamedTemplate& t : own) others += fmt::format("{}{}", others.empty() ? "" : ", ", printable(t.name));
    throw Error("there is no template '{}' and no file of that name: choose one of {}{}", printable(name),
                template_names(), others.empty() ? "" : fmt::format(", or of the model's own, {}", others));
}

Error not_rendered(const ChatTemplate& format, const jinja::TemplateError& error)
{
    return Error("the chat template '{}' cannot be rendered: {}; choose another with --template, of {}",
                 printable(format.name()), printable(error.what()), template_names());
}

Data::Dict conversation(const nlohmann::ordered_json& json)
{
    Data::Dict variables;
    bool has_messages = false, says_prompt = false;
    const auto add = [&](const std::string& name, const nlohmann::ordered_json& value) {
        // What others call a token is one of the template's own words.
        Data data = data_of(value, name.ends_with("_token"));
        if (name == "messages") own_roles(data);
        has_messages |= name == "messages";
        says_prompt |= name == "add_generation_prompt";
        variables.emplace_back(name, std::move(data));
    };
    if (json.is_array()) add("messages", json);
    else if (json.is_object())
        for (const auto& [name, value] : json.items()) add(name, value);
    if (!has_messages) throw Error("a conversation is a list of messages, or an object with one called \"messages\"");
    if (!says_prompt) variables.emplace_back("add_generation_prompt", Data(true));
    return variables;
}

void say_loose_marks(const ChatEncoder& encoder)
{
    if (encoder.loose_marks().empty()) return;
    std::string marks;
    for (const std::string& mark : encoder.loose_marks())
        marks += fmt::format("{}{}", marks.empty() ? "" : ", ", printable(mark));
    say("note: {}: in the vocabulary as ordinary tokens, and taken as the chat template's marks all the same", marks);
}

}    // namespace hearth::tools
