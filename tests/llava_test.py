#!/usr/bin/env python3
"""LLaVA 1.5 and 1.6 against transformers: tiny random models made by transformers, converted to F16, must give its
image features and its logits behind an image, computed in fp32, within 1e-3 of the largest, and its greedy text, on the
CPU, the software device, and split between both. Pictures of many sizes; one and three of them in a text. Needs torch,
so it is a command of its own:

    python3 -m venv build/transformers-venv
    build/transformers-venv/bin/pip install -r tools/models/requirements.txt torch transformers pillow
    build/transformers-venv/bin/python tests/llava_test.py build/release/tests [1.5 ...] [--no-validation]

Tested with torch 2.6.0, transformers 5.24.0 and Pillow 13.0. Nothing here uses a GPU.
"""

import json
import logging
import subprocess
import sys
import tempfile
import unittest
import warnings
from pathlib import Path

logging.disable(logging.WARNING)    # of processors that want other packages
warnings.simplefilter("ignore")       # of names that versions of transformers have for the same

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

torch.set_num_threads(1)    # what is so small gains nothing from more

TESTS = Path(__file__).resolve().parent
PROGRAM = TESTS.parent / "build/release/tests"
OPTIONS = []
ONLY = []    # how the names of the variants begin that are wanted; none: all
CASE = "the pictures of a folder give*"

VOCAB, IMAGE = 4100, 4096    # of data/tokenizer.model, which has 4096, and what stands for an image
FOLLOWING = 32
LOUD = 64                    # tokens with logits above the others', so that the best two are seldom near one another
SIDE, PATCH = 56, 14
GRID = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE], [SIDE, 3 * SIDE]]
SIZES = [(56, 56), (112, 112), (1, 1), (200, 200), (160, 120), (120, 160), (300, 80), (80, 300), (168, 56), (56, 168),
         (640, 20), (7, 90), (57, 55), (112, 56)]

TEXT = {"vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
VISION = {"hidden_size": 64, "intermediate_size": 160, "projection_dim": 32, "num_hidden_layers": 4,
          "num_attention_heads": 4, "image_size": SIDE, "patch_size": PATCH}
VARIANTS = {    # of LLaVA 1.6 or 1.5, what the language model is, and what differs in the tower
    "1.5 with Vicuna": (False, "Llama", {}),
    "1.5 with Vicuna and more patches than a page": (False, "Llama", {"image_size": 252}),
    "1.5 with the exact GELU": (False, "Llama", {"hidden_act": "gelu"}),
    "1.6 with Vicuna": (True, "Llama", {}),
    "1.6 with Mistral": (True, "Mistral", {}),
    "1.6 by its authors' names": (True, "Llama", {}),
}


def random_model(next_one, language, vision):
    """Weights that F16 holds exactly; all that is not a matrix far from its initial 0 or 1."""
    torch.manual_seed(1)
    text = getattr(transformers, f"{language}Config")(**TEXT | (
        {"num_key_value_heads": 2, "sliding_window": None} if language == "Mistral" else {}))
    name = "LlavaNext" if next_one else "Llava"
    tower = transformers.CLIPVisionConfig(**VISION | vision)
    side = tower.image_size
    grid = {"image_grid_pinpoints": [[y // SIDE * side, x // SIDE * side] for y, x in GRID]} if next_one else {}
    config = getattr(transformers, f"{name}Config")(vision_config=tower, text_config=text, image_token_index=IMAGE,
                                                     **grid)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval().float()
    with torch.no_grad():
        for part, w in model.named_parameters():
            if part.endswith("bias"):
                w.normal_(std=0.3)
            elif "embedding" in part and "patch" not in part or part.endswith("newline"):
                w.normal_(std=0.5)
            elif w.dim() == 1:
                w.uniform_(0.5, 1.5)
            else:
                w.normal_(std=0.7 * w[0].numel() ** -0.5)
        model.get_output_embeddings().weight[LOUD:] /= 4
        for w in model.parameters():
            if w.dim() > 1:
                w.copy_(w.half().float())
    return model


def picture(width, height, seed):
    """Waves and noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * a + y * b + c) for a, b, c in random.uniform(-0.3, 0.3, (3, 3))]
    return Image.fromarray((128 + 90 * np.stack(waves, -1) + random.normal(0, 15, (height, width, 3))).clip(0, 255)
                           .astype(np.uint8))


def processed(model, image):
    """(tiles, 3, side, side), and the size for LLaVA 1.6."""
    side = model.config.vision_config.image_size
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    if hasattr(model.config, "image_grid_pinpoints"):
        done = LlavaNextImageProcessorPil(image_grid_pinpoints=model.config.image_grid_pinpoints, **sizes)(
            [image], return_tensors="pt")
        return done["pixel_values"][0], done["image_sizes"]
    return CLIPImageProcessorPil(**sizes)([image], return_tensors="pt")["pixel_values"], None


def rows_of(model, image):
    """What the language model gets of a picture."""
    tiles, sizes = processed(model, image)
    with torch.no_grad():
        if sizes is None:
            return model.model.get_image_features(tiles).pooler_output[0]
        return model.model.get_image_features(tiles[None], sizes).pooler_output[0]


def features_of(model, tiles):
    """(tiles, patches, width), by the parts of the model."""
    with torch.no_grad():
        states = model.model.vision_tower(tiles, output_hidden_states=True).hidden_states
        return model.model.multi_modal_projector(states[model.config.vision_feature_layer][:, 1:])


def embeddings(model, ids, rows):
    """Of a text in which -1 stands for the next picture's rows."""
    rows, table = iter(rows), model.get_input_embeddings().weight
    with torch.no_grad():
        return torch.cat([next(rows) if i < 0 else table[i][None] for i in ids])[None]


def logits_of(model, text):
    with torch.no_grad():
        return model(inputs_embeds=text, use_cache=False).logits[0, -1]


def greedy(model, text):
    """The ids that follow, or None where rounding could decide one of them."""
    table, ids = model.get_input_embeddings().weight, []
    with torch.no_grad():
        done = model(inputs_embeds=text, use_cache=True)
        for _ in range(FOLLOWING):
            logits = done.logits[0, -1]
            best = logits.topk(2)
            if best.values[0] - best.values[1] < 3e-3 * logits.abs().max():
                return None
            ids.append(best.indices[0].item())
            done = model(inputs_embeds=table[ids[-1]][None, None], past_key_values=done.past_key_values, use_cache=True)
    return ids


def whole_model(model, ids, image):
    """The logits as transformers computes them from a text and a picture, without a part of this file."""
    tiles, sizes = processed(model, image)
    count = len(rows_of(model, image))
    text = torch.tensor([[i for j in ids for i in ([IMAGE] * count if j < 0 else [j])]])
    more = {} if sizes is None else {"image_sizes": sizes}
    with torch.no_grad():
        return model(input_ids=text, pixel_values=tiles if sizes is None else tiles[None], use_cache=False,
                     **more).logits[0, -1]


def text_case(model, name, files, images):
    """A text with these pictures and words that rounding does not decide."""
    rows = [rows_of(model, image) for image in images]
    for seed in range(200):
        words = torch.randint(259, IMAGE, (6 + 4 * len(images),), generator=torch.Generator().manual_seed(seed))
        words = words.tolist()
        ids = [1, *words[:3]]
        for i in range(len(images)):
            ids += [-1, *words[3 + 4 * i:7 + 4 * i]]
        text = embeddings(model, ids, rows)
        following = greedy(model, text)
        if following:
            break
    else:
        raise AssertionError("no text that rounding cannot decide")
    logits = logits_of(model, text)
    if len(images) == 1:
        whole = whole_model(model, ids, images[0])
        assert (whole - logits).abs().max() < 1e-4 * whole.abs().max(), "the parts are not the whole"
    return {"name": name, "images": files, "ids": ids, "positions": text.shape[1], "logits": logits.tolist(),
            "greedy": following}


def save(model, folder, authors):
    """A folder as transformers has it, or one as LLaVA's authors have it."""
    model.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes((TESTS / "data/tokenizer.model").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {
        str(IMAGE): {"content": "<image>", "special": True}}}))
    if not authors:
        return
    names = (("language_model.model.", "model."), ("language_model.lm_head", "lm_head"),
             ("vision_tower.", "model.vision_tower.vision_tower.vision_model."),
             ("multi_modal_projector.linear_1", "model.mm_projector.0"),
             ("multi_modal_projector.linear_2", "model.mm_projector.2"), ("image_newline", "model.image_newline"))
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        old, new = next((old, new) for old, new in names if name.startswith(old))
        tensors[new + name[len(old):]] = tensor
    save_file(tensors, folder / "model.safetensors")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said["text_config"] | {
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2, "mm_patch_merge_type": "spatial_unpad", "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": said["image_grid_pinpoints"], "vision_config": said["vision_config"]}))


