"""Random functions of the language: texts that Python runs as well. Numbers stay small, and every loop ends."""

from __future__ import annotations

import random

HEAD = """
import numpy as np
import hasten
from hasten import Tensor

Row = Tensor((3,))
Tree = hasten.adt("Tree", Leaf=[Row, int], Node=["Tree", Row, "Tree"])

"""


class Writer:
    """Writes one function of (x: Row, y: Row, t: Tree, k: int); names by type, in the order of their making."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.lines: list[str] = []
        self.count = 0

    def fresh(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def row(self, names: dict[str, list[str]]) -> str:
        pick = lambda kind: self.rng.choice(names[kind])  # noqa: E731
        return self.rng.choice([
            lambda: f"{pick('row')} * 0.5 + {pick('row')}", lambda: f"np.tanh({pick('row')} - {pick('int')})", lambda: f"{pick('row')}[::-1]",
            lambda: f"np.maximum({pick('row')}, {pick('row')} * ({pick('int')} % 3))", lambda: f"-{pick('row')}", lambda: pick("row"),
            lambda: f"({pick('row')} if {self.test(names)} else {pick('row')} + 1)", lambda: f"total({pick('tree')}, {pick('row')})",
            lambda: f"np.concatenate([{pick('row')}[1:], {pick('row')}[:1]], 0)", lambda: f"{pick('list')}[-1]",
        ])()  # fmt: skip

    def int(self, names: dict[str, list[str]]) -> str:
        pick = lambda kind: self.rng.choice(names[kind])  # noqa: E731
        return self.rng.choice([
            lambda: f"{pick('int')} + {self.rng.randint(-3, 3)}", lambda: f"({pick('int')} * {pick('int')}) % 7", lambda: f"{pick('int')} // 2",
            lambda: f"len({pick('list')})", lambda: f"int({pick('row')}[{self.rng.randint(0, 2)}] * 2)", lambda: str(self.rng.randint(-2, 5)),
            lambda: f"depth({pick('tree')})",
        ])()  # fmt: skip

    def test(self, names: dict[str, list[str]]) -> str:
        pick = lambda kind: self.rng.choice(names[kind])  # noqa: E731
        return self.rng.choice([
            lambda: f"{pick('int')} > {pick('int')}", lambda: f"{pick('int')} % 2 == 0 and {pick('int')} < 3", lambda: f"{pick('row')}[0] < 0.25",
            lambda: f"not {pick('int')} == 1 or {pick('row')}[1] > {pick('int')}",
        ])()  # fmt: skip

    def tree(self, names: dict[str, list[str]]) -> str:
        pick = lambda kind: self.rng.choice(names[kind])  # noqa: E731
        return self.rng.choice([
            lambda: f"Tree.Leaf({self.row(names)}, {self.int(names)})", lambda: f"Tree.Node({pick('tree')}, {self.row(names)}, Tree.Leaf({pick('row')}, 1))",
            lambda: f"mirror({pick('tree')})", lambda: pick("tree"),
        ])()  # fmt: skip

    def list(self, names: dict[str, list[str]]) -> str:
        pick = lambda kind: self.rng.choice(names[kind])  # noqa: E731
        return self.rng.choice([
            lambda: f"{pick('list')} + [{self.row(names)}]", lambda: f"[{pick('row')}] + {pick('list')}", lambda: f"[z * 0.5 for z in {pick('list')}] + [x]",
        ])()  # fmt: skip

    def block(self, names: dict[str, list[str]], depth: int, indent: str, loop: bool) -> None:
        """Statements; those that are nested assign names that exist already."""
        names = {kind: list(found) for kind, found in names.items()}
        self.lines.append(f"{indent}pass")
        for _ in range(self.rng.randint(1, 4)):
            kind = self.rng.choice(["row", "row", "int", "tree", "list", "if", "if", "for", "while", "match", "items"])
            if kind in names:
                new = self.fresh(kind[0]) if depth == 0 and self.rng.random() < 0.5 else self.rng.choice(names[kind])
                self.lines.append(f"{indent}{new} = {getattr(self, kind)(names)}")
                if new not in names[kind]:
                    names[kind].append(new)
            elif depth < 3:
                getattr(self, "write_" + kind)(names, depth, indent)
        if loop and self.rng.random() < 0.4:
            self.lines += [f"{indent}if {self.test(names)}:", f"{indent}    {self.rng.choice(['break', 'continue'])}"]
            self.lines.append(f"{indent}{self.rng.choice(names['row'])} = {self.row(names)}")

    def write_if(self, names: dict[str, list[str]], depth: int, indent: str) -> None:
        self.lines.append(f"{indent}if {self.test(names)}:")
        self.block(names, depth + 1, indent + "    ", False)
        if self.rng.random() < 0.6:
            self.lines.append(f"{indent}else:")
            self.block(names, depth + 1, indent + "    ", False)

    def write_for(self, names: dict[str, list[str]], depth: int, indent: str) -> None:
        i = self.fresh("n")
        self.lines.append(f"{indent}for {i} in range(min({self.rng.choice(names['int'])}, 4)):")
        self.block(names | {"int": [*names["int"], i]}, depth + 1, indent + "    ", True)

    def write_items(self, names: dict[str, list[str]], depth: int, indent: str) -> None:
        z, n = self.fresh("z"), self.fresh("n")
        self.lines += [f"{indent}{n} = 0", f"{indent}for {z} in {self.rng.choice(names['list'])}:", f"{indent}    {n} += 1", f"{indent}    if {n} > 4:",
                       f"{indent}        break"]  # fmt: skip
        self.block(names | {"row": [*names["row"], z]}, depth + 1, indent + "    ", True)

    def write_while(self, names: dict[str, list[str]], depth: int, indent: str) -> None:
        n = self.fresh("n")
        self.lines += [f"{indent}{n} = {self.rng.randint(0, 4)}", f"{indent}while {n} > 0 and {self.rng.choice(names['int'])} < 50:", f"{indent}    {n} -= 1"]
        self.block(names, depth + 1, indent + "    ", True)

    def write_match(self, names: dict[str, list[str]], depth: int, indent: str) -> None:
        a, b, c, d, e = (self.fresh(x) for x in "rirtt")
        inner = indent + "        "
        self.lines += [f"{indent}match {self.rng.choice(names['tree'])}:", f"{indent}    case Tree.Leaf({a}, {b}):"]
        self.block(names | {"row": [*names["row"], a], "int": [*names["int"], b]}, depth + 1, inner, False)
        if self.rng.random() < 0.5:
            self.lines.append(f"{indent}    case Tree.Node(Tree.Leaf({a}, _), {c}, {e}) if {c}[0] > 0:")
            self.block(names | {"row": [*names["row"], a, c], "tree": [*names["tree"], e]}, depth + 1, inner, False)
        self.lines.append(f"{indent}    case Tree.Node({d}, {c}, {e}):")
        self.block(names | {"row": [*names["row"], c], "tree": [*names["tree"], d, e]}, depth + 1, inner, False)

    def text(self) -> str:
        """A module with one function f, and three that it may call."""
        names = {"row": ["x", "y"], "int": ["k"], "tree": ["t"], "list": ["w"]}
        self.lines = ["@hasten.function", "def f(x: Row, y: Row, t: Tree, k: int) -> tuple[Row, Row, int, Tree, list[Row]]:", "    w: list[Row] = [y]"]
        self.block(names, 0, "    ", False)
        self.lines.append("    return x, y, k, t, w")
        return HEAD + HELPERS + "\n".join(self.lines) + "\n"


HELPERS = '''
@hasten.function
def total(t: Tree, start: Row) -> Row:
    match t:
        case Tree.Leaf(x, k):
            return start * 0.5 + x * (k % 3)
        case Tree.Node(a, x, b):
            if x[0] > 0.5:
                return total(a, start) - 0.5 * total(b, x)
            return total(b, start + x * 0.25)


@hasten.function
def depth(t: Tree) -> int:
    match t:
        case Tree.Leaf(_, _):
            return 1
        case Tree.Node(a, _, b):
            return max(depth(a), depth(b)) + 1


@hasten.function
def mirror(t: Tree) -> Tree:
    match t:
        case Tree.Node(a, x, b):
            return Tree.Node(mirror(b), -x, mirror(a))
        case leaf:
            return leaf


'''
