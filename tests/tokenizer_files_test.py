#!/usr/bin/env python3
"""tools/models/tokenizer_files.py: what becomes of a folder's files about its tokenizer,
where they agree and where they do not.

    python3 tests/tokenizer_files_test.py          (packages: tools/models/requirements.txt)
"""

import json
import random
import re
import struct
import sys
import unittest
from pathlib import Path
from types import SimpleNamespace

import tokenizers

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS.parent / "tools" / "models"))
import pretokenizers  # noqa: E402
from convert_test import Scratch, stderr_of  # noqa: E402
from sentences import Refusal  # noqa: E402
from tokenizer_files import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, read_tokenizer  # noqa: E402


def varint(n):
    n &= (1 << 64) - 1
    out = b""
    while True:
        out += bytes([n & 127 | (128 if n > 127 else 0)])
        n >>= 7
        if not n:
            return out


def message(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def sentencepiece(pieces, prefix=1, **trainer):
    """A tokenizer.model of pieces (text, kind)."""
    data = b"".join(
        message(1,
                message(1, text.encode()) + message(2, -float(i)) + message(3, kind))
        for i, (text, kind) in enumerate(pieces))
    spec = b"".join(message(int(number[1:]), value) for number, value in trainer.items())
    return data + message(2, message(3, 2) + spec) + message(3, message(3, prefix) + message(4, 0) + message(5, 1))


BASE = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), ("<0x41>", BYTE), ("\u2581", NORMAL), ("a", NORMAL),
        ("b", NORMAL), ("ab", NORMAL)]
BYTES = {
    "a": 0,
    "b": 1,
    "ab": 2,
    "<s>": 3,
    "</s>": 4,
    "<0x41>": 5,
    "\u0120": 6,
    "\u0120a": 7
}    # byte-level, and as many


def added(i, content, special=True, **flags):
    return {
        "id": i,
        "content": content,
        "special": special,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False
    } | flags


def library(*tokens, **changes):
    """A byte-level tokenizer.json."""
    return {
        "version": "1.0",
        "added_tokens": list(tokens),
        "model": {
            "type": "BPE",
            "vocab": BYTES,
            "merges": ["a b", "\u0120 a"]
        },
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True
        }
    } | changes


class Case(Scratch):
    def put(self, **files):
        """Files by their names, with two underscores for the dot."""
        for name, value in files.items():
            path = self.folder / name.replace("__", ".")
            if isinstance(value, bytes):
                path.write_bytes(value)
            else:
                path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")

    def read(self, vocab=10, **config):
        return read_tokenizer(self.folder, SimpleNamespace(vocab=vocab, raw=config))

    def refused(self, message, vocab=10, **config):
        with self.assertRaises(Refusal) as caught:
            self.read(vocab, **config)
        self.assertIn(message, str(caught.exception))

    def kinds(self):
        """The two kinds of tokenizer, each put in turn; the ids 8 and 9 are free."""
        for name, files in (("SentencePiece", {
                "tokenizer__model": sentencepiece(BASE),
                "tokenizer__json": {
                    "added_tokens": [],
                    "model": {
                        "vocab": {}
                    }
                }
        }), ("byte-level", {
                "tokenizer__json": library()
        })):
            for file in self.folder.iterdir():
                file.unlink()
            with self.subTest(name):
                self.put(**files)
                self.base = json.loads((self.folder / "tokenizer.json").read_text())
                yield name


