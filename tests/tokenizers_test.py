#!/usr/bin/env python3
"""`hearth tokenize` against the libraries that the tokenizers come from.
Small ones of every kind are trained here, converted, and compared.

    python3 tests/tokenizers_test.py build/check/hearth          (packages: tools/models/requirements.txt)
"""

import io
import json
import random
import re
import subprocess
import sys
import tempfile
import unicodedata
import unittest
from pathlib import Path

import gguf
import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, models, pre_tokenizers, processors, trainers

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS.parent / "tools" / "models"))
import convert  # noqa: E402
import convert_test  # noqa: E402
import pretokenizers as rules  # noqa: E402
from convert_test import random_tensors, tiny_config  # noqa: E402

PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
TEXTS = 1500


# ---- texts -----------------------------------------------------------------------------------------------------------

FRAGMENTS = [
    "the", " the", "The old woman", " and", "was", " 'tis", "I'm", "we'LL", "They'Re", "don't", " it's", "'S",
    "'\u017f", "o'clock", "''", "'d've", "\u2019s",
    "0", "7", "42", "123", "1234", "12345678", "3.14159", " 1000000", "\u00b2\u00b3", "\u00bd",
    "\u0663\u0664\u0665\u0666", "\u2167", "\u096a\u096b", "1\u20442",
    "for (int i = 0; i < n; ++i) {\n    x[i] += y[i];\n}\n", "def f(x):\n\treturn x ** 2\n",
    "if (a&&b||!c) { return; }\r\n", "<div class=\"a\">", "&nbsp;",
    "std::vector<int>", "#include <x.h>\n", "$HOME/.cache", "a_b_c", "camelCase", "SHOUT", "x^2+y~z|w`q`",
    "https://example.org/?q=1&r=%20", "\\n", "{}", "[];",
    "...", "?!", "--", "\u2014", "\u00ab\u00bb", "\u3002", "\uff01\uff1f", "=>", "<=>", "$$", "+++", "||", "^^",
    "\u20ac", "\u2211", "\u2192", "\u00a9", "*" * 40, "-" * 77,
    " ", "  ", "   ", " " * 17, " " * 100, "\t", "\t\t", " \t ", "\n", "\n\n", "\r\n", "\r", " \n", "\n ",
    "\n\n\n   \n", "\v", "\f", "\x85", "\xa0", "\u2003", "\u3000",
    "\u2028", "\u200b", "\u180e", "\ufeff", "\u202f", "\u1680",
    "\U0001F642", "\U0001F468\u200d\U0001F469\u200d\U0001F467\u200d\U0001F466", "\U0001F3F3\ufe0f\u200d\U0001F308",
    "\U0001F44D\U0001F3FD", "\u2764\ufe0f", "\U0001F1E9\U0001F1EA",
    "\u4f60\u597d\uff0c\u4e16\u754c", "\u6f22\u5b57", "\u3053\u3093\u306b\u3061\u306f", "\u30c6\u30b9\u30c8",
    "\uc548\ub155\ud558\uc138\uc694", "\u1112\u1161\u11ab", "\U00020000",
    "\u0645\u0631\u062d\u0628\u0627", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\u05e9\u05dc\u05d5\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\u041f\u0440\u0438\u0432\u0435\u0442", "\u03b3\u03b5\u03b9\u03ac", "na\u00efve", "Stra\u00dfe", "\u01c5",
    "\ufb01ne", "\uff21\uff22\uff23", "\u212a", "\u0130", "\u1e9e", "\u0132", "\u2460",
    "e\u0301", "a\u0323\u0302", "Z\u0351\u036b\u0343", "\u0301", "\u00e9\u0301", "\u1ec7", "o\u0308\u0304",
    "\u00c5\u212b",
    "\x01", "\x02\x03", "\x1b[0m", "\x1c", "\x1f", "\x7f", "\x80", "\x9f", "\ue000", "\uffff", "\U0010ffff", "\ufffd",
    "\u2581", "\u0120", "\u010a",
    "<|user|>", "<|user", "a b", "<s>", "<unk>", "<0x41>", "zyxwv", " zyxwv", "qqqqqqqqqqqqqqq", "aAaAaA",
    "\u00c3\u00a9",
]


