"""llama.cpp's Vulkan kernels beside ours, by the code that one compiler makes of both: for decoding the instructions
for each byte of weights, for prompts the products for each instruction, both of a lane in the main loop."""
import re

import vendor_code

FORMATS = ["F16", "Q8_0", "Q6_K", "Q4_K", "Q4_0"]
BLOCKS = {"F16": (1, 2), "Q8_0": (32, 34), "Q6_K": (256, 210), "Q4_K": (256, 144), "Q4_0": (32, 18)}  # weights, bytes
NUMBERS = {1: "F16", 2: "Q4_0", 8: "Q8_0", 12: "Q4_K", 14: "Q6_K"}    # as GGUF counts formats
EQUAL = 1.02    # what is nearer than this is called equal

# The peer's cases of its own program that measures, which makes it compile what we want to see.
CASES = "type_a=(f16|q8_0|q6_K|q4_K|q4_0),.*m=4096,n=(1|512),k=14336"


def format_of(line):
    """By the kernel's name, or where all formats share one by the constant that says which."""
    if match := re.match(r"(?:mul_mat_vec|matmul)_(f16|q\d_[0k])_", line["kernel"]):
        return match.group(1).upper()
    return NUMBERS[line["constants"]["12"]]


def decode_products(line):
    """Of a lane, in a turn of the peer's main loop, by how its kernels are written (mul_mat_vec*.comp): rows at once
    times the weights that it takes of a row, times four turns that are written out in all but those for K-formats."""
    formed_of_256 = format_of(line).endswith("_K")
    rows = line["constants"]["1"]
    if "_q8_1_" in line["kernel"]:
        return rows * 4 * (16 if formed_of_256 else 8)
    if formed_of_256:
        return rows * 16
    return rows * 4 * (4 if format_of(line) == "F16" else 8)


def theirs_decode(line, dialect):
    loop = vendor_code.main_loop(line["code"], dialect, vendor_code.width_of(line, dialect))
    products = decode_products(line)
    if not 0.7 * products <= loop.products <= 2.3 * products:
        raise ValueError(f"{line['kernel']}: {loop.products} products in its loop, {products} expected")
    weights, size = BLOCKS[format_of(line)]
    return loop.instructions / (products * size / weights)


def theirs_prompt(line, dialect):
    constants = {int(number): value for number, value in line["constants"].items()}
    lanes, rows, tokens = (constants[number] for number in (0, 1, 2))
    if dialect is vendor_code.AMD and constants.get(10) == 64:    # its subgroup
        dialect = vendor_code.AMD_64
    # Loops inside fetch the tiles of weights and of x, where not every invocation need take part: as often as
    # mul_mmq.comp says, 16 numbers of x or 4 or 8 weights at a time.
    at_once = 4 if format_of(line) in ("Q8_0", "Q6_K") else 8
    trips = [rows * 32 / at_once / lanes, tokens * 2 / lanes]
    # A turn has 32 of the inner dimension; in integers four times that.
    products = rows * tokens * 32 / lanes * (4 if "_q8_1_" in line["kernel"] else 1)
    loop = vendor_code.tile_loop(line["code"], dialect, vendor_code.width_of(line, dialect), trips, products)
    if not 1 <= loop.products / products < 1.3:    # scales take some of their own
        raise ValueError(f"{line['kernel']}: {loop.products} products in its loop, {products} expected")
    return products / loop.instructions


def of_peer(lines, dialect):
    """{(work, format): (figure, name of the kernel)}"""
    found = {}
    for line in lines:
        if line["kernel"].startswith("mul_mat_vec_"):
            found["decode", format_of(line)] = theirs_decode(line, dialect), line["kernel"]
        elif line["kernel"].startswith("matmul_"):
            found["prompt", format_of(line)] = theirs_prompt(line, dialect), line["kernel"]
    for work in ("decode", "prompt"):
        for form in FORMATS:
            if (work, form) not in found:
                raise ValueError(f"the peer made no kernel for {work} of {form}")
    return found


def of_ours(lines, dialect):
    """The same of ours. Of rows in two variants the one that is usual: in integers, where the chip has them."""
    found = {}
    for line in lines:
        kernel, variant = line["kernel"].split(" ", 1)
        width = vendor_code.width_of(line, dialect)
        if kernel.startswith("matvec") and "tokens" not in variant:
            loop = vendor_code.main_loop(line["code"], dialect, width)
            work, figure = "decode", loop.instructions / line["turn_bytes"]
        elif kernel.startswith("matmul"):
            loop = vendor_code.tile_loop(line["code"], dialect, width, line["trips"], line["turn_products"])
            work, figure = "prompt", line["turn_products"] / loop.instructions
        else:
            continue
        key = work, variant.split(" ")[0]
        if key not in found or "_idot" in kernel:
            found[key] = figure, kernel
    return found


def verdict(work, ours, theirs):
    gain = theirs / ours if work == "decode" else ours / theirs
    return "better" if gain > EQUAL else "worse" if gain < 1 / EQUAL else "equal"


HEAD = """\
# Our kernels beside llama.cpp's

What the same compilers make of both, without a card: `tools/vendors build/check/kernel_statistics --peer --write`
writes this file.

* Compilers: {compilers}
* The peer: {peer}

Of both sides the main loop of the kernel is counted in the same way, for a lane: for decoding (one token, a matrix of
4096 rows) how many instructions a byte of weights takes, for a prompt (512 tokens) how many products an instruction
makes. Both sides' kernels are those that the program takes for that chip untuned. {equal:.0%} more or less counts as
equal. What is not in it: that the peer rounds x to 8 bits where it says `q8_1`, and sums prompts in fp16 where it says
`f16acc`, while ours keeps 16 bits of x and sums in fp32; the time that an instruction takes, which is long for those of
matrices; memory.
"""


def table(chips, compilers, peer):
    """`chips`: {name: (ours, theirs)} as above. The text of the table."""
    verdicts = {(chip, *key): verdict(key[0], ours[key][0], theirs[key][0])
                for chip, (ours, theirs) in chips.items() for key in theirs}

    def share(name, chosen):
        count = {word: sum(v == word for v in chosen) for word in ("better", "equal", "worse")}
        good = (count["better"] + count["equal"]) / len(chosen)
        return f"| {name} | {count['better']} | {count['equal']} | {count['worse']} | {good:.0%} |"

    text = [HEAD.format(compilers=compilers, peer=peer, equal=EQUAL - 1),
            "| cells | better | equal | worse | better or equal |\n|---|---:|---:|---:|---:|"]
    text += [share(work, [v for key, v in verdicts.items() if key[1] == work]) for work in ("decode", "prompt")]
    text.append(share("**all**", list(verdicts.values())))
    for work, title in (("decode", "Decoding: instructions for each byte of weights; fewer are better"),
                        ("prompt", "Prompts: products for each instruction; more are better")):
        text.append(f"\n## {title}\n\n| chip | format | ours | theirs | our kernel | their kernel | ours is |\n"
                    "|---|---|---:|---:|---|---|---|")
        for chip, (ours, theirs) in chips.items():
            for form in FORMATS:
                (mine, name), (other, other_name) = ours[work, form], theirs[work, form]
                text.append(f"| {chip} | {form} | {mine:.2f} | {other:.2f} | `{name}` | `{other_name}` | "
                            f"{verdicts[chip, work, form]} |")
    return "\n".join(text) + "\n"