class AddedTokens(Case):
    def test_they_come_from_three_files_in_every_kind_of_tokenizer(self):
        for _ in self.kinds():
            self.put(tokenizer__json=self.base | {"added_tokens": [added(8, "<|a|>")]}, added_tokens__json={"<|b|>": 9},
                     tokenizer_config__json={"added_tokens_decoder": {"10": {"content": "<|c|>", "special": False}}})
            pieces = self.read(vocab=12).pieces
            self.assertEqual([(p.text, p.kind) for p in pieces[8:]], [("<|a|>", CONTROL), ("<|b|>", USER_DEFINED),
                                                                      ("<|c|>", USER_DEFINED), ("<unused 11>", UNUSED)])

    def test_one_file_is_enough_to_make_a_token_special(self):
        for _ in self.kinds():
            for files in ({
                    "tokenizer_config__json": {
                        "added_tokens_decoder": {
                            "8": {
                                "content": "<|a|>",
                                "special": True
                            }
                        }
                    }
            }, {
                    "special_tokens_map__json": {
                        "additional_special_tokens": ["<|a|>"]
                    }
            }, {
                    "special_tokens_map__json": {
                        "additional_special_tokens": [{
                            "content": "<|a|>",
                            "lstrip": False
                        }]
                    }
            }, {
                    "tokenizer_config__json": {
                        "extra_special_tokens": {
                            "turn": "<|a|>"
                        }
                    }
            }, {
                    "tokenizer_config__json": {
                        "pad_token": {
                            "content": "<|a|>"
                        }
                    }
            }, {
                    "tokenizer_config__json": {
                        "eos_token": "<|a|>"
                    }
            }):
                self.put(added_tokens__json={"<|a|>": 8},
                         tokenizer__json=self.base | {"added_tokens": [added(8, "<|a|>", special=False)]},
                         **files)
                self.assertEqual(self.read().pieces[8].kind, CONTROL)
                for name in files:
                    (self.folder / name.replace("__", ".")).unlink()
            self.assertEqual(self.read().pieces[8].kind, USER_DEFINED)

    def test_special_tokens_get_their_type_whatever_tokenizer_model_calls_them(self):
        for kind in (NORMAL, USER_DEFINED, CONTROL, UNUSED):
            self.put(tokenizer__model=sentencepiece([*BASE, ("<turn>", kind)]))
            for special, expected in ((True, CONTROL), (False, CONTROL if kind == CONTROL else USER_DEFINED)):
                self.put(
                    tokenizer_config__json={"added_tokens_decoder": {
                        "8": {
                            "content": "<turn>",
                            "special": special
                        }
                    }})
                self.assertEqual(self.read().pieces[8].kind, expected)
        self.put(
            tokenizer_config__json={
                "added_tokens_decoder": {
                    "0": {
                        "content": "<unk>",
                        "special": True
                    },
                    "3": {
                        "content": "<0x41>",
                        "special": True
                    }
                }
            })
        self.assertEqual([self.read().pieces[i].kind for i in (0, 3)], [UNKNOWN, BYTE])

    def test_a_token_in_the_vocabulary_may_be_listed_as_added_too(self):
        self.put(tokenizer__json=library(added(3, "<s>"), added(2, "ab", special=False)))
        self.assertEqual([p.kind for p in self.read().pieces[:5]], [NORMAL, NORMAL, USER_DEFINED, CONTROL, NORMAL])

    def test_gaps_are_filled_and_what_has_no_row_is_left_out_and_told(self):
        for _ in self.kinds():
            self.put(added_tokens__json={"<|a|>": 8, "<|b|>": 11, "<|c|>": 13})
            tokenizer, err = stderr_of(lambda: self.read(vocab=13))
            self.assertEqual([p.text for p in tokenizer.pieces[8:]],
                             ["<|a|>", "<unused 9>", "<unused 10>", "<|b|>", "<unused 12>"])
            self.assertEqual(err, "convert: left out the added token <|c|> (id 13): the model has no row for it\n")

    def test_files_that_contradict_each_other_are_refused(self):
        for _ in self.kinds():
            self.put(added_tokens__json={"<|a|>": 8},
                     tokenizer_config__json={"added_tokens_decoder": {
                         "8": {
                             "content": "<|b|>"
                         }
                     }})
            self.refused('the added token 8 is "<|b|>" in tokenizer_config.json and "<|a|>" in added_tokens.json')
            self.put(tokenizer_config__json={"added_tokens_decoder": {"9": {"content": "<|a|>"}}})
            self.refused('the added token "<|a|>" has the id 9 in tokenizer_config.json and 8 in added_tokens.json')
            self.put(tokenizer_config__json={}, added_tokens__json={"ab": 8})
            self.refused('the token "ab" has the id')
            self.put(added_tokens__json={"": 8})
            self.refused("has an added token without a text (id 8)")
            self.put(added_tokens__json={"<|a|>": -1})
            self.refused("<|a|> in added_tokens.json is -1, expected a whole number")
            self.put(added_tokens__json={},
                     tokenizer_config__json={"added_tokens_decoder": {
                         "x": {
                             "content": "<|a|>"
                         }
                     }})
            self.refused('with the id "x", and whole numbers and texts are expected')

    def test_a_token_that_takes_spaces_is_told_where_it_is_special_and_refused_where_text_may_hold_it(self):
        for _ in self.kinds():
            self.put(tokenizer__json=self.base | {"added_tokens": [added(8, "<|a|>", rstrip=True)]})
            read, said = stderr_of(self.read)
            self.assertNotIn("note", said)
            self.assertEqual(read.rstrip, [8])
            self.put(tokenizer__json=self.base | {"added_tokens": [added(8, "<|a|>", lstrip=True)]})
            self.assertIn("convert: note: in transformers, <|a|> takes the spaces before them", stderr_of(self.read)[1])
            self.put(tokenizer__json=self.base | {"added_tokens": [added(8, "<|a|>", special=False, rstrip=True)]})
            self.refused("the added token <|a|> is matched in a way that is not supported (rstrip)")

    def test_a_word_of_the_vocabulary_is_not_replaced_by_an_added_token(self):
        self.put(tokenizer__json=library(),
                 tokenizer_config__json={"added_tokens_decoder": {
                     "2": {
                         "content": "<|a|>"
                     }
                 }})
        self.refused('the token 2 is "ab" in the vocabulary and, as an added one, "<|a|>" in tokenizer_config.json')

    def test_ids_are_those_of_the_tokenizers_library_or_the_file_is_refused(self):
        rng, accepted, texts = random.Random(4), 0, ["<|x|>", "<|y|>", "<|z|>", "ab", "<s>"]
        for _ in range(400):
            vocab = dict(BYTES)
            if rng.random() < 0.3:
                vocab[rng.choice(list(vocab))] = rng.randrange(12)
            chosen = rng.sample(texts, rng.randint(0, 3))
            new = [text for text in chosen if text not in vocab]
            ids = [
                vocab.get(text, 8 + new.index(text) if text in new else 0) if rng.random() < 0.9 else rng.randrange(12)
                for text in chosen
            ]
            source = library(*(added(i, t, special=rng.random() < 0.5) for i, t in zip(ids, chosen)))
            source["model"] = source["model"] | {"vocab": vocab}
            self.put(tokenizer__json=source)
            try:
                tokenizer = self.read(vocab=14)
            except Refusal:
                continue
            theirs = tokenizers.Tokenizer.from_str(json.dumps(source)).get_vocab()
            self.assertEqual({p.text: i for i, p in enumerate(tokenizer.pieces) if p.kind != UNUSED}, theirs, source)
            accepted += 1
        self.assertGreater(accepted, 100)


