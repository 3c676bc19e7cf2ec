"""The tokenizer of a Hugging Face folder, as a GGUF file has it: from tokenizer.model (SentencePiece), tokenizer.json
or GPT-2's vocab.json and merges.txt (byte-level BPE), and from what stands beside them: tokenizer_config.json,
special_tokens_map.json, added_tokens.json, generation_config.json and the files of chat templates. Where two of these
say different things about one token, that is refused. """

import json
import math
import re
import struct
from dataclasses import dataclass, field

from gguf import TokenType

import pretokenizers
from config_keys import check_file
from folder import file_in, json_in, names_in, read_bytes, read_json, read_text
from sentences import Refusal, say, shown

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = (int(t) for t in (
    TokenType.NORMAL, TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED, TokenType.BYTE))


@dataclass(slots=True)
class Piece:
    text: str
    score: float
    kind: int    # ModelProto.SentencePiece.Type has the same numbers as GGUF's token types


@dataclass
class Tokenizer:
    pieces: list
    bos: int | None
    eos: int | None
    unk: int | None
    add_bos: bool
    add_eos: bool
    space_prefix: bool
    chat_template: str | None
    templates: dict = field(default_factory=dict)    # further ones by name
    ends: list = ()                # every token that ends an answer, eos first; where they are more than one
    eot: int | None = None         # of a turn
    eom: int | None = None         # of a message to a tool
    # GGUF's name of the kind: llama (SentencePiece BPE), t5 (its unigram model), gpt2 (byte-level BPE)
    model: str = "llama"
    single_spaces: bool = False    # remove_extra_whitespaces
    charsmap: bytes = b""          # SentencePiece's map of characters to replace
    pre: str | None = None         # GGUF's name of the way to cut a text into words
    merges: list | None = None
    nfc: bool = False              # text is brought into Unicode's normal form C first
    prefix_first: bool | None = None    # no space is put before what follows a special token
    rstrip: list = ()              # tokens that take the white space behind them with them
    whole_words: bool = False      # a word that is a token is taken as it is (ignore_merges)


@dataclass
class Source:
    """A folder's files about its tokenizer, checked by config_keys. Those that are not there are empty."""
    folder: object
    config: object              # convert.Config: of it, vocab and raw
    settings: dict              # tokenizer_config.json
    special: dict               # special_tokens_map.json
    generation: dict            # generation_config.json
    library: dict = field(default_factory=dict)    # tokenizer.json

    def named(self, name):
        """The text of a token that is named so (bos_token), and the file that does."""
        for file, said in (("tokenizer_config.json", self.settings), ("special_tokens_map.json", self.special)):
            if name in self.settings and self.settings[name] is None:    # the newer file says that there is none
                break
            if said.get(name) is not None:
                return text_of(said[name]), file
        return None, None


def text_of(token):
    return token["content"] if isinstance(token, dict) else token


def checked(folder, name):
    """What a JSON file of the folder says; nothing where there is none."""
    return check_file(name, json_in(folder, name), name)


def read_tokenizer(folder, config):
    source = Source(folder, config, checked(folder, "tokenizer_config.json"),
                    checked(folder, "special_tokens_map.json"), checked(folder, "generation_config.json"))
    library, model = file_in(folder, "tokenizer.json"), file_in(folder, "tokenizer.model")
    if library:
        source.library = read_json(library)
        check_shape(source.library, library)
    if model:
        return sentencepiece_tokenizer(model, source)
    if library:
        return byte_level_tokenizer(library, source)
    vocab, merges = file_in(folder, "vocab.json"), file_in(folder, "merges.txt")
    if vocab and merges:
        source.library = gpt2_tokenizer(vocab, merges, source)
        return byte_level_tokenizer(vocab, source)
    there = [name for name in names_in(folder) if "tok" in name or "vocab" in name or "merges" in name]
    raise Refusal(f"{folder} has neither tokenizer.model (SentencePiece) nor tokenizer.json; there is "
                  f"{', '.join(there) or 'no tokenizer at all'}")


# ---- tokens ----------------------------------------------------------------------------------------------------------

@dataclass
class Added:
    """A token that was added to a vocabulary, and is cut out of a text before anything else."""
    text: str
    special: bool
    file: str
    spaces: tuple    # the flags that make it take spaces around it, or need a word's end


FLAGS = ("single_word", "lstrip", "rstrip")


