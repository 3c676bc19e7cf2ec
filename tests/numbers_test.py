#!/usr/bin/env python3
"""Numbers at the edge, from outside: weights that are not numbers end every command in a sentence that names them, and
matrices beyond the range of fp16 keep it. What is expected follows from the shipped model itself: a power of two that
one matrix is multiplied by and the next one is divided by changes nothing. On the CPU and on the software device. As
program_test.py, whose helpers it uses.

    python3 tests/numbers_test.py build/check/hearth          (packages: tools/models/requirements.txt)
"""

import sys
import unittest

import numpy as np
from gguf import GGMLQuantizationType as Type, GGUFReader
from gguf.quants import quantize

from program_test import ARGUMENTS, CPU, DEVICE, LAYERS, MODEL, PROGRAM, TEXT, Case, hearth, setUpModule    # noqa: F401
from split_test import perplexity_of
from types_test import write_like


class Numbers(Case):
    def write(self, name, change=lambda weights: None, kind=Type.F32):
        """The shipped model with other weights."""
        weights = {t.name: np.asarray(t.data, np.float32).copy() for t in GGUFReader(MODEL).tensors}
        change(weights)
        tensors = []
        for key, w in weights.items():
            as_stored = w if w.ndim == 1 or kind == Type.F32 else quantize(w, kind)
            tensors.append((key, Type.F32 if w.ndim == 1 else kind, list(w.shape[::-1]), as_stored.tobytes()))
        write_like(self.folder / name, MODEL, tensors)
        return self.folder / name

    def test_every_command_that_runs_a_model_names_the_weight_that_is_no_number(self):
        tensor = "blk.3.attn_v.weight"

        def break_some(weights):
            weights[tensor][2:4, 5] = np.nan

        model = self.write("broken", break_some)
        said = f"{tensor} holds 2 weights that are not finite numbers, the first (NaN) in row 2, column 5"
        commands = [("run", "-p", "Once", "-n", 3, "--temp", 0), ("run", "-p", "Once", "-n", 3),
                    ("run", "-p", "Once", "-n", 3, "--sparsity", "exact"), ("perplexity", "-f", TEXT, "-n", 40),
                    ("bench", "-p", 8, "-n", 2, "-r", 1), ("profile", "-f", TEXT, "-n", 40, "-o", self.folder / "p")]
        for device in (CPU, DEVICE):
            for command in commands if device == CPU else commands[:1] + commands[3:4]:
                with self.subTest(command=command, device=device):
                    result = hearth(command[0], model, *command[1:], *device)
                    self.assertEqual((result.code, result.out.lower().count("nan")), (1, 0))
                    self.assertIn(said, result.talk)
        result = hearth("chat", model, "--template", "chatml", *CPU, input=b"Hello\n")
        self.assertEqual((result.code, said in result.talk), (1, True))
        for target in ("q8_0", "f16", "bf16"):
            result = hearth("quantize", model, self.folder / "out", target)
            self.assertEqual((result.code, (self.folder / "out").exists()), (1, False))
            self.assertIn(f"{tensor} holds", result.talk)

    def test_powers_of_two_between_matrices_change_nothing_on_the_device(self):
        down = "ffn_down_t" if any("ffn_down_t" in t.name for t in GGUFReader(MODEL).tensors) else "ffn_down"

        def scaled(first, second, exponent):
            def change(weights):
                for l in range(LAYERS):
                    weights[f"blk.{l}.{first}.weight"] *= 2.0 ** exponent
                    weights[f"blk.{l}.{second}.weight"] *= 2.0 ** -exponent
            return change

        want = np.log(perplexity_of(self.good("perplexity", MODEL, "-f", TEXT, "-n", 30, *CPU)))
        for kind, first, second, exponent in ((Type.F32, "ffn_up", down, 30), (Type.BF16, "ffn_up", down, -30),
                                              (Type.BF16, "attn_output", "attn_v", 13)):
            model = self.write("scaled", scaled(first, second, exponent), kind)
            for options in (DEVICE, CPU):
                with self.subTest(kind=kind.name, first=first, exponent=exponent, options=options):
                    got = np.log(perplexity_of(self.good("perplexity", model, "-f", TEXT, "-n", 30, *options)))
                    self.assertLess(abs(got - want), 2e-3 * want)    # BF16 rounds


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("usage: numbers_test.py PROGRAM [arguments of unittest]")
    unittest.main(argv=[sys.argv[0], *ARGUMENTS])
