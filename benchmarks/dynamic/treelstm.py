"""The binary Tree-LSTM of Tai, Socher and Manning (2015, arXiv:1503.00075) on the Stanford Sentiment Treebank: 300 numbers a word, 150 a state,
five classes at every node. `trained` trains it (a few minutes on two cores, once for each folder); the engines of tree.py run it on single trees:

HASTEN     a recursive hasten.function
RECURSION  the same recursion in PyTorch
LEVELS     PyTorch, all nodes of one height in one step (the order is worked out before it is timed)
DYNET      DyNet with automatic batching (PyPI dynet38), the graph of a tree written and evaluated for each call
"""

from __future__ import annotations

import lzma
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import trained as trained_models  # noqa: E402

import hasten  # noqa: E402

WORD, STATE, CLASSES = 300, 150, 5
EPOCHS, BATCH, RATE, KEEP = 3, 64, 2e-3, 0.6
UNKNOWN = 0  # the word that training did not have
Array = np.ndarray[Any, Any]

Tree = hasten.adt("Tree", Leaf=[hasten.Tensor((1, WORD))], Node=["Tree", "Tree"])
Row, Classes = hasten.Tensor((1, STATE)), hasten.Tensor((1, CLASSES))


@dataclass(frozen=True)
class Node:
    """A node of a tree: its class, and a word or two children. `nodes`: how many there are from here down."""

    label: int
    word: str | None = None
    children: tuple[Node, ...] = ()

    @property
    def nodes(self) -> int:
        return 1 + sum(child.nodes for child in self.children)


@cache
def trees(part: str) -> tuple[Node, ...]:
    """Of the treebank's part: train, dev, test."""
    data = trained_models.data_folder()
    if data is None:
        sys.exit("the data folder is not here: set HASTEN_DATA")
    lines = lzma.open(data / "text" / f"sst_trees_{part}.txt.xz", "rt", encoding="utf-8").read().splitlines()
    return tuple(parsed(iter(re.findall(r"[()]|[^ ()]+", line))) for line in lines if line.strip())


def parsed(tokens: Iterator[str]) -> Node:
    """(LABEL word) or (LABEL tree tree), the first parenthesis not yet read."""
    assert next(tokens) == "("
    return _inner(tokens)


def _inner(tokens: Iterator[str]) -> Node:
    label, token = int(next(tokens)), next(tokens)
    if token != "(":
        assert next(tokens) == ")"
        return Node(label, token.lower())
    left, right = _inner(tokens), parsed(tokens)
    assert next(tokens) == ")"
    return Node(label, None, (left, right))


def words(tree: Node) -> Iterator[str]:
    if tree.word is not None:
        yield tree.word
    for child in tree.children:
        yield from words(child)


@cache
def vocabulary() -> Mapping[str, int]:
    return {word: k + 1 for k, word in enumerate(sorted({word for tree in trees("train") for word in words(tree)}))}


@dataclass(frozen=True)
class Plan:
    """Several trees in steps, each of which reads what the steps before it made. Nodes are numbered step by step, leaves first. `leaves`: their words;
    `steps`: for each later step, the numbers of left and right children; `labels` of all nodes; `roots`: their numbers."""

    leaves: Array
    steps: tuple[tuple[Array, Array], ...]
    labels: Array
    roots: Array


def plan(forest: Sequence[Node]) -> Plan:
    heights: dict[int, list[Node]] = {}

    def height(node: Node) -> int:
        found = 1 + max(map(height, node.children), default=-1)
        heights.setdefault(found, []).append(node)
        return found

    for tree in forest:
        height(tree)
    order = [node for level in sorted(heights) for node in heights[level]]
    number = {id(node): k for k, node in enumerate(order)}
    steps = tuple(
        tuple(np.array([number[id(node.children[side])] for node in heights[level]]) for side in (0, 1)) for level in sorted(heights) if level
    )
    leaves = np.array([vocabulary().get(node.word or "", UNKNOWN) for node in heights[0]])
    return Plan(leaves, steps, np.array([node.label for node in order]), np.array([number[id(tree)] for tree in forest]))