class Llava(unittest.TestCase):
    def check(self, name, next_one, language, vision):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            model = random_model(next_one, language, vision)
            save(model, folder, "authors" in name)
            subprocess.run([sys.executable, TESTS.parent / "tools/models/convert.py", folder, folder / "model.gguf",
                            "--type", "f16"], check=True, capture_output=True)
            images, pictures = [], []
            for n, (width, height) in enumerate(SIZES):
                images.append(picture(width, height, n))
                file = f"{width}x{height}.png"
                images[-1].save(folder / file)
                rows = rows_of(model, images[-1])
                (folder / f"{n}.bin").write_bytes(rows.numpy().astype("<f4").tobytes())
                pictures.append({"name": file, "rows": f"{n}.bin"})
            tiles = torch.cat([processed(model, image)[0] for image in images[:6]])[:8]
            (folder / "tiles.bin").write_bytes(tiles.numpy().astype("<f4").tobytes())
            (folder / "features.bin").write_bytes(features_of(model, tiles).numpy().astype("<f4").tobytes())
            texts = [text_case(model, p["name"], [p["name"]], [image]) for p, image in zip(pictures, images)]
            some = [3, 6, 2]
            texts.append(text_case(model, "three pictures", [pictures[i]["name"] for i in some],
                                   [images[i] for i in some]))
            (folder / "expected.json").write_text(json.dumps({"pictures": pictures, "texts": texts}))
            result = subprocess.run([PROGRAM, "--no-skip", f"--test-case={CASE}", f"--case={folder}", *OPTIONS],
                                    capture_output=True, text=True, timeout=1200)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            self.assertRegex(result.stdout, r"test cases: +1 \| +1 passed")

    def test_every_variant(self):
        for name, variant in VARIANTS.items():
            if ONLY and not name.startswith(tuple(ONLY)):
                continue
            with self.subTest(name):
                self.check(name, *variant)


if __name__ == "__main__":
    if "--no-validation" in sys.argv:
        sys.argv.remove("--no-validation")
        OPTIONS.append("--no-validation")
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        PROGRAM = Path(sys.argv.pop(1)).resolve()
    while len(sys.argv) > 1 and not sys.argv[-1].startswith("-"):
        ONLY.append(sys.argv.pop())
    unittest.main()
