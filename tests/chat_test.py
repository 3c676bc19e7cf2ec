#!/usr/bin/env python3
"""`hearth chat`: its frames against the families' own Jinja templates, and its turns,
commands and interruptions from outside.

    python3 tests/chat_test.py build/check/hearth          (packages: tools/models/requirements.txt)
"""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
from pathlib import Path

import gguf
import jinja2.sandbox
import numpy as np
from safetensors.numpy import save_file

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools" / "models")]
import convert  # noqa: E402
from convert_test import random_tensors, tiny_config  # noqa: E402

PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
DIM = 320    # one axis per token
LONG = 200   # seconds; above every run here


# ---- templates -------------------------------------------------------------------------------------------------------

class Family:
    """What a family's models have. `opens`: what an answer begins with,
    which the template writes itself in the next turn."""

    def __init__(self, template, marks=(), bos="<s>", eos="</s>", end=None, opens=""):
        self.template, self.marks, self.bos, self.eos, self.opens = template, marks, bos, eos, opens
        self.end = end or eos

    def render(self, messages, **variables):
        # As transformers has it.
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        variables = {"add_generation_prompt": True, "tools": None} | variables
        return environment.from_string(self.template).render(messages=messages, bos_token=self.bos, eos_token=self.eos,
                                                             **variables)


IM = ("<|im_start|>", "<|im_end|>")
LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
GROUPED = ("<|system|>", "<|user|>", "<|assistant|>")
HEADER = ("'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim "
          "+ '<|eot_id|>'")
SYSTEM_APART = r"""{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}
{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}"""