def texts(seed):
    rng = random.Random(seed)
    fairytales = (TESTS / "data/fairytales-valid.txt").read_text(encoding="utf-8")
    alphabets = [(0x20, 0x7e), (0xa0, 0x17f), (0x300, 0x36f), (0x370, 0x3ff), (0x590, 0x6ff), (0x900, 0x97f),
                 (0x2000, 0x206f), (0x3040, 0x30ff), (0x4e00, 0x4fff), (0xac00, 0xacff), (0xff01, 0xffef),
                 (0x1f300, 0x1f6ff)]
    result = ["", *FRAGMENTS]
    while len(result) < TEXTS:
        parts = []
        for _ in range(rng.randint(1, 12)):
            kind = rng.random()
            if kind < 0.7:
                parts.append(rng.choice(FRAGMENTS))
            elif kind < 0.85:
                start = rng.randrange(len(fairytales) - 60)
                parts.append(fairytales[start:start + rng.randint(1, 60)])
            else:
                low, high = rng.choice(alphabets)
                parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6))))
        result.append("".join(parts))
    return result


def training_texts():
    fairytales = (TESTS / "data/fairytales-valid.txt").read_text(encoding="utf-8")[:200000]
    return fairytales.splitlines(keepends=True) + [text for text in texts(seed=1) if "zyxwv" not in text]


def broken_texts():
    rng = random.Random(5)
    result = [b"\xff\xfe", b"caf\xc3", b"\xe2\x82 end", b"\xed\xa0\x80", b"a\x80b\xf0\x9f\x99", b"\xc0\x80 1\xb2",
              b" \xff 's\xff's", b"\xf4\x90\x80\x80"]
    while len(result) < 300:
        text = bytearray("".join(rng.choice(FRAGMENTS) for _ in range(5)).encode())
        for _ in range(rng.randint(1, 5)):
            text[rng.randrange(len(text))] = rng.randrange(1, 256)
        result.append(bytes(text))
    return result


# ---- the program -----------------------------------------------------------------------------------------------------

class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def converted(self, vocab, **config):
        """A GGUF file without tensors of the tokenizer in the folder."""
        (self.folder / "config.json").write_text(json.dumps(tiny_config(vocab_size=vocab, **config)))
        path = self.folder / "model.gguf"
        read = convert.read_config(self.folder)
        writer = gguf.GGUFWriter(None, "llama")
        convert.add_keys(writer, "tokenizer", read, convert.read_tokenizer(self.folder, read), 0)
        with convert.replacing(path) as file:
            convert.write_file(writer, file, [], convert.Type.F32, None)
        return path

    def tokenized(self, model, strings):
        """What `hearth tokenize` says of each (str or bytes, without zero bytes)."""
        strings = [s if isinstance(s, bytes) else s.encode() for s in strings]
        path = self.folder / "strings"
        path.write_bytes(b"".join(s + b"\0" for s in strings))
        done = subprocess.run([PROGRAM, "tokenize", model, "-f", path, "-0"], capture_output=True, timeout=100)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]
        self.assertEqual(len(lines), len(strings))
        return lines

    def compare(self, model, strings, encode, decode):
        wrong = []
        for text, got in zip(strings, self.tokenized(model, strings), strict=True):
            ids = encode(text)
            if got["ids"] != ids:
                wrong.append((text, got["pieces"], ids))
            elif got["text"] != decode(ids):
                wrong.append((text, got["text"], decode(ids)))
        self.assertTrue(not wrong, f"{len(wrong)} of {len(strings)}; text, ours, theirs: {wrong[:5]}")


# ---- byte-level BPE --------------------------------------------------------------------------------------------------

