#!/usr/bin/env python3
"""tools/vendors, on tables that are written here.

    python3 tests/vendors_test.py [arguments of unittest]
"""

import importlib.machinery
import importlib.util
import re
import stat
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "tools/vendors"
sys.dont_write_bytecode = True
sys.path.insert(0, str(SCRIPT.parent))


def program(path):
    loader = importlib.machinery.SourceFileLoader(path.name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.name, loader))
    loader.exec_module(module)
    return module


vendors, newest = program(SCRIPT), program(SCRIPT.parent / "newest")


def row(kernel="join", spills=0, scratch=0, instructions=100, cycles=1000):
    return {"kernel": kernel, "spills": spills, "scratch": scratch, "instructions": instructions, "cycles": cycles}


class Shipped(unittest.TestCase):
    def test_the_compiled_kernels_are_of_the_sources_that_are_here(self):
        self.assertEqual((newest.COMPILED / "sources.sha256").read_text(), newest.sources(),
                         "shaders have changed: tools/newest kernels --write")
        for name in newest.SHIPPED:
            self.assertTrue((newest.COMPILED / f"{name}.spv").exists())

    def test_every_kernel_of_the_build_is_known(self):
        named = {name for name, _, _ in newest.kernels()}
        self.assertLessEqual({"matvec_idot_32", "matmul_f16", "best", *newest.SHIPPED}, named)
        self.assertEqual(len(named), len(newest.kernels()))


class Comparison(unittest.TestCase):
    def worse(self, now, before):
        return list(vendors.compare(now, before))

    def test_what_is_as_before_is_good(self):
        self.assertEqual(self.worse([row(), row("rope")], [row(), row("rope")]), [])

    def test_a_kernel_that_spills_is_named(self):
        self.assertEqual(self.worse([row(spills=3)], [row()]), ["join: 3 spills"])
        self.assertEqual(self.worse([row(scratch=64)], [row()]), ["join: 64 scratch"])

    def test_a_new_kernel_may_not_spill_either(self):
        self.assertEqual(self.worse([row(spills=3)], []), ["join: 3 spills", "join is not in the table"])

    def test_a_kernel_that_spilled_before_may_spill_no_more(self):
        self.assertEqual(self.worse([row(spills=3)], [row(spills=3)]), [])
        self.assertEqual(self.worse([row(spills=2)], [row(spills=3)]), [])
        self.assertEqual(self.worse([row(spills=4)], [row(spills=3)]), ["join: 4 spills, 3 before"])

    def test_a_tenth_more_work_is_too_much(self):
        self.assertEqual(self.worse([row(instructions=110, cycles=1100)], [row()]), [])
        self.assertEqual(self.worse([row(instructions=111)], [row()]), ["join: 111 instructions, 100 before"])
        self.assertEqual(self.worse([row(cycles=1101)], [row()]), ["join: 1101 cycles, 1000 before"])

    def test_a_kernel_that_has_gone_is_named(self):
        self.assertEqual(self.worse([], [row()]), ["join is in the table, and there is no such kernel now"])

    def test_a_table_is_read_as_it_was_written(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "chip.tsv")
            rows = [row(), row("attend Q8_0 of 64, 4 heads x 1 tokens", spills=2)]
            vendors.write_table(path, "a compiler", rows)
            self.assertEqual(vendors.read_table(path), ("a compiler", rows))