def added_tokens(source):
    """id -> Added, of all files together. A token is special if any of them says so, or names it."""
    listed = []    # (id, text, special, file, flags)

    def add(i, token, file):
        listed.append((i, token["content"], bool(token.get("special")), file, tuple(f for f in FLAGS if token.get(f))))

    for token in source.library.get("added_tokens") or []:
        add(token["id"], token, "tokenizer.json")
    for i, token in (source.settings.get("added_tokens_decoder") or {}).items():
        if not (i.isascii() and i.isdigit() and len(i) <= 10 and token and isinstance(token.get("content"), str)):
            raise Refusal(f"added_tokens_decoder of tokenizer_config.json has the token {shown(token)} with the id "
                          f"{shown(i)}, "
                          "and whole numbers and texts are expected")
        add(int(i), token, "tokenizer_config.json")
    for text, i in checked(source.folder, "added_tokens.json").items():
        add(i, {"content": text}, "added_tokens.json")
    added, ids, names = {}, {}, special_names(source)
    for i, text, special, file, flags in listed:
        if not text:
            raise Refusal(f"{file} has an added token without a text (id {i})")
        known, other = added.get(i), ids.get(text)
        if known and known.text != text:
            raise Refusal(f"the added token {i} is {shown(known.text)} in {known.file} and {shown(text)} in {file}; "
                          "keep the file that is the model's")
        if other is not None and other != i:
            raise Refusal(f"the added token {shown(text)} has the id {other} in {added[other].file} and {i} in {file}; "
                          "keep the file that is the model's")
        ids[text] = i
        if known is None:
            added[i] = Added(text, special or text in names, file, flags)
        else:
            known.special, known.spaces = known.special or special, tuple(f for f in FLAGS if f in known.spaces + flags)
    return added


def special_names(source):
    """The texts of tokens that the files name as special."""
    parts = ("bos", "eos", "unk", "pad", "cls", "sep", "mask", "eot", "eom")
    names = {source.named(f"{part}_token")[0] for part in parts}
    for said in (source.settings, source.special):
        for key in ("additional_special_tokens", "extra_special_tokens"):
            listed = said.get(key) or []
            listed = listed.values() if isinstance(listed, dict) else listed
            names |= {text_of(token) for token in listed if token is not None}
    return names - {None}


def add_tokens(pieces, path, source, added):
    """The pieces with added ones, and as many as the model has rows."""
    vocab = source.config.vocab
    if len(pieces) > vocab:
        raise Refusal(f"{path} has {len(pieces)} tokens, but vocab_size in config.json is {vocab}")
    for i in sorted(added):
        token = added[i]
        if i >= vocab:
            say(f"convert: left out the added token {token.text} (id {i}): the model has no row for it")
            continue
        fill_up(pieces, i + 1)
        if pieces[i].text != token.text:
            pieces[i] = Piece(token.text, 0.0, UNUSED)
        if pieces[i].kind in (NORMAL, USER_DEFINED, UNUSED):
            pieces[i].kind = CONTROL if token.special else USER_DEFINED
        if token.spaces and pieces[i].kind == USER_DEFINED:
            raise Refusal(f"{path}: the added token {token.text} is matched in a way that is not supported "
                          f"({', '.join(token.spaces)})")
    swallowing = [added[i].text for i in sorted(added) if i < vocab and {*added[i].spaces} - {"rstrip"}]
    if swallowing:
        say(f"convert: note: in transformers, "
            f"{swallowing[0]}{f' and {len(swallowing) - 1} more special tokens take' if swallowing[1:] else ' takes'} "
            "the "
            "spaces before them (lstrip) or stand between spaces only (single_word), "
            "which GGUF cannot say; here they do "
            "not")
    fill_up(pieces, vocab)    # rows added to round the matrix up
    check_distinct(pieces, path)


def right_strippers(added, vocab):
    """The ids of added tokens that take the white space behind them with them."""
    return [i for i in sorted(added) if i < vocab and "rstrip" in added[i].spaces]


def fill_up(pieces, count):
    pieces.extend(Piece(f"<unused {i}>", 0.0, UNUSED) for i in range(len(pieces), count))


def check_distinct(pieces, path):
    ids = {}
    for i, piece in enumerate(pieces):
        if piece.kind != UNUSED and ids.setdefault(piece.text, i) != i:
            raise Refusal(f"{path}: the token {shown(piece.text)} has the id {ids[piece.text]} and, as an added one, "
                          f"{i}")