# --- training ---------------------------------------------------------------------------------------------------------------------
def network() -> Any:
    """The module; `forward(word vectors of the leaves, steps of a plan)` gives states [nodes, STATE] in the plan's order."""
    import torch
    from torch import nn

    class TreeLstm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(len(vocabulary()) + 1, WORD)
            self.leaf, self.node, self.out = nn.Linear(WORD, 3 * STATE), nn.Linear(2 * STATE, 5 * STATE), nn.Linear(STATE, CLASSES)

        def at_leaves(self, x: Any) -> tuple[Any, Any]:
            i, o, u = self.leaf(x).chunk(3, 1)
            c = i.sigmoid() * u.tanh()
            return o.sigmoid() * c.tanh(), c

        def at_nodes(self, hl: Any, cl: Any, hr: Any, cr: Any) -> tuple[Any, Any]:
            i, fl, fr, o, u = self.node(torch.cat([hl, hr], 1)).chunk(5, 1)
            c = i.sigmoid() * u.tanh() + fl.sigmoid() * cl + fr.sigmoid() * cr
            return o.sigmoid() * c.tanh(), c

        def forward(self, x: Any, steps: Any) -> Any:
            h, c = self.at_leaves(x)
            for left, right in steps:
                hn, cn = self.at_nodes(h[left], c[left], h[right], c[right])
                h, c = torch.cat([h, hn]), torch.cat([c, cn])
            return h

    return TreeLstm()


