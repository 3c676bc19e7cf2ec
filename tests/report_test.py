#!/usr/bin/env python3
"""`hearth bench --report` from outside: what it measures, keeps and shows, and what it makes of reports of strangers.
As program_test.py, whose helpers it uses.

    python3 tests/report_test.py build/check/hearth [--all] [--pictures FOLDER] [arguments of unittest]

Needs nothing but Python; with chromium (Debian's package of that name) the pages are also opened. `--pictures` keeps
what it saw, to be looked at. `--all` adds the pictures of the first page that take a minute.
"""

import copy
import html.parser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest
import xml.etree.ElementTree
from pathlib import Path

PICTURES = None
if "--pictures" in sys.argv:
    at = sys.argv.index("--pictures")
    PICTURES = Path(sys.argv[at + 1]).resolve()
    del sys.argv[at:at + 2]

import program_test as program    # noqa: E402
from program_test import CPU, LAYERS, MODEL, PROGRAM, Case, hearth, setUpModule    # noqa: E402, F401

SMALL = ("-p", "16", "-n", "4", "-r", "2", "-np", "1,2", "-t", "1")
FILES = {"report.json", "report.html", "report.md"}
PICTURES_OF = {"decode", "prefill", "stages", "seam", "split", "batch"}
SIGNS = "<script>alert(1)</script> | `x` *y* \"q\" 'p' &amp; [l](http://example.com) \x1b[31m\u202e"


def read(folder):
    return json.loads((folder / "report.json").read_text())


