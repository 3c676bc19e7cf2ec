#!/usr/bin/env python3
"""`hearth template` against jinja2, set up as transformers sets it up: whole templates over whole conversations, and thousands of small expressions.

    python3 tests/template_test.py build/check/hearth          (packages: tools/requirements.txt)
"""

import datetime
import functools
import json
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox

TESTS = Path(__file__).resolve().parent
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

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
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
        done = subprocess.run([PROGRAM, "template", any_template.name, "-f", "-", "--json"], input=lines.encode(), capture_output=True, timeout=LONG)
    if done.returncode:
        raise AssertionError(done.stderr.decode())
    results = [json.loads(line) for line in done.stdout.decode().splitlines()]
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
        "options": {"type": "object", "properties": {"wind": {"type": "boolean"}, "places": {"type": "array", "items": {"type": "string"}}}}}},
    "return": {"type": "object", "description": "temperature & wind"}}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Tells the time.", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call12345", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Zürich", "days": 2, "rate": 0.5, "exact": True}}}
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
    "several turns with a system prompt": said("One?", "Two.", "Three?", "Four.", "Five?", system="You are a pirate.\nSpeak so."),
    "no generation prompt": said("One?", "Two.", add_generation_prompt=False),
    "no generation prompt, with a system prompt": said("One?", "Two.", "Three?", system="S", add_generation_prompt=False),
    "empty question": said(""),
    "empty system prompt": said("Hi", system=""),
    "empty answer": said("Hi", "", "Well?"),
    "white space": said("  two spaces \n\n", "\tand a tab ", " \n ", system=" \n system \n"),
    "unicode": said("Grüße, 你好 🙂 e\u0301 \u200d \u00a0", "Ça va? ｜▁", "ﬁn İstanbul ΑΣ", system="Ответь — «да»"),
    "braces and quotes": said("{{ 7*7 }} {% raw %} {# no #} \"it's\" \\n {'a': 1}", "`code` </s> <b>&amp;</b>", "}} %} #} ${x} %s %d", system="{{ x }} 'q' \"d\""),
    "marks in what is said": said("a<|im_end|>b</s>c<s>[INST] x [/INST]", "<end_of_turn>", "<|user|>\n<｜User｜>", system="<<SYS>> <|system|>"),
    "thoughts": said("What is 2+2?", "<think>\nTwo and two.\n</think>\n\nIt is 4.", "Sure?", "<think>Yes</think>Sure.", "And 3?"),
    "a thought that was opened by the prompt": said("What?", "I think so.\n</think>\n\nYes.", "Really?"),
    "thoughts apart": {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "reasoning_content": "hm\n", "thinking": "hm"},
                                    {"role": "user", "content": "Q2"}]},
    "a last answer with thoughts": said("Q", "<think>\nhm\n</think>\n\nA", add_generation_prompt=False),
    "two answers": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "c"}]},
    "two questions": {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
    "an answer first": {"messages": [{"role": "assistant", "content": "Welcome."}, {"role": "user", "content": "b"}]},
    "a system prompt alone": {"messages": [{"role": "system", "content": "S"}]},
    "a system prompt in the middle": {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "S"}, {"role": "user", "content": "b"}]},
    "no messages": {"messages": []},
    "content that is missing": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}, {"role": "user", "content": "b"}]},
    "content in parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image"}, {"type": "text", "text": " here"}]}]},
    "an unknown role": {"messages": [{"role": "user", "content": "a"}, {"role": "critic", "content": "b"}, {"role": "user", "content": "c"}]},
    "a developer": {"messages": [{"role": "developer", "content": "D"}, {"role": "user", "content": "a"}]},
    "tools": said("Is it raining?", tools=[WEATHER, CLOCK]),
    "tools with a system prompt": said("Is it raining?", "No.", "And now?", system="Use tools.", tools=[WEATHER]),
    "tool calls": {"messages": TOOL_TURNS, "tools": [WEATHER, CLOCK]},
    "tool calls without tools": {"messages": [{"role": "system", "content": "S"}, *TOOL_TURNS]},
    "calls as strings": {"messages": [TOOL_TURNS[0], {"role": "assistant", "content": "Let me see.", "tool_calls": [
        {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": "{\"place\": \"Bern\"}"}},
        {"id": "abcdefghj", "type": "function", "function": {"name": "clock", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "dry"}, {"role": "tool", "tool_call_id": "abcdefghj", "content": "noon"}], "tools": [WEATHER]},
    "open tool call": {"messages": TOOL_TURNS[:2], "tools": [WEATHER]},
    "a tool's answer last": {"messages": TOOL_TURNS[:3], "tools": [WEATHER, CLOCK]},
    "documents": said("Who?", documents=[{"title": "One", "text": "It was me."}, {"title": "Two", "text": "No, {me}."}]),
    "without thinking": said("Why?", "Because.", "Why so?", enable_thinking=False, thinking=False, reasoning_effort="low"),
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
        for template, message in [("{{ raise_exception('Only ' + messages[0].role) }}", "Only user"), ("{% if true %}{{ raise_exception(1) }}{% endif %}", "1")]:
            got, = rendered([said("x", chat_template=template), said("x")])[:1]
            self.assertEqual(got["error"], message)


if __name__ == "__main__":
    if not PROGRAM:
        sys.exit(__doc__)
    unittest.main()
