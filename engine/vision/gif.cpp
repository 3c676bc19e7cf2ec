// The first frame of a GIF, through giflib. What the frame leaves of the picture is white.
#include "engine/vision/decoders.h"

#include <gif_lib.h>

#include <cstring>
#include <memory>

namespace hearth {

namespace {

int read_some(GifFileType* gif, GifByteType* out, int count)
{
    auto& left = *static_cast<std::string_view*>(gif->UserData);
    const size_t n = std::min(left.size(), size_t(std::max(count, 0)));
    std::memcpy(out, left.data(), n);
    left.remove_prefix(n);
    return int(n);
}

void close_gif(GifFileType* gif) { DGifCloseFile(gif, nullptr); }

class GifReader {
  public:
    explicit GifReader(const ImageFile& file) : file_(file), left_(file.bytes), gif_(nullptr, close_gif)
    {
        int error = 0;
        gif_.reset(DGifOpen(&left_, read_some, &error));
        if (!gif_) fail(error);
    }

    DecodedImage first_frame()
    {
        file_.check_size(uint64_t(std::max(gif_->SWidth, 0)), uint64_t(std::max(gif_->SHeight, 0)));
        for (;;) {
            GifRecordType type = UNDEFINED_RECORD_TYPE;
            must(DGifGetRecordType(gif_.get(), &type));
            if (type == IMAGE_DESC_RECORD_TYPE) return read_frame();
            if (type != EXTENSION_RECORD_TYPE) file_.damaged("no frame");
            read_extension();
        }
    }

  private:
    [[noreturn]] void fail(int error)
    {
        if (error == D_GIF_ERR_NOT_ENOUGH_MEM) throw std::bad_alloc();
        if (left_.empty()) file_.cut_short();
        const char* const said = GifErrorString(error);
        file_.damaged(said ? said : "broken");
    }

    void must(int result)
    {
        if (result != GIF_OK) fail(gif_->Error);
    }

    void read_extension()
    {
        int code = 0;
        GifByteType* block = nullptr;    // its length and its bytes
        must(DGifGetExtension(gif_.get(), &code, &block));
        GraphicsControlBlock control{};
        if (block && code == GRAPHICS_EXT_FUNC_CODE && DGifExtensionToGCB(block[0], block + 1, &control) == GIF_OK)
            transparent_ = control.TransparentColor;
        while (block) must(DGifGetExtensionNext(gif_.get(), &block));
    }

    DecodedImage read_frame()
    {
        must(DGifGetImageDesc(gif_.get()));
        const GifImageDesc& frame = gif_->Image;
        const ColorMapObject* const colours = frame.ColorMap ? frame.ColorMap : gif_->SColorMap;
        if (!colours) file_.damaged("no colours");
        if (frame.Left < 0 || frame.Top < 0 || frame.Width < 1 || frame.Height < 1 ||
            frame.Left + frame.Width > gif_->SWidth || frame.Top + frame.Height > gif_->SHeight)
            file_.damaged("a frame beyond its edges");

        const auto width = uint32_t(gif_->SWidth), height = uint32_t(gif_->SHeight);
        DecodedImage decoded = {{width, height, std::vector<uint8_t>(size_t(3) * width * height, 255)}};
        std::vector<GifPixelType> line(size_t(frame.Width));
        // The rows come in order, or in four turns.
        constexpr int starts[] = {0, 4, 2, 1}, steps[] = {8, 8, 4, 2}, start[] = {0}, step[] = {1};
        const std::span<const int> from = frame.Interlace ? std::span<const int>(starts) : start,
                                   by = frame.Interlace ? std::span<const int>(steps) : step;
        for (size_t turn = 0; turn < from.size(); ++turn)
            for (int y = from[turn]; y < frame.Height; y += by[turn]) {
                must(DGifGetLine(gif_.get(), line.data(), frame.Width));
                uint8_t* out = decoded.image.rgb.data() + 3 * (size_t(frame.Top + y) * width + size_t(frame.Left));
                for (const GifPixelType index : line) {
                    if (index != transparent_ && index < colours->ColorCount) {
                        const GifColorType& colour = colours->Colors[index];
                        out[0] = colour.Red;
                        out[1] = colour.Green;
                        out[2] = colour.Blue;
                    }
                    out += 3;
                }
            }
        return decoded;
    }

    const ImageFile& file_;
    std::string_view left_;
    std::unique_ptr<GifFileType, decltype(&close_gif)> gif_;
    int transparent_ = NO_TRANSPARENT_COLOR;
};

}    // namespace

DecodedImage decode_gif(const ImageFile& file) { return GifReader(file).first_frame(); }

}    // namespace hearth
