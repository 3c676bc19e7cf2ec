// Images in texts: their options, and the rows of embeddings that stand for them.
#pragma once

#include "engine/vision/vision.h"
#include "tools/hearth/cli.h"

namespace hearth::tools {

struct ImageOptions {
    std::filesystem::path mmproj;    // empty: the one beside the model
    std::vector<std::filesystem::path> images;
    ImageMode mode = ImageMode::pad;
};
void add_image_options(CLI::App& app, ImageOptions& options);

/// What an engine sees.
class Eyes {
  public:
    /// Both must outlive this. The mmproj file is looked for and read when the first image comes.
    Eyes(Engine& engine, const ImageOptions& options, std::filesystem::path model);

    /// The rows of an image's file, whose tokens stand for it in a text; nullptr if Ctrl-C was pressed meanwhile.
    std::shared_ptr<const EmbeddedRows> look(const std::filesystem::path& image);

    uint64_t images() const { return images_; }
    uint64_t tokens() const { return tokens_; }    // of all of them
    double us() const { return us_; }              // that looking took

  private:
    std::filesystem::path mmproj() const;

    Engine& engine_;
    const ImageOptions& options_;
    const std::filesystem::path model_;
    std::optional<Vision> vision_;
    uint64_t images_ = 0, tokens_ = 0;
    double us_ = 0;
};

/// "2 images of 1152 tokens, looked at in 3.1 s"; empty where there were none.
std::string images_note(const Eyes& eyes);

using Images = std::vector<std::shared_ptr<const EmbeddedRows>>;
std::vector<std::span<const Token>> tokens_of(const Images& images);

/// A text as it is, its places taken by the images, which are as many.
std::vector<Token> encode_with_images(const Tokenizer& tokenizer, std::string_view text, const Images& images);

}    // namespace hearth::tools