class Named(Case):
    def test_a_named_bos_or_eos_that_is_not_in_the_vocabulary_is_refused(self):
        for _ in self.kinds():
            for name in ("bos_token", "eos_token", "eot_token"):
                for token in ("<|lost|>", {"content": "<|lost|>", "lstrip": False}):
                    for file in ("tokenizer_config__json", "special_tokens_map__json"):
                        self.put(**{file: {name: token}})
                        self.refused(f'{name} in {file.replace("__", ".")} is "<|lost|>", which is not in the '
                                     "vocabulary of 10 tokens")
                        self.put(**{file: {}})
            self.put(tokenizer_config__json={"unk_token": "<|lost|>", "bos_token": "<s>", "eos_token": "</s>"})
            self.assertEqual(self.read().pieces[self.read().bos].text, "<s>")

    def test_ids_outside_the_vocabulary_are_refused_wherever_they_stand(self):
        for _ in self.kinds():
            self.refused("eos_token_id in config.json is 10, which is outside the vocabulary of 10 tokens",
                         eos_token_id=[2, 10])
            self.put(generation_config__json={"eos_token_id": [2, 99]})
            self.refused("eos_token_id in generation_config.json is 99, which is outside")

    def test_the_newer_file_goes_first_and_its_null_means_none(self):
        for _ in self.kinds():
            self.put(special_tokens_map__json={
                "bos_token": "</s>",
                "eos_token": "</s>"
            },
                     tokenizer_config__json={"bos_token": "<s>"})
            tokenizer = self.read()
            self.assertEqual([tokenizer.pieces[i].text for i in (tokenizer.bos, tokenizer.eos)], ["<s>", "</s>"])
            self.put(tokenizer_config__json={"bos_token": None})
            self.assertEqual(self.read(bos_token_id=5).bos, 5)

    def test_every_end_is_listed_the_tokenizers_own_first(self):
        for name in self.kinds():
            end = 2 if name == "SentencePiece" else 4
            self.put(added_tokens__json={"<|im_end|>": 8, "<|eot|>": 9})
            self.assertEqual((self.read(eos_token_id=end).eos, self.read(eos_token_id=end).ends), (end, []))
            self.assertEqual((self.read(eos_token_id=[8, end]).eos, self.read(eos_token_id=[8, end]).ends),
                             (8, [8, end]))
            self.put(generation_config__json={"eos_token_id": [end, 8, 9, 8]},
                     tokenizer_config__json={"eos_token": "<|im_end|>"})
            tokenizer = self.read(eos_token_id=9)
            self.assertEqual((tokenizer.eos, tokenizer.ends), (8, [8, end, 9]))
            self.put(tokenizer_config__json={}, generation_config__json={"eos_token_id": 9})
            tokenizer = self.read(eos_token_id=6)    # config.json is of another model: 6 is a word
            self.assertEqual((tokenizer.eos, tokenizer.ends), (9, []))
            self.put(tokenizer_config__json={"eot_token": "<|eot|>", "eos_token": "</s>"}, generation_config__json={})
            tokenizer = self.read(eom_token_id=8)
            self.assertEqual((tokenizer.eos, tokenizer.eot, tokenizer.eom, tokenizer.pieces[9].kind),
                             (end, 9, 8, CONTROL))


