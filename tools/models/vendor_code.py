"""What is in the inner loop of a kernel, read from the text of its code as Mesa's compilers for AMD's, NVIDIA's and
Intel's chips print it."""
import re
from dataclasses import dataclass


@dataclass
class Dialect:
    label: re.Pattern          # a block's, where branches lead
    branch: re.Pattern         # to a label
    always: re.Pattern         # a branch that nothing passes
    instruction: re.Pattern    # of those that share the lanes with each other
    load: re.Pattern           # from memory; its group says how wide
    special: re.Pattern        # instructions that do several products


# Bytes of the loads, in each dialect's words; others are of less.
WIDTHS = {"b128": 16, "dwordx4": 16, "d32x4": 16, "b96": 12, "dwordx3": 12, "d32x3": 12, "b64": 8, "dwordx2": 8,
          "d32x2": 8, "b32": 4, "dword": 4, "d32": 4}

AMD = Dialect(
    label=re.compile(r"^(BB\d+):"), branch=re.compile(r"^\s+s_c?branch\w* (BB\d+)"),
    always=re.compile(r"^\s+s_(?:branch|endpgm)"), instruction=re.compile(r"^\s+(?:v|global|flat|buffer|ds)_"),
    load=re.compile(r"^\s+(?:global|flat)_load_(\w+)"), special=re.compile(r"^\s+v_(?:dot|pk_|wmma)"))
NVIDIA = Dialect(
    label=re.compile(r"^block\S* \d+ (L\d+)"), branch=re.compile(r"\bbra\b.*\b(L\d+)"),
    always=re.compile(r"^\s+(?:bra (?:pT )?L|exit)"), instruction=re.compile(r"//"),
    load=re.compile(r"\bld\.global\.\S*?\.([bu]\d+) "), special=re.compile(r"\b(?:idp4|hfma2|hmma|imma)\b"))
INTEL = Dialect(
    label=re.compile(r"^(L\d+):"), branch=re.compile(r"\b(?:while|jmpi|break|if|else|endif)\b.*?\b(L\d+)"),
    always=re.compile(r"^\s+jmpi"), instruction=re.compile(r"^(?:\(.*?\))?\s+\w+\S* \(\d+"),
    load=re.compile(r"; load\.ugm\.(d\w+?)t?\.a64"), special=re.compile(r"\b(?:dp4a|dpas)\b"))


@dataclass
class Loop:
    instructions: float    # of a subgroup; one of half its width counts half
    loads: dict            # by their bytes
    special: int


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


def innermost(lines, dialect):
    """The lines of each loop without another one in it."""
    blocks, follow = blocks_of(lines, dialect)
    before = [{i for i, to in enumerate(follow) if block in to} for block in range(len(blocks))]
    loops = {}    # by its first block: all from which there is a way back to it
    for last, first in ways_back(follow):
        body, left = loops.setdefault(first, {first}), [last]
        while left:
            block = left.pop()
            if block not in body:
                body.add(block)
                left.extend(before[block])
    return [[line for block in sorted(body) for line in blocks[block]] for first, body in loops.items()
            if not any(other != first and other in body for other in loops)]


def cost(line, width):
    """Of Intel's instructions each says how many lanes it has; a processor does none faster than one of eight."""
    lanes = re.match(r"^(?:\(.*?\))?\s+\w+\S* \((\d+)", line)
    return max(int(lanes.group(1)), 8) / width if lanes else 1


def main_loop(code, dialect, width=0):
    """The loop that loads most bytes at a turn; `width` is Intel's of the kernel."""
    found = []
    for body in innermost(code.splitlines(), dialect):
        body = [line for line in body if "nop" not in line]
        loads = {}
        for line in body:
            if match := dialect.load.search(line):
                size = WIDTHS.get(match.group(1), 2)
                loads[size] = loads.get(size, 0) + 1
        instructions = sum(cost(line, width) if width else 1 for line in body if dialect.instruction.search(line))
        found.append(Loop(instructions, loads, sum(bool(dialect.special.search(line)) for line in body)))
    return max(found, key=lambda loop: sum(size * count for size, count in loop.loads.items()))
