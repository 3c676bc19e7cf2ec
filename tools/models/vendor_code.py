"""What is in the inner loop of a kernel, read from the text of its code as Mesa's compilers for AMD's, NVIDIA's and
Intel's chips print it."""
import re
from dataclasses import dataclass, replace


@dataclass
class Dialect:
    label: re.Pattern          # a block's, where branches lead
    branch: re.Pattern         # to a label
    always: re.Pattern         # a branch that nothing passes
    instruction: re.Pattern    # of those that share the lanes with each other
    load: re.Pattern           # from memory; its group says how wide
    special: re.Pattern        # instructions that do several products
    products: dict             # by pattern: how many for each lane one makes that it finds


# Bytes of the loads, in each dialect's words; others are of less.
WIDTHS = {"b128": 16, "dwordx4": 16, "d32x4": 16, "b96": 12, "dwordx3": 12, "d32x3": 12, "b64": 8, "dwordx2": 8,
          "d32x2": 8, "b32": 4, "dword": 4, "d32": 4}

AMD = Dialect(
    label=re.compile(r"^(BB\d+):"), branch=re.compile(r"^\s+s_c?branch\w* (BB\d+)"),
    always=re.compile(r"^\s+s_(?:branch|endpgm)"), instruction=re.compile(r"^\s+(?:v|global|flat|buffer|ds)_"),
    load=re.compile(r"^\s+(?:global|flat|buffer)_load_(\w+)"), special=re.compile(r"^\s+v_(?:dot|pk_|wmma)"),
    # A matrix instruction makes 16 x 16 x 16 for a subgroup, here one of 32 lanes.
    products={re.compile(r"\bv_(?:dual_)?(?:fma|mac|mad)\w*_f(?:32|16)"): 1,
              re.compile(r"\bv_pk_fma_f16"): 2, re.compile(r"\bv_(?:dual_)?dot2"): 2, re.compile(r"\bv_dot4"): 4,
              re.compile(r"\bv_wmma\w*_16x16x16"): 128})
AMD_64 = replace(AMD, products={pattern: 64 if count == 128 else count for pattern, count in AMD.products.items()})
NVIDIA = Dialect(
    label=re.compile(r"^block\S* \d+ (L\d+)"), branch=re.compile(r"\bbra\b.*\b(L\d+)"),
    always=re.compile(r"^\s+(?:bra (?:pT )?L|exit)"), instruction=re.compile(r"//"),
    load=re.compile(r"\bld\.global\.\S*?\.([bu]\d+) "), special=re.compile(r"\b(?:idp4|hfma2|hmma|imma)\b"),
    products={re.compile(r"\bffma\b"): 1, re.compile(r"\bhfma2\b"): 2, re.compile(r"\bidp4\b"): 4,
              re.compile(r"\bhmma\.m16n8k8\b"): 32, re.compile(r"\bhmma\.m16n8k16\b"): 64,
              re.compile(r"\bimma\.m16n8k16\b"): 64, re.compile(r"\bimma\.m16n8k32\b"): 128})
INTEL = Dialect(
    label=re.compile(r"^(L\d+):"), branch=re.compile(r"\b(?:while|jmpi|break|if|else|endif)\b.*?\b(L\d+)"),
    always=re.compile(r"^\s+jmpi"), instruction=re.compile(r"^(?:\(.*?\))?\s+\w+\S* \(\d+"),
    load=re.compile(r"; load\.ugm\.(d\w+?)t?\.a64"), special=re.compile(r"\b(?:dp4a|dpas)\b"),
    # A dpas of depth 8 and 8 rows, in halves.
    products={re.compile(r"\b(?:mad|mac)\b"): 1, re.compile(r"\bdp4a\b"): 4, re.compile(r"\bdpas\b"): 128})


@dataclass
class Loop:
    instructions: float    # of a subgroup; one of half its width counts half
    loads: dict            # by their bytes
    special: int
    products: float        # for each lane, as far as the instructions tell


def blocks_of(lines, dialect):
    """([lines of each block], [the blocks that may follow each])"""
    blocks, places = [[]], {}
    for line in lines:
        if match := dialect.label.match(line):
            blocks.append([])
            places[match.group(1)] = len(blocks) - 1
        blocks[-1].append(line)
        if dialect.branch.search(line) or dialect.always.match(line):    # what is behind it is another block
            blocks.append([])
    follow = []
    for i, block in enumerate(blocks):
        to = {places[match.group(1)] for line in block if (match := dialect.branch.search(line))
              and match.group(1) in places}
        if not any(dialect.always.match(line) for line in block) and i + 1 < len(blocks):
            to.add(i + 1)
        follow.append(to)
    return blocks, follow