def train(path: Path, tell: Callable[[str], None] = print) -> None:
    """Train and write the weights."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    module, rng, keep = network(), np.random.default_rng(0), nn.Dropout(1 - KEEP)
    nn.init.normal_(module.words.weight, std=0.3)
    optimizer = torch.optim.AdamW(module.parameters(), RATE, weight_decay=1e-3)
    plans = [plan(part) for part in np.array_split(np.array(trees("train"), object)[rng.permutation(len(trees("train")))], len(trees("train")) // BATCH)]
    for epoch in range(EPOCHS):
        total = 0.0
        for k in rng.permutation(len(plans)):
            batch = plans[k]
            h = module(keep(module.words(torch.from_numpy(batch.leaves))), _tensors(batch))
            loss = nn.functional.cross_entropy(module.out(keep(h)), torch.from_numpy(batch.labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() / len(plans)
        tell(f"epoch {epoch + 1} of {EPOCHS}: loss {total:.3f}, roots of the dev part right {accuracy(module, 'dev'):.3f}")
    torch.save(module.state_dict(), path)


def accuracy(module: Any, part: str) -> float:
    import torch

    whole = plan(trees(part))
    with torch.no_grad():
        h = module(module.words(torch.from_numpy(whole.leaves)), _tensors(whole))
        found = module.out(h[torch.from_numpy(whole.roots)]).argmax(1).numpy()
    return float((found == whole.labels[whole.roots]).mean())


def _tensors(of: Plan) -> list[tuple[Any, Any]]:
    import torch

    return [(torch.from_numpy(left), torch.from_numpy(right)) for left, right in of.steps]


def load(path: Path) -> Any:
    """The trained module."""
    import torch

    module = network()
    module.load_state_dict(torch.load(path, weights_only=True))
    return module.eval()


def vectors(module: Any, tree: Node) -> list[Array]:
    """The word vectors [1, WORD] of the leaves, from left to right."""
    table = module.words.weight.detach().numpy()
    return [table[None, vocabulary().get(word, UNKNOWN)] for word in words(tree)]


# --- engines ------------------------------------------------------------------------------------------------------------------------
class Peer:
    """An engine whose model is the file of trained weights and whose input is the number of a test tree: y [1, CLASSES] of its root. What
    `prepare` makes of (module, tree, its word vectors) is the argument of the call that is timed; `start` gives (prepare, call)."""

    package = "torch"

    def __init__(self, name: str, start: Callable[[Any, int], tuple[Callable[[Node, list[Array]], Any], Callable[[Any], Array]]]):
        self.name, self._start = name, start

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        import torch

        torch.set_num_threads(threads)
        module = load(model)
        prepare, call = self._start(module, threads)
        return Runner([prepare(tree, vectors(module, tree)) for tree in trees("test")[: int(options.get("trees", "400"))]], call)


class Runner:
    def __init__(self, arguments: Sequence[Any], call: Callable[[Any], Array]):
        self._arguments, self._call = arguments, call

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {"y": self._call(self._arguments[int(feeds["tree"])])}

    def describe(self) -> dict[str, str]:
        return {}


def model(module: Any, threads: int) -> Any:
    """The compiled hasten.function: Tree -> Classes."""
    wx, bx, wh, bh, wo, bo = (
        np.ascontiguousarray(t.detach().numpy().T) for layer in (module.leaf, module.node, module.out) for t in (layer.weight, layer.bias[None].T)
    )

    @hasten.function
    def gate(g, k: int):  # noqa: ANN001, ANN202
        return hasten.op.Sigmoid(g[:, k * STATE : (k + 1) * STATE])

    @hasten.function
    def encode(tree: Tree) -> tuple[Row, Row]:  # type: ignore[valid-type]
        match tree:
            case Tree.Leaf(x):
                g = x @ wx + bx
                c = gate(g, 0) * np.tanh(g[:, 2 * STATE :])
                return gate(g, 1) * np.tanh(c), c
            case Tree.Node(left, right):
                hl, cl = encode(left)
                hr, cr = encode(right)
                g = np.concatenate([hl, hr], axis=1) @ wh + bh
                c = gate(g, 0) * np.tanh(g[:, 4 * STATE :]) + gate(g, 1) * cl + gate(g, 2) * cr
                return gate(g, 3) * np.tanh(c), c

    @hasten.function
    def classify(tree: Tree) -> Classes:  # type: ignore[valid-type]
        h, _ = encode(tree)
        return h @ wo + bo

    return hasten.compile(classify, threads=threads)


def value(tree: Node, leaves: Iterator[Array]) -> Any:
    """The tree as a value."""
    if not tree.children:
        return Tree.Leaf(next(leaves))
    left, right = (value(child, leaves) for child in tree.children)
    return Tree.Node(left, right)


def _hasten(module: Any, threads: int) -> tuple[Any, Any]:
    return lambda tree, leaves: value(tree, iter(leaves)), model(module, threads)


def _recursion(module: Any, threads: int) -> tuple[Any, Any]:
    import torch

    def encode(tree: Any) -> tuple[Any, Any]:
        if not isinstance(tree, tuple):
            return module.at_leaves(tree)
        hl, cl = encode(tree[0])
        hr, cr = encode(tree[1])
        return module.at_nodes(hl, cl, hr, cr)

    def prepare(tree: Node, leaves: list[Array]) -> Any:
        rest = iter(leaves)

        def made(node: Node) -> Any:
            return (made(node.children[0]), made(node.children[1])) if node.children else torch.from_numpy(next(rest))

        return made(tree)

    def call(tree: Any) -> Array:
        with torch.inference_mode():
            return module.out(encode(tree)[0]).numpy()

    return prepare, call


def _levels(module: Any, threads: int) -> tuple[Any, Any]:
    import torch

    table = module.words.weight.detach()

    def prepare(tree: Node, _: list[Array]) -> Any:
        found = plan([tree])
        return table[torch.from_numpy(found.leaves)], _tensors(found)

    def call(planned: Any) -> Array:
        with torch.inference_mode():
            return module.out(module(*planned)[-1:]).numpy()

    return prepare, call


def _dynet(module: Any, threads: int) -> tuple[Any, Any]:
    import dynet_config

    dynet_config.set(mem=512, autobatch=1)
    import dynet as dy

    store = dy.ParameterCollection()
    made = {}
    for name, layer in (("leaf", module.leaf), ("node", module.node), ("out", module.out)):
        w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        made[name] = store.parameters_from_numpy(w), store.parameters_from_numpy(b)

    def gates(name: str, x: Any, count: int) -> list[Any]:
        w, b = made[name]
        g = dy.affine_transform([b, w, x])
        return [g[k * STATE : (k + 1) * STATE] for k in range(count)]

    def encode(tree: Any) -> tuple[Any, Any]:
        if not isinstance(tree, tuple):
            i, o, u = gates("leaf", dy.inputTensor(tree), 3)
            c = dy.cmult(dy.logistic(i), dy.tanh(u))
            return dy.cmult(dy.logistic(o), dy.tanh(c)), c
        hl, cl = encode(tree[0])
        hr, cr = encode(tree[1])
        i, fl, fr, o, u = gates("node", dy.concatenate([hl, hr]), 5)
        c = dy.cmult(dy.logistic(i), dy.tanh(u)) + dy.cmult(dy.logistic(fl), cl) + dy.cmult(dy.logistic(fr), cr)
        return dy.cmult(dy.logistic(o), dy.tanh(c)), c

    def prepare(tree: Node, leaves: list[Array]) -> Any:
        rest = iter(leaves)

        def nested(node: Node) -> Any:
            return (nested(node.children[0]), nested(node.children[1])) if node.children else next(rest)[0]

        return nested(tree)

    def call(tree: Any) -> Array:
        dy.renew_cg()
        w, b = made["out"]
        return dy.affine_transform([b, w, encode(tree)[0]]).npvalue()[None]

    return prepare, call


HASTEN, RECURSION, LEVELS, DYNET = Peer("tree_hasten", _hasten), Peer("tree_recursion", _recursion), Peer("tree_levels", _levels), Peer("tree_dynet", _dynet)
