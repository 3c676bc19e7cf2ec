#!/usr/bin/env python3
"""A tiny LLaVA from its folder to what it says of a picture: the converter's two files and the program, against the
same model in numpy.

    python3 tests/vision_test.py build/check/hearth          (packages: tools/models/requirements.txt)
"""

import json
import re
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib
from math import erf
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
from safetensors.numpy import save_file

TESTS = Path(__file__).resolve().parent
CONVERT = TESTS.parent / "tools/models/convert.py"
PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
PIECES = sentencepiece.SentencePieceProcessor(model_file=str(TESTS / "data/tokenizer.model"))

VOCAB, IMAGE, LOUD, FOLLOWING = 4100, 4096, 64, 12
SIDE, PATCH, LAYERS = 28, 7, 3
PATCHES = (SIDE // PATCH) ** 2
TEXT = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "rope_theta": 5000.0, "vocab_size": VOCAB, "hidden_act": "silu",
        "bos_token_id": 1, "eos_token_id": 2}
VISION = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": LAYERS,
          "num_attention_heads": 4, "image_size": SIDE, "patch_size": PATCH, "projection_dim": 16}
MEAN, DEVIATION = [0.5, 0.45, 0.4], [0.25, 0.3, 0.28]
GRID = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]

TRANSFORMERS = "vision_tower.vision_model.", "multi_modal_projector.linear_1.", "multi_modal_projector.linear_2.", \
    "language_model.", "image_newline"
NEWER = "model.vision_tower.vision_model.", "model.multi_modal_projector.linear_1.", \
    "model.multi_modal_projector.linear_2.", "model.language_model.", "model.image_newline"
AUTHORS = "model.vision_tower.vision_tower.vision_model.", "model.mm_projector.0.", "model.mm_projector.2.", "", \
    "model.image_newline"


# ---- the model -------------------------------------------------------------------------------------------------------

def halves(w):
    return w.astype(np.float16).astype(np.float32)


def random_tensors(names, newline=False, seed=1):
    """Weights that F16 holds exactly, by one of the sets of names above."""
    rng = np.random.default_rng(seed)
    tower, first, second, language, newline_name = names
    dim, neurons, width = VISION["hidden_size"], VISION["intermediate_size"], TEXT["hidden_size"]
    t = {}

    def linear(name, rows, columns, bias=True):
        t[name + "weight"] = halves(rng.normal(0, 0.8 * columns ** -0.5, (rows, columns)))
        if bias:
            t[name + "bias"] = rng.normal(0, 0.3, rows).astype(np.float32)

    def norm(name, n, bias=True):
        t[name + "weight"] = rng.uniform(0.5, 1.5, n).astype(np.float32)
        if bias:
            t[name + "bias"] = rng.normal(0, 0.3, n).astype(np.float32)

    t[tower + "embeddings.class_embedding"] = rng.normal(0, 0.5, dim).astype(np.float32)
    t[tower + "embeddings.patch_embedding.weight"] = halves(rng.normal(0, 0.1, (dim, 3, PATCH, PATCH)))
    t[tower + "embeddings.position_embedding.weight"] = halves(rng.normal(0, 0.5, (1 + PATCHES, dim)))
    norm(tower + "pre_layrnorm.", dim)
    norm(tower + "post_layernorm.", dim)
    for n in range(LAYERS):
        layer = f"{tower}encoder.layers.{n}."
        for x in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{layer}self_attn.{x}.", dim, dim)
        norm(layer + "layer_norm1.", dim)
        norm(layer + "layer_norm2.", dim)
        linear(layer + "mlp.fc1.", neurons, dim)
        linear(layer + "mlp.fc2.", dim, neurons)
    linear(first, width, dim)
    linear(second, width, width)
    if newline:
        t[newline_name] = rng.normal(0, 0.5, width).astype(np.float32)
    # As transformers 5 has it: the head beside the language model.
    model = language if names is NEWER else f"{language}model."
    linear("lm_head." if names is NEWER else f"{language}lm_head.", VOCAB, width, bias=False)
    head = "lm_head.weight" if names is NEWER else f"{language}lm_head.weight"
    t[head][:259] = 0
    t[head][259 + LOUD:] /= 4
    linear(model + "embed_tokens.", VOCAB, width, bias=False)
    norm(model + "norm.", width, bias=False)
    for n in range(TEXT["num_hidden_layers"]):
        layer = f"{model}layers.{n}."
        norm(layer + "input_layernorm.", width, bias=False)
        norm(layer + "post_attention_layernorm.", width, bias=False)
        for x, rows in (("q_proj", width), ("k_proj", width // 2), ("v_proj", width // 2), ("o_proj", width)):
            linear(f"{layer}self_attn.{x}.", rows, width, bias=False)
        linear(layer + "mlp.gate_proj.", TEXT["intermediate_size"], width, bias=False)
        linear(layer + "mlp.up_proj.", TEXT["intermediate_size"], width, bias=False)
        linear(layer + "mlp.down_proj.", width, TEXT["intermediate_size"], bias=False)
    return t


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(x, t, name):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + 1e-5) * t[name + "weight"] + t[name + "bias"]


def linear(x, t, name):
    return x @ t[name + "weight"].T + t.get(name + "bias", 0)


def rows_of_tile(t, tile):
    """The features (patches, width) of a tile (3, side, side), in float64."""
    tower, first, second = TRANSFORMERS[:3]
    a_side, heads = SIDE // PATCH, VISION["num_attention_heads"]
    squares = tile.reshape(3, a_side, PATCH, a_side, PATCH).transpose(1, 3, 0, 2, 4).reshape(PATCHES, -1)
    x = squares @ t[tower + "embeddings.patch_embedding.weight"].reshape(VISION["hidden_size"], -1).T
    x = np.concatenate([t[tower + "embeddings.class_embedding"][None], x])
    x = layer_norm(x + t[tower + "embeddings.position_embedding.weight"], t, tower + "pre_layrnorm.")
    for n in range(LAYERS - 1):    # the last but one's state
        layer = f"{tower}encoder.layers.{n}."
        y = layer_norm(x, t, layer + "layer_norm1.")
        q, k, v = (linear(y, t, f"{layer}self_attn.{p}_proj.").reshape(1 + PATCHES, heads, -1).swapaxes(0, 1)
                   for p in "qkv")
        mixed = softmax(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])) @ v
        x = x + linear(mixed.swapaxes(0, 1).reshape(1 + PATCHES, -1), t, layer + "self_attn.out_proj.")
        y = linear(layer_norm(x, t, layer + "layer_norm2."), t, layer + "mlp.fc1.")
        x = x + linear(y / (1 + np.exp(-1.702 * y)), t, layer + "mlp.fc2.")
    y = linear(x[1:], t, first)
    return linear(y * (1 + np.vectorize(erf)(y / np.sqrt(2))) / 2, t, second)


