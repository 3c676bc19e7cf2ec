"""What convert.py takes of LLaVA's folders (arXiv 2304.08485, 2310.03744): the language model's words, and the vision
tower and its projector, which go to a file of their own (mmproj) by llama.cpp's names. Folders of transformers
(LlavaForConditionalGeneration, LlavaNextForConditionalGeneration) and of LLaVA's own authors are known."""

import re
from pathlib import Path

from config_keys import check_file
from folder import file_in, json_in, read_json
from sentences import Refusal, shown

ARCHITECTURES = ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration",    # of transformers
                 "LlavaLlamaForCausalLM", "LlavaMistralForCausalLM")                      # of the authors

# What config.json leaves out where it is so, by text_config's model_type (transformers' LlamaConfig, MistralConfig).
TEXT = {
    "llama": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
              "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "hidden_act": "silu"},
    "mistral": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
                "rms_norm_eps": 1e-6, "hidden_act": "silu", "sliding_window": 4096},
}
# The same of vision_config (CLIPVisionConfig).
VISION = {"hidden_size": 768, "intermediate_size": 3072, "projection_dim": 512, "num_hidden_layers": 12,
          "num_attention_heads": 12, "num_channels": 3, "image_size": 224, "patch_size": 32,
          "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
LARGE = VISION | {"hidden_size": 1024, "intermediate_size": 4096, "projection_dim": 768, "num_hidden_layers": 24,
                  "num_attention_heads": 16, "patch_size": 14}
# Towers that the authors' folders name without saying what they are.
TOWERS = {"openai/clip-vit-large-patch14": LARGE, "openai/clip-vit-large-patch14-336": LARGE | {"image_size": 336}}
GRID = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
MEAN, DEVIATION = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]    # of CLIP's pictures

