#!/usr/bin/env python3
"""`hearth template` against jinja2, set up as transformers sets it up: whole templates over whole conversations,
and thousands of small expressions.

    python3 tests/template_test.py build/check/hearth          (packages: tools/models/requirements.txt)
"""

import datetime
import functools
import io
import json
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import gguf
import jinja2
import jinja2.ext
import jinja2.sandbox
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS.parent / "tools" / "models"))
import convert  # noqa: E402
from convert_test import tiny_config  # noqa: E402

TEMPLATES = sorted((TESTS / "data" / "templates").glob("*.jinja"))
PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
LONG = 200    # seconds; above every run here


# ---- the original ----------------------------------------------------------------------------------------------------

class Generation(jinja2.ext.Extension):
    """transformers' `{% generation %}`, which changes nothing of the text."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("said"), [], [], body).set_lineno(line)

    @staticmethod
    def said(caller):
        return caller()


@functools.cache
def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                        extensions=[Generation, jinja2.ext.loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda format: datetime.datetime.now().strftime(format)
    return made


TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


@functools.lru_cache(maxsize=8)
def compiled(template):
    return environment().from_string(template)


def original(template, conversation):
    """The text, or the exception."""
    variables = {"tools": None, "documents": None, "add_generation_prompt": True} | conversation
    try:
        return compiled(template).render(variables)
    except Exception as error:    # whatever a template does wrong, it must be wrong here, too
        return error


def rendered(conversations):
    """What the program makes of them: texts, or dictionaries with what is wrong."""
    with tempfile.NamedTemporaryFile("w", suffix=".jinja") as any_template:
        lines = "".join(json.dumps(c) + "\n" for c in conversations)
        done = subprocess.run([PROGRAM, "template", any_template.name, "-f", "-", "--json"], input=lines.encode(),
                              capture_output=True, timeout=LONG)
    if done.returncode:
        raise AssertionError(done.stderr.decode())
    results = [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]
    return [r.get("text", r) for r in results]


# ---- conversations ---------------------------------------------------------------------------------------------------

def said(*texts, system=None, **variables):
    """The user and the assistant in turn."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"messages": messages, **variables}


WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather at a place, \"now\" or <later>.",
    "parameters": {"type": "object", "required": ["place"], "properties": {
        "place": {"type": "string", "description": "A city\nor village"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
        "days": {"type": ["integer", "null"], "description": "1 to 7"},
        "options": {"type": "object", "properties": {"wind": {"type": "boolean"},
                                                     "places": {"type": "array", "items": {"type": "string"}}}}}},
    "return": {"type": "object", "description": "temperature & wind"}}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Tells the time.",
                                          "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call12345", "type": "function",
        "function": {"name": "get_weather", "arguments": {"place": "Zürich", "days": 2, "rate": 0.5, "exact": True}}}
TOOL_TURNS = [
    {"role": "user", "content": "Is it raining?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": "{\"rain\": false, \"t\": -3.5}"},
    {"role": "assistant", "content": "It is dry."},
    {"role": "user", "content": "And tomorrow?"},
]

