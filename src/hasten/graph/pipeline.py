"""`prepare`: the passes that bring a loaded model to the normal form that the tracer reads, in one visible list.

Once: inline functions, upgrade opsets, hoist constants. Then SIMPLIFY in rounds until nothing changes (at most
MAX_ROUNDS).
Last: unique names, every output computed by a node of its graph, sorted nodes. `docs/graph.md` states the
normal form.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import onnx_ir as ir

from hasten.base.errors import HastenError, ModelError
from hasten.graph.attention import fuse_attention
from hasten.graph.clean import drop_empty_inputs, merge_shape_ops, remove_no_ops, share_repeated
from hasten.graph.edit import Editor, all_graphs
from hasten.graph.fold import fold_constants, hoist_constants, inline_constant_if, own_outputs, remove_unused
from hasten.graph.functions import inline_functions
from hasten.graph.patterns import fuse_gelu, fuse_hard_swish, fuse_layer_norm
from hasten.graph.resizing import resize_last
from hasten.graph.simplify import fold_batch_norm, fold_channel_arithmetic, fold_input_scale, fold_pad
from hasten.graph.transposes import sink_transposes
from hasten.graph.upgrade import upgrade

MAX_ROUNDS = 20

Pass = Callable[[Editor], int]

SIMPLIFY: list[tuple[str, Pass]] = [
    ("drop empty inputs", drop_empty_inputs),
    ("fold constants", fold_constants),
    ("inline constant If", inline_constant_if),
    ("remove no-ops", remove_no_ops),
    ("sink Transposes", sink_transposes),
    ("merge shape operators", merge_shape_ops),
    ("share repeated work", share_repeated),
    ("fold BatchNormalization", fold_batch_norm),
    ("fold channel arithmetic", fold_channel_arithmetic),
    ("fold input scale", fold_input_scale),
    ("fold Pad", fold_pad),
    ("Resize last", resize_last),
    ("fuse Gelu", fuse_gelu),
    ("fuse HardSwish", fuse_hard_swish),
    ("fuse LayerNormalization", fuse_layer_norm),
    ("fuse Attention", fuse_attention),
    ("remove unused", remove_unused),
]


@dataclass(frozen=True)
class PassEntry:
    """One run of one pass: what it changed, how long it took (seconds), how many nodes were left."""

    name: str
    changes: int
    seconds: float
    nodes: int


@dataclass
class PassLog:
    """What `prepare` did, in order."""

    entries: list[PassEntry] = field(default_factory=list)

    def run(self, name: str, model: ir.Model, action: Callable[[], int]) -> int:
        """Run one pass and note it."""
        started = time.perf_counter()
        try:
            changes = action()
        except HastenError:
            raise
        except (
            ValueError,
            TypeError,
            IndexError,
            KeyError,
            AttributeError,
            ArithmeticError,
            AssertionError,
            RuntimeError,
            RecursionError,
        ) as error:
            raise ModelError(
                f"the pass {name!r} cannot take this model, it is inconsistent: {type(error).__name__}: {error}"
            ) from error
        seconds = time.perf_counter() - started
        self.entries.append(PassEntry(name, changes, seconds, sum(len(g) for g in all_graphs(model.graph))))
        return changes

    def totals(self) -> dict[str, int]:
        """Changes by pass, over all rounds."""
        sums: dict[str, int] = {}
        for entry in self.entries:
            sums[entry.name] = sums.get(entry.name, 0) + entry.changes
        return sums

    def __str__(self) -> str:
        rows = [f"{e.name:28} {e.changes:6} changes {e.seconds * 1e3:9.2f} ms {e.nodes:6} nodes" for e in self.entries]
        return "\n".join(rows) + "\n"


def prepare(model: ir.Model, *, skip: Collection[str] = ()) -> PassLog:
    """Bring a model from `load_graph` to normal form, in place.

    skip: names of passes of SIMPLIFY to leave out. Errors: ModelError, ResourceLimit. The names of the outputs as users know
    them are kept in `model.meta`: an output that is an input, too, is a value of its own afterwards, with another name.
    """
    log = PassLog()
    model.meta["hasten.outputs"] = [value.name or "" for value in model.graph.outputs]
    log.run("inline functions", model, lambda: inline_functions(model))
    log.run("upgrade opset", model, lambda: upgrade(model))
    edit = Editor(model)
    log.run("hoist constants", model, lambda: hoist_constants(edit))
    for _ in range(MAX_ROUNDS):
        changes = 0
        for name, action in SIMPLIFY:
            if name not in skip:
                changes += log.run(name, model, lambda action=action: action(edit))  # type: ignore[misc]
        if not changes:
            break
    log.run("own outputs", model, lambda: own_outputs(edit))
    log.run("unique names", model, lambda: unique_names(model))
    try:
        model.graph.sort()
    except ValueError as error:
        raise ModelError(f"the graph has a cycle: {error}") from None
    return log


def unique_names(model: ir.Model) -> int:
    """Every node has a name and every value a name of its own in the whole model; the model's inputs and outputs keep
    theirs.

    Declared types of intermediate values are dropped: they may be wrong in the file or stale after rewriting.
    """
    main = model.graph
    taken = {value.name for value in [*main.inputs, *main.outputs]}
    keep = {id(value) for value in [*main.inputs, *main.outputs]}
    nodes_taken: set[str] = set()
    changes = 0
    for graph in all_graphs(main):
        values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
        for value in values:
            if id(value) in keep:
                continue
            if value.producer() is not None:
                value.type, value.shape = None, None
                if not value.name and not value.uses() and not value.is_graph_output():
                    continue
            changes += _rename(value, value.name or "value", taken)
        for node in graph:
            first = next((v.name for v in node.outputs if v.name), node.op_type)
            changes += _rename(node, node.name or f"{node.op_type}:{first}", nodes_taken)
    return changes


def _rename(item: ir.Value | ir.Node, base: str, taken: set[str | None] | set[str]) -> int:
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(name)
    if item.name == name:
        return 0
    item.name = name
    return 1