class Program(unittest.TestCase):
    def run_with(self, script, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "statistics")
            path.write_text(script)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
            done = subprocess.run([sys.executable, SCRIPT, path, *arguments], capture_output=True, text=True)
            return done.returncode, done.stdout, done.stderr

    def test_a_kernel_that_spills_fails_the_run(self):
        for chip in ("navi21", "gfx1100"):
            compiler = vendors.read_table(vendors.TABLES / f"{chip}.tsv")[0]
            device, driver = compiler.split(", ")
            code, said, _ = self.run_with(
                f"""#!/bin/sh
echo '{{"device": "{device}", "driver": "{driver}"}}'
echo '{{"kernel": "join", "statistics": {{"Spilled VGPRs": 5, "Spilled SGPRs": 2, "VGPRs": 256}}}}'
""", chip)
            self.assertEqual(code, 1)
            self.assertIn(f"vendors: {chip}: join: 7 spills\n", said)
            self.assertTrue(said.endswith("0 passed, 1 failed\n"))

    def test_another_compiler_is_not_compared(self):
        code, said, _ = self.run_with("""#!/bin/sh\necho '{"device": "X", "driver": "radv Mesa 99"}'\n""", "navi21")
        self.assertEqual(code, 0)
        self.assertIn("left out: navi21: its table is of ", said)
        self.assertTrue(said.endswith("1 passed, 0 failed\n"))    # every kernel compiled

    def test_with_another_compiler_a_kernel_must_still_compile(self):
        line = '{"device": "X", "driver": "radv Mesa 99"}'
        code, said, _ = self.run_with(f"#!/bin/sh\necho '{line}'\nkill -9 $$\n", "navi21")
        self.assertEqual(code, 1)
        self.assertTrue(said.endswith("0 passed, 1 failed\n"))
        self.assertNotIn("left out", said)

    def test_a_program_that_fails_is_a_failure(self):
        code, said, _ = self.run_with("#!/bin/sh\necho 'no such device' >&2\nexit 1\n", "navi21")
        self.assertEqual((code, said), (1, "vendors: navi21: no such device\n0 passed, 1 failed\n"))

    def test_a_program_that_is_not_there_is_a_sentence(self):
        done = subprocess.run([sys.executable, SCRIPT, "/nowhere/statistics", "navi21"], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr),
                         (1, "vendors: /nowhere/statistics: No such file or directory\n"))

    def test_a_chip_that_nobody_knows_is_refused(self):
        for wrong in (("navi99",), ("--newest", "gfx1100"), ("blackwell",)):    # the latter of the other set
            code, _, said = self.run_with("#!/bin/sh\n", *wrong)
            self.assertEqual(code, 2)
            self.assertIn(f"there is no chip {wrong[-1]}", said)