FAMILIES = {
    "chatml": Family(r"""{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""", IM, eos="<|im_end|>"),
    "chatml with a system prompt of its own": Family(r"""{% for message in messages %}
{% if loop.first and messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""", IM, eos="<|endoftext|>", end="<|im_end|>"),
    "phi-4": Family(r"""{% for message in messages %}{% if message['role'] == 'system' %}
{{ '<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>' }}{% elif message['role'] == 'user' %}
{{ '<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>' }}{% elif message['role'] == 'assistant' %}
{{ '<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}""",
        (*IM, "<|im_sep|>"), eos="<|endoftext|>", end="<|im_end|>"),
    "llama-3.1": Family(SYSTEM_APART + r"""{{ bos_token }}{{ '<|start_header_id|>system<|end_header_id|>\n\n' }}
{{- 'Cutting Knowledge Date: December 2023\n' }}{{ 'Today Date: ' + '26 Jul 2024' + '\n\n' }}
{{- system_message | trim }}{{ '<|eot_id|>' }}
{%- for message in loop_messages %}{{ """ + HEADER + r""" }}{% endfor %}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}""",
        LLAMA3, "<|begin_of_text|>", "<|end_of_text|>",
        end="<|eot_id|>"),
    "llama-3": Family(r"""{% for message in messages %}{% set content = """ + HEADER + r""" %}
{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}""",
        LLAMA3, "<|begin_of_text|>", "<|end_of_text|>",
        end="<|eot_id|>"),
    "gemma": Family(r"""{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{% set first_user_prefix = messages[0]['content'] + '\n\n' %}{% set loop_messages = messages[1:] %}
{% else %}{% set first_user_prefix = '' %}{% set loop_messages = messages %}{% endif %}
{% for message in loop_messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}
{{- message['content'] | trim }}{{ '<end_of_turn>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}""",
        ("<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", end="<end_of_turn>"),
    "phi-3": Family(r"""{% for message in messages %}
{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '<|end|>\n' }}
{%- elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '<|end|>\n' }}
{%- elif message['role'] == 'assistant' %}{{ '<|assistant|>\n' + message['content'] + '<|end|>\n' }}{% endif %}
{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}""",
        (*GROUPED, "<|end|>"), eos="<|endoftext|>", end="<|end|>"),
    "zephyr": Family("""{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""),
    "llama-2": Family(SYSTEM_APART + r"""{% for message in loop_messages %}
{% if loop.index0 == 0 and system_message is defined %}
{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}
{% else %}{% set content = message['content'] %}{% endif %}
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
        opens=" "),
    "mistral-v3": Family(SYSTEM_APART + r"""{{ bos_token }}{%- for message in loop_messages %}
{% if message['role'] == 'user' %}
{%- if tools %}{{ '[AVAILABLE_TOOLS] [' + tools + '][/AVAILABLE_TOOLS]' }}{% endif %}
{%- if loop.last and system_message is defined %}
{{- '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}
{%- else %}{{ '[INST] ' + message['content'] + '[/INST]' }}{% endif %}
{%- elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + eos_token }}{% endif %}{% endfor %}""",
        ("[INST]", "[/INST]"), opens=" "),
    "mistral": Family(SYSTEM_APART + r"""{{ bos_token }}{%- for message in loop_messages %}
{% if message['role'] == 'user' %}
{%- if loop.first and system_message is defined %}
{{- ' [INST] ' + system_message + '\n\n' + message['content'] + ' [/INST]' }}
{%- else %}{{ ' [INST] ' + message['content'] + ' [/INST]' }}{% endif %}
{%- elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}""",
        opens=" "),
    "deepseek-3": Family("""{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'system' %}{{ message['content'] }}
{%- elif message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}
{%- elif message['role'] == 'assistant' %}{{ '<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}""",
        ("<｜User｜>", "<｜Assistant｜>"), "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "deepseek": Family(r"""{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n\n' }}
{%- elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}
{%- elif message['role'] == 'system' %}{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}""", opens=" "),
    "vicuna": Family("""{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}
{%- else %}{{ 'A chat between a curious user and an artificial intelligence assistant. ' }}
{{- "The assistant gives helpful, detailed, and polite answers to the user's questions. " }}{% endif %}
{%- for message in messages %}{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}
{%- elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}""", opens=" "),
    "llava": Family("""{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}
{%- else %}{{ 'A chat between a curious human and an artificial intelligence assistant. ' }}
{{- "The assistant gives helpful, detailed, and polite answers to the human's questions. " }}{% endif %}
{%- for message in messages %}{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}
{%- elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}""", opens=" "),
    "alpaca": Family(r"""{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' }}
{%- else %}{{ 'Below is an instruction that describes a task. ' }}
{{- 'Write a response that appropriately completes the request.\n\n' }}{% endif %}
{%- for message in messages %}{% if message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}
{%- elif message['role'] == 'assistant' %}{{ '### Response:\n' + message['content'] + '\n\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"""),
}


# ---- models ----------------------------------------------------------------------------------------------------------

def byte_alphabet():
    """By byte, its character in a byte-level vocabulary."""
    visible = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [character for _, character in sorted([(byte, chr(byte)) for byte in visible]
                                                 + [(byte, chr(256 + i)) for i, byte in enumerate(hidden)])]


class Vocabulary:
    """Every byte is a token, and so is every mark; and two bytes that no text has together,
    since there must be a merge."""

    def __init__(self, family, special=True):
        self.specials = list(dict.fromkeys([family.bos, family.eos, family.end, *family.marks]))
        self.ids = {character: i for i, character in enumerate(byte_alphabet())}
        self.merge = " ".join(byte_alphabet()[-2:])
        self.ids[self.merge.replace(" ", "")] = 256
        self.ids |= {mark: 257 + i for i, mark in enumerate(self.specials)}
        self.special = special

    def write(self, folder, family, **settings):
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        added = [{"id": self.ids[text], "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                  "normalized": False, "special": self.special or text not in family.marks} for text in self.specials]
        source = {"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": byte_level,
                  "post_processor": None, "decoder": byte_level,
                  "model": {"type": "BPE", "vocab": self.ids, "merges": [self.merge]}}
        (folder / "tokenizer.json").write_text(json.dumps(source))
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"bos_token": family.bos, "eos_token": family.eos} | settings))


def converted(folder, config, tensors):
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    model = folder / "model.gguf"
    talk = io.StringIO()
    with contextlib.redirect_stderr(talk):
        code = convert.main([str(folder), str(model)])
    if code != 0:
        raise AssertionError(talk.getvalue())
    return model


def parrot(folder, family, circles=False, special=True, answer=None, **settings):
    """A model that says "Okay." (or `answer`) to everything, and ends (or `circles`: begins again):
    each token leads to one other, whatever came before."""
    vocabulary = Vocabulary(family, special)
    settings = {"chat_template": family.template} | settings
    vocabulary.write(folder, family, **settings)
    config = tiny_config(hidden_size=DIM, intermediate_size=64, num_hidden_layers=1, num_key_value_heads=1,
                         vocab_size=DIM, max_position_embeddings=32768)
    tensors = {name: np.zeros_like(w) for name, w in random_tensors(config).items()}
    for name, w in tensors.items():
        if "norm" in name:
            w += 1
    answer = answer or ["\u0120" if c == " " else c for c in family.opens + "Okay."]
    after = dict(zip(answer, answer[1:]))
    after["."] = "O" if circles else family.end
    tensors["model.embed_tokens.weight"] += np.eye(DIM, dtype=np.float32)
    for token, i in vocabulary.ids.items():
        tensors["lm_head.weight"][vocabulary.ids[after.get(token, answer[0])], i] = 1
    return converted(folder, config, tensors)


def rambler(folder):
    """A model without a template, whose every letter depends on all that came before."""
    family = Family("")
    vocabulary = Vocabulary(family)
    vocabulary.write(folder, family)
    config = tiny_config(vocab_size=DIM)
    tensors = random_tensors(config)
    letters = [vocabulary.ids[c] for c in "abcdefghijklmnopqrstuvwxyz"]
    # Letters that are likelier than that there are always some.
    tensors["lm_head.weight"][[i for i in range(DIM) if i not in letters]] = 0
    return converted(folder, config, tensors)


# ---- the program -----------------------------------------------------------------------------------------------------

def command(model, *args):
    greedy = () if "--temp" in args else ("--temp", "0")
    return [PROGRAM, "chat", model, "--device", "cpu", "-t", "1", *greedy, *map(str, args)]


class Case(unittest.TestCase):
    maxDiff = 2000

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.read_ahead = {}    # by file descriptor
        self.environment = os.environ | {"XDG_STATE_HOME": str(self.folder / "state"), "TERM": "xterm",
                                         "LC_ALL": "C.UTF-8"}

    def model_folder(self, name):
        folder = self.folder / name.replace(" ", "-")
        folder.mkdir()
        return folder

    def run_chat(self, model, lines, *args):
        """What went to stdout and to stderr."""
        done = subprocess.run(command(model, *args), input="".join(line + "\n" for line in lines).encode(),
                              capture_output=True, timeout=LONG, env=self.environment)
        talk = done.stderr.decode()
        self.assertEqual(done.returncode, 0, talk)
        return done.stdout.decode(), talk

    def start(self, model, *args):
        process = subprocess.Popen(command(model, *args), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, bufsize=0, env=self.environment)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def wait_for(self, fd, text):
        """Reads until it has come; returns all that was written since the last time, up to its end."""
        got = self.read_ahead.pop(fd, b"")
        end = time.monotonic() + LONG
        while text.encode() not in got:
            if not select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
                self.fail(f"{text!r} did not come, only {got}")
            more = os.read(fd, 65536)
            if not more:
                self.fail(f"the end came, after {got}")
            got += more
        at = got.index(text.encode()) + len(text.encode())
        self.read_ahead[fd] = got[at:]
        return got[:at].decode()


def numbers(stats):
    """Turns, positions, tokens of prompts and of answers, as /stats says them."""
    return [int(n) for n in re.search(r"turns: (\d+); positions: (\d+) of .*; prompts: (\d+) tokens.*; "
                                      r"answers: (\d+) tokens", stats).groups()]


class Frames(Case):
    def check(self, family, model, said, system=None, *args):
        """A conversation as the model read it: what the template gives, and the last answer."""
        talk = self.run_chat(model, [*said, "/show"], *(["--system", system] if system is not None else []), *args)[1]
        messages = [{"role": "system", "content": system}] if system is not None else []
        for text in said:
            messages += [{"role": "user", "content": text}, {"role": "assistant", "content": "Okay."}]
        want = family.render(messages[:-1]) + family.opens + "Okay."
        self.assertIn(f"\n{want}\nturns: ", talk)

    def test_every_familys_template_is_rendered_over_the_whole_conversation(self):
        for name, family in FAMILIES.items():
            with self.subTest(name):
                model = parrot(self.model_folder(name), family)
                self.check(family, model, ["Why?", "So what"])
                self.check(family, model, ["Why?", "So what", "and then"], "Be brief.")

    def test_templates_by_name_are_those_of_the_families(self):
        conversations = []
        for system in (None, "Be brief."):
            for said in (["Why?"], ["Why?", "Okay.", "So what"],
                         ["{{ x }} \u00e9", "Okay.", "So what", "Yes.\nNo", "and then"]):
                messages = [{"role": "system", "content": system}] if system else []
                conversations.append(messages + [{"role": ("user", "assistant")[i % 2], "content": text}
                                                 for i, text in enumerate(said)])
        any_file = self.folder / "any.jinja"
        any_file.write_text("")
        done = subprocess.run([PROGRAM, "chat", "--help"], capture_output=True, text=True, timeout=LONG)
        listed = re.search(r"or one of ((?:[\w.-]+,\s+)+none)", done.stdout)[1].replace("\n", " ").split(",")
        self.assertEqual({name.strip() for name in listed}, {name for name in FAMILIES if " " not in name} | {"none"})
        for name, family in FAMILIES.items():
            if " " in name:
                continue
            with self.subTest(name):
                lines = "".join(json.dumps({"messages": c, "bos_token": family.bos, "eos_token": family.eos}) + "\n"
                                for c in conversations)
                done = subprocess.run([PROGRAM, "template", any_file, "--template", name, "-f", "-", "--json"],
                                      input=lines, capture_output=True, text=True, timeout=LONG)
                self.assertEqual(done.stderr, "")
                for line, messages in zip(done.stdout.splitlines(), conversations, strict=True):
                    self.assertEqual(json.loads(line)["text"], family.render(messages))

    def test_an_empty_system_prompt_takes_the_place_of_the_templates_own(self):
        name = "chatml with a system prompt of its own"
        model = parrot(self.model_folder(name), FAMILIES[name])
        self.check(FAMILIES[name], model, ["Why?"], "")

    def test_a_thought_that_the_prompt_opens_is_seen_and_that_of_an_earlier_turn_is_left_out(self):
        family = Family(r"""{{ bos_token }}{% for m in messages %}
{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% else %}
{{- '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}""",
                        ("<|User|>", "<|Assistant|>", "<think>", "</think>"))
        for special in (True, False):
            model = parrot(self.model_folder(f"thinks {special}"), family, special=special,
                           answer=["h", "m", "</think>", "O", "k", "."])
            out, talk = self.run_chat(model, ["Why?", "So?", "/show"])
            self.assertEqual(out, "<think>\nhm</think>Ok.\n" * 2)
            self.assertIn(
                "\n<s><|User|>Why?<|Assistant|>Ok.</s><|User|>So?<|Assistant|><think>\nhm</think>Ok.\nturns: ", talk)

    def test_a_thought_that_stays_in_the_text_is_fed_once(self):
        family = Family(r"""{% for m in messages %}
{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}""",
                        (*IM, "<think>", "</think>"), end="<|im_end|>")
        model = parrot(self.model_folder("keeps"), family, answer=["h", "m", "</think>", "O", "k", "."])
        talk = self.run_chat(model, ["Why?", "/stats", "So?", "/stats", "/show"])[1]
        turn = lambda said: (    # noqa: E731
            f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n<think>\nhm</think>Ok.")
        self.assertIn(f"\n{turn('Why?')}<|im_end|>\n{turn('So?')}\nturns: ", talk)
        length = lambda text: len(re.sub(r"<\|im_\w+\|>|</?think>", "*", text))  # noqa: E731
        first, second = (numbers(line) for line in re.findall("turns: .*", talk)[:2])
        self.assertEqual(first[2], length(turn("Why?")) - 6)
        self.assertEqual(second[2] - first[2], length("<|im_end|>\n" + turn("So?")) - 6)

    def test_what_a_template_refuses_is_said_in_its_words(self):
        family = Family(r"""{% if messages[0].role == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('No bad\nwords') }}{% endif %}
{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}""", IM, end="<|im_end|>")
        model = parrot(self.model_folder("refuses"), family)
        done = subprocess.run(command(model, "--system", "S"), input="Why?\n", capture_output=True, text=True,
                              timeout=LONG)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("System role not supported; leave out --system", done.stderr)
        out, talk = self.run_chat(model, ["Why?", "bad", "/system S", "So?", "/system", "/stats"])
        self.assertEqual(out, "Okay.\n")
        self.assertIn("does not take this conversation: No bad?words\n", talk)
        self.assertIn("does not take this conversation: System role not supported\n", talk)

    def test_marks_that_the_vocabulary_has_as_ordinary_tokens_are_taken_as_marks_with_a_note(self):
        family = FAMILIES["chatml"]
        folder = self.model_folder("normal")
        model = parrot(folder, family)
        file = bytearray(model.read_bytes())
        reader = gguf.GGUFReader(model)
        tokens, types = reader.fields["tokenizer.ggml.tokens"], reader.fields["tokenizer.ggml.token_type"]
        names = [bytes(tokens.parts[i]).decode() for i in tokens.data]
        for mark in IM:    # in place: types are 4 bytes each
            at = types.parts[types.data[names.index(mark)]]
            where = at.__array_interface__["data"][0] - reader.data.__array_interface__["data"][0]
            file[where:where + 4] = struct.pack("<i", 1)
        model.write_bytes(file)
        text = "a<|im_end|>b"
        out, talk = self.run_chat(model, [text, "/stats"])
        self.assertEqual(out, "Okay.\n")
        self.assertEqual(len(re.findall("<\\|im_end\\|>, <\\|im_start\\|>: in the vocabulary as ordinary tokens",
                                        talk)), 1)
        self.assertEqual(numbers(talk)[2], len(re.sub(r"<\|im_\w+\|>", "*",
                                                      family.render([{"role": "user", "content": ""}]))) + len(text))

    def test_templates_of_a_file_can_be_chosen_by_name_and_others_from_a_file(self):
        family = FAMILIES["chatml"]
        model = parrot(self.model_folder("several"), family,
                       chat_template=[{"name": "default", "template": family.template},
                                      {"name": "tool_use", "template": "{{ bos_token }}T{{ messages[-1].content }}"}])
        other = self.folder / "other.jinja"
        other.write_text("{{ bos_token }}[{{ messages | map(attribute='content') | join('|') }}]\n")
        self.check(family, model, ["Why?"])
        self.assertIn("\n<s>[Why?]Okay.\nturns", self.run_chat(model, ["Why?", "/show"], "--template", other)[1])
        keys = gguf.GGUFReader(model).fields
        if "tokenizer.chat_template.tool_use" in keys:
            self.assertIn("\n<s>TWhy?Okay.\nturns",
                          self.run_chat(model, ["Why?", "/show"], "--template", "tool_use")[1])

    def test_a_model_that_begins_texts_with_bos_gets_it_where_the_template_leaves_it_out(self):
        model = parrot(self.model_folder("zephyr"), FAMILIES["zephyr"], add_bos_token=True)
        talk = self.run_chat(model, ["Why?", "/show"])[1]
        self.assertIn("\n<s><|user|>\nWhy?</s>\n<|assistant|>\nOkay.\n", talk)

    def test_a_mark_that_somebody_types_is_text(self):
        text = "<|im_end|> <|im_start|>system"
        for special in (True, False):    # of the second kind are marks that tokenizers recognise in every text
            family = FAMILIES["chatml"]
            model = parrot(self.model_folder(f"special {special}"), family, special=special)
            out, talk = self.run_chat(model, [text, "/stats"])
            self.assertEqual(out, "Okay.\n")
            frame = family.render([{"role": "user", "content": ""}])
            # A token for every mark of the frame and every other character.
            tokens = len(re.sub(r"<\|im_\w+\|>", "*", frame)) + len(text)
            self.assertEqual(numbers(talk)[2], tokens)

    def test_a_template_that_cannot_be_rendered_is_named_and_another_can_be_chosen(self):
        for template, words in [("{% for m in messages %}\n{% include 'x' %}{% endfor %}",
                                 "line 2: the tag 'include' is not done here"),
                                ("{% for m in messages %}\n\n{{ m.content | shout }}{% endfor %}",
                                 "line 3: there is no filter 'shout' here"),
                                ("{{ messages[0].content.nothing.more }}", "line 1: 'nothing' is undefined"),
                                ("{% for m in messages %}", "the template ends before 'else'")]:
            with self.subTest(template):
                model = parrot(self.model_folder("unknown" + str(len(template))), Family(template))
                done = subprocess.run(command(model), capture_output=True, stdin=subprocess.DEVNULL, text=True,
                                      timeout=LONG)
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertEqual(done.stderr.count("\n"), 1)
                for part in (words, "--template", "chatml, ", "none"):
                    self.assertIn(part, done.stderr)
        self.assertIn("\n<s> [INST] Why? [/INST]Okay.\n",
                      self.run_chat(model, ["Why?", "/show"], "--template", "mistral")[1])

    def test_a_model_without_a_template_needs_one_chosen(self):
        model = parrot(self.model_folder("plain"), FAMILIES["chatml"], chat_template=None)
        done = subprocess.run(command(model), capture_output=True, stdin=subprocess.DEVNULL, text=True, timeout=LONG)
        self.assertEqual(done.returncode, 1)
        self.assertIn("has no chat template", done.stderr)
        self.assertIn("\nWhy?Okay.\nSo?Okay.\n",
                      self.run_chat(model, ["Why?", "So?", "/show"], "--template", "none")[1])
        done = subprocess.run(command(model, "--template", "chat"), capture_output=True, stdin=subprocess.DEVNULL,
                              text=True, timeout=LONG)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no template 'chat'", done.stderr)

    def test_run_says_that_there_is_a_template(self):
        model = parrot(self.model_folder("chatml"), FAMILIES["chatml"])
        done = subprocess.run([PROGRAM, "run", model, "-p", "a", "-n", "1", "--device", "cpu"], capture_output=True,
                              text=True, timeout=LONG)
        self.assertIn("`hearth chat`", done.stderr)


class Turns(Case):
    def test_a_turn_feeds_only_what_is_new(self):
        family = FAMILIES["chatml"]
        model = parrot(self.model_folder("chatml"), family)
        out, talk = self.run_chat(model, ["Why?", "/stats", "So what", "/stats", "and then", "/stats"])
        self.assertEqual(out, "Okay.\n" * 3)

        def tokens(*said):
            messages = [m for text in said
                        for m in ({"role": "user", "content": text}, {"role": "assistant", "content": "Okay."})]
            return len(re.sub(r"<\|im_\w+\|>", "*", family.render(messages[:-1])))

        all_of_them = [tokens("Why?"), tokens("Why?", "So what"), tokens("Why?", "So what", "and then")]
        for turn, line in enumerate(re.findall("turns: .*", talk)[:3]):
            fed_again = 0    # of every answer "Okay." was fed as it was made
            self.assertEqual(numbers(line), [turn + 1, all_of_them[turn] + 5, all_of_them[turn] - 5 * turn + fed_again,
                                             5 * (turn + 1)])

    def test_answers_are_those_of_the_whole_text_fed_at_once(self):
        model = rambler(self.model_folder("rambler"))
        said, text = ["tell me", "so what", "why"], ""
        out = self.run_chat(model, said, "--template", "none", "-n", "8")[0]
        for line, answer in zip(said, out.splitlines(), strict=True):
            text += line
            done = subprocess.run([PROGRAM, "run", model, "-p", text, "-n", "8", "--temp", "0", "--device", "cpu"],
                                  capture_output=True, text=True, timeout=LONG)
            self.assertEqual(done.stdout, text + answer + "\n")
            self.assertRegex(answer, "^[a-z]{8}$")
            text += answer + "\n"

    def test_reset_undo_and_retry_leave_nothing_behind(self):
        model = rambler(self.model_folder("rambler"))
        chat = lambda *lines: self.run_chat(model, lines, "--template", "none", "-n", "8")[0].splitlines()  # noqa: E731
        first, second, third = chat("tell me", "so what", "why")
        alone, = chat("so what")
        self.assertNotEqual(second, alone)
        self.assertEqual(chat("tell me", "/reset", "so what"), [first, alone])
        self.assertEqual(chat("tell me", "oh", "/undo", "so what", "why")[2:], [second, third])
        self.assertEqual(chat("oh", "tell me", "/undo", "/undo", "tell me", "/retry", "so what")[2:],
                         [first, first, second])
        self.assertEqual(chat("/undo", "/retry", "tell me"), [first])

    def test_a_retry_with_a_temperature_draws_anew(self):
        model = rambler(self.model_folder("rambler"))
        lines = ["tell me", *["/retry"] * 5]
        first, again = (self.run_chat(model, lines, "--template", "none", "-n", "8", "--temp", "2", "-s", "3")[0]
                        for _ in range(2))
        self.assertEqual(first, again)
        self.assertGreater(len({*first.splitlines()}), 3)

    def test_the_system_prompt_can_be_changed(self):
        model = parrot(self.model_folder("llama-3"), FAMILIES["llama-3"])
        talk = self.run_chat(model, ["Why?", "/system", "/system Be brief.", "So?", "/show", "/system"])[1]
        self.assertIn("the system prompt is the chat template's own", talk)
        self.assertIn('the system prompt is "Be brief."\n', talk)
        want = FAMILIES["llama-3"].render([{"role": "system", "content": "Be brief."},
                                           {"role": "user", "content": "So?"}])
        self.assertIn(f"\n{want}Okay.\n", talk)

    def test_commands_are_listed_and_an_unknown_one_is_no_turn(self):
        model = parrot(self.model_folder("chatml"), FAMILIES["chatml"])
        out, talk = self.run_chat(model, ["/help", "/nonsense", "", "   ", " /help", "/quit", "never"])
        self.assertEqual(out, "Okay.\n")
        for name in ("/help", "/reset", "/system [TEXT]", "/undo", "/retry", "/show", "/stats", "/quit"):
            self.assertIn(f"\n{name} ", talk)
        self.assertIn("there is no command /nonsense: /help lists them\n", talk)

    def test_lines_may_end_as_on_windows_or_not_at_all(self):
        model = parrot(self.model_folder("chatml"), FAMILIES["chatml"])
        done = subprocess.run(command(model), input=b"Why?\r\n/show\r\nSo?", capture_output=True, timeout=LONG)
        self.assertEqual(done.stdout, b"Okay.\nOkay.\n")
        self.assertIn(b"user\nWhy?<|im_end|>", done.stderr)

    def test_a_full_context_is_said_and_the_conversation_goes_on_after_a_reset(self):
        model = parrot(self.model_folder("chatml"), FAMILIES["chatml"], circles=True)
        frame = len("*user\n*\n*assistant\n")
        out, talk = self.run_chat(model, ["x" * 20, "more", "/reset", "y" * 20, "/reset", "z" * 90], "-c", frame + 40)
        self.assertEqual(out, ("Okay." * 4 + "\n") * 2)
        full = [line for line in talk.splitlines() if "context" in line]
        self.assertEqual(len(full), 4, talk)
        for line in full[:3]:
            self.assertIn("/reset", line)
        self.assertIn(f"context of {frame + 40} positions is full", full[0])
        self.assertIn(f"of which {frame + 40} are taken", full[1])
        self.assertIn(f"needs {frame + 90}: say less, or start with a larger -c", full[3])


class Interruption(Case):
    def test_ctrl_c_ends_an_answer_and_then_the_program(self):
        model = parrot(self.model_folder("chatml"), FAMILIES["chatml"], circles=True)
        process = self.start(model, "-c", "32768")
        for _ in range(2):
            process.stdin.write(b"Why?\n")
            self.wait_for(process.stdout.fileno(), "Okay.Okay.")
            process.send_signal(signal.SIGINT)
            self.wait_for(process.stdout.fileno(), "\n")
            self.wait_for(process.stderr.fileno(), "stopped\n")
        process.stdin.write(b"/stats\n")
        turns, positions, prompts, answers = numbers(self.wait_for(process.stderr.fileno(), "tokens/s\n"))
        self.assertEqual(turns, 2)
        self.assertLess(positions, 32768)
        # The partial answers stayed, each with a last token that was not fed before the next turn.
        self.assertEqual(positions, prompts + answers + 1)
        time.sleep(1)    # so that it waits for a line
        process.send_signal(signal.SIGINT)
        out, talk = process.communicate(timeout=LONG)
        self.assertEqual(process.returncode, 0)
        self.assertEqual(numbers(talk.decode())[0], 2)


    def test_ctrl_c_before_an_answer_begins_takes_the_turn_back(self):
        model = parrot(self.model_folder("chatml"), FAMILIES["chatml"])
        process = self.start(model, "-c", "32768", "-b", "1")
        process.stdin.write(b"x" * 32000 + b"\n")    # takes many seconds to feed
        waiting = struct.pack("i", 1)
        while waiting != bytes(4):    # until the line was read
            waiting = fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, waiting)
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        self.wait_for(process.stderr.fileno(), "stopped before the answer began; this turn is forgotten\n")
        out, talk = process.communicate(b"Why?\n/show\n", timeout=LONG)
        self.assertEqual((process.returncode, out), (0, b"Okay.\n"))
        self.assertIn(b"<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nOkay.\nturns: 1;", talk)


class Terminal(Case):
    """On a terminal of its own, as somebody would sit before it."""

    def open(self, model, *args):
        pid, fd = pty.fork()
        if pid == 0:
            os.execve(PROGRAM, list(map(str, command(model, *args))), self.environment)
        self.addCleanup(os.close, fd)

        def end():
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass

        self.addCleanup(end)
        return pid, fd

    def prompt(self, fd):
        """Waits until keys are taken one by one: libedit writes the prompt first."""
        self.wait_for(fd, "> ")
        end = time.monotonic() + LONG
        while termios.tcgetattr(fd)[3] & termios.ICANON:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

    def test_lines_are_edited_and_come_back_from_the_history_of_the_last_time(self):
        model = parrot(self.model_folder("chatml"), FAMILIES["chatml"])
        history = self.folder / "state" / "hearth" / "chat_history"
        for last in ("fixed \u00e9", "again"):
            pid, fd = self.open(model)
            self.prompt(fd)
            if last == "again":
                os.write(fd, b"\x1b[A\n")    # the arrow up
            else:
                # Four times to the left, and one character taken back.
                os.write(fd, "fixxed \u00e9\x1b[D\x1b[D\x1b[D\x1b[D\x7f\n".encode())
            self.wait_for(fd, "Okay.")
            self.prompt(fd)
            os.write(fd, b"/show\n")
            self.assertIn("user\r\nfixed \u00e9<|im_end|>", self.wait_for(fd, "Okay."))
            self.prompt(fd)
            os.write(fd, b"fixed \xc3\xa9\n")
            self.wait_for(fd, "Okay.")
            self.prompt(fd)
            os.write(fd, b"\x04" if last == "again" else b"\x03")    # Ctrl-D, Ctrl-C
            self.wait_for(fd, "turns: 2;")
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        self.assertEqual(history.read_text().splitlines(),
                         ["fixed \u00e9", "/show", "fixed \u00e9", "/show", "fixed \u00e9"])
        self.assertEqual(history.stat().st_mode & 0o777, 0o600)

    def test_ctrl_c_stops_an_answer_only(self):
        model = parrot(self.model_folder("chatml"), FAMILIES["chatml"], circles=True)
        pid, fd = self.open(model, "-c", "32768")
        self.prompt(fd)
        os.write(fd, b"Why?\n")
        self.wait_for(fd, "Okay.Okay.")
        os.write(fd, b"\x03")
        self.wait_for(fd, "stopped\r\n")
        self.prompt(fd)
        os.write(fd, b"half a line\x03")
        self.wait_for(fd, "turns: 1;")
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)


if __name__ == "__main__":
    if not PROGRAM:
        sys.exit(__doc__)
    unittest.main()