CONVERSATIONS = {
    "one question": said("Hi there"),
    "a question with a system prompt": said("Hi there", system="Be brief."),
    "several turns": said("One?", "Two.", "Three?", "Four.", "Five?"),
    "several turns with a system prompt": said("One?", "Two.", "Three?", "Four.", "Five?",
                                               system="You are a pirate.\nSpeak so."),
    "no generation prompt": said("One?", "Two.", add_generation_prompt=False),
    "no generation prompt, with a system prompt": said("One?", "Two.", "Three?", system="S",
                                                       add_generation_prompt=False),
    "empty question": said(""),
    "empty system prompt": said("Hi", system=""),
    "empty answer": said("Hi", "", "Well?"),
    "white space": said("  two spaces \n\n", "\tand a tab ", " \n ", system=" \n system \n"),
    "unicode": said("Grüße, 你好 🙂 e\u0301 \u200d \u00a0", "Ça va? ｜▁", "ﬁn İstanbul ΑΣ", system="Ответь — «да»"),
    "braces and quotes": said("{{ 7*7 }} {% raw %} {# no #} \"it's\" \\n {'a': 1}", "`code` </s> <b>&amp;</b>",
                              "}} %} #} ${x} %s %d", system="{{ x }} 'q' \"d\""),
    "marks in what is said": said("a<|im_end|>b</s>c<s>[INST] x [/INST]", "<end_of_turn>", "<|user|>\n<｜User｜>",
                                  system="<<SYS>> <|system|>"),
    "thoughts": said("What is 2+2?", "<think>\nTwo and two.\n</think>\n\nIt is 4.", "Sure?", "<think>Yes</think>Sure.",
                     "And 3?"),
    "a thought that was opened by the prompt": said("What?", "I think so.\n</think>\n\nYes.", "Really?"),
    "thoughts apart": {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A",
                                                                       "reasoning_content": "hm\n", "thinking": "hm"},
                                    {"role": "user", "content": "Q2"}]},
    "a last answer with thoughts": said("Q", "<think>\nhm\n</think>\n\nA", add_generation_prompt=False),
    "two answers": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                                 {"role": "assistant", "content": "c"}]},
    "two questions": {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
    "an answer first": {"messages": [{"role": "assistant", "content": "Welcome."}, {"role": "user", "content": "b"}]},
    "a system prompt alone": {"messages": [{"role": "system", "content": "S"}]},
    "a system prompt in the middle": {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "S"},
                                                   {"role": "user", "content": "b"}]},
    "no messages": {"messages": []},
    "content that is missing": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None},
                                             {"role": "user", "content": "b"}]},
    "content in parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image"},
                                                                   {"type": "text", "text": " here"}]}]},
    "an unknown role": {"messages": [{"role": "user", "content": "a"}, {"role": "critic", "content": "b"},
                                     {"role": "user", "content": "c"}]},
    "a developer": {"messages": [{"role": "developer", "content": "D"}, {"role": "user", "content": "a"}]},
    "tools": said("Is it raining?", tools=[WEATHER, CLOCK]),
    "tools with a system prompt": said("Is it raining?", "No.", "And now?", system="Use tools.", tools=[WEATHER]),
    "tool calls": {"messages": TOOL_TURNS, "tools": [WEATHER, CLOCK]},
    "tool calls without tools": {"messages": [{"role": "system", "content": "S"}, *TOOL_TURNS]},
    "calls as strings": {"messages": [TOOL_TURNS[0], {"role": "assistant", "content": "Let me see.", "tool_calls": [
        {"id": "abcdefghi", "type": "function",
         "function": {"name": "get_weather", "arguments": "{\"place\": \"Bern\"}"}},
        {"id": "abcdefghj", "type": "function", "function": {"name": "clock", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "dry"},
        {"role": "tool", "tool_call_id": "abcdefghj", "content": "noon"}], "tools": [WEATHER]},
    "open tool call": {"messages": TOOL_TURNS[:2], "tools": [WEATHER]},
    "a tool's answer last": {"messages": TOOL_TURNS[:3], "tools": [WEATHER, CLOCK]},
    "documents": said("Who?", documents=[{"title": "One", "text": "It was me."},
                                         {"title": "Two", "text": "No, {me}."}]),
    "without thinking": said("Why?", "Because.", "Why so?", enable_thinking=False, thinking=False,
                             reasoning_effort="low"),
    "with thinking": said("Why?", enable_thinking=True, thinking=True, reasoning_effort="high", system="S /think"),
    "a switch in the system prompt": said("Why?", "Because.", "So?", system="Answer.\n/no_think"),
    "a date that is given": said("When?", date_string="01 Feb 2025", custom_tools=None),
}


class Templates(unittest.TestCase):
    maxDiff = 3000

    def test_every_template_gives_what_jinja2_gives(self):
        self.assertGreaterEqual(len(TEMPLATES), 40)
        self.assertGreaterEqual(len(CONVERSATIONS), 20)
        rendered_well = {}
        for path in TEMPLATES:
            template = path.read_text(encoding="utf-8")
            all_of_them = [TOKENS | conversation for conversation in CONVERSATIONS.values()]
            ours = rendered([c | {"chat_template": template} for c in all_of_them])
            for name, conversation, got in zip(CONVERSATIONS, all_of_them, ours, strict=True):
                want = original(template, conversation)
                with self.subTest(template=path.stem, conversation=name):
                    if isinstance(want, Exception):
                        self.assertIsInstance(got, dict, f"jinja2: {want!r}")
                    else:
                        self.assertEqual(got, want)
                        rendered_well[path.stem] = rendered_well.get(path.stem, 0) + 1
        for path in TEMPLATES:    # else it would be the template that is wrong
            self.assertGreaterEqual(rendered_well.get(path.stem, 0), 5 if "tool-use" in path.stem else 10, path.stem)

    def test_what_a_template_raises_is_told(self):
        for template, message in [("{{ raise_exception('Only ' + messages[0].role) }}", "Only user"),
                                  ("{% if true %}{{ raise_exception(1) }}{% endif %}", "1")]:
            got, = rendered([said("x", chat_template=template), said("x")])[:1]
            self.assertEqual(got["error"], message)


# ---- tokens ----------------------------------------------------------------------------------------------------------

def training_texts():
    return (TESTS / "data" / "fairytales-valid.txt").read_text(encoding="utf-8")[:100000].splitlines(keepends=True)


def merges_of(pieces):
    """What a SentencePiece vocabulary merges, best first: every way to make a piece of two others."""
    ids = {text: i for i, text in enumerate(pieces)}
    ways = []
    for text, i in ids.items():
        parts = [(text[:cut], text[cut:]) for cut in range(1, len(text)) if text[:cut] in ids and text[cut:] in ids]
        ways += [(i, ids[left], ids[right], left, right) for left, right in parts]
    return [(left, right) for *_, left, right in sorted(ways)]


class Tokens(unittest.TestCase):
    """Ids of whole conversations, against the tokenizers library, which takes the text that a template gives and
    finds special tokens in it."""

    IM = ["<|im_start|>", "<|im_end|>", "<|im_sep|>", "<think>", "</think>"]
    PHI = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    MISTRAL = ["[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
               "[/TOOL_RESULTS]"]
    # Nobody says a mark in these.
    QUIET = [name for name in CONVERSATIONS if "marks" not in name and "braces" not in name and "thought" not in name]

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def byte_level(self, marks, user_defined=()):
        library = Tokenizer(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        library.decoder = decoders.ByteLevel()
        library.train_from_iterator(
            training_texts(), trainers.BpeTrainer(vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                  show_progress=False))
        library.add_special_tokens([AddedToken(text, special=True, normalized=False)
                                    for text in ["<s>", "</s>", *marks]])
        library.add_tokens([AddedToken(text, special=False, normalized=False) for text in user_defined])
        return library

    def sentencepiece(self, marks, normalizer=None, pre_tokenizer=None, rstrip=False, prefix=True):
        """As Llama's: `tokenizer.model`, and what transformers makes of it."""
        file = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(training_texts()), model_writer=file,
                                                 model_type="bpe", vocab_size=1200, minloglevel=2, byte_fallback=True,
                                                 normalization_rule_name="identity", remove_extra_whitespaces=False,
                                                 add_dummy_prefix=prefix, user_defined_symbols=[], num_threads=2)
        (self.folder / "tokenizer.model").write_bytes(file.getvalue())
        model = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
        pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
        library = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(pieces)}, merges=merges_of(pieces),
                                       unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        if normalizer:
            library.normalizer = normalizer
        if pre_tokenizer:
            library.pre_tokenizer = pre_tokenizer
        library.add_special_tokens([AddedToken(text, special=True, normalized=False)
                                    for text in ["<unk>", "<s>", "</s>"]])
        library.add_special_tokens([AddedToken(text, special=True, normalized=False, rstrip=rstrip) for text in marks])
        return library

    def check(self, library, templates, conversations=QUIET, **settings):
        (self.folder / "tokenizer.json").write_text(library.to_str())
        (self.folder / "tokenizer_config.json").write_text(
            json.dumps({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False} | settings))
        (self.folder / "config.json").write_text(json.dumps(tiny_config(vocab_size=library.get_vocab_size())))
        model = self.folder / "model.gguf"
        read = convert.read_config(self.folder)
        writer = gguf.GGUFWriter(None, "llama")
        convert.add_keys(writer, "tokenizer", read, convert.read_tokenizer(self.folder, read), 0)
        with convert.replacing(model) as out:
            convert.write_file(writer, out, [], convert.Type.F32, None)
        compared = 0
        for template in templates:
            text = (TESTS / "data" / "templates" / f"{template}.jinja").read_text(encoding="utf-8")
            lines = "".join(json.dumps(TOKENS | CONVERSATIONS[name] | {"chat_template": text}) + "\n"
                            for name in conversations)
            done = subprocess.run([PROGRAM, "template", model, "--template", "none", "-f", "-", "--json"],
                                  input=lines.encode(), capture_output=True, timeout=LONG)
            self.assertEqual(done.returncode, 0, done.stderr)
            for name, line in zip(conversations, done.stdout.decode().split("\n")[:-1], strict=True):
                got = json.loads(line)
                if "error" in got:
                    continue
                with self.subTest(template=template, conversation=name):
                    want = library.encode(got["text"], add_special_tokens=False)
                    self.assertEqual(got["ids"], want.ids or [library.token_to_id("<s>")],
                                     f"{got['pieces']}\n{want.tokens}")
                    compared += 1
        self.assertGreater(compared, 10 * len(templates))

    def test_byte_level(self):
        self.check(self.byte_level(self.IM[:3], self.IM[3:]),
                   ["chatml", "qwen-2", "qwen-2.5", "qwen-3", "qwq", "phi-4", "smollm3", "internlm-2", "yi"])

    def test_byte_level_with_marks_that_take_the_space_behind_them(self):
        library = self.byte_level([])
        library.add_special_tokens([AddedToken(text, special=True, normalized=False, rstrip=True) for text in self.PHI])
        self.check(library, ["phi-3", "phi-4-mini", "zephyr"])

    def test_sentencepiece_with_a_space_before_every_part(self):
        prepend = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        self.check(self.sentencepiece(self.IM, prepend), ["chatml", "llama-2", "zephyr", "openchat", "deepseek-v2"])

    def test_sentencepiece_with_a_space_before_the_first_part_only(self):
        first = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=False)
        self.check(self.sentencepiece(self.MISTRAL, pre_tokenizer=first),
                   ["mistral-v1", "mistral-v3", "mistral-nemo", "llama-2"])

    def test_sentencepiece_without_spaces_before_it(self):
        self.check(self.sentencepiece(["<start_of_turn>", "<end_of_turn>"], normalizers.Replace(" ", "\u2581"),
                                      prefix=False), ["gemma-1", "gemma-3", "vicuna"])

    def test_sentencepiece_with_marks_that_take_the_space_behind_them(self):
        prepend = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        self.check(self.sentencepiece(self.PHI, prepend, rstrip=True), ["phi-3", "phi-3.5"])