def listed_ids(value):
    return value if isinstance(value, list) else [] if value is None else [value]


def special_ids(pieces, source, **defaults):
    """Ids by name. The text in tokenizer_config.json goes first, as in transformers; then generation_config.json's or
    config.json's id; then the tokenizer's own. A token that is named but not there is refused: another one would stand
    where it belongs."""
    ids = {piece.text: i for i, piece in reversed(list(enumerate(pieces))) if piece.kind != UNUSED}
    found = {}
    for name in ("bos", "eos", "unk", "eot", "eom"):
        text, file = source.named(f"{name}_token")
        files = ((source.generation, "generation_config.json"), (source.config.raw, "config.json"))
        said = [(i, place) for file, place in files for i in listed_ids(file.get(f"{name}_token_id"))]
        for i, place in said:
            if not 0 <= i < source.config.vocab:
                raise Refusal(f"{name}_token_id in {place} is {i}, which is outside the vocabulary of "
                              f"{source.config.vocab} tokens")
        default = defaults.get(name)
        if text is not None and text not in ids and name != "unk":
            raise Refusal(f"{name}_token in {file} is {shown(text)}, which is not in the vocabulary of "
                          f"{source.config.vocab} tokens; name one that is, "
                          "or add the file that has it (tokenizer.json, added_tokens.json)")
        i = ids.get(text, said[0][0] if said else default)
        if i is not None and not 0 <= i < source.config.vocab:
            raise Refusal(f"the tokenizer's {name} token has the id {i}, which is outside the vocabulary")
        found[name] = i
        if name == "eos":
            # Where generation_config.json names ends, transformers does not ask config.json, which may be
            # of another model; so no word of a text ends there.
            said = [i for i, place in said if place == said[0][1] or pieces[i].kind == CONTROL]
            ends = list(dict.fromkeys([*([] if i is None else [i]), *said]))
            found["ends"] = ends if len(ends) > 1 else []
    # special by their part, whatever lists them
    for text in {source.named(f"{name}_token")[0] for name in ("bos", "eos", "eot", "eom")} & ids.keys():
        if pieces[ids[text]].kind in (NORMAL, USER_DEFINED):
            pieces[ids[text]].kind = CONTROL
    return found


# ---- what stands around a text ---------------------------------------------------------------------------------------

# These classes of transformers add tokens as tokenizer_config.json says, whatever tokenizer.json's post_processor does.
BY_SETTINGS = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer")


def around(processor):
    """The texts that a post_processor of tokenizer.json puts before and after one text; None where it says nothing of
    that."""
    kind = (processor or {}).get("type")
    if kind == "TemplateProcessing":
        sides, after = ([], []), False
        for part in processor["single"]:
            if "Sequence" in part:
                after = True
            else:
                sides[after].extend(processor["special_tokens"][part["SpecialToken"]["id"]]["tokens"])
        return sides
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [processor["cls"][0]], [processor["sep"][0]]
    if kind == "Sequence":
        for part in processor["processors"]:
            if around(part) is not None:
                return around(part)
    return None


def ends_added(source, path, pieces, ids, default_bos):
    """Whether bos is put before and eos after a text. May set them in `ids`, where only the post_processor says which
    they are."""
    kind = (source.settings.get("tokenizer_class") or "").removesuffix("Fast")
    sides = around(source.library.get("post_processor"))
    asked = {name: source.settings.get(f"add_{name}_token") for name in ("bos", "eos")}
    if kind in BY_SETTINGS or sides is None:
        default = {"bos": default_bos or kind in BY_SETTINGS, "eos": False}
        return [bool(default[name] if asked[name] is None else asked[name]) and ids[name] is not None
                for name in ("bos", "eos")]
    added = []
    for name, texts in zip(("bos", "eos"), sides):
        if len(texts) > 1:
            raise Refusal(f"{path}: the post_processor puts {len(texts)} tokens "
                          f"{'before' if name == 'bos' else 'after'} a text, and one is supported")
        if texts:
            i = next((i for i, piece in enumerate(pieces) if piece.text == texts[0] and piece.kind != UNUSED), None)
            named = source.named(f"{name}_token")[0]
            if i is None or (named is not None and i != ids[name]):
                odd = "which is not in the vocabulary" if i is None else f"and {name}_token is {shown(named)}"
                raise Refusal(f"{path}: the post_processor puts {shown(texts[0])} "
                              f"{'before' if name == 'bos' else 'after'} a text, {odd}")
            ids[name] = i
        added.append(bool(texts))
    return added