# Words that have to be as here, or missing.
ONLY = {"vision_feature_select_strategy": "default", "projector_hidden_act": "gelu", "multimodal_projector_bias": True,
        "mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch", "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False}


def words(c):
    """config.json in Llama's words, with null where it says so. What is about images stays beside them."""
    for key, only in ONLY.items():
        if c.get(key, only) not in (only, None):
            raise Refusal(f"{key} in config.json is {shown(c[key])}, which is not supported (supported: {only})")
    text = c.get("text_config")
    if text is None:
        return c
    kind = text.get("model_type", "llama")
    if kind not in TEXT:
        raise Refusal(f"the language model of this LLaVA is a {kind}, which is not supported (supported: "
                      f"{', '.join(TEXT)})")
    return ({key: c[key] for key in c if key != "text_config"} | TEXT[kind] | {"tie_word_embeddings": False} | text
            | {"architectures": c["architectures"]})


NAMES = (    # of tensors in folders, and here
    (r"(model\.)?vision_tower\.(vision_tower\.)?(vision_model\.)?", "vision."),
    (r"vision_model\.", "vision."),    # in CLIP's own folder
    (r"(model\.)?multi_modal_projector\.linear_1\.", "mm.0."),
    (r"(model\.)?multi_modal_projector\.linear_2\.", "mm.2."),
    (r"(model\.)?mm_projector\.", "mm."),
    (r"(model\.)?image_newline", "newline"),
)


def part_of(tensors):
    """The tensors for images, by one set of names; and the others."""
    images, others = {}, {}
    for name, tensor in tensors.items():
        for pattern, ours in NAMES:
            if match := re.match(pattern, name):
                images[ours + name[match.end():]] = tensor
                break
        else:
            others[name] = tensor
    # The number of each position, which is itself.
    return {name: t for name, t in images.items() if not name.endswith(".position_ids")}, others


def tower_beside(folder):
    """vision_config and the tensors of CLIP's own folder."""
    from checkpoint import read_checkpoint
    path = file_in(folder, "config.json")
    if path is None:
        raise Refusal(f"{folder} has no config.json; the folder of a CLIP model is expected")
    said = check_file("config.json", read_json(path), str(path))
    images, _ = part_of({name: tensor for name, tensor in read_checkpoint(folder).items()
                         if name.startswith("vision_model.")})
    if not images:
        raise Refusal(f"{folder} has no tensors of a vision tower (vision_model.*)")
    return said.get("vision_config", said), images


class Tower:
    """What config.json and the tensors say of the tower, the projector and the pictures."""

    def __init__(self, folder, raw, images, vision):
        said = raw.get("vision_config")
        if vision:
            said, tower = tower_beside(vision)
            images = images | tower
        elif said is None:
            said = self.named(raw, images)
        self.images = images
        self.c = c = VISION | {key: value for key, value in said.items() if value is not None}
        if c.get("model_type", "clip_vision_model") not in ("clip_vision_model", "clip"):
            raise Refusal(f"the vision tower is a {c['model_type']}, which is not supported (supported: "
                          "clip_vision_model)")
        if c["num_channels"] != 3:
            raise Refusal(f"the vision tower takes {c['num_channels']} colours, and 3 are supported")
        if c["hidden_act"] not in ("quick_gelu", "gelu"):
            raise Refusal(f"the vision tower's hidden_act {c['hidden_act']} is not supported (supported: quick_gelu, "
                          "gelu)")
        self.layer = self.feature_layer(raw)
        self.grid = self.pinpoints(raw)
        self.mean, self.deviation = self.colours(folder)

    @staticmethod
    def named(raw, images):
        name = raw.get("mm_vision_tower") or "a tower without a name"
        if not any(key.startswith("vision.") for key in images):
            raise Refusal(f"the checkpoint has no vision tower; it is in the folder of {shown(name)}, which --vision "
                          "takes")
        if name not in TOWERS:
            raise Refusal(f"the vision tower is {shown(name)}, of which this program does not know the sizes: name its "
                          "folder with --vision")
        return TOWERS[name]

    def feature_layer(self, raw):
        """The hidden state that is taken, 0 being what enters the first layer."""
        said = raw.get("vision_feature_layer", raw.get("mm_vision_select_layer"))
        said = -2 if said is None else said[0] if isinstance(said, list) and len(said) == 1 else said
        if not isinstance(said, int):
            raise Refusal(f"vision_feature_layer in config.json is {shown(said)}, and one layer is supported")
        layer = said if said >= 0 else self.c["num_hidden_layers"] + 1 + said
        if not 1 <= layer <= self.c["num_hidden_layers"]:
            raise Refusal(f"vision_feature_layer in config.json is {said}, and there are "
                          f"{self.c['num_hidden_layers']} layers")
        return layer

    def pinpoints(self, raw):
        """Sizes that a picture in tiles may have; none where it is not cut into tiles."""
        if "newline" not in self.images:
            return []
        grid, side = raw.get("image_grid_pinpoints") or GRID, self.c["image_size"]
        for key, only in (("image_aspect_ratio", "anyres"), ("mm_patch_merge_type", "spatial_unpad")):
            if raw.get(key) not in (None, only):
                raise Refusal(f"{key} in config.json is {shown(raw[key])}, and a model with image_newline is supported "
                              f"with {only}")
        if not isinstance(grid, list) or any(len(size) != 2 or any(x % side for x in size) for size in grid):
            raise Refusal(f"image_grid_pinpoints in config.json are not pairs of multiples of {side}")
        return grid

    @staticmethod
    def colours(folder):
        """The mean and the deviation of each colour, of the processor's file."""
        for name in ("preprocessor_config.json", "processor_config.json"):
            said = check_file(name, json_in(folder, name), name)
            said = said.get("image_processor") or said
            if said.get("image_mean") and said.get("image_std"):
                if len(said["image_mean"]) != 3 or len(said["image_std"]) != 3:
                    raise Refusal(f"image_mean and image_std in {name} are not three numbers each")
                return said["image_mean"], said["image_std"]
        return MEAN, DEVIATION

    def targets(self):
        """(the file's name, the source's, its shape) of all tensors, in the file's order."""
        c = self.c
        dim, neurons, patch = c["hidden_size"], c["intermediate_size"], c["patch_size"]
        result = [("v.class_embd", "vision.embeddings.class_embedding", (dim,)),
                  ("v.patch_embd.weight", "vision.embeddings.patch_embedding.weight", (dim, 3, patch, patch)),
                  ("v.position_embd.weight", "vision.embeddings.position_embedding.weight",
                   (1 + (c["image_size"] // patch) ** 2, dim)),
                  *both("v.pre_ln", "vision.pre_layrnorm", (dim,))]    # as CLIP spells it
        for n in range(c["num_hidden_layers"]):
            to, of = f"v.blk.{n}.", f"vision.encoder.layers.{n}."
            for name, source in (("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"),
                                 ("attn_v", "self_attn.v_proj"), ("attn_out", "self_attn.out_proj")):
                result += both(to + name, of + source, (dim, dim))
            result += both(to + "ln1", of + "layer_norm1", (dim,)) + both(to + "ln2", of + "layer_norm2", (dim,))
            result += both(to + "ffn_up", of + "mlp.fc1", (neurons, dim))
            result += both(to + "ffn_down", of + "mlp.fc2", (dim, neurons))
        width = self.width()
        result += both("mm.0", "mm.0", (width, dim)) + both("mm.2", "mm.2", (width, width))
        return result + ([("model.image_newline", "newline", (width,))] if self.grid else [])

    def width(self):
        """Of what comes out, the language model's."""
        shape = getattr(self.images.get("mm.2.weight"), "shape", ())
        return shape[0] if len(shape) == 2 else 0

    def leave_unused(self):
        """The norm behind the last layer, which LLaVA does not use."""
        for name in ("vision.post_layernorm.weight", "vision.post_layernorm.bias"):
            self.images.pop(name, None)

    def add_keys(self, writer, name, file_type):
        c = self.c
        writer.add_type("mmproj")
        writer.add_name(name)
        writer.add_description("image encoder for LLaVA")
        writer.add_file_type(file_type)
        for key, value in (("has_text_encoder", False), ("has_vision_encoder", True), ("has_llava_projector", True),
                           ("use_gelu", c["hidden_act"] == "gelu")):
            writer.add_bool(f"clip.{key}", value)
        writer.add_string("clip.projector_type", "mlp")
        for key, value in (("image_size", "image_size"), ("patch_size", "patch_size"),
                           ("embedding_length", "hidden_size"), ("feed_forward_length", "intermediate_size"),
                           ("projection_dim", "projection_dim"), ("attention.head_count", "num_attention_heads"),
                           ("block_count", "num_hidden_layers")):
            writer.add_uint32(f"clip.vision.{key}", c[value])
        writer.add_float32("clip.vision.attention.layer_norm_epsilon", c["layer_norm_eps"])
        writer.add_array("clip.vision.image_mean", [float(x) for x in self.mean])
        writer.add_array("clip.vision.image_std", [float(x) for x in self.deviation])
        writer.add_array("clip.vision.feature_layer", [self.layer])
        writer.add_string("clip.vision.mm_projector_type", "mlp2x_gelu")
        writer.add_string("clip.vision.mm_patch_merge_type", "spatial_unpad" if self.grid else "flat")
        writer.add_string("clip.vision.image_aspect_ratio", "anyres" if self.grid else "pad")
        if self.grid:
            writer.add_array("clip.vision.image_grid_pinpoints", [x for size in self.grid for x in size])
            writer.add_uint32("clip.vision.image_crop_resolution", c["image_size"])


def both(name, source, shape):
    """A weight and its bias."""
    return [(f"{name}.weight", f"{source}.weight", shape), (f"{name}.bias", f"{source}.bias", shape[:1])]


def file_beside(out):
    """Where the tower goes: mmproj-MODEL.gguf beside MODEL.gguf."""
    return Path(out).with_name(f"mmproj-{Path(out).name}")
