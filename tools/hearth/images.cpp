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
    app.add_option("--mmproj", o.mmproj,
                   "the part of the model that looks at images, which the CPU does (default: the one beside the model "
                   "that fits)")
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

Eyes::Eyes(Engine& engine, const ImageOptions& options, std::filesystem::path model)
    : engine_(engine), options_(options), model_(std::move(model))
{
}

std::shared_ptr<const EmbeddedRows> Eyes::look(const std::filesystem::path& path)
{
    const Image image = read_image(path);
    if (!vision_) {
        const std::filesystem::path file = mmproj();
        vision_.emplace(file, engine_.team(), engine_.config().dim);
        if (options_.mmproj.empty()) say("note: images are looked at with {}", file.string());
    }
    const double start = seconds();
    std::vector<float> rows = vision_->rows(image, options_.mode, interrupted);
    if (rows.empty()) return nullptr;
    auto embedded = engine_.embed(std::move(rows));
    us_ += (seconds() - start) * 1e6;
    ++images_;
    tokens_ += embedded->tokens.size();
    return embedded;
}

/// The one that was named, or the only one beside the model that makes rows of its width.
std::filesystem::path Eyes::mmproj() const
{
    if (!options_.mmproj.empty()) return options_.mmproj;
    const std::filesystem::path folder = model_.has_parent_path() ? model_.parent_path() : ".";
    std::vector<std::filesystem::path> fitting;
    std::error_code ec;
    for (const auto& entry : std::filesystem::directory_iterator(folder, ec))
        if (entry.path().extension() == ".gguf" &&
            entry.path().filename().string().find("mmproj") != std::string::npos &&
            tower_width(entry.path()) == engine_.config().dim)
            fitting.push_back(entry.path());
    if (fitting.size() == 1) return fitting[0];
    throw Error("images need the part of the model that looks at them, and beside {} there {}: name it with --mmproj",
                model_.string(),
                fitting.empty() ? "is no file *mmproj*.gguf that fits"
                                : fmt::format("are {} files *mmproj*.gguf that fit", fitting.size()));
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
