#!/usr/bin/env python3
"""Makes tests/data/images: small pictures of every kind that is read, what Pillow reads in them, and what the image
processors of transformers make of pictures of many sizes. Made once; tests/image_test.cpp reads it.

    build/transformers-venv/bin/pip install torch transformers 'pillow<13'
    build/transformers-venv/bin/python tests/make_images.py tests/data/images

Made with Pillow 12.3.0 and transformers 5.24.0.
"""
import json
import random
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

WIDTH, HEIGHT = 21, 13
ORIENTATION = 0x0112
GRID = [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]    # LLaVA 1.6's resolutions, in tiles


def checksum(data):
    """As engine/system/checksum.h."""
    h = 0xcbf29ce484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return f"{h:016x}"


def pattern(width, height):
    """The same as in tests/image_test.cpp."""
    y, x, c = np.indices((height, width, 3))
    return Image.fromarray((x * 7 + y * 13 + c * 29 ^ x * y).astype(np.uint8))


# ---- files -----------------------------------------------------------------------------------------------------------

def base():
    """Smooth, with an edge and with alpha of all kinds."""
    y, x = np.indices((HEIGHT, WIDTH))
    alpha = np.clip(x * 16 - 40, 0, 255)
    rgba = np.stack([x * 12, y * 19, (x > 10) * 200, alpha], -1)
    return Image.fromarray(rgba.astype(np.uint8), "RGBA")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples, depth, colour, interlaced=False):
    """`samples` (height, width, channels), as Pillow does not write them: 16 bits of colour, and in seven turns."""
    height, width = samples.shape[:2]
    turns = [(0, 0, 1, 1)]
    if interlaced:
        turns = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for left, top, across, down in turns:
        part = samples[top::down, left::across]
        if part.size:
            for row in part:
                raw += b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))