# ---- expressions -----------------------------------------------------------------------------------------------------

class Generator:
    """Small templates, mostly of values that fit each other, so that most of them can be rendered."""

    TEXTS = ["", "a", "Ab c", "  x y ", "a,b,,c", "line\n two\r\n\n", "\u00e9\u00df\u1e9e\ufb01 \u0130\u03a3a\u03a3",
             "it's", 'say "hi"', "1", "-12", " 3.5e2 ", "0x1f", "\U0001f642\u200d", "<b>&amp;", "\\n{}", "true",
             "aXbXc", "\t tab\x0b", "<|im_end|>", "aaa", "Title Case-word", "__x__", "1_000", "\x7f\x80\xad",
             "\u2028\u3000z", "dz\u01c5", "{0}", "%s"]
    NAMES = ["text", "number", "list", "dict", "messages", "flag", "nothing", "real", "words", "nested"]
    TEXT_FILTERS = ["upper", "lower", "title", "capitalize", "trim", "trim('ab')", "replace('a', 'Z')",
                    "replace('a', 'Z', 1)", "string", "escape", "e", "indent", "indent(2, true)",
                    "indent('> ', blank=true)", "center(9)", "wordcount", "length", "count", "list", "first", "last",
                    "reverse", "int", "int(7)", "int(0, 16)", "float", "float(1.5)", "tojson", "default('d')",
                    "default('d', true)", "d('e')", "truncate(5)", "truncate(5, true, '.')", "urlencode", "forceescape",
                    "safe", "unique | join", "sort | join('|')", "batch(2) | list", "format(1)", "max", "min"]
    LIST_FILTERS = ["length", "join", "join(', ')", "first", "last", "list", "reverse | list", "sort",
                    "sort(reverse=true)", "sort(case_sensitive=true)", "unique | list", "sum", "min", "max",
                    "map('string') | list", "map('upper') | join", "select | list", "reject | list",
                    "select('string') | list", "reject('none') | list", "select('gt', 1) | list", "batch(2) | list",
                    "batch(2, 'f') | list", "slice(2) | list", "slice(3, 'f') | list", "tojson", "tojson(indent=2)",
                    "string", "map('tojson') | join(';')", "select('in', [1, 'a']) | list", "map('length') | list",
                    "random_is_not_here"]
    NUMBER_FILTERS = ["abs", "int", "float", "round", "round(1)", "round(2)", "round(-1)", "round(1, chr_is_not_here)",
                      "string", "tojson", "default(1)", "round(0, 'ceil')", "round(0, 'floor')"]
    DICT_METHODS = ["get('A')", "get('b')", "get('q')", "get(1, 2)", "items()", "keys() | list", "values() | list",
                    "copy()", "items", "a", "b", "update({})", "pop(1)", "nothing"]
    PAIRS = ["dict.items()", "dict | items", "dict | dictsort", "[(1, 2), (3, 4)]", "words", "nested.items()",
             "[[1, 2, 3]]"]
    DICT_FILTERS = ["dictsort", "dictsort(by='value')", "dictsort(true, reverse=true)", "length", "list",
                    "items | list", "tojson", "tojson(indent='-', sort_keys=true)", "string", "map('upper') | list",
                    "first", "tojson(separators=(',', ':'))", "urlencode", "attr('items') is defined"]
    MESSAGE_FILTERS = ["map(attribute='role') | join(',')", "selectattr('role', 'equalto', 'user') | list | length",
                       "rejectattr('role', 'in', ['user']) | map(attribute='content') | list",
                       "selectattr('tool_calls', 'defined') | list", "groupby('role') | list",
                       "groupby('role') | map(attribute='grouper') | list",
                       "sort(attribute='content') | map(attribute='role') | list",
                       "map(attribute='none', default='-') | list",
                       "selectattr('content') | map(attribute='content') | join('+')",
                       "unique(attribute='role') | map(attribute='content') | list", "sum(attribute='n', start=1)",
                       "map(attribute='parts.0.text') | list",
                       "sort(attribute='role,content') | map(attribute='content') | list", "max(attribute='content')"]
    TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence",
             "iterable", "true", "false", "even", "odd", "divisibleby(3)", "divisibleby 2", "eq(1)", "equalto('a')",
             "ne 1", "lt(2)", "gt 1", "ge(1)", "le 3", "in [1, 'a', none]", "in 'abc'", "sameas true", "callable",
             "lower", "upper", "== 1", "escaped", "test", "filter", "greaterthan 0", "nonsense"]
    METHODS = ["upper()", "lower()", "title()", "capitalize()", "swapcase()", "strip()", "lstrip()", "rstrip()",
               "strip('a ')", "lstrip('xa')", "rstrip('c')", "split()", "split(',')", "split('X', 1)", "rsplit(',', 1)",
               "split(None, 1)", "rsplit()", "rsplit(maxsplit=1)", "splitlines()", "splitlines(true)",
               "startswith('a')", "startswith(('b', 'a'))", "endswith('c')", "endswith('b', 0, 2)",
               "replace('a', 'bb')", "replace('', '-')", "replace('a', 'b', 1)", "find('b')", "rfind('a')",
               "find('b', 1, 3)", "find('')", "index('a')", "count('a')", "count('')", "count('a', 1)",
               "join(['x', 'y'])", "join('xyz')", "partition(',')", "rpartition('X')", "removeprefix('a')",
               "removesuffix('c')", "ljust(6, '.')", "rjust(6)", "center(7, '*')", "zfill(5)", "isdigit()", "isalpha()",
               "isalnum()", "isspace()", "isupper()", "islower()", "istitle()", "isnumeric()", "isdecimal()",
               "isidentifier()", "isprintable()", "isascii()", "expandtabs(4)", "format(1, 2)", "format(a=1)",
               "nothing", "nothing()", "__class__", "_private", "casefold_is_not_here()"]
    FORMATS = ["'{}'", "'{:>6}'", "'{:*^7}'", "'{:05}'", "'{:+}'", "'{:.2f}'", "'{:,}'", "'{:x}'", "'{:#b}'", "'{:e}'",
               "'{:g}'", "'{:.3}'", "'{:%}'", "'{0}{0!r}'", "'{:<8}|'", "'{:=+8}'", "'{:_}'", "'{:10.3f}'", "'{:d}'",
               "'{:s}'"]
    PERCENTS = ["%s", "%d", "%r", "%5s|", "%-5s|", "%05d", "%+d", "%.2f", "%x", "%#x", "%o", "%e", "%g", "%c", "%%%s",
                "%.1s", "% d", "%i", "%G", "%5.1f", "%X"]
    VARIABLES = {"text": "Hello, World", "number": 7, "real": 2.5, "flag": True, "list": [3, 1, 2],
                 "words": ["b", "A", "c", "a"], "dict": {"b": 1, "A": "x", "c": None},
                 "nested": {"a": [1, {"b": [2.0, "x"]}], "c": {"d": {"e": False}}, "items": 3},
                 "messages": [{"role": "user", "content": "Hi", "n": 1, "parts": [{"text": "p"}]},
                              {"role": "assistant", "content": "", "n": 2},
                              {"role": "user", "content": "hi", "n": 4, "tool_calls": []}]}

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.one_of = self.random.choice

    def quoted(self, text):
        return (json.dumps(text, ensure_ascii=self.random.random() < 0.5)
                if not any(0xd800 <= ord(c) or ord(c) > 0xffff for c in text) else json.dumps(text, ensure_ascii=False))

    def text(self, depth=2):
        pick = self.random.randrange(12 if depth else 3)
        if pick < 2:
            return self.quoted(self.one_of(self.TEXTS))
        if pick == 2:
            return self.one_of(["text", "messages[0].role", "messages[-1]['content']", "words[1]", "dict.A"])
        inner = self.text(depth - 1)
        if pick == 3:
            return f"{inner}.{self.one_of(self.METHODS)}"
        if pick == 4:
            return f"({inner} | {self.one_of(self.TEXT_FILTERS)})"
        if pick == 5:
            return f"({inner} ~ {self.any(depth - 1)})"
        if pick == 6:
            return f"({inner} + {self.text(depth - 1)})"
        if pick == 7:
            return f"({inner} * {self.number(0)})"
        if pick == 8:
            return f"{inner}{self.slice()}"
        if pick == 9:
            return f"({self.quoted(self.one_of(self.PERCENTS))} % {self.any(depth - 1)})"
        if pick == 10:
            return f"{self.one_of(self.FORMATS)}.format({self.any(depth - 1)})"
        return f"({inner} if {self.truth(depth - 1)} else {self.text(depth - 1)})"

    def number(self, depth=2):
        pick = self.random.randrange(9 if depth else 3)
        if pick == 0:
            return str(self.one_of([0, 1, 2, 3, 5, 7, 10, 12, 100, 255, 1000000, "1_000", "0x1F", "0b101"]))
        if pick == 1:
            return str(self.one_of([0.5, 1.5, 2.675, 0.1, 1e16, 1e-5, 123456.789, 1e22, 3.0, 100.0, "1e3",
                                    "1.0e-7", 2.5]))
        if pick == 2:
            return self.one_of(["number", "real", "flag", "list[0]", "dict.b", "messages | length"])
        inner = self.number(depth - 1)
        if pick in (3, 4, 5):
            return f"({inner} {self.one_of(['+', '-', '*', '/', '//', '%', '+', '-'])} {self.number(depth - 1)})"
        if pick == 6:
            return f"({self.one_of(['-', '+'])}{inner})"
        if pick == 7:
            return f"({inner} | {self.one_of(self.NUMBER_FILTERS)})"
        return f"({inner} ** {self.one_of(['2', '3', '0', '-1', '0.5'])})"

    def list(self, depth=2):
        pick = self.random.randrange(9 if depth else 3)
        if pick == 0:
            return self.one_of(["list", "words", "range(4)", "range(5, 0, -2)", "range(1, 9)[1:4]", "messages", "[]",
                                "()", "dict.keys()", "dict.items()", "dict.values()", "nested.a"])
        if pick in (1, 2):
            return "[" + ", ".join(self.any(max(depth - 1, 0)) for _ in range(self.random.randrange(4))) + "]"
        if pick == 3:
            return f"({self.list(depth - 1)} | {self.one_of(self.LIST_FILTERS)})"
        if pick == 4:
            return f"({self.list(depth - 1)} + {self.list(depth - 1)})"
        if pick == 5:
            return f"{self.list(depth - 1)}{self.slice()}"
        if pick == 6:
            return f"(messages | {self.one_of(self.MESSAGE_FILTERS)})"
        if pick == 7:
            return f"({self.list(depth - 1)} * {self.one_of(['2', '0', '-1'])})"
        return f"({self.any(depth - 1)}, {self.any(depth - 1)})"

    def dict(self, depth=2):
        pick = self.random.randrange(5 if depth else 2)
        if pick == 0:
            return self.one_of(["dict", "messages[0]", "nested", "{}", "dict(a=1, **dict)",
                                "dict([('x', 1), ('y', 'z')])"])
        if pick == 1:
            return "{" + ", ".join(
                f"{self.one_of([self.quoted(self.one_of(self.TEXTS)), '1', 'none', 'true', '2.5', 'text'])}: "
                f"{self.any(max(depth - 1, 0))}" for _ in range(self.random.randrange(3))) + "}"
        if pick == 2:
            return f"({self.dict(depth - 1)} | {self.one_of(self.DICT_FILTERS)})"
        if pick == 3:
            return f"{self.dict(depth - 1)}.{self.one_of(self.DICT_METHODS)}"
        return (f"{self.dict(depth - 1)}"
                f"[{self.one_of([repr('A'), repr('b'), repr('q'), '1', 'none', repr('items'), 'true'])}]")

    def truth(self, depth=2):
        pick = self.random.randrange(9 if depth else 2)
        if pick == 0:
            return self.one_of(["true", "false", "flag", "nothing", "none", "not flag", "text", "[]", "True", "None"])
        if pick == 1:
            return f"{self.any(0)} is {self.one_of(['not ', ''])}{self.one_of(self.TESTS)}"
        a, b = self.any(depth - 1), self.any(depth - 1)
        if pick in (2, 3):
            return f"({a} {self.one_of(['==', '!=', '<', '<=', '>', '>=', 'in', 'not in'])} {b})"
        if pick == 4:
            return (f"({self.number(depth - 1)} {self.one_of(['<', '<=', '==', '>'])} {self.number(depth - 1)} "
                    f"{self.one_of(['<', '!=', '>='])} {self.number(depth - 1)})")
        if pick == 5:
            return f"({self.truth(depth - 1)} {self.one_of(['and', 'or'])} {a})"
        if pick == 6:
            return f"(not {self.truth(depth - 1)})"
        if pick == 7:
            return f"({self.text(depth - 1)} in {self.one_of([self.text, self.list, self.dict])(depth - 1)})"
        return f"({a} is {self.one_of(['not ', ''])}{self.one_of(self.TESTS)})"

    def any(self, depth=2):
        return self.one_of([self.text, self.text, self.number, self.number, self.list, self.dict, self.truth,
                            lambda d: self.one_of(self.NAMES)])(depth)

    def slice(self):
        bound = lambda: self.one_of(["", "0", "1", "2", "-1", "-2", "10", "-10", "none"])  # noqa: E731
        if self.random.random() < 0.3:
            return f"[{self.one_of(['0', '1', '-1', '7', repr('a'), repr('role'), '1.0', 'true'])}]"
        return f"[{bound()}:{bound()}" + (f":{self.one_of(['', '1', '-1', '2', '-2', '0'])}]"
                                          if self.random.random() < 0.4 else "]")

    def tag(self, inside):
        """A tag with the signs and the white space around it by chance."""
        before, after = (self.one_of(["", "", " ", "\n", "\n  ", " \n\n\t", "x", "x\n", "\u2003\n"]) for _ in range(2))
        return (before + "{%" + self.one_of(["", "", "-", "+"]) + f" {inside} " + self.one_of(["", "", "-", "+"])
                + "%}" + after)

    def output(self, depth=1):
        value = self.one_of(["{{ %s }}", "{{- %s }}", "{{ %s -}}", " {{- %s -}}\n", "{{ %s }}\n"]) % self.any(depth)
        return value if "}}}" not in value else value.replace("}", "} ", 1)

    def body(self, depth):
        return "".join(self.one_of([lambda: self.output(), lambda: self.statement(depth - 1) if depth else "-",
                                    lambda: self.one_of(["text", "\n", " ", "{# c #}", "{#- c -#}\n", "  {#+ c +#}\n",
                                                         "\n{# c #}\n"])])()
                       for _ in range(self.random.randrange(1, 4)))

    def statement(self, depth=2):
        t, body = self.tag, lambda: self.body(max(depth, 0))
        loop = lambda: "{{ loop.%s }}" % self.one_of([    # noqa: E731
            "index", "index0", "first", "last", "length", "revindex", "revindex0", "previtem", "nextitem",
            "cycle('a', 'b')", "changed(x)", "depth", "depth0", "nothing"])
        return self.one_of([
            lambda: t(f"if {self.truth(1)}") + body() + t(f"elif {self.truth(0)}") + body() + t("else") + body()
            + t("endif"),
            lambda: t(f"if {self.truth(1)}") + body() + t("endif"),
            lambda: t(f"for x in {self.list(1)}") + loop() + body() + "{{ x }}" + t("endfor"),
            lambda: t(f"for x in {self.list(1)} if "
                      f"{self.one_of(['x', 'x is string', 'x is not none', 'loop_is_not_here', 'x == x'])}") + loop()
            + "{{ x }}" + t("else") + body() + t("endfor"),
            lambda: t(f"for k, v in {self.one_of(self.PAIRS)}") + "{{ k }}={{ v }}" + loop().replace("x", "k")
            + t("endfor"),
            lambda: t(f"for x in {self.list(0)}")
            + t(f"if {self.one_of(['loop.index > 2', 'x is none', 'not x', 'loop.last'])}")
            + t(self.one_of(["break", "continue"])) + t("endif") + "{{ x }}," + t("endfor"),
            lambda: t(f"set {self.one_of(['text', 'y', 'list'])} = {self.any(1)}") + "{{ y }}{{ text }}",
            lambda: t(f"set y, z = {self.one_of(['1, 2', '[1, 2]', 'words', repr('ab'), '(3, 4)'])}")
            + "{{ y }}{{ z }}",
            lambda: t("set y") + body() + t("endset") + "{{ y | length }}{{ y }}",
            lambda: t(f"set y | {self.one_of(['upper', 'trim', 'indent | title', 'replace(1, 2)'])}") + body()
            + t("endset") + "{{ y }}",
            lambda: t("set ns = namespace(n=0, s='')") + t(f"for x in {self.list(1)}") + t("set ns.n = ns.n + 1")
            + t("set ns.s = ns.s ~ x") + t("endfor") + "{{ ns.n }}{{ ns.s }}{{ ns }}",
            lambda: t(f"for x in {self.list(0)}") + t("set y = x") + t("set text = text ~ 1") + "{{ y }}{{ text }}"
            + t("endfor") + "{{ y }}{{ text }}",
            lambda: t("macro m(a, b=2, c=text)") + "{{ a }}/{{ b }}/{{ c }}" + body() + t("endmacro") + "{{ m(%s) }}"
            % self.one_of(["1", "", "1, 2, 3", "1, c=4", "b=1", "1, 2, 3, 4", "*[1, 2]", "**{'a': 3}", "d=1",
                           "a=1, a=2"]),
            lambda: t("macro m(a)") + "{{ varargs }}{{ kwargs }}{{ a }}" + t("endmacro")
            + "{{ m(1, 2, x=3) }}{{ m.name }}{{ m.arguments }}",
            lambda: t("macro m(n)") + t("if n > 0") + "{{ n }}{{ m(n - 1) }}" + t("endif") + t("endmacro")
            + "{{ m(3) }}",
            lambda: t("macro m(a)") + "<{{ caller(a) }}>" + t("endmacro") + t("call(u) m(5)") + "{{ u }}{{ text }}"
            + body() + t("endcall"),
            lambda: t("macro m()") + "<{{ caller() if caller is defined }}>" + t("endmacro") + t("call m()") + body()
            + t("endcall") + "{{ m() }}",
            lambda: t(f"filter {self.one_of(['upper', 'trim', 'replace(1, 2) | lower', 'indent(1)'])}") + body()
            + t("endfilter"),
            lambda: t(f"with y = {self.any(1)}, z = 2") + "{{ y }}{{ z }}" + body() + t("endwith") + "{{ z }}",
            lambda: t("raw") + "{{ x }} {% if %}" + t("endraw"),
            lambda: t("generation") + body() + t("endgeneration"),
            lambda: t("for x in [1, [2, [3]], 4] recursive")
            + "{{ loop.depth }}{{ loop(x) if x is iterable else x }}" + t("endfor"),
            lambda: t("set c = cycler(1, 2, 3)") + t("set j = joiner('; ')") + t(f"for x in {self.list(0)}")
            + "{{ j() }}{{ c.next() }}{{ c.current }}" + t("endfor"),
            lambda: t(f"for x in {self.any(1)}") + "{{ x }};" + t("endfor"),
        ])()


