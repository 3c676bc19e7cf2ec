// WebP, through libwebp; of a moving picture the first frame.
#include "engine/vision/decoders.h"

#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

namespace hearth {

namespace {

/// The first frame, for as long as this lives.
struct FirstFrame {
    explicit FirstFrame(const WebPDemuxer* webp) : found(WebPDemuxGetFrame(webp, 1, &frame) != 0) {}
    ~FirstFrame() { WebPDemuxReleaseIterator(&frame); }
    FirstFrame(const FirstFrame&) = delete;
    FirstFrame& operator=(const FirstFrame&) = delete;

    WebPIterator frame{};
    bool found;
};

uint32_t orientation_of(const WebPDemuxer* webp)
{
    WebPChunkIterator chunk{};
    if (!WebPDemuxGetChunk(webp, "EXIF", 1, &chunk)) return 1;
    std::string_view tags(reinterpret_cast<const char*>(chunk.chunk.bytes), chunk.chunk.size);
    if (tags.starts_with("Exif")) tags.remove_prefix(std::min<size_t>(tags.size(), 6));    // as some write it
    const uint32_t orientation = exif_orientation(tags);
    WebPDemuxReleaseChunkIterator(&chunk);
    return orientation;
}

}    // namespace

DecodedImage decode_webp(const ImageFile& file)
{
    const WebPData data = {file.data(), file.bytes.size()};
    WebPDemuxState state = WEBP_DEMUX_PARSE_ERROR;
    const std::unique_ptr<WebPDemuxer, decltype(&WebPDemuxDelete)> webp(WebPDemuxPartial(&data, &state),
                                                                        WebPDemuxDelete);
    if (state == WEBP_DEMUX_PARSING_HEADER || state == WEBP_DEMUX_PARSED_HEADER) file.cut_short();
    if (!webp || state != WEBP_DEMUX_DONE) file.damaged("broken chunks");
    const uint32_t width = WebPDemuxGetI(webp.get(), WEBP_FF_CANVAS_WIDTH),
                   height = WebPDemuxGetI(webp.get(), WEBP_FF_CANVAS_HEIGHT);
    file.check_size(width, height);
    const FirstFrame first(webp.get());
    const WebPIterator& frame = first.frame;
    if (!first.found || frame.x_offset < 0 || frame.y_offset < 0 || frame.width < 1 || frame.height < 1 ||
        uint64_t(frame.x_offset) + uint64_t(frame.width) > width ||
        uint64_t(frame.y_offset) + uint64_t(frame.height) > height)
        file.damaged("no frame");

    DecodedImage decoded = {{width, height, std::vector<uint8_t>(size_t(4) * width * height)},
                            orientation_of(webp.get())};
    std::vector<uint8_t>& pixels = decoded.image.rgb;
    const size_t row_bytes = size_t(4) * width,
                 start = row_bytes * size_t(frame.y_offset) + size_t(4) * size_t(frame.x_offset);
    if (!WebPDecodeRGBAInto(frame.fragment.bytes, frame.fragment.size, pixels.data() + start, pixels.size() - start,
                            int(row_bytes)))
        file.damaged("broken pixels");
    lay_over_white(pixels);
    return decoded;
}

}    // namespace hearth