# ---- chat templates --------------------------------------------------------------------------------------------------

def chat_templates(source):
    """The chat template, and further ones by name: files of their own in newer checkpoints, else in
    tokenizer_config.json, where it may be one of several, else in the processor's chat_template.json."""
    said = source.settings.get("chat_template")
    if said is None:
        said = checked(source.folder, "chat_template.json").get("chat_template")
    if isinstance(said, list):
        named = {t["name"]: t["template"] for t in said if t and t.get("name") and t.get("template") is not None}
    else:
        named = {} if said is None else {"default": said}
    if path := file_in(source.folder, "chat_template.jinja"):
        named["default"] = read_text(path)
    if (source.folder / "additional_chat_templates").is_dir():
        for name in names_in(source.folder / "additional_chat_templates"):
            if name.endswith(".jinja") and (path := file_in(source.folder, f"additional_chat_templates/{name}")):
                named[name.removesuffix(".jinja")] = read_text(path)
    further = {re.sub(r"[^A-Za-z0-9]", "_", name): text for name, text in named.items() if name != "default" and text}
    return named.get("default") or None, further


# ---- tokenizer.model -------------------------------------------------------------------------------------------------
# A protobuf message (sentencepiece_model.proto). The few fields needed are read by hand: the generated reader would
# need the protobuf runtime.