def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def splits(*patterns, behavior="isolated", invert=False):
    return [pre_tokenizers.Split(Regex(pattern), behavior, invert) for pattern in patterns]


DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"


DEEPSEEK3_WORDS = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
                   " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")    # its tokenizer.json, to the letter


PRETOKENIZERS = {    # as the models that give them their names have them in tokenizer.json
    "gpt-2": byte_level(True),
    "llama-bpe": pre_tokenizers.Sequence([*splits(rules.LLAMA3), byte_level(False)]),
    "smaug-bpe": pre_tokenizers.Sequence([*splits(rules.LLAMA3), byte_level(False)]),
    "qwen2": pre_tokenizers.Sequence([*splits(rules.QWEN2), byte_level(False)]),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
    "falcon": pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), byte_level(True),
                                       pre_tokenizers.Digits(individual_digits=False),
                                       *splits("[0-9][0-9][0-9]")]),
    "deepseek-coder": pre_tokenizers.Sequence([*splits("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+",
                                                       "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
                                               pre_tokenizers.Digits(individual_digits=True), byte_level(False)]),
    "deepseek-llm": pre_tokenizers.Sequence([*splits("[\r\n]", rules.DEEPSEEK_LETTERS, "\\s?[!-/:-~\uff01-\uff0f"
                                                     "\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
                                                     r"\s+$", DEEPSEEK_CJK),
                                             pre_tokenizers.Digits(individual_digits=True), byte_level(False)]),
    # With line ends written out in its classes, as the models have it.
    "deepseek-v3": pre_tokenizers.Sequence([*splits(r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
                                                    DEEPSEEK3_WORDS), byte_level(False)]),
    "qwen35": pre_tokenizers.Sequence([*splits(rules.QWEN35), byte_level(False)]),
    "gpt-4o": pre_tokenizers.Sequence([*splits(rules.O200K, behavior="removed", invert=True), byte_level(False)]),
    "tekken": pre_tokenizers.Sequence([*splits(rules.TEKKEN), byte_level(False)]),
    "seed-coder": pre_tokenizers.Sequence([*splits(rules.SEED), byte_level(False)]),
    "bailingmoe": pre_tokenizers.Sequence([*splits(rules.BAILING), byte_level(False)]),
    "bloom": pre_tokenizers.Sequence([*splits(rules.BLOOM), byte_level(False)]),
    "viking": pre_tokenizers.Sequence([*splits(rules.BLOOM), pre_tokenizers.Digits(individual_digits=True),
                                       byte_level(False)]),
}
WHOLE_WORDS = ("llama-bpe", "tekken")


# Pre-tokenizers, and whether text becomes normal form C first, as Qwen's does.
VARIANTS = [*((name, False) for name in PRETOKENIZERS), ("qwen2", True), ("gpt-2", True)]
ADDED = ["<|user|>", "<|user|><|user|>", "a b", "\u00e9\u0301"]


def train_byte_level(pre_tokenizer, whole_words=False, nfc=False):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False, special_tokens=["<|begin|>", "<|end|>"])
    tokenizer.train_from_iterator(training_texts(), trainer)
    source = json.loads(tokenizer.to_str())
    for word in ("zyxwv", "\u0120zyxwv"):    # which no merges lead to
        source["model"]["vocab"][word] = len(source["model"]["vocab"])
    source["model"]["ignore_merges"] = whole_words
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(source))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ADDED])
    return tokenizer


def normal_form(text):
    """Bytes with what is UTF-8 in them, between added tokens, in normal form C."""
    # Bytes that are not UTF-8 become these.
    apart = "|".join(map(re.escape, sorted(ADDED, key=len, reverse=True))) + "|[\udc80-\udcff]+"
    parts = re.split(f"({apart})", text.decode(errors="surrogateescape"))
    return "".join(p if i % 2 else unicodedata.normalize("NFC", p) for i, p in enumerate(parts)).encode(
        errors="surrogateescape")