class InnerLoop(unittest.TestCase):
    def loop(self, dialect, code, width=0):
        return vendors.vendor_code.main_loop(code, dialect, width)

    def test_of_amd_is_found_where_it_stands_before_its_way_in(self):
        loop = self.loop(vendors.vendor_code.AMD, """\
BB0:
\ts_cbranch_scc0 BB5
\ts_branch BB2
BB1:
\tglobal_load_b128 v[4:7], v[6:7], off      ; dc5e0000
\ts_waitcnt vmcnt(0)                        ; bf8917f7
\tv_dot4_i32_iu8 v12, v45, v12, 0           ; cc16400c
BB2:
\tv_add_nc_u32_e32 v16, 1, v13              ; 4a201a81
\ts_cbranch_scc1 BB1                        ; bfa20001
BB4:
\tglobal_load_b32 v17, v[8:9], off          ; dc520000
\ts_branch BB0
BB5:
\ts_endpgm
""")
        self.assertEqual((loop.instructions, loop.loads, loop.special), (3, {16: 1}, 1))

    def test_of_nvidia_goes_over_its_blocks(self):
        loop = self.loop(vendors.vendor_code.NVIDIA, """\
block.u 0 L1 [] -> {
      ur0     = s2r sr[0x25]                                   // delay=1 wr:0
} -> [1]
block 1 L2 [0, 1] -> {
      r16..20 = ld.global.a64.constant.b128 [r12..14+rZ], pT   // delay=1 rd:0 wr:1
      r8      = ld.global.a64.strong.gpu.b32 [r10..12+rZ], pT  // delay=2 wr:2
      r12     = idp4.i8.i8 r9 r12 rZ                           // delay=4 wt=000010
@!p0            bra pT L2                                      // delay=1
} -> [1, 2]
block 2 L3 [1] -> {
                exit                                           // delay=1
} -> []
""")
        self.assertEqual((loop.instructions, loop.loads, loop.special), (4, {16: 1, 4: 1}, 1))

    def test_of_intel_counts_half_a_subgroup_as_half(self):
        loop = self.loop(vendors.vendor_code.INTEL, """\
(W)     mov (1)                   r62     r66
L3:
        send.ugm (16)   r1  r9  null:0  0x00000000  0x08803580   {$9}  // wr:4+0, rd:8; load.ugm.d32x4.a64
(W)     send.ugm (1)    r2  r9  null:0  0x00000000  0x08803580   {$9}  // wr:4+0, rd:8; load.ugm.d32x1t.a64
(W)     sync.nop (1)                            null             {$4.src}
        dp4a (16)                 r3      r4      r5
(f0.0)  while (16)                            L3
        send.gtwy (16)            null    r127   null:0
""", 16)
        self.assertEqual((loop.instructions, loop.special), (3.5, 1))
        self.assertEqual(loop.loads[16], 1)

    def test_of_loops_that_make_as_much_the_shortest_counts(self):
        loop = self.loop(vendors.vendor_code.AMD, """\
BB0:
\tglobal_load_dwordx4 v[0:3], v[6:7], off
\tv_dot4_i32_i8 v12, v45, v12, 0
\ts_cbranch_scc1 BB0
BB1:
\tv_dot4_i32_i8 v12, v45, v12, 0
\ts_cbranch_scc1 BB1
""")
        self.assertEqual((loop.instructions, loop.products), (1, 4))

    TILE = """\
BB0:
\tv_add_u32_e32 v1, 1, v1
BB1:
\tglobal_load_dwordx4 v[0:3], v[6:7], off
\ts_cbranch_scc1 BB1
BB2:
\tglobal_load_dword v0, v[6:7], off
\ts_cbranch_scc1 BB2
BB3:
\tv_fmac_f32_e32 v1, v2, v3
\tv_pk_fma_f16 v4, v5, v6, v7
\tds_read_b128 v[0:3], v8
\ts_cbranch_scc1 BB3
BB4:
\ts_cbranch_scc1 BB0
"""

    def test_of_tiles_has_the_loops_in_it(self):
        turn = vendors.vendor_code.tile_loop(self.TILE, vendors.vendor_code.AMD, 0, [5, 0], 12)
        self.assertEqual((turn.instructions, turn.products, turn.loads[16]), (1 + 5 * 1 + 4 * 3, 12, 5))

    def test_of_tiles_may_have_lost_loops_to_the_compiler(self):
        turn = vendors.vendor_code.tile_loop(self.TILE, vendors.vendor_code.AMD, 0, [7, 5, 0], 12)
        self.assertEqual(turn.instructions, 18)

    def test_of_tiles_with_an_unknown_loop_is_refused(self):
        with self.assertRaisesRegex(ValueError, "3 loops in the main one, 1 known"):
            vendors.vendor_code.tile_loop(self.TILE, vendors.vendor_code.AMD, 0, [5], 12)

    def test_of_cards_the_figures_are_those_of_the_plan(self):
        figures = vendors.card_figures()
        self.assertEqual(figures["RTX 2060"], (336e9, 6.45e12 / 2))
        self.assertEqual({vendors.GENERATIONS[vendors.CARDS[card]][0] for card in figures} - set(vendors.NEWEST), set())

    def test_of_every_generation_the_plan_has_what_kernels_cost(self):
        written = re.findall(r'\{"([^"]+)", WeightType', vendors.KERNEL_COSTS.read_text())
        self.assertEqual(set(written), set(vendors.GENERATIONS))
        self.assertEqual(len(written), len(vendors.GENERATIONS) * len(vendors.all_formats()))