def ways_back(follow):
    """(last block, first block) of each loop: a branch to a block that led to it."""
    found, entered, left, path = [], set(), set(), [(0, iter(sorted(follow[0])))]
    entered.add(0)
    while path:
        block, rest = path[-1]
        for to in rest:
            if to in entered and to not in left:
                found.append((block, to))
            elif to not in entered:
                entered.add(to)
                path.append((to, iter(sorted(follow[to]))))
                break
        else:
            left.add(block)
            path.pop()
    return found


def loops_of(blocks, follow):
    """{first block of a loop: all its blocks}"""
    before = [{i for i, to in enumerate(follow) if block in to} for block in range(len(blocks))]
    loops = {}    # all blocks from which there is a way back to the first
    for last, first in ways_back(follow):
        body, left = loops.setdefault(first, {first}), [last]
        while left:
            block = left.pop()
            if block not in body:
                body.add(block)
                left.extend(before[block])
    return loops


def width_of(line, dialect):
    """Of the kernel that a line of kernel_statistics is about: Intel's, whose instructions may have half of it."""
    return line["statistics"]["Max dispatch width"] if dialect is INTEL else 0


def cost(line, width):
    """Of Intel's instructions each says how many lanes it has; a processor does none faster than one of eight."""
    lanes = re.match(r"^(?:\(.*?\))?\s+\w+\S* \((\d+)", line)
    return max(int(lanes.group(1)), 8) / width if lanes else 1


def products_of(line, dialect, width):
    """Of Intel's the lanes of one instruction may be half of the kernel's."""
    count = sum(len(pattern.findall(line)) * products for pattern, products in dialect.products.items())
    return count * (cost(line, width) if width and count else 1)


def counted(body, dialect, width):
    loads = {}
    for line in body:
        if match := dialect.load.search(line):
            size = WIDTHS.get(match.group(1), 2)
            loads[size] = loads.get(size, 0) + 1
    return Loop(sum(cost(line, width) if width else 1 for line in body if dialect.instruction.search(line)), loads,
                sum(bool(dialect.special.search(line)) for line in body),
                sum(products_of(line, dialect, width) for line in body))


def lines_of(code):
    return [line for line in code.splitlines() if "nop" not in line]


def main_loop(code, dialect, width=0):
    """The loop, without another one in it, that makes most products at a turn, and of such with the fewest
    instructions: kernels have others for rows that are not whole. `width` is Intel's of the kernel."""
    blocks, follow = blocks_of(lines_of(code), dialect)
    loops = loops_of(blocks, follow)
    found = [counted([line for block in sorted(body) for line in blocks[block]], dialect, width)
             for first, body in loops.items() if not any(other != first and other in body for other in loops)]
    return max(found, key=lambda loop: (loop.products, -loop.instructions))


def tile_loop(code, dialect, width=0, trips=(), products=0):
    """The loop that makes most products at a turn, with the loops in it. Of those the one that makes products is gone
    through until there are about `products`, the others as often as `trips` says, in their order; where there are
    fewer than that, the compiler has unrolled the first ones."""
    blocks, follow = blocks_of(lines_of(code), dialect)
    loops = loops_of(blocks, follow)
    whole = {first: counted([line for block in body for line in blocks[block]], dialect, width)
             for first, body in loops.items()}
    first = max(loops, key=lambda first: (whole[first].products, len(loops[first])))
    inside = sorted(other for other in loops if other != first and other in loops[first])
    own = loops[first].difference(*(loops[other] for other in inside))
    turn = counted([line for block in own for line in blocks[block]], dialect, width)
    makes = [other for other in inside if whole[other].products > turn.products]
    others = [other for other in inside if other not in makes]
    if len(others) > len(trips) or len(makes) > 1:
        raise ValueError(f"{len(inside)} loops in the main one, {len(trips)} known")
    often = dict(zip(reversed(others), reversed(trips)))
    for other in inside:
        loop = whole[other]
        times = often[other] if other in often else round((products - turn.products) / loop.products)
        turn.instructions += times * loop.instructions
        turn.special += times * loop.special
        turn.products += times * loop.products
        for size, count in loop.loads.items():
            turn.loads[size] = turn.loads.get(size, 0) + times * count
    return turn