def byte_alphabet():
    """Byte -> its character, from a tokenizer that knows single bytes only."""
    visible = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


class ByteLevel(Case):
    def write(self, tokenizer, **changes):
        source = json.loads(tokenizer.to_str()) | changes
        (self.folder / "tokenizer.json").write_text(json.dumps(source))
        return tokenizer.get_vocab_size()

    def test_every_pretokenizer_gives_the_ids_of_the_tokenizers_library(self):
        for name, nfc in VARIANTS:
            with self.subTest(name, nfc=nfc):
                tokenizer = train_byte_level(PRETOKENIZERS[name], whole_words=name in WHOLE_WORDS, nfc=nfc)
                model = self.converted(self.write(tokenizer), bos_token_id=0, eos_token_id=1)
                self.assertEqual(gguf.GGUFReader(model).fields["tokenizer.ggml.pre"].contents(), name)
                strings = texts(seed=2)
                self.compare(model, strings, lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
                             tokenizer.decode)
                for text, got in zip(strings, self.tokenized(model, strings), strict=True):
                    self.assertEqual(got["text"], normal_form(text.encode()).decode() if nfc else text)

    def test_bytes_that_are_not_utf8_are_spelled_by_the_pieces(self):
        byte_of = {character: byte for byte, character in byte_alphabet().items()}
        for name, nfc in VARIANTS:
            with self.subTest(name, nfc=nfc):
                tokenizer = train_byte_level(PRETOKENIZERS[name], whole_words=name in WHOLE_WORDS, nfc=nfc)
                model = self.converted(self.write(tokenizer), bos_token_id=0, eos_token_id=1)
                strings = broken_texts()
                for text, got in zip(strings, self.tokenized(model, strings), strict=True):
                    expected = normal_form(text) if nfc else text
                    self.assertEqual(got["text"], expected.decode(errors="replace"))
                    spelled = [piece.encode() if piece in ADDED else bytes(byte_of[c] for c in piece)
                               for piece in got["pieces"]]
                    self.assertEqual(b"".join(spelled), expected)

    def test_a_long_word_takes_n_log_n(self):
        tokenizer = train_byte_level(byte_level(True))
        model = self.converted(self.write(tokenizer), bos_token_id=0, eos_token_id=1)
        strings = ["ab" * 100000, " " * 200000, "=-" * 100000, "7" * 200000, "a " * 100000]
        self.compare(model, strings, lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
                     tokenizer.decode)

    def test_the_post_processor_says_what_is_added(self):
        tokenizer = train_byte_level(byte_level(True))
        tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A",
                                                                 special_tokens=[("<|begin|>", 0)])
        fields = gguf.GGUFReader(self.converted(self.write(tokenizer), bos_token_id=0, eos_token_id=1)).fields
        self.assertTrue(fields["tokenizer.ggml.add_bos_token"].contents())
        self.assertFalse(fields["tokenizer.ggml.add_eos_token"].contents())

    def test_what_is_not_known_is_refused_by_what_it_does(self):
        tokenizer = train_byte_level(byte_level(True))
        regex = json.loads(pre_tokenizers.Sequence([*splits(r"\d+ odd"), byte_level(False)]).__getstate__())
        odd = AddedToken("x q", lstrip=True).__getstate__() | {"id": tokenizer.get_vocab_size(with_added_tokens=False),
                                                               "special": False}
        for changes, message in (({"pre_tokenizer": regex}, r'["\\d+ odd", "to bytes"]'),
                                 ({"pre_tokenizer": {"type": "Whitespace"}}, "not a byte-level"),
                                 ({"normalizer": {"type": "Lowercase"}}, '{"type": "Lowercase"}'),
                                 ({"added_tokens": [odd]}, "lstrip"),
                                 ({"model": {"type": "Unigram", "vocab": []}}, "not a byte-level"),
                                 ({"model": {}}, "not a valid tokenizer.json")):
            with self.subTest(message):
                vocab = self.write(tokenizer, **changes)
                with self.assertRaises(convert.Refusal) as refused:
                    self.converted(vocab)
                self.assertIn(message, str(refused.exception))

    def test_a_converted_checkpoint_runs(self):
        config = tiny_config(vocab_size=self.write(train_byte_level(PRETOKENIZERS["llama-bpe"], True)), bos_token_id=0,
                             eos_token_id=1)
        (self.folder / "config.json").write_text(json.dumps(config))
        convert_test.save_file(random_tensors(config), self.folder / "model.safetensors")
        model = self.folder / "model.gguf"
        self.assertEqual(convert.main([str(self.folder), str(model)]), 0)
        done = subprocess.run([PROGRAM, "run", model, "-p", "Once upon a time", "-n", "5", "--device", "cpu",
                               "--ignore-eos"], capture_output=True, timeout=100)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout.decode().startswith("Once upon a time"))


    def test_an_answer_ends_at_every_token_that_ends_one(self):
        tokenizer = train_byte_level(byte_level(True))
        tokenizer.add_special_tokens(["<|eot_id|>"])    # which is not EOS
        says = tokenizer.token_to_id("<|eot_id|>")
        config = tiny_config(vocab_size=self.write(tokenizer), bos_token_id=0, eos_token_id=1,
                             tie_word_embeddings=False)
        (self.folder / "config.json").write_text(json.dumps(config))
        tensors = random_tensors(config)
        # The same in every token, and read by one row of the head alone.
        tensors["model.embed_tokens.weight"][:, 0] = 50
        tensors["lm_head.weight"] *= 1e-3
        tensors["lm_head.weight"][:, 0] = 0
        tensors["lm_head.weight"][says, 0] = 5
        convert_test.save_file(tensors, self.folder / "model.safetensors")
        model = self.folder / "model.gguf"
        self.assertEqual(convert.main([str(self.folder), str(model)]), 0)
        for command in (["run", model, "-p", "Once"],
                        *(["chat", model, "--template", frame] for frame in ("none", "chatml"))):
            done = subprocess.run([PROGRAM, *command, "-n", "9", "--temp", "0", "--device", "cpu"], input=b"hi\n",
                                  capture_output=True, timeout=100)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stderr.decode(), "answers?: 0 tokens")
        done = subprocess.run([PROGRAM, "run", model, "-p", "Once", "-n", "9", "--temp", "0", "--device", "cpu",
                               "--ignore-eos"], capture_output=True, timeout=100)
        self.assertIn("answer: 9 tokens", done.stderr.decode())

    def test_control_tokens_written_out_are_text_or_with_special_themselves(self):
        tokenizer = train_byte_level(byte_level(True))
        word = next(t for t in sorted(tokenizer.get_vocab(), key=len, reverse=True) if t.isascii() and t.isalpha())
        tokenizer.add_special_tokens([word])    # merges lead to it
        model = self.converted(self.write(tokenizer), bos_token_id=0, eos_token_id=1)
        text = f"a {word} x{word}x <|end|>"
        plain, special = (json.loads(subprocess.run([PROGRAM, "tokenize", model, "-p", text, "--json", *flags],
                                                    capture_output=True, timeout=100, check=True).stdout)
                          for flags in ([], ["--special"]))
        self.assertEqual(special["ids"], tokenizer.encode(text, add_special_tokens=False).ids)
        self.assertEqual(plain["text"], text)
        self.assertFalse({1, tokenizer.token_to_id(word)} & set(plain["ids"]))

    def test_a_file_that_names_no_rules_is_cut_by_those_that_its_vocabulary_was_made_with(self):
        for name in ("gpt-2", "llama-bpe", "qwen2", "smollm", "deepseek-v3", "gpt-4o"):
            with self.subTest(name):
                tokenizer = train_byte_level(PRETOKENIZERS[name])
                model = self.converted(self.write(tokenizer), bos_token_id=0, eos_token_id=1)
                bytes_ = model.read_bytes()
                self.assertEqual(bytes_.count(b"tokenizer.ggml.pre"), 1)
                model.write_bytes(bytes_.replace(b"tokenizer.ggml.pre", b"tokenizer.ggml.odd"))
                strings = [text for text in texts(seed=2)[:300] if "zyxwv" not in text]
                done = subprocess.run([PROGRAM, "tokenize", model, "-p", "a"], capture_output=True, timeout=100)
                taken = done.stderr.decode().partition("(tokenizer.ggml.pre); '")[2].partition("'")[0]
                wrong = sum(got["ids"] != tokenizer.encode(text, add_special_tokens=False).ids
                            for text, got in zip(strings, self.tokenized(model, strings), strict=True))
                self.assertLess(wrong, len(strings) // 20, f"{name} was taken for {taken}")


# ---- SentencePiece ---------------------------------------------------------------------------------------------------

class SentencePiece(Case):
    def train(self, kind, **options):
        model = io.BytesIO()
        settings = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
                    "user_defined_symbols": ["<|user|>", "<|user|><|user|>"]} | options
        strings = [text.replace("\0", "").replace("\n", " ") for text in training_texts()]
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(strings), model_writer=model, model_type=kind,
                                                 vocab_size=1500, minloglevel=2, character_coverage=0.98, num_threads=2,
                                                 **settings)
        (self.folder / "tokenizer.model").write_bytes(model.getvalue())
        return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

    VARIANTS = {
        "as Llama's": {},
        "without byte fallback": {"byte_fallback": False},
        "without a leading space": {"add_dummy_prefix": False},
        "with single spaces": {"remove_extra_whitespaces": True},
        "with characters replaced": {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
        "with characters replaced and case folded": {"normalization_rule_name": "nmt_nfkc_cf", "byte_fallback": False},
    }

    def check(self, kind, name, options, more=()):
        with self.subTest(kind, variant=name):
            processor = self.train(kind, **options)
            model = self.converted(processor.get_piece_size())
            self.compare(model, [*texts(seed=3), *more], processor.encode, processor.decode)

    def test_bpe_gives_the_ids_and_the_text_of_sentencepiece(self):
        for name, options in self.VARIANTS.items():
            self.check("bpe", name, options)

    def test_gemmas_runs_of_spaces_and_line_ends_are_tokens(self):
        runs = ["\n" * n for n in range(1, 5)] + ["\u2581" * n for n in range(2, 6)]
        for kind in ("bpe", "unigram"):
            self.check(kind, "as Gemma's",
                       {"add_dummy_prefix": False, "split_digits": True, "allow_whitespace_only_pieces": True,
                        "user_defined_symbols": ["<start_of_turn>", *runs, "\t\t", "<b>", "</b>"]},
                       more=[" " * n for n in range(1, 200)])    # of which many ways to cut them are about equally good

    def test_unigram_gives_the_ids_and_the_text_of_sentencepiece(self):
        for name, options in self.VARIANTS.items():
            self.check("unigram", name, options)

    def test_bytes_that_are_not_utf8_are_spelled_by_the_pieces(self):
        for kind in ("bpe", "unigram"):
            with self.subTest(kind):
                model = self.converted(self.train(kind).get_piece_size())
                strings = broken_texts()
                for text, got in zip(strings, self.tokenized(model, strings), strict=True):
                    spelled = b"".join(bytes([int(p[3:5], 16)]) if 4 < i < 261 else p.encode()
                                       for i, p in zip(got["ids"], got["pieces"], strict=True))
                    self.assertEqual(spelled.replace("\u2581".encode(), b" ")[1:],
                                     text.replace("\u2581".encode(), b" "))
                    self.assertEqual(got["text"], text.decode(errors="replace").replace("\u2581", " "))


if __name__ == "__main__":
    if not PROGRAM:
        sys.exit(__doc__)
    unittest.main()