class Around(Case):
    TEMPLATE = {
        "type": "TemplateProcessing",
        "single": [{
            "SpecialToken": {
                "id": "<s>",
                "type_id": 0
            }
        }, {
            "Sequence": {
                "id": "A",
                "type_id": 0
            }
        }],
        "pair": [],
        "special_tokens": {
            "<s>": {
                "id": "<s>",
                "ids": [3],
                "tokens": ["<s>"]
            },
            "two": {
                "id": "two",
                "ids": [3, 4],
                "tokens": ["<s>", "</s>"]
            }
        }
    }
    AFTER = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}]

    def put_processor(self, processor, **settings):
        self.put(tokenizer__json=library(added(3, "<s>"), added(4, "</s>"), post_processor=processor),
                 tokenizer_config__json=settings)
        tokenizer = self.read()
        return tokenizer.add_bos, tokenizer.add_eos, tokenizer.bos, tokenizer.eos

    def test_the_post_processor_says_what_is_added_and_which_token(self):
        named = {"bos_token": "<s>", "eos_token": "</s>"}
        self.assertEqual(self.put_processor(self.TEMPLATE, **named), (True, False, 3, 4))
        self.assertEqual(
            self.put_processor({
                "type": "Sequence",
                "processors": [{
                    "type": "ByteLevel"
                }, self.TEMPLATE]
            },
                               **named,
                               add_bos_token=False), (True, False, 3, 4))
        self.assertEqual(self.put_processor(self.TEMPLATE)[:3], (True, False, 3))    # nobody else names it
        self.assertEqual(self.put_processor(None, **named, add_bos_token=True), (True, False, 3, 4))
        self.assertEqual(self.put_processor(None, **named), (False, False, 3, 4))
        self.assertEqual(
            self.put_processor({
                "type": "RobertaProcessing",
                "cls": ["<s>", 3],
                "sep": ["</s>", 4]
            }, **named), (True, True, 3, 4))
        self.assertEqual(self.put_processor(None, eos_token="</s>", add_bos_token=True),
                         (False, False, None, 4))    # there is none to add

    def test_classes_that_go_by_their_settings_do_so(self):
        named = {"bos_token": "<s>", "eos_token": "</s>"}
        for kind in ("LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizerFast"):
            self.assertEqual(self.put_processor(None, tokenizer_class=kind, **named)[:2], (True, False))
            self.assertEqual(
                self.put_processor(self.TEMPLATE,
                                   tokenizer_class=kind,
                                   add_bos_token=False,
                                   add_eos_token=True,
                                   **named)[:2], (False, True))

    def test_what_cannot_be_said_in_a_file_is_refused(self):
        for change, settings, message in (({
                "single": [{
                    "SpecialToken": {
                        "id": "two",
                        "type_id": 0
                    }
                }, self.AFTER[0]]
        }, {}, "puts 2 tokens before a text, and one is supported"), ({}, {
                "bos_token": "</s>"
        }, 'puts "<s>" before a text, and bos_token is "</s>"'), ({
                "single": self.AFTER
        }, {
                "eos_token": "</s>"
        }, 'puts "<s>" after a text, and eos_token is "</s>"'), ({
                "special_tokens": {
                    "<s>": {
                        "id": "<s>",
                        "ids": [77],
                        "tokens": ["<lost>"]
                    }
                }
        }, {}, 'puts "<lost>" before a text, which is not in the vocabulary')):
            with self.subTest(message), self.assertRaises(Refusal) as caught:
                self.put_processor(self.TEMPLATE | change, **settings)
            self.assertIn(message, str(caught.exception))

    def test_a_tokenizer_json_beside_a_tokenizer_model_is_heard(self):
        self.put(tokenizer__model=sentencepiece(BASE))
        self.assertEqual((self.read().add_bos, self.read().space_prefix), (True, True))
        whole = {
            "added_tokens": [],
            "model": {
                "type": "BPE",
                "vocab": {
                    text: i
                    for i, (text, _) in enumerate(BASE)
                },
                "merges": []
            }
        }
        never = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never", "split": False}
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
        for changes, prefix in (({
                "pre_tokenizer": never
        }, False), ({
                "pre_tokenizer": never | {
                    "prepend_scheme": "first"
                }
        }, True), ({
                "pre_tokenizer": {
                    "type": "Metaspace",
                    "replacement": "\u2581",
                    "add_prefix_space": False
                }
        }, False), ({
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [{
                        "type": "Prepend",
                        "prepend": "\u2581"
                    }, replace]
                }
        }, True), ({
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [replace]
                }
        }, False), ({}, True)):
            self.put(tokenizer__json=whole | changes, tokenizer_config__json={})
            self.assertEqual(self.read().space_prefix, prefix, changes)
            self.put(tokenizer_config__json={"add_prefix_space": not prefix})
            self.assertEqual(self.read().space_prefix, not prefix)
        self.put(tokenizer__json=whole | {"post_processor": self.TEMPLATE | {
            "single": self.AFTER[:1]
        }},
                 tokenizer_config__json={})
        self.assertFalse(self.read().add_bos)

    def test_two_vocabularies_that_are_not_one_are_told_or_refused(self):
        self.put(tokenizer__model=sentencepiece(BASE))
        vocab = {text: i for i, (text, _) in enumerate(BASE)}
        self.put(tokenizer__json={
            "added_tokens": [],
            "model": {
                "type": "BPE",
                "vocab": vocab | {
                    "new": 8
                },
                "merges": []
            }
        })
        self.refused('tokenizer.json has the token "new" with the id 8')
        del vocab["b"]
        self.put(tokenizer__json={
            "added_tokens": [],
            "model": {
                "type": "BPE",
                "vocab": vocab | {
                    "c": 6
                },
                "merges": []
            }
        })
        self.assertIn(
            "convert: note: 1 tokens are others in tokenizer.json than in tokenizer.model, which is taken (the first "
            "is 6",
            stderr_of(self.read)[1])
        self.put(tokenizer__json={
            "added_tokens": [added(8, "new")],
            "model": {
                "type": "BPE",
                "vocab": vocab | {
                    "b": 6,
                    "new": 8
                },
                "merges": []
            }
        })
        self.assertEqual(stderr_of(self.read)[1], "")