def saved(image, kind, **options):
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def bmp_runs():
    """A BMP of eight bits in runs: three rows of four pixels, with colours of their own."""
    colours = b"".join(bytes([i, 255 - i, 7 * i % 256, 0]) for i in range(256))
    runs = b"\x04\x10\0\0" + b"\0\x04\x01\x02\x03\x04\0\0" + b"\x02\x80\x02\xff\0\x01"
    info = struct.pack("<IiiHHIIiiII", 40, 4, 3, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = 14 + len(info) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + info + colours + runs


def bmp_masks(rgba):
    """A BMP whose header says where the colours and alpha lie."""
    height, width = rgba.shape[:2]
    masks = struct.pack("<IIII", 0xff0000, 0xff00, 0xff, 0xff000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, rgba.size, 0, 0, 0, 0) + masks + bytes(52)
    start = 14 + len(header)
    return (b"BM" + struct.pack("<IHHI", start + rgba.size, 0, 0, start) + header
            + np.ascontiguousarray(rgba[..., [2, 1, 0, 3]]).tobytes())


def files():
    rgba = base()
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    palette = rgb.quantize(17)
    deep = np.asarray(rgba).astype(np.uint16) * 257 ^ 0x55
    yield "grey.png", saved(grey, "PNG")
    yield "grey-alpha.png", saved(rgba.convert("LA"), "PNG")
    yield "bits.png", saved(grey.convert("1"), "PNG")
    yield "palette.png", saved(palette, "PNG")
    yield "palette-transparent.png", saved(palette, "PNG", transparency=3)
    yield "colour-transparent.png", saved(rgb, "PNG", transparency=rgb.getpixel((3, 3)))
    yield "rgb.png", saved(rgb, "PNG")
    yield "rgba.png", saved(rgba, "PNG")
    yield "turned.png", saved(rgb, "PNG", exif=exif(6))
    yield "deep-grey.png", png(deep[..., :1], 16, 0)
    yield "deep.png", png(deep[..., :3], 16, 2)
    yield "deep-alpha.png", png(deep, 16, 6)
    yield "interlaced.png", png(np.asarray(rgb), 8, 2, True)
    yield "one.png", saved(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG")
    yield "grey.jpg", saved(grey, "JPEG", quality=80)
    yield "cmyk.jpg", saved(rgb.convert("CMYK"), "JPEG", quality=80)
    for name, sampling in (("444", 0), ("422", 1), ("420", 2)):
        yield f"{name}.jpg", saved(rgb, "JPEG", quality=80, subsampling=sampling)
    yield "progressive.jpg", saved(rgb, "JPEG", quality=80, progressive=True)
    yield "restarts.jpg", saved(rgb, "JPEG", quality=80, restart_marker_blocks=1)
    for orientation in range(1, 9):
        yield f"turned-{orientation}.jpg", saved(rgb, "JPEG", quality=50, exif=exif(orientation))
    yield "lossy.webp", saved(rgb, "WEBP", quality=80)
    yield "lossy-alpha.webp", saved(rgba, "WEBP", quality=80)
    yield "lossless.webp", saved(rgba, "WEBP", lossless=True, exact=True)
    yield "turned.webp", saved(rgb, "WEBP", quality=80, exif=exif(8))
    yield "moving.webp", saved(rgba, "WEBP", save_all=True, append_images=[rgba.rotate(180)], lossless=True)
    yield "plain.gif", saved(palette, "GIF", interlace=0)
    yield "interlaced.gif", saved(palette, "GIF", interlace=1)
    yield "transparent.gif", saved(palette, "GIF", transparency=palette.getpixel((5, 5)))
    yield "moving.gif", saved(palette, "GIF", save_all=True, append_images=[palette.rotate(180)])
    yield "bits.bmp", saved(grey.convert("1"), "BMP")
    yield "grey.bmp", saved(grey, "BMP")
    yield "palette.bmp", saved(palette, "BMP")
    yield "rgb.bmp", saved(rgb, "BMP")
    yield "rgba.bmp", saved(rgba, "BMP")    # whose alpha means nothing
    yield "masks.bmp", bmp_masks(np.asarray(rgba)[::-1])
    yield "runs.bmp", bmp_runs()    # which is refused


def as_pillow_reads(data):
    """Over white, and the right way up. Of 16 bits of grey Pillow keeps all, of colours it keeps the upper 8."""
    image = Image.open(BytesIO(data))
    image.load()
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image.convert("RGB"), mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


# ---- processors ------------------------------------------------------------------------------------------------------

def processors(side):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    grid = [[side * tiles for tiles in resolution] for resolution in GRID]
    return {"crop": CLIPImageProcessorPil(**sizes), "pad": LlavaImageProcessorPil(**sizes, do_pad=True),
            "tiles": LlavaNextImageProcessorPil(**sizes, image_grid_pinpoints=grid)}


def rows_of(width, height, side, patch):
    """The order of LLaVA 1.6's rows, by transformers' own functions on their numbers; the newline is -1."""
    import torch
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image
    edge = side // patch
    rows, columns = get_anyres_image_grid_shape((height, width), [[side * n for n in r] for r in GRID], side)
    order = torch.arange(edge * edge * (1 + rows * columns))
    tiles = order[edge * edge:].view(rows, columns, edge, edge).permute(0, 2, 1, 3).reshape(1, rows * edge, -1)
    tiles = unpad_image(tiles, (height, width))
    tiles = torch.cat([tiles, torch.full((1, tiles.shape[1], 1), -1)], -1)
    return order[:edge * edge].tolist() + tiles.flatten().tolist()


def sizes(count):
    """Of the random ones most are small, so that tests are quick; all ratios."""
    fixed = [(1, 1), (1, 2), (2, 1), (28, 28), (29, 28), (28, 29), (56, 28), (28, 84), (640, 480), (1, 200), (200, 1),
             (3, 400), (320, 180), (33, 100), (27, 100)]
    choose = random.Random(1)
    return fixed + [tuple(int(2 ** choose.uniform(0, 8.5)) for _ in "wh") for _ in range(count - len(fixed))]


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    expected = {"files": {}, "processors": [], "tokens": []}
    for name, data in files():
        (folder / name).write_bytes(data)
        if name == "runs.bmp":
            continue
        image = as_pillow_reads(data)
        expected["files"][name] = [*image.size, checksum(image.tobytes())]
    by_mode = processors(28)
    for width, height in sizes(120):
        image = pattern(width, height)
        case = {"width": width, "height": height}
        for mode, processor in by_mode.items():
            values = np.asarray(processor(image, return_tensors="np")["pixel_values"][0], np.float32)
            case[mode] = checksum(values.astype("<f4").tobytes())
        case["rows"] = checksum(np.array(rows_of(width, height, 28, 7), "<i4").tobytes())
        expected["processors"].append(case)
    for width, height in [(336, 336), (640, 480), (1920, 1080), (2000, 500), (1000, 1000), (336, 1008), (1, 1), (9, 4)]:
        expected["tokens"].append([width, height, len(rows_of(width, height, 336, 14))])
    lines = json.dumps(expected).replace("}, {", "},\n{").replace('"], "', '"],\n"').replace('": [{', '": [\n{')
    (folder / "expected.json").write_text(lines + "\n")


if __name__ == "__main__":
    main()