def rms_norm(x, w):
    return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + TEXT["rms_norm_eps"]) * w


def logits_behind(t, x):
    """Of the last of some rows (n, width): the whole of it anew each time."""
    heads, kv_heads = TEXT["num_attention_heads"], TEXT["num_key_value_heads"]
    n, head_dim = len(x), TEXT["hidden_size"] // heads
    angles = np.arange(n)[:, None] * TEXT["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
    cosine, sine = (np.tile(f(angles), 2)[:, None] for f in (np.cos, np.sin))

    def turned(y):
        a, b = np.split(y, 2, -1)
        return y * cosine + np.concatenate([-b, a], -1) * sine

    for l in range(TEXT["num_hidden_layers"]):
        layer = f"language_model.model.layers.{l}."
        y = rms_norm(x, t[layer + "input_layernorm.weight"])
        q, k, v = (linear(y, t, f"{layer}self_attn.{p}_proj.").reshape(n, -1, head_dim) for p in "qkv")
        q, k, v = turned(q), *(np.repeat(y, heads // kv_heads, 1) for y in (turned(k), v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(head_dim)
        scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
        mixed = np.einsum("hqk,khd->qhd", softmax(scores), v).reshape(n, -1)
        x = x + linear(mixed, t, layer + "self_attn.o_proj.")
        y = rms_norm(x, t[layer + "post_attention_layernorm.weight"])
        gate = linear(y, t, layer + "mlp.gate_proj.")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, t, layer + "mlp.up_proj."), t, layer + "mlp.down_proj.")
    return rms_norm(x[-1], t["language_model.model.norm.weight"]) @ t["language_model.lm_head.weight"].T


# ---- files -----------------------------------------------------------------------------------------------------------

def write_folder(folder, names=TRANSFORMERS, newline=False):
    folder.mkdir()
    save_file(random_tensors(names, newline), folder / "model.safetensors")
    (folder / "tokenizer.model").write_bytes((TESTS / "data/tokenizer.model").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {
        str(IMAGE): {"content": "<image>", "special": True}}}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": DEVIATION}))
    config = {"text_config": TEXT, "vision_config": VISION, "vision_feature_layer": -2, "architectures":
              ["LlavaNextForConditionalGeneration" if newline else "LlavaForConditionalGeneration"]}
    if names is AUTHORS:
        config = TEXT | {"architectures": ["LlavaLlamaForCausalLM"], "mm_projector_type": "mlp2x_gelu",
                         "mm_vision_select_layer": -2, "vision_config": VISION}
    (folder / "config.json").write_text(json.dumps(config | ({"image_grid_pinpoints": GRID} if newline else {})))


def convert(folder, *options, code=0):
    done = subprocess.run([sys.executable, CONVERT, folder, folder / "model.gguf", *options], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stderr


def picture(width, height, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_png(path, pixels):
    height, width, _ = pixels.shape

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def hearth(*words, text=None, code=0):
    done = subprocess.run([PROGRAM, *map(str, words)], capture_output=True, timeout=200, input=text)
    talk = done.stderr.decode()
    assert done.returncode == code, (done.returncode, talk)
    return done.stdout.decode(), talk


def setUpModule():
    global SCRATCH
    scratch = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(scratch.cleanup)
    SCRATCH = Path(scratch.name)
    for name, newline in (("1.5", False), ("1.6", True)):
        write_folder(SCRATCH / name, newline=newline)
        convert(SCRATCH / name)
    for name, size in (("square", (SIDE, SIDE)), ("wide", (120, 40)), ("other", (SIDE, SIDE))):
        write_png(SCRATCH / f"{name}.png", picture(*size, seed=len(name)))


# ---- tests -----------------------------------------------------------------------------------------------------------

class Converter(unittest.TestCase):
    def test_all_names_of_tensors_come_to_the_same_files(self):
        for names in (NEWER, AUTHORS):
            with self.subTest(names[0]):
                folder = SCRATCH / f"names {len(names[0])}" / "1.6"
                folder.parent.mkdir()
                write_folder(folder, names, newline=True)
                convert(folder)
                for file in ("model.gguf", "mmproj-model.gguf"):
                    one, other = (gguf.GGUFReader(f / file) for f in (SCRATCH / "1.6", folder))
                    self.assertEqual([(t.name, t.tensor_type, t.data.tobytes()) for t in one.tensors],
                                     [(t.name, t.tensor_type, t.data.tobytes()) for t in other.tensors])
                    self.assertEqual({k: v.contents() for k, v in one.fields.items()},
                                     {k: v.contents() for k, v in other.fields.items()})

    def test_the_tower_has_the_names_of_llama_cpp(self):
        file = gguf.GGUFReader(SCRATCH / "1.6/mmproj-model.gguf")
        key = {name: field.contents() for name, field in file.fields.items()}
        self.assertEqual(key["general.architecture"], "clip")
        self.assertEqual(key["clip.projector_type"], "mlp")
        self.assertEqual(key["clip.vision.block_count"], LAYERS)
        self.assertEqual(key["clip.vision.feature_layer"], [LAYERS - 1])
        self.assertEqual(key["clip.vision.image_grid_pinpoints"], [x for size in GRID for x in size])
        np.testing.assert_allclose(key["clip.vision.image_mean"], MEAN, rtol=1e-6)
        self.assertIs(key["clip.use_gelu"], False)
        shapes = {t.name: t.shape.tolist() for t in file.tensors}
        self.assertEqual(shapes["v.patch_embd.weight"], [PATCH, PATCH, 3, VISION["hidden_size"]])
        self.assertEqual(shapes["v.blk.0.ffn_up.weight"], [VISION["hidden_size"], VISION["intermediate_size"]])
        self.assertEqual(shapes["mm.2.weight"], [TEXT["hidden_size"]] * 2)
        self.assertEqual(shapes["model.image_newline"], [TEXT["hidden_size"]])

    def test_what_is_not_supported_is_said(self):
        folder = SCRATCH / "refused"
        write_folder(folder)
        said = json.loads((folder / "config.json").read_text())
        for change, words in (({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy"),
                              ({"vision_feature_layer": [-2, -3]}, "one layer is supported"),
                              ({"vision_feature_layer": 9}, "there are 3 layers"),
                              ({"projector_hidden_act": "relu"}, "projector_hidden_act"),
                              ({"vision_config": VISION | {"model_type": "siglip_vision_model"}}, "siglip"),
                              ({"vision_config": VISION | {"image_size": 35}}, "position_embedding"),
                              ({"text_config": TEXT | {"model_type": "qwen2"}}, "qwen2"),
                              ({"vision_config": VISION | {"image_size": "big"}}, "image_size")):
            with self.subTest(words):
                (folder / "config.json").write_text(json.dumps(said | change))
                self.assertIn(words, convert(folder, code=1))
                self.assertEqual(list(folder.glob("*.gguf")), [])

    def test_a_folder_without_a_tower_takes_that_of_another(self):
        both, alone, clip = SCRATCH / "both", SCRATCH / "alone", SCRATCH / "clip"
        write_folder(both, AUTHORS)
        convert(both)
        tensors = random_tensors(AUTHORS)
        for folder in (alone, clip):
            write_folder(folder, AUTHORS)
        (clip / "config.json").write_text(json.dumps({"architectures": ["CLIPModel"], "vision_config": VISION}))
        tower = {name: t for name, t in tensors.items() if name.startswith(AUTHORS[0])}
        save_file({"vision_model." + n[len(AUTHORS[0]):]: t for n, t in tower.items()} | {
            "text_model.final_layer_norm.bias": np.zeros(4, np.float32)}, clip / "model.safetensors")
        save_file({name: t for name, t in tensors.items() if name not in tower}, alone / "model.safetensors")
        config = json.loads((alone / "config.json").read_text())
        del config["vision_config"]
        (alone / "config.json").write_text(json.dumps(config))
        self.assertIn("--vision takes", convert(alone, code=1))
        convert(alone, "--vision", clip)
        one, other = (gguf.GGUFReader(f / "mmproj-model.gguf") for f in (both, alone))
        self.assertEqual([(t.name, t.data.tobytes()) for t in one.tensors],
                         [(t.name, t.data.tobytes()) for t in other.tensors])


class Program(unittest.TestCase):
    def following(self, t, ids, rows):
        """Greedy ids, cut before the first that rounding could decide."""
        table = t["language_model.model.embed_tokens.weight"].astype(np.float64)
        x = np.concatenate([rows if i < 0 else table[i][None] for i in ids])
        found = []
        while len(found) < FOLLOWING:
            logits = logits_behind(t, x)
            best = np.argsort(logits)[::-1]
            if logits[best[0]] - logits[best[1]] < 0.01 * abs(logits).max():
                break
            found.append(int(best[0]))
            x = np.concatenate([x, table[best[0]][None]])
        return found

    def test_what_follows_an_image_is_what_numpy_says(self):
        t = {name: w.astype(np.float64) for name, w in random_tensors(TRANSFORMERS).items()}
        tile = (picture(SIDE, SIDE, seed=6).transpose(2, 0, 1) / 255 - np.reshape(MEAN, (3, 1, 1))) \
            / np.reshape(DEVIATION, (3, 1, 1))
        rows, compared = rows_of_tile(t, tile), 0
        for question in ("What is this?", "Who was the king?", "Once upon a time", "A", "The fox said so."):
            before, behind = "USER:", f"\n{question} ASSISTANT:"
            ids = [PIECES.bos_id(), *PIECES.encode(before), -1, *PIECES.encode(behind)]
            found = self.following(t, ids, rows)
            compared += len(found)
            if not found:
                continue
            text, talk = hearth("run", SCRATCH / "1.5/model.gguf", "--device", "cpu", "--image", SCRATCH / "square.png",
                                "-p", f"{before}<image>{behind}", "--temp", 0, "-n", len(found), "--ignore-eos",
                                "--no-display-prompt")
            self.assertEqual(text.strip(), PIECES.decode(found).strip())
            self.assertIn(f"prompt: {len(ids) - 1 + PATCHES} tokens (1 image of {PATCHES} tokens", talk)
        self.assertGreater(compared, 20)

    def test_an_image_takes_as_many_tokens_as_its_tiles_show(self):
        # 1.6: the whole picture, then 4 rows of 4 patches, or 2 of 8, and a newline behind each: the rest is padding.
        for model, image, tokens in (("1.5", "wide", 16), ("1.6", "square", 16 + 4 * 5), ("1.6", "wide", 16 + 2 * 9)):
            _, talk = hearth("run", SCRATCH / model / "model.gguf", "--device", "cpu", "--image",
                             SCRATCH / f"{image}.png", "-p", "x", "-n", 1)
            self.assertIn(f"1 image of {tokens} tokens", talk)

    def test_the_gpu_looks_at_images_within_its_budget(self):
        if "llvmpipe" not in hearth("devices")[0]:
            self.skipTest("no software device")
        model, device = SCRATCH / "1.6/model.gguf", ("--device", "llvmpipe", "-c", 256, "-b", 64)
        words = "--image", SCRATCH / "wide.png", "-p", "x", "-n", 6, "--temp", 0, "--ignore-eos"
        want, _ = hearth("run", model, "--device", "cpu", "-c", 256, *words)
        budgets = [f"{kib}KiB" for kib in range(300, 1300, 100)]
        plans = json.loads(hearth("plan", model, *device, "--mmproj", SCRATCH / "1.6/mmproj-model.gguf", "--json",
                                  "--vram-budget", ",".join(budgets))[0])["plans"]
        for plan in plans:
            self.assertLessEqual(plan["bytes"], plan["budget"])
            self.assertLess(plan["images"]["weight_bytes"], max(plan["images"]["bytes"], 1))
        there = [plan["images"]["on_device"] for plan in plans]
        first = there.index(True)
        self.assertEqual(there, [False] * first + [True] * (len(there) - first))
        self.assertGreater(first, 0)
        for budget, note in ((budgets[first - 1], True), (budgets[first], False)):
            text, talk = hearth("run", model, *device, "--vram-budget", budget, *words)
            self.assertEqual(text, want)
            self.assertEqual("note: images are the CPU's" in talk, note)
            self.assertEqual("; images on llvmpipe" in talk, not note)
        table, _ = hearth("plan", model, *device, "--mmproj", SCRATCH / "1.6/mmproj-model.gguf")
        self.assertIn("images: the GPU looks at them", table)

    def test_images_stand_where_the_text_says_else_before_it(self):
        model, image = SCRATCH / "1.5/model.gguf", SCRATCH / "square.png"
        text, _ = hearth("run", model, "--device", "cpu", "--image", image, "-p", "What is this?", "-n", 1)
        self.assertRegex(text, r"(?s)^A chat between a curious human.*USER:\s+What is this\? ASSISTANT:")
        text, talk = hearth("run", model, "--device", "cpu", "--image", image, "--image", SCRATCH / "other.png", "-p",
                            "One <image> two <image> three", "-n", 1)
        self.assertRegex(text, r"^One +two +three")
        self.assertIn("2 images of 32 tokens", talk)
        _, talk = hearth("run", model, "--device", "cpu", "--image", image, "-p", "<image> and <image>", code=1)
        self.assertIn("the text has 2 places for images (<image>) and 1 is given", talk)

    def test_a_profile_counts_what_fires_for_images_with_their_texts(self):
        model, folder = SCRATCH / "1.5/model.gguf", SCRATCH / "profile"
        folder.mkdir()
        (folder / "plain.txt").write_text("USER: What is this? ASSISTANT: A fox. " * 3)
        (folder / "seen.txt").write_text("USER: <image> What is this? ASSISTANT: A fox. " * 3)
        images = ("--image", SCRATCH / "square.png", "--image", SCRATCH / "other.png",
                  "--image", SCRATCH / "square.png")

        def profile(*words, code=0):
            text, talk = hearth("profile", model, "--device", "cpu", "-o", folder / "p", *words, code=code)
            return json.loads(text) if code == 0 and "--json" in words else talk

        plain = profile("-f", folder / "plain.txt", "-c", 40, "--json", "--anew")
        seen = profile("-f", folder / "seen.txt", "-c", 40, "--json", "--anew", *images)
        # A BOS for each window; the spaces about the images make words of their own.
        self.assertGreaterEqual(seen["positions"], plain["positions"] + 3 * PATCHES)
        self.assertLess(seen["positions"], plain["positions"] + 3 * PATCHES + 12)
        again = profile("-f", folder / "seen.txt", "-c", 40, *images)
        self.assertIn("does not count twice", again)
        other = profile("-f", folder / "seen.txt", "-c", 40, *images[:-1], SCRATCH / "other.png")
        self.assertNotIn("does not count twice", other)
        self.assertIn("leaving out 40 %", profile("-f", folder / "seen.txt", "-c", 40, *images, "--calibrate", 0.4))
        self.assertIn("more places for images", profile("-f", folder / "seen.txt", "-c", 40, *images[:2], code=1))
        self.assertIn("stands nowhere", profile("-f", folder / "plain.txt", "-c", 40, *images, code=1))
        self.assertIn("use -c", profile("-f", folder / "seen.txt", "-c", PATCHES, *images, code=1))

    def test_what_is_wrong_is_said_in_a_sentence(self):
        model, image = SCRATCH / "1.5/model.gguf", SCRATCH / "square.png"
        _, talk = hearth("run", TESTS / "data/fairytale-7m.gguf", "--device", "cpu", "--image", image, "-p", "x",
                         code=1)
        self.assertIn("name it with --mmproj", talk)
        _, talk = hearth("run", TESTS / "data/fairytale-7m.gguf", "--device", "cpu", "--image", image, "-p", "x",
                         "--mmproj", SCRATCH / "1.5/mmproj-model.gguf", code=1)
        self.assertIn("makes rows of 64 numbers of a picture, and the model takes rows of 256", talk)
        _, talk = hearth("run", model, "--device", "cpu", "--image", image, "-p", "x", "--mmproj", model, code=1)
        self.assertIn("(mmproj)", talk)
        _, talk = hearth("run", model, "--device", "cpu", "--image", SCRATCH / "1.5/config.json", "-p", "x", code=1)
        self.assertIn("config.json", talk)
        _, talk = hearth("run", SCRATCH / "1.5/mmproj-model.gguf", "--device", "cpu", "-p", "x", code=1)
        self.assertIn("give the model that it belongs to", talk)

    def test_bench_says_how_long_an_image_takes(self):
        words = ("bench", SCRATCH / "1.6/model.gguf", "--device", "cpu", "--image", SCRATCH / "wide.png", "--image",
                 SCRATCH / "square.png", "-p", 5, "-n", 4, "-r", 2)
        images = json.loads(hearth(*words, "-o", "json")[0])["images"]
        self.assertEqual([image["tokens"] for image in images], [16 + 2 * 9, 16 + 4 * 5])
        for image in images:
            for figure in ("looking_ms", "prefill_ms", "first_token_ms", "decode_tokens_per_s"):
                self.assertEqual(len(image[figure]), 2)
                self.assertGreater(min(image[figure]), 0)
            self.assertGreater(image["host_bytes"], 1 << 20)
            self.assertNotIn("agreement", image)
        self.assertEqual(len(hearth(*words)[0].splitlines()), 4)

    def test_an_answer_is_compared_with_that_of_all_neurons(self):
        words = ("bench", SCRATCH / "1.5/model.gguf", "--image", SCRATCH / "wide.png", "-p", 5, "-n", 6, "-r", 1,
                 "--agreement", "-o", "json", "--device")
        for device, most in (("cpu", 0), ("llvmpipe", 1e-5)):
            found = json.loads(hearth(*words, device)[0])["images"][0]["agreement"]
            self.assertEqual((found["tokens"], found["same"], found["same_at_first"]), (6, 6, 6))
            self.assertLessEqual(abs(found["divergence"]), most)

    def test_a_confined_program_sees_as_well(self):
        words = ("run", SCRATCH / "1.6/model.gguf", "--device", "cpu", "--image", SCRATCH / "wide.png", "-p", "x",
                 "-n", 8, "--temp", 0)
        self.assertEqual(hearth(*words, "--confine", "on")[0], hearth(*words)[0])

    def chat(self, *lines, options=()):
        return hearth("chat", SCRATCH / "1.5/model.gguf", "--device", "cpu", "--template", "llava", "--temp", 0,
                      "-n", 4, *options, text="".join(f"{line}\n" for line in lines).encode())

    def test_a_conversation_takes_images_and_keeps_them(self):
        image = SCRATCH / "square.png"
        shown, talk = self.chat(f"/image {image}", "What is this?", "/show", "And that?", "/stats")
        self.assertIn("square.png: 16 tokens, part of what is said next", talk)
        self.assertIn("USER: <image>", talk)
        # Each token is fed once: the image is in the cache when the second question comes.
        positions, prompts, answers = map(int, re.search(
            r"positions: (\d+) of .*prompts: (\d+) tokens.*answers: (\d+) tokens", talk).groups())
        self.assertIn("1 image of 16 tokens", talk)
        self.assertLessEqual(prompts + answers, positions + 2)
        given, _ = self.chat("What is this?", "And that?", options=("--image", image))
        self.assertEqual(shown, given)

    def test_a_conversation_outlives_an_image_that_cannot_be_read(self):
        _, talk = self.chat("/image", "/image nothing.png", "Hello", "/undo", "/reset", "Hello")
        self.assertIn("which one?", talk)
        self.assertIn("nothing.png", talk)
        self.assertIn("turns: 1", talk)


if __name__ == "__main__":
    unittest.main()