class Templates(Case):
    def template(self, settings=None, files=None):
        for _ in self.kinds():
            self.put(tokenizer_config__json=settings or {}, **(files or {}))
        tokenizer = self.read()
        return tokenizer.chat_template, tokenizer.templates

    def test_they_stand_in_many_places(self):
        several = {
            "chat_template": [{
                "name": "default",
                "template": "{{ d }}"
            }, {
                "name": "tool use",
                "template": "{{ t }}"
            }]
        }
        self.assertEqual(self.template({"chat_template": "{{ a }}"}), ("{{ a }}", {}))
        self.assertEqual(self.template(several), ("{{ d }}", {"tool_use": "{{ t }}"}))
        self.assertEqual(self.template({}, {"chat_template__json": {"chat_template": "{{ p }}"}}), ("{{ p }}", {}))
        self.assertEqual(
            self.template({"chat_template": "{{ a }}"}, {"chat_template__json": {
                "chat_template": "{{ p }}"
            }}), ("{{ a }}", {}))
        self.assertEqual(self.template(several, {"chat_template__jinja": "caf\u00e9\n"}), ("caf\u00e9\n", {
            "tool_use": "{{ t }}"
        }))
        for _ in self.kinds():
            pass
        (self.folder / "additional_chat_templates").mkdir()
        (self.folder / "additional_chat_templates/rag.jinja").write_text("{{ r }}")
        self.put(tokenizer_config__json={})
        self.assertEqual((self.read().chat_template, self.read().templates), (None, {"rag": "{{ r }}"}))