def protobuf_fields(data):
    """Yields (field number, value) of one message: int for varints, bytes for the rest."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while shift < 64:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value & (1 << 64) - 1
        raise ValueError("a number of more than 64 bits")

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length = varint()
        if length is None or at + length > len(data):
            raise ValueError("not a protobuf message")
        yield key >> 3, data[at:at + length]
        at += length


MOST_SENTENCEPIECE = 64 << 20    # bytes; Gemma's has 4 MB


def read_sentencepiece(path):
    """The pieces, TrainerSpec, NormalizerSpec and the denormalizer's of a tokenizer.model, the specs as {field number:
    value}."""
    data = read_bytes(path, MOST_SENTENCEPIECE)
    try:
        pieces, trainer, normalizer, denormalizer = [], {}, {}, {}
        for number, value in protobuf_fields(data):
            if number == 1:
                piece = dict(protobuf_fields(value))
                score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
                pieces.append(Piece(piece[1].decode(), score, piece.get(3, NORMAL)))
            elif number == 2:
                trainer = dict(protobuf_fields(value))
            elif number == 3:
                normalizer = dict(protobuf_fields(value))
            elif number == 5:
                denormalizer = dict(protobuf_fields(value))
        for spec, numbers in ((trainer, (3, 24, 40, 41, 42)), (normalizer, (3, 4, 5)), (denormalizer, ())):
            if any(not isinstance(spec.get(n, 0), int) for n in numbers):
                raise ValueError
        if not isinstance(normalizer.get(2, b""), bytes):
            raise ValueError
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error):
        raise Refusal(f"{path} is not a SentencePiece model") from None
    if not pieces:
        raise Refusal(f"{path} has no tokens")
    check_pieces(pieces, path)
    return pieces, trainer, normalizer, denormalizer


def check_pieces(pieces, path):
    ids = {}
    for i, piece in enumerate(pieces):
        if not NORMAL <= piece.kind <= BYTE or not math.isfinite(piece.score):
            raise Refusal(f"{path}: the token {i} has the type {piece.kind} and the score {piece.score}, which no "
                          "SentencePiece model has")
        if piece.kind == BYTE and not re.fullmatch("<0x[0-9A-F]{2}>", piece.text):
            raise Refusal(f"{path}: the token {i} is a byte and reads {shown(piece.text)}, expected <0x00> to <0xFF>")
        if ids.setdefault(piece.text, i) != i:
            raise Refusal(f"{path} has the token {shown(piece.text)} twice ({ids[piece.text]} and {i})")


def sentencepiece_tokenizer(path, source):
    pieces, trainer, normalizer, denormalizer = read_sentencepiece(path)
    # Field numbers and defaults of sentencepiece_model.proto.
    kinds = {1: "t5", 2: "llama"}
    if trainer.get(3, 1) not in kinds:
        raise Refusal(f"{path} is neither a BPE nor a unigram model, and only these are supported")
    if trainer.get(24, 0) or not normalizer.get(5, 1) or denormalizer.get(2):
        raise Refusal(f"{path} treats spaces or decoded text in a way that is not supported (a suffix for spaces, "
                      "spaces as they are, a denormaliser)")
    compare_vocabularies(pieces, path, source)
    added = added_tokens(source)
    add_tokens(pieces, path, source, added)

    def own(number, default):
        value = trainer.get(number, default)
        return value if value < len(pieces) else None    # -1, as 64 bits: there is none

    ids = special_ids(pieces, source, bos=own(41, 1), eos=own(42, 2), unk=own(40, 0))
    add_bos, add_eos = ends_added(source, path, pieces, ids, default_bos=True)
    template, templates = chat_templates(source)
    return Tokenizer(pieces, **ids, add_bos=add_bos, add_eos=add_eos, space_prefix=space_prefix(normalizer, source),
                     prefix_first=prefix_first(source), rstrip=right_strippers(added, source.config.vocab),
                     chat_template=template, templates=templates, model=kinds[trainer.get(3, 1)],
                     single_spaces=bool(normalizer.get(4, 1)), charsmap=normalizer.get(2, b""))


def space_prefix(normalizer, source):
    """Whether a text gets a space in front: tokenizer_config.json's word for it, else what tokenizer.json does, else
    what tokenizer.model says."""
    if source.settings.get("add_prefix_space") is not None:
        return source.settings["add_prefix_space"]
    steps = space_steps(source)
    for step in steps:
        if step.get("type") == "Prepend":
            return True
        if step.get("type") == "Metaspace":
            return step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never") != "never"
    if any(step.get("type") == "Replace" and step.get("pattern") == {"String": " "} for step in steps):
        return False
    return bool(normalizer.get(3, 1))


def prefix_first(source):
    """Whether it is only the whole text that gets a space in front (True), or what follows a special token, too, even
    where it begins with a space (False). None where the files do not say."""
    for step in space_steps(source):
        if step.get("type") == "Prepend":
            return False
        if step.get("type") == "Metaspace" and step.get("prepend_scheme") == "first":
            return True
    return None


def space_steps(source):
    library = source.library
    if not library.get("model", {}).get("vocab"):    # it only lists added tokens
        return []
    return steps_of(library.get("normalizer"), "normalizers") + steps_of(library.get("pre_tokenizer"), "pretokenizers")


def steps_of(step, key):
    """The steps of a sequence, or of what is one step."""
    if not step:
        return []
    if step.get("type") != "Sequence":
        return [step]
    return [s for part in step.get(key) or [] for s in steps_of(part, key)]


def compare_vocabularies(pieces, path, source):
    """tokenizer.json beside a tokenizer.model should be the same vocabulary in another form."""
    vocabulary = source.library.get("model", {}).get("vocab")
    if not vocabulary:
        return
    if isinstance(vocabulary, dict):
        texts = {i: text for text, i in vocabulary.items()}
    else:
        texts = {i: text for i, (text, _) in enumerate(vocabulary)}
    added = {token["id"] for token in source.library.get("added_tokens") or []}
    beyond = [i for i in texts if i >= len(pieces) and i not in added]
    if beyond:
        raise Refusal(f"tokenizer.json has the token {shown(texts[min(beyond)])} with the id {min(beyond)}, and {path} "
                      f"ends at {len(pieces) - 1}; they are not the "
                      "same vocabulary: remove the file that is not the model's")
    other = [i for i, text in texts.items()
             if i < len(pieces) and pieces[i].text != text and pieces[i].kind == NORMAL and i not in added]
    if other:
        say(f"convert: note: {len(other)} tokens are others in tokenizer.json than in tokenizer.model, which is taken "
            f"(the first is {min(other)}: "
            f"{shown(texts[min(other)])}, {shown(pieces[min(other)].text)})")


# ---- tokenizer.json --------------------------------------------------------------------------------------------------
# The format of the tokenizers library. How it cuts a text into words is recognised by what it does, whatever the
# model is called.

def check_shape(source, path):
    """Refuses a tokenizer.json whose parts are not of the types that the format has. What they say is looked at where
    it is needed."""
    def expect(holds, what):
        if not holds:
            raise Refusal(f"{path} is not a valid tokenizer.json: {what}")

    model = source.get("model")
    expect(isinstance(model, dict), "it has no model")
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        seen = bytearray(1 << 21)
        for text, i in vocabulary.items():
            expect(type(i) is int and 0 <= i < len(seen), f"the token {shown(text)} has the id {shown(i)}")
            expect(not seen[i], f"two tokens have the id {i}, one of them {shown(text)}")
            seen[i] = 1
    else:    # a unigram model's
        def is_entry(e):
            return isinstance(e, list) and len(e) == 2 and isinstance(e[0], str) and type(e[1]) in (int, float)

        expect(isinstance(vocabulary, list) and all(map(is_entry, vocabulary)), "its vocabulary is no list of tokens")
    merges = model.get("merges", [])
    expect(isinstance(merges, list), "its merges are no list")
    for i, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) and part for part in parts)):
            expect(False, f"merge {i} is {shown(merge)}")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token", "type"):
        expect(model.get(key) is None or isinstance(model[key], str), f"{key} is {shown(model.get(key))}")
    for key in ("byte_fallback", "ignore_merges", "fuse_unk"):
        expect(model.get(key) is None or isinstance(model[key], bool), f"{key} is {shown(model.get(key))}")
    added = source.get("added_tokens")
    expect(added is None or isinstance(added, list), "its added_tokens are no list")
    ids = set()
    for token in added or []:
        good = isinstance(token, dict) and isinstance(token.get("content"), str) and type(token.get("id")) is int
        good = good and all(isinstance(token.get(key), (bool, type(None))) for key in (*FLAGS, "normalized", "special"))
        expect(good and 0 <= token["id"] < 1 << 31, f"an added token is {shown(token)}")
        expect(token["id"] not in ids, f"two added tokens have the id {token['id']}")
        ids.add(token["id"])
    for key, inner in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"),
                       ("post_processor", "processors"), ("decoder", "decoders")):
        check_steps(source.get(key), inner, key, expect)


def check_steps(step, inner, key, expect):
    if step is None:
        return
    expect(isinstance(step, dict) and isinstance(step.get("type"), str), f"{key} is {shown(step)}")
    if step["type"] == "Sequence":
        expect(isinstance(step.get(inner), list), f"{key} is a sequence of nothing")
        for part in step[inner]:
            expect(part is not None, f"{key} has a step that is null")
            check_steps(part, inner, key, expect)


def cutting_steps(step):
    """A pre_tokenizer of tokenizer.json as a list of regular expressions and the words of pretokenizers.KINDS."""
    kind = (step or {}).get("type")
    if kind == "Sequence":
        return [word for part in step["pretokenizers"] for word in cutting_steps(part)]
    if kind == "Split" and isinstance(step.get("pattern"), dict) and isinstance(step["pattern"].get("Regex"), str):
        regex = pretokenizers.canonical(step["pattern"]["Regex"])
        if step.get("behavior") == "Isolated" and not step.get("invert"):
            return [regex]
        if step.get("behavior") == "Removed" and step.get("invert") and regex in pretokenizers.COVERING:
            return [regex]    # the matches stay
    if kind == "ByteLevel" and not step.get("add_prefix_space", True):
        return [pretokenizers.GPT2, "to bytes"] if step.get("use_regex", True) else ["to bytes"]
    if kind == "Digits":
        return [r"\p{N}"] if step.get("individual_digits") else ["runs of digits"]
    if kind == "Punctuation" and step.get("behavior") == "Contiguous":
        return ["runs of punctuation"]
    return [json.dumps(step)]


def gpt2_tokenizer(vocab, merges, source):
    """GPT-2's two files as a tokenizer.json, where nothing says that they are for another program."""
    settings = source.settings
    kind = settings.get("tokenizer_class") or "GPT2Tokenizer"
    if kind not in ("GPT2Tokenizer", "GPT2TokenizerFast") or settings.get("add_prefix_space"):
        raise Refusal(f"{source.folder} has vocab.json and merges.txt of a "
                      f"{kind}{' with add_prefix_space' * bool(settings.get('add_prefix_space'))}, "
                      "which is not supported; a tokenizer.json is needed")
    vocabulary = read_json(vocab)
    lines = [line.removesuffix("\r") for line in read_text(merges).split("\n")]
    named = {text_of(token) for said in (source.special, settings) for token in said.values()
             if isinstance(token, str) or (isinstance(token, dict) and isinstance(token.get("content"), str))}
    special = [text for text in sorted(named) if text in vocabulary and text.startswith("<")]
    rules = [line for line in lines if line and not line.startswith("#version")]
    result = {"model": {"type": "BPE", "vocab": vocabulary, "merges": rules},
              "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
              "added_tokens": [{"id": vocabulary[text], "content": text, "special": True} for text in special]}
    check_shape(result, vocab)
    return result


