// Images in texts: their options, and the rows of embeddings that stand for them.
#pragma once

#include "engine/vision/vision.h"
#include "tools/hearth/cli.h"

namespace hearth::tools {

struct ImageOptions {
    std::vector<std::filesystem::path> images;
    ImageMode mode = ImageMode::pad;
};
void add_image_options(CLI::App& app, ImageOptions& options);
/// Of the part of a model that looks at images: --mmproj and --keep-vision.
void add_tower_options(CLI::App& app, EngineOptions& options);
/// The same options of a model that shall see: if nothing else is said, by what lies beside it.
EngineOptions seeing(EngineOptions options);

/// What an engine sees.
class Eyes {
  public:
    /// Must outlive this.
    Eyes(Engine& engine, ImageMode mode) : engine_(engine), mode_(mode) {}

    /// The rows of an image's file, whose tokens stand for it in a text; nullptr if Ctrl-C was pressed meanwhile.
    std::shared_ptr<const EmbeddedRows> look(const std::filesystem::path& image);

    uint64_t images() const { return images_; }
    uint64_t tokens() const { return tokens_; }    // of all of them
    double us() const { return us_; }              // that looking took

  private:
    Engine& engine_;
    const ImageMode mode_;
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