def rules_of_the_program():
    """From engine/text/pretokenizer.cpp: names of a kind -> its regular expressions."""
    source = re.sub(r"//.*", "", (TESTS.parent / "engine/text/pretokenizer.cpp").read_text(encoding="utf-8"))
    literal = r'(?:R"\((?:(?!\)").)*\)"|"(?:[^"\\]|\\.)*")'

    def joined(text):
        return "".join(part[3:-2] if part.startswith("R") else part[1:-1] for part in re.findall(literal, text, re.S))

    defined = re.findall(rf"string_view (\w+) =\s*((?:{literal}\s*)+);", source, re.S)
    constants = {name: joined(text) for name, text in defined}
    kinds = {}
    for names, rest in re.findall(r"\{\.names = \{([^}]*)\},(.*?)\},\n", source[source.index("kinds[] ="):], re.S):
        patterns = re.search(rf"\.patterns = \{{((?:\s*(?:{literal}|\w+),?)*)\}}", rest + "}", re.S)[1]
        words = re.findall(rf"{literal}|\w+", patterns, re.S)
        names = tuple(re.findall(r'"([^"]*)"', names))
        kinds[names] = [constants[word] if word in constants else joined(word) for word in words]
    return kinds


class Pretokenizers(unittest.TestCase):
    # Written otherwise on either side, and compared by what they do (tokenizers_test.py). Only the program knows
    # kimi-k2, which has no tokenizer.json.
    OTHERWISE = {"falcon", "deepseek-llm", "deepseek-v3", "seed-coder", "bloom", "viking", "kimi-k2"}

    def test_the_converter_and_the_program_know_the_same_rules_by_the_same_names(self):
        kinds, ours = rules_of_the_program(), {name: steps for name, steps, _ in pretokenizers.KINDS}
        self.assertGreater(len(kinds), 5)
        known = {name for names in kinds for name in names}
        self.assertEqual(ours.keys() - known, set(), "names that the program does not know")
        named = [tuple(steps) for steps in ours.values()]
        for names, patterns in kinds.items():
            if not self.OTHERWISE.isdisjoint(names):
                continue
            with self.subTest(names):
                spelled = [re.sub(r"\\x\{([0-9a-f]+)\}", lambda m: chr(int(m[1], 16)), pattern) for pattern in patterns]
                self.assertIn((*spelled, "to bytes"), named, "a rule that the converter does not recognise")
                for name in ours.keys() & set(names):
                    self.assertEqual(ours[name], [*spelled, "to bytes"])


if __name__ == "__main__":
    unittest.main()