class Peer(unittest.TestCase):
    def line(self, kernel, body, **constants):
        code = "BB0:\n" + "".join(f"\t{line}\n" for line in body) + "\ts_cbranch_scc1 BB0\n"
        return {"kernel": kernel, "code": code, "statistics": {},
                "constants": {number[1:]: value for number, value in constants.items()}}

    def figure(self, of, *line, **constants):
        return of(self.line(*line, **constants), vendors.vendor_code.AMD)

    def test_decoding_is_counted_by_the_bytes_of_a_turn(self):
        dots = ["v_dot4_i32_i8 v1, v2, v3, 0"] * 16 + ["v_add_u32_e32 v1, 1, v1"] * 20    # 64 weights in 36 bytes
        decode = vendors.peer_kernels.theirs_decode
        self.assertEqual(self.figure(decode, "mul_mat_vec_q4_k_q8_1_f32", dots, _0=64, _1=1), 1)

    def test_a_prompt_is_counted_without_what_scales_its_sums(self):
        # 64 x 64 x 32 products for 128 lanes are 1024
        body = ["v_dot4_i32_i8 v1, v2, v3, 0"] * 256 + ["v_fma_f32 v1, v2, v3, v1"] * 100
        prompt = vendors.peer_kernels.theirs_prompt
        self.assertEqual(self.figure(prompt, "matmul_quant", body, _0=128, _1=64, _2=64, _12=2), 1024 / 356)

    def test_a_loop_that_is_not_as_expected_is_refused(self):
        with self.assertRaisesRegex(ValueError, "q4_k.*: 4 products in its loop, 64 expected"):
            self.figure(vendors.peer_kernels.theirs_decode, "mul_mat_vec_q4_k_q8_1_f32",
                        ["v_dot4_i32_i8 v1, v2, v3, 0"], _0=64, _1=1)

    def test_a_kernel_that_was_not_made_is_named(self):
        with self.assertRaisesRegex(ValueError, "no kernel for decode of F16"):
            vendors.peer_kernels.of_peer([], vendors.vendor_code.AMD)

    def test_a_table_counts_what_is_better(self):
        ours = {("decode", form): (2., "a") for form in vendors.peer_kernels.FORMATS}
        ours |= {("prompt", form): (2., "a") for form in vendors.peer_kernels.FORMATS}
        theirs = ours | {("decode", "F16"): (1., "b"), ("prompt", "F16"): (1., "b"), ("prompt", "Q8_0"): (3., "b")}
        text = vendors.peer_kernels.table({"navi21": (ours, theirs)}, "a compiler", "a peer")
        self.assertIn("\n| decode | 0 | 4 | 1 | 80% |\n| prompt | 1 | 3 | 1 | 80% |\n| **all** | 1 | 7 | 2 | 80% |\n",
                      text)
        self.assertIn("| navi21 | F16 | 2.00 | 1.00 | `a` | `b` | worse |\n", text)


class Tables(unittest.TestCase):
    def test_every_chip_has_its_table(self):
        for chips, folder in ((vendors.OLD, vendors.TABLES), (vendors.NEWEST, vendors.TABLES / "newest")):
            self.assertEqual({path.stem for path in folder.glob("*.tsv")}, set(chips))
            for name in (path.stem for path in folder.glob("*.tsv")):
                columns = chips[name][0]
                self.assertEqual(set(vendors.read_table(folder / f"{name}.tsv")[1][0]), {"kernel", *columns})

    def test_the_peer_is_compared_on_every_chip(self):
        rows = [line.split(" | ") for line in (vendors.TABLES / "peer.md").read_text().splitlines()]
        self.assertEqual({(row[0].removeprefix("| "), row[1]) for row in rows if row[-1] in
                          ("better |", "equal |", "worse |")},
                         {(chip, form) for chip in vendors.NEWEST for form in vendors.BOUND_FORMATS})

    def test_three_vendors_are_asked(self):
        self.assertGreaterEqual(len(vendors.NEWEST), 14)
        self.assertEqual(len({id(columns) for columns, *_ in vendors.NEWEST.values()}), 3)


if __name__ == "__main__":
    unittest.main()