def check_numbering(source, path):
    """The tokenizers library gives added tokens the ids that follow, whatever the file says; refuses a file that says
    otherwise."""
    vocabulary, largest, seen = source.library["model"]["vocab"], None, set()
    for token in source.library.get("added_tokens") or []:
        text, i = token["content"], token["id"]
        if text in seen:
            raise Refusal(f"{path} has the added token {shown(text)} twice")
        seen.add(text)
        expected = vocabulary.get(text)
        if expected is None:
            expected = len(vocabulary) if largest is None or (largest < len(vocabulary) and vocabulary) else largest + 1
        if expected != i:
            raise Refusal(f"{path}: the added token {shown(text)} has the id {i}, and the tokenizers library gives it "
                          f"{expected}")
        largest = i if largest is None else max(largest, i)


def check_merges(vocabulary, merges, path):
    """Merges of tokens that are not there would be refused by the tokenizers library, too."""
    for left, right in merges:
        for text in (left, right, left + right):
            if text not in vocabulary:
                raise Refusal(f"{path} merges {shown(left)} and {shown(right)}, and {shown(text)} is not in its "
                              "vocabulary")


def byte_level_tokenizer(path, source):
    library = source.library
    try:
        model, cuts = library["model"], cutting_steps(library.get("pre_tokenizer"))
        bpe = model.get("type", "BPE") == "BPE" and isinstance(model["vocab"], dict)
        if not bpe or model.get("byte_fallback") or "to bytes" not in cuts:
            raise Refusal(f"{path} is not a byte-level BPE tokenizer, and of tokenizer.json only those are supported; "
                          "is there a tokenizer.model?")
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(key):
                raise Refusal(f"{path} has a {key}, which is not supported")
        whole_words = bool(model.get("ignore_merges"))
        names = sorted((whole != whole_words, name) for name, steps, whole in pretokenizers.KINDS if steps == cuts)
        if not names:
            raise Refusal(f"{path} cuts text into words in a way that is not supported: "
                          f"{json.dumps(cuts, ensure_ascii=False)}")
        normalizer = library.get("normalizer")
        nfc = bool(normalizer) and normalizer["type"] == "NFC"
        if normalizer and not nfc and normalizer.get("normalizers") != []:
            raise Refusal(f"{path} normalises text in a way that is not supported: {json.dumps(normalizer)}")

        vocabulary, pieces = model["vocab"], []
        if vocabulary and max(vocabulary.values()) >= source.config.vocab:
            raise Refusal(f"{path} has a token with the id {max(vocabulary.values())}, but vocab_size in config.json "
                          f"is {source.config.vocab}")
        for text, i in sorted(vocabulary.items(), key=lambda item: item[1]):
            fill_up(pieces, i)
            pieces.append(Piece(text, 0.0, NORMAL))
        added = added_tokens(source)
        check_numbering(source, path)
        for i, token in added.items():
            if i < len(pieces) and pieces[i].text != token.text and pieces[i].kind == NORMAL:
                raise Refusal(f"{path}: the token {i} is {shown(pieces[i].text)} in the vocabulary and, as an added "
                              f"one, {shown(token.text)} in {token.file}")
        add_tokens(pieces, path, source, added)

        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        check_merges(vocabulary, merges, path)
        if not merges:
            raise Refusal(f"{path} has no merges, so that every byte would be a token, which is not supported")
        if odd := next((merge for merge in merges if " " in "".join(merge)), None):
            raise Refusal(f"{path} merges {shown(odd[0])} and {shown(odd[1])}, and GGUF has no merges of texts with "
                          "spaces")
        ids = special_ids(pieces, source, unk=vocabulary.get(model.get("unk_token")))
        add_bos, add_eos = ends_added(source, path, pieces, ids, default_bos=False)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as e:
        raise Refusal(f"{path} is not a valid tokenizer.json ({type(e).__name__} in what it says of {e})") from None
    template, templates = chat_templates(source)
    return Tokenizer(pieces, **ids, add_bos=add_bos, add_eos=add_eos, space_prefix=False,
                     rstrip=right_strippers(added, source.config.vocab), chat_template=template, templates=templates,
                     model="gpt2", pre=names[0][1], merges=[" ".join(merge) for merge in merges], nfc=nfc,
                     whole_words=whole_words)