class Expressions(unittest.TestCase):
    maxDiff = 3000

    #: What differs: numbers beyond 64 bits, complex ones, what Python shows of its own insides,
    #: and what jinja2 lets through where it works out a constant.
    OTHERS = ("more than 64 bits", "too large", "no real number", "is written out", "cannot be sliced")

    def compare(self, templates):
        conversations = [Generator.VARIABLES | {"chat_template": t} for t in templates]
        both = 0
        for template, got in zip(templates, rendered(conversations), strict=True):
            want = original(template, Generator.VARIABLES)
            if isinstance(want, Exception):
                self.assertIsInstance(got, dict, f"{template!r}: jinja2: {want!r}")
            elif isinstance(got, dict):
                self.assertTrue(any(word in got["error"] for word in self.OTHERS),
                                f"{template!r}: {got}; jinja2: {want!r}")
            else:
                self.assertEqual(got, want, repr(template))
                both += 1
        return both

    def test_thousands_of_expressions_give_what_jinja2_gives(self):
        make = Generator(1)
        self.assertGreater(self.compare([make.output(2) for _ in range(6000)]), 3000)

    def test_thousands_of_statements_give_what_jinja2_gives(self):
        make = Generator(2)
        self.assertGreater(self.compare([make.statement() + make.statement() for _ in range(3000)]), 1000)


if __name__ == "__main__":
    if not PROGRAM:
        sys.exit(__doc__)
    unittest.main()