class Page(html.parser.HTMLParser):
    """What a page is made of; everything that is opened must be closed."""

    EMPTY = {"meta", "rect", "line", "circle", "polyline"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.texts.append(data)


class ReportCase(Case):
    def check_pages(self, folder, machines):
        """Every page is whole, needs nothing else, and has all devices."""
        report = read(folder)
        self.assertEqual(len(report["machines"]), machines)
        text = (folder / "report.html").read_text()
        page = Page(text)
        self.assertEqual(page.open, [])
        for tag in ("script", "link", "img", "iframe", "a", "object", "base", "form"):
            self.assertNotIn(tag, page.tags)
        for name, value in page.attributes:
            self.assertNotIn(name, ("src", "href", "srcset", "style", "action", "background"))
            self.assertFalse(name.startswith("on"), name)
            if name == "xmlns":
                self.assertEqual(value, "http://www.w3.org/2000/svg")    # a name, which nothing fetches
        self.assertNotIn("url(", text)
        self.assertNotIn("@import", text)
        markdown = (folder / "report.md").read_text()
        pictures = re.findall(r"!\[[^\]]*\]\((report-[a-z]+\.svg)\)", markdown)
        self.assertEqual(len(pictures), page.tags.count("svg"))
        for picture in pictures:
            root = xml.etree.ElementTree.parse(folder / picture).getroot()
            self.assertTrue(root.tag.endswith("svg"))
        said = "".join(page.texts)
        for machine in report["machines"]:
            for device in machine["devices"]:
                self.assertIn(program_printable(device["name"]), said)
        return page, markdown


def program_printable(text):
    return "".join("?" if ord(c) < 32 or c in "\u202e" else c for c in text)


class Measured(ReportCase):
    """One run on the CPU and on the software device."""

    @classmethod
    def setUpClass(cls):
        cls.here = Path(program.SCRATCH.name) / "measured"
        cls.here.mkdir()
        device = next(d for d in hearth("devices", "--json").json["devices"] if "llvmpipe" in d["name"])
        assert hearth("tune", *CPU, "-t", "1", "-o", cls.here / "cpu.json").code == 0
        machine = json.loads((cls.here / "cpu.json").read_text())
        # Plausible is enough: what is looked at is what becomes of them.
        machine |= {"device": device["name"], "driver": device["driver"], "submit_us": 10, "round_trip_us": 90,
                    "release_us": 70, "upload": 5, "together": 1}
        cls.machine = cls.here / "machine.json"
        cls.machine.write_text(json.dumps(machine))
        cls.folder_of = cls.here / "report"
        before = set(cls.here.iterdir())
        cls.result = hearth("bench", MODEL, "--report", cls.folder_of, "--device", "cpu,llvmpipe", "--machine",
                            cls.machine, *SMALL, cwd=cls.here)
        cls.new = set(cls.here.iterdir()) - before

    def setUp(self):
        super().setUp()
        self.assertEqual(self.result.code, 0, self.result.talk)
        self.report = read(self.folder_of)
        self.cpu, self.device = self.report["machines"][0]["devices"]

    def test_nothing_is_written_outside_the_folder(self):
        self.assertEqual(self.new, {self.folder_of})
        self.assertEqual(set(os.listdir(self.folder_of)), FILES | {f"report-{p}.svg" for p in PICTURES_OF})

    def test_every_part_of_every_device_is_done(self):
        self.assertEqual([p["state"] for d in (self.cpu, self.device) for p in d["parts"]], ["done"] * 9)
        self.assertEqual([s["tokens"] for s in self.cpu["prefill"]], [1, 4, 16])
        for device in (self.cpu, self.device):
            self.assertEqual([len(t["tokens_per_s"]) for t in device["together"]], [2, 2])
            self.assertEqual([t["sequences"] for t in device["together"]], [1, 2])
            self.assertTrue(all(rate > 0 for s in device["decode"] + device["prefill"] for rate in s["tokens_per_s"]))

    def test_bytes_and_expectations_are_those_of_bench(self):
        result = self.good("bench", MODEL, *CPU, "-t", "1", "-p", "16", "-n", "4", "-r", "1", "--machine",
                           self.machine, "-o", "json").json
        decode = next(r for r in result["results"] if r["test"] == "decode")
        self.assertEqual(self.cpu["decode"][0]["bytes_per_token"], decode["bytes_per_token"])
        self.assertAlmostEqual(self.cpu["decode"][0]["expected_tokens_per_s"], decode["expected_tokens_per_s"], 6)
        mine = {s["stage"]: s["bytes_per_token"] for s in self.cpu["stages"] if s["test"] == "decode"}
        self.assertEqual(mine, {s["stage"]: s["bytes_per_token"] for s in result["stages"] if s["test"] == "decode"})

    def test_the_sweep_goes_from_no_neuron_to_all_of_them(self):
        splits = self.device["splits"]
        self.assertEqual([round(20 * s["resident"]) / 20 for s in splits], [0, 0.25, 0.5, 0.75, 1])
        self.assertEqual([s["split_layers"] for s in splits][1:], [LAYERS] * 3 + [0])
        self.assertEqual(sorted(s["device_bytes"] for s in splits), [s["device_bytes"] for s in splits])
        self.assertTrue(all(s["expected_seam_us"] == 70 for s in splits))    # released ahead, by the figures
        self.assertTrue(any(s["seam_us"] > 0 for s in splits))

    def test_the_pages_are_whole_and_say_what_was_measured(self):
        page, markdown = self.check_pages(self.folder_of, 1)
        self.assertEqual(page.tags.count("svg"), len(PICTURES_OF))
        self.assertEqual(markdown, self.result.out)
        self.assertIn("--device cpu -p 16 -n 4 -r 2 --threads 1", markdown)
        self.assertNotIn(str(MODEL.parent), markdown)    # whose folder it is, is nobody's business

    def test_three_machines_stand_side_by_side_and_strangers_texts_are_only_texts(self):
        stranger = copy.deepcopy(self.report)
        machine = stranger["machines"][0]
        machine["name"] = machine["model"] = machine["commands"][0] = machine["findings"][0] = SIGNS
        machine["facts"] = [{"name": SIGNS, "value": SIGNS}]
        for device in machine["devices"]:
            device["name"] = SIGNS
            for stage in device["stages"]:
                stage["stage"] = SIGNS
        machine["devices"][0]["parts"][0] |= {"state": "failed", "problem": SIGNS}
        faster = copy.deepcopy(self.report)
        for device in faster["machines"][0]["devices"]:
            device["driver"] = device["driver"] and "generated"
            device["name"] = "Generated GPU 9000" if device["driver"] else device["name"]
            for result in device["decode"] + device["prefill"] + device["together"]:
                result["tokens_per_s"] = [40 * rate for rate in result["tokens_per_s"]]
        files = [self.write("faster.json", json.dumps(faster)), self.write("stranger.json", json.dumps(stranger))]
        merged = self.folder / "merged"
        self.good("bench", "--report", merged, "--merge", self.folder_of / "report.json", *files)
        page, markdown = self.check_pages(merged, 3)
        self.assertEqual(read(merged)["machines"], [*self.report["machines"], *faster["machines"],
                                                    *stranger["machines"]])
        self.assertIn("A: ", markdown)
        self.assertIn("C: \\<script\\>alert(1)\\</script\\> \\| \\`x\\`", markdown)
        self.assertNotRegex(markdown, r"(?m)^(?!    ).*[^\\\\]<script")
        self.assertNotIn("\x1b", markdown)
        # What was merged can be merged again.
        self.good("bench", "--report", self.folder / "again", "--merge", merged / "report.json")
        self.assertEqual((self.folder / "again/report.html").read_text(), (merged / "report.html").read_text())
        self.look_at(merged / "report.html")

    def look_at(self, page):
        chromium = shutil.which("chromium")
        if not chromium:
            print("left out: pages in a browser: chromium is not installed")
            return
        blank = self.write("blank.html", "<!DOCTYPE html><title>nothing</title>")
        sizes = []
        for shown, name in ((page, "report.png"), (blank, "blank.png")):
            picture = self.folder / name
            done = subprocess.run(
                [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
                 "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={self.folder / 'profile'}",
                 "--window-size=1000,6000", f"--screenshot={picture}", shown.as_uri()],
                capture_output=True, timeout=120, env=program.ENVIRONMENT | {"HOME": str(self.folder)})
            self.assertEqual(done.returncode, 0, done.stderr)
            sizes.append(picture.stat().st_size)
            if PICTURES:
                PICTURES.mkdir(exist_ok=True)
                shutil.copy(picture, PICTURES)
        self.assertGreater(sizes[0], 5 * sizes[1])    # it shows something

    def test_a_part_that_fails_costs_only_itself(self):
        folder = self.folder / "failed"
        result = hearth("bench", MODEL, "--report", folder, "--device", "cpu,llvmpipe", "--machine", self.machine,
                        "--vram-budget", "600KiB", *SMALL)
        self.assertEqual(result.code, 1)
        self.assertIn("4 of 9 parts failed", result.talk)
        cpu, device = read(folder)["machines"][0]["devices"]
        self.assertEqual({p["state"] for p in cpu["parts"]}, {"done"})
        self.assertEqual([p["state"] for p in device["parts"]], ["done"] + 4 * ["failed"])
        self.assertIn("too small", device["parts"][1]["problem"])
        self.check_pages(folder, 1)

    def stopped(self, how, *options):
        """A run that gets a signal once it has some results."""
        folder = self.folder / "stopped"
        process = subprocess.Popen([PROGRAM, "bench", MODEL, "--report", folder, *CPU, "--machine", self.machine,
                                    "-t", "1", "-p", "16", "-n", "64", "-r", "1000", *options], env=program.ENVIRONMENT,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with process:
            end = time.time() + 60
            while time.time() < end:
                if (folder / "report.json").exists():
                    parts = read(folder)["machines"][0]["devices"][0]["parts"]
                    if parts[1]["state"] == "running":
                        break
                time.sleep(0.01)
            process.send_signal(how)
            talk = process.communicate(timeout=60)[1].decode()
        self.assertEqual(parts[0]["state"], "done")
        return folder, process.returncode, talk

    def test_ctrl_c_keeps_what_was_measured(self):
        folder, code, talk = self.stopped(signal.SIGINT)
        self.assertEqual(code, 1)
        self.assertRegex(talk, r"^hearth: interrupted: 1 of 4 parts are in .*report\.html\n$")
        device = read(folder)["machines"][0]["devices"][0]
        self.assertEqual([p["state"] for p in device["parts"]], ["done", "interrupted", "waiting", "waiting"])
        self.assertGreater(device["figures"]["host_read_gb_per_s"], 0)
        self.check_pages(folder, 1)

    def test_a_crash_leaves_whole_files_that_can_be_merged(self):
        folder, code, _ = self.stopped(signal.SIGKILL)
        self.assertEqual(code, -signal.SIGKILL)
        self.good("bench", "--report", self.folder / "merged", "--merge", folder / "report.json")
        self.assertIn("the program ended, or is still at it", (self.folder / "merged/report.md").read_text())

    def test_what_is_no_report_is_refused_in_one_sentence(self):
        good = json.dumps(self.report)

        def changed(change):
            other = copy.deepcopy(self.report)
            change(other["machines"][0])
            return json.dumps(other)

        def device(change):
            return changed(lambda m: change(m["devices"][0]))

        wrong = [b"", b"\0\1\2", b"[]", b"null", b"{}", b"[" * 100000, good[:len(good) // 2],
                 good.replace('"hearth_report": 1', '"hearth_report": 2'),
                 good.replace('"hearth_report": 1', '"hearth_report": 1, "more": 1'),
                 '{"hearth_report": 1, "machines": {}}', '{"hearth_report": 1, "machines": []}',
                 changed(lambda m: m.pop("facts")), changed(lambda m: m.update(extra=1)),
                 changed(lambda m: m.update(name=7)), changed(lambda m: m.update(name="x" * 5000)),
                 changed(lambda m: m.update(model_bytes=-1)), changed(lambda m: m.update(model_bytes=1.5)),
                 changed(lambda m: m.update(commands=["x"] * 2000)), changed(lambda m: m.update(devices=None)),
                 device(lambda d: d["decode"][0].update(tokens_per_s=[])),
                 device(lambda d: d["decode"][0].update(tokens_per_s=[0])),
                 device(lambda d: d["decode"][0].update(tokens_per_s=["1"])),
                 device(lambda d: d["decode"][0].update(tokens=2**40)),
                 device(lambda d: d["decode"].append(d["decode"][0])),
                 device(lambda d: d["parts"][0].update(state=SIGNS)),
                 device(lambda d: d["stages"][0].update(on_device=1)),
                 device(lambda d: d["together"][0].update(sequences=0)),
                 good.replace('"release_us": ', '"release_us": 1e999', 1), good.replace("[", "[NaN, ", 1)]
        for i, text in enumerate(wrong):
            with self.subTest(i):
                self.refused("bench", "--report", "folder", "--merge", self.write("wrong.json", text))
        self.refused("bench", "--report", "folder", "--merge", self.folder / "missing.json", says=["missing.json"])
        self.wrong_use("bench", "--merge", self.folder_of / "report.json")
        self.wrong_use("bench")


class Answers(Case):
    """The README's pictures are what the commands beside them draw."""

    DRAWN = {"cases": ("simulate", "--cases"), "sweep": ("simulate", "--sweep"),
             "roofline": ("roofline", "--arch", "relullama-70b", "--type", "q4_0", "--card", "4090", "--sparsity",
                          "predict")}

    def test_the_pictures_of_the_first_page_are_what_the_program_draws(self):
        for name, command in self.DRAWN.items():
            if name != "roofline" and not program.ALL:    # a minute
                continue
            picture = self.folder / f"{name}.svg"
            self.good(*command, "--plot", picture)
            self.assertEqual(picture.read_text(), (program.DATA / f"answers-{name}.svg").read_text(), name)

    def test_a_roofline_of_what_is_not_here_says_what_bounds_it(self):
        result = self.good(*self.DRAWN["roofline"], "--json").json
        steps = result["steps"]
        self.assertEqual({step["on"] for step in steps}, {"device", "host"})
        cold = max(steps, key=lambda step: step["expected_us"])
        self.assertEqual((cold["step"], cold["bound"]), ("cold_ffn", "CPU memory"))
        self.assertIn("RTX 4090", result["device"])
        self.refused("roofline", "--arch", "llama-7b", "--card", "9999", says=["9999", "RTX 4090"])
        self.refused("roofline", MODEL, "--card", "4090", "--sparsity", "threshold", says=["--card"])
        self.wrong_use("roofline", "--arch", "llama-7b", "--processor", "7700X")
        self.wrong_use("roofline", "--arch", "llama-7b", "--card", "4090", "--measured")


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("usage: report_test.py PROGRAM [--all] [--pictures FOLDER] [arguments of unittest]")
    unittest.main(argv=[sys.argv[0], *program.ARGUMENTS])
