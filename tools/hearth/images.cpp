#include "tools/hearth/images.h"

#include "engine/text/chat_template.h"

namespace hearth::tools {

void add_image_options(CLI::App& app, ImageOptions& o)
{
    group(app, "Text");
    app.add_option(
           "--image", o.images,
           "a picture (PNG, JPEG, WebP, GIF, BMP) that the text is about; again for another; it stands where the "
           "text says <image>, else before it")
        ->allow_extra_args(false)
        ->check(not_empty())
        ->type_name("FILE");
    app.add_option_function<std::string>(
           "--image-mode",
           [&o](const std::string& text) { o.mode = text == "crop" ? ImageMode::crop : ImageMode::pad; },
           "how a picture becomes square where the model wants one: pad, with bars, as LLaVA 1.5 was trained, or crop, "
           "its middle, as transformers does")
        ->check(CLI::IsMember({"pad", "crop"}))
        ->default_str("pad")
        ->type_name("MODE");
}

void add_tower_options(CLI::App& app, EngineOptions& o)
{
    group(app, "Device and memory");
    app.add_option_function<std::string>(
           "--mmproj", [&o](const std::string& file) { o.mmproj = file; },
           "the part of the model that looks at images (default: the one beside the model that fits)")
        ->check(not_empty())
        ->type_name("FILE");
    app.add_option_function<std::string>(
           "--keep-vision", [&o](const std::string& text) { o.keep_vision = text == "on"; },
           "on: the part that looks at images stays on the GPU; off: it passes through the GPU's memory for each "
           "image, "
           "which leaves more of that to the rest (default: on where the rest needs no more)")
        ->check(CLI::IsMember({"on", "off"}))
        ->type_name("on|off");
}

EngineOptions seeing(EngineOptions o)
{
    if (!o.mmproj) o.mmproj = "";
    return o;
}

std::shared_ptr<const EmbeddedRows> Eyes::look(const std::filesystem::path& path)
{
    const Image image = read_image(path);
    Vision& vision = engine_.vision();
    const double start = seconds();
    std::vector<float> rows = vision.rows(image, mode_, interrupted);
    if (rows.empty()) return nullptr;
    auto embedded = engine_.embed(std::move(rows));
    us_ += (seconds() - start) * 1e6;
    ++images_;
    tokens_ += embedded->tokens.size();
    return embedded;
}

std::string images_note(const Eyes& eyes)
{
    if (eyes.images() == 0) return "";
    return fmt::format("{} of {} tokens, looked at in {:.1f} s",
                       eyes.images() == 1 ? "1 image" : fmt::format("{} images", eyes.images()), eyes.tokens(),
                       eyes.us() / 1e6);
}

std::vector<std::span<const Token>> tokens_of(const Images& images)
{
    std::vector<std::span<const Token>> tokens;
    for (const auto& image : images) tokens.emplace_back(image->tokens);
    return tokens;
}

std::vector<Token> encode_with_images(const Tokenizer& tokenizer, std::string_view text, const Images& images)
{
    const Token mark = tokenizer.added(image_mark).value_or(tokenizer.bos());
    size_t end = text.find(image_mark);
    std::vector<Token> ids;
    if (end > 0) ids = tokenizer.encode_prompt(text.substr(0, end));
    else if (tokenizer.add_bos()) ids.push_back(tokenizer.bos());
    for (const auto& image : images) {
        ids.insert(ids.end(), image->tokens.begin(), image->tokens.end());
        text.remove_prefix(end + image_mark.size());
        end = std::min(text.find(image_mark), text.size());
        if (end > 0) tokenizer.encode_behind(mark, text.substr(0, end), ids);
    }
    return ids;
}

}    // namespace hearth::tools
