#!/usr/bin/env python3
"""Draws a part of a trace of `hearth run --trace` as SVG: two lanes, host and device.

    python3 tools/models/trace_picture.py TRACE.json OUT.svg [--from MS] [--for MS]

Times count from the first step of decode. Needs nothing but Python.
"""

import sentences  # noqa: F401, I001 - first, so that whatever fails after it ends in a sentence

import argparse
import html
import json
import sys
from pathlib import Path

from sentences import Refusal, run
from whole_file import replacing

LANES = {1: "CPU", 2: "GPU"}
COLOURS = {"cold_ffn": "#d9822b", "ffn_up": "#2b7bd9", "ffn_down": "#5a9ae6", "head": "#7a7a7a", "predict": "#7b4fb5"}
WIDTH, LEFT, HEIGHT, GAP, TOP = 1000, 50, 46, 14, 26


def draw(events, begin, length):
    scale = (WIDTH - LEFT - 10) / length
    boxes, frame = [], []
    for e in events:
        start, end = max(e["ts"], begin), min(e["ts"] + e["dur"], begin + length)
        if end <= start:
            continue
        x, w, y = LEFT + (start - begin) * scale, max((end - start) * scale, 0.5), TOP + (e["tid"] - 1) * (HEIGHT + GAP)
        name = f"{e['name']} {e['args']['layer']}"
        label = (f'<text x="{x + w / 2:.1f}" y="{y + HEIGHT / 2 + 4}" '
                 f'text-anchor="middle">{html.escape(name)}</text>' if w > 6.2 * len(name) else "")
        boxes.append(f'<g><title>{html.escape(name)}: {e["dur"]:.0f} us</title><rect x="{x:.1f}" y="{y}" '
                     f'width="{w:.1f}" height="{HEIGHT}" fill="{COLOURS.get(e["name"], "#b8c4d0")}" stroke="white" '
                     f'stroke-width="0.5"/>{label}</g>')
    bottom = TOP + len(LANES) * (HEIGHT + GAP)
    for lane, name in LANES.items():
        frame.append(f'<text x="6" y="{TOP + (lane - 1) * (HEIGHT + GAP) + HEIGHT / 2 + 4}" '
                     f'font-weight="bold">{name}</text>')
    step = next(s for s in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10**4, 10**5, 10**6) if length / s <= 12)
    for i in range(int(length / step) + 1):
        x = LEFT + i * step * scale
        frame.append(f'<path d="M{x:.1f} {TOP - 6}V{bottom}" stroke="#ddd"/><text x="{x:.1f}" y="14" '
                     f'text-anchor="middle">{i * step} us</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 4}" font-family="sans-serif" '
            f'font-size="11"><rect width="100%" height="100%" fill="white"/>{"".join(frame + boxes)}</svg>\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="begin", type=float, default=0, metavar="MS")
    parser.add_argument("--for", dest="length", type=float, default=5, metavar="MS")
    return run("trace_picture", picture, parser.parse_args())


def is_event(e):
    return isinstance(e["name"], str) and e["tid"] in LANES and all(type(e[key]) in (int, float)
                                                                    for key in ("ts", "dur"))


def picture(o):
    try:
        events = [e for e in json.loads(o.trace.read_text())["traceEvents"] if e["ph"] == "X" and e["cat"] == "decode"]
        if not all(is_event(e) and "layer" in e["args"] for e in events):
            raise ValueError("an event of another kind")
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(f"{o.trace} is not a trace of hearth run: {error}") from None
    if not events:
        raise Refusal(f"{o.trace} has no decode in it: let `hearth run` write more than one token")
    if not 0 < o.length <= 10000 or not abs(o.begin) < 1e9:
        raise Refusal(f"--from {o.begin} and --for {o.length} are no stretch of time")
    first = min(e["ts"] for e in events)
    drawing = draw(events, first + o.begin * 1000, o.length * 1000)
    with replacing(o.out) as file:
        file.write(drawing.encode())


if __name__ == "__main__":
    sys.exit(main())
