"""Control flow: If, Loop, Scan. Conditions and trip counts that are known while tracing leave no control flow at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.errors import TypeInferenceError
from hasten.kernels import expr as E
from hasten.lower.trace import Block, Branch, Carried, Context, Datum, Loop, Source, Tagged, Tensor, Value
from hasten.ops.registry import Node, NoNative, operator
from hasten.ops.shape import insert_axes

UNBOUNDED = 1 << 40  # a trip count from which on it is no limit
UNROLLED = 64  # rounds up to which a Loop that carries sequences is unrolled
ATTEMPTS = 4  # to find sizes that don't change from round to round


@operator("If")
def if_node(cx: Context, node: Node, condition: Tensor) -> list[Value]:
    assert node.trace_subgraph is not None
    known = cx.ints(condition)
    if known is not None and all(isinstance(k, int) for k in known):
        block = node.trace_subgraph(node.attr("then_branch" if known[0] else "else_branch"), [])
        cx.checks.extend(c for c in block.checks if c not in cx.checks)
        return list(block.values)
    then, other = (node.trace_subgraph(node.attr(side), []) for side in ("then_branch", "else_branch"))
    cx.require_common([c for block in (then, other) for c in block.checks if not any(_inner(cx, d, (then, other)) for d in (c[0], c[2]))], then, other)
    if any(isinstance(a, Tensor) and isinstance(b, Tensor) and a.rank != b.rank for a, b in zip(then.values, other.values, strict=True)):
        return _assume(cx, node, condition, then, other)
    return joined(cx, condition, then, other)


def joined(cx: Context, condition: Tensor | Tagged, then: Block, other: Block) -> list[Value]:
    """The values of either block. Raises NoNative where two have no common type."""
    branch = Branch(condition, then, other)
    for a, b in zip(then.values, other.values, strict=True):
        if isinstance(a, Datum) and isinstance(b, Datum) and a.family == b.family:
            branch.results.append(Datum(a.family, branch))
            branch.sizes.append({})
            continue
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.rank != b.rank or a.dtype != b.dtype:
            raise NoNative(f"the branches give {a} and {b}, which have no common type")
        shape, sizes = _joined(cx, a.shape, b.shape, (then, other))
        branch.results.append(Tensor(cx, a.dtype, shape, branch))
        branch.sizes.append(sizes)
    return list(branch.results)


def _assume(cx: Context, node: Node, condition: Tensor, then: Block, other: Block) -> list[Value]:
    """One side of an If whose sides differ in rank; see lower.graph.trace_model."""
    side = cx.assumed.setdefault(str(node), True)
    block = then if side else other
    cx.checks.extend(c for c in block.checks if c not in cx.checks)
    word = "true" if side else "false"
    message = f"{node}: the branches give {then.values} and {other.values}; what follows needs the condition to be {word}"
    cx.require(cx.read_int(condition, signed=False), "!=" if side else "==", 0, message)
    return list(block.values)


def _joined(cx: Context, a: Sequence[DimLike], b: Sequence[DimLike], blocks: Sequence[Block]) -> tuple[list[DimLike], dict[int, str]]:
    """The shape of either; sizes that differ, or that only a block knows, become symbols."""
    shape: list[DimLike] = []
    sizes: dict[int, str] = {}
    for k, (x, y) in enumerate(zip(a, b, strict=True)):
        if x == y and not _inner(cx, x, blocks):
            shape.append(x)
        else:
            sizes[k] = cx.unknown()
            shape.append(D.symbol(sizes[k]))
    return shape, sizes


def _inner(cx: Context, d: DimLike, blocks: Sequence[Block]) -> bool:
    """Whether a size is known only inside of a block."""
    return any(name in cx.defined and b.holds(cx.defined[name][0]) or name in cx.made_in(b) for name in cx.base_symbols(d) for b in blocks)


@operator("Loop")
def loop_node(cx: Context, node: Node, trips: Tensor | None = None, start: Tensor | None = None, *first: Value) -> list[Value]:
    graph = node.attr("body")
    limit: DimLike | None = cx.read_ints(trips)[0] if trips is not None else None
    if isinstance(limit, int) and limit >= UNBOUNDED:
        limit = None
    if any(not isinstance(x, (Tensor, Datum)) for x in first):
        return _unrolled(cx, node, limit, start, list(first))
    round_name = cx.fresh("i")

    def inputs(seen: list[Value]) -> list[Value]:
        number = cx.map((), "int64", lambda i: E.index(D.symbol(round_name)))
        going = cx.map((), "bool", lambda i: E.const(True, "bool"))
        return [number, going, *seen]

    body, carried = _trace_body(cx, node, graph, first, inputs, 1)
    go_on = body.values[0]
    assert isinstance(go_on, Tensor)
    always = _always(cx, go_on) and (start is None or _always(cx, start))
    stacked = [_tensor(v) for v in body.values[1 + len(first) :]]
    return _loop(cx, limit, None if always else start, None if always else go_on, round_name, body, carried, stacked)


def _unrolled(cx: Context, node: Node, trips: DimLike | None, start: Tensor | None, values: list[Value]) -> list[Value]:
    """A Loop that carries sequences or optionals: the rounds one after another, where their number is known."""
    assert node.trace_subgraph is not None
    kind = next(x for x in values if not isinstance(x, Tensor)).kind
    if not isinstance(trips, int) or trips > UNROLLED or (start is not None and not _always(cx, start)):
        raise NoNative(f"a {kind} is carried from round to round, and how many there are is known at run time only (or more than {UNROLLED})")
    count = len(values)
    columns: list[list[Tensor]] = [[] for _ in range(node.n_outputs - count)]
    for k in range(trips):
        block = node.trace_subgraph(node.attr("body"), [cx.const(np.array(k)), cx.const(np.array(True)), *values])
        cx.checks.extend(c for c in block.checks if c not in cx.checks)
        if not _always(cx, _tensor(block.values[0])):
            raise NoNative(f"a {kind} is carried from round to round, and the condition to go on is known at run time only")
        values = list(block.values[1 : 1 + count])
        for column, v in zip(columns, block.values[1 + count :], strict=True):
            column.append(_tensor(v))
    if columns and not trips:
        raise NoNative("scan outputs of no rounds")
    return [*values, *(cx.concat([insert_axes(cx, t, [0]) for t in column], 0) for column in columns)]


def _always(cx: Context, t: Tensor) -> bool:
    known = cx.ints(t)
    return known is not None and all(isinstance(k, int) and k != 0 for k in known)


def _tensor(v: Value) -> Tensor:
    if not isinstance(v, Tensor):
        raise NoNative(f"a scan output is a {v.kind}")
    return v


def _trace_body(cx: Context, node: Node, graph: object, first: Sequence[Value], inputs: object, skip: int) -> tuple[Block, list[Carried]]:
    """Trace the body until the sizes of carried values are the same before and after it; sizes that change become symbols."""
    assert node.trace_subgraph is not None
    sizes: list[dict[int, str]] = [{} for _ in first]
    for _ in range(ATTEMPTS):
        seen = [_seen(cx, x, s) for x, s in zip(first, sizes, strict=True)]
        block = node.trace_subgraph(graph, lambda seen=seen: inputs(seen))  # type: ignore[operator]
        after = block.values[skip : skip + len(first)]
        changed = False
        for before, now, names in zip(seen, after, sizes, strict=True):
            if isinstance(before, Datum) and isinstance(now, Datum) and before.family == now.family:
                continue
            if not isinstance(now, Tensor) or not isinstance(before, Tensor) or now.rank != before.rank:
                raise NoNative(f"{node}: a carried value changes its rank from {before} to {now}")
            if now.dtype != before.dtype:
                raise TypeInferenceError(f"{node}: a carried value changes its type from {before} to {now}")
            for k, (a, b) in enumerate(zip(before.shape, now.shape, strict=True)):
                if a != b and k not in names:
                    names[k] = cx.unknown()
                    changed = True
        if not changed:
            carried = [Carried(x, s, n, names) for x, s, n, names in zip(first, seen, after, sizes, strict=True)]
            return block, carried
    raise NoNative(f"{node}: the sizes of carried values don't settle")


def _seen(cx: Context, first: Value, sizes: dict[int, str]) -> Value:
    """A carried value as the body sees it."""
    if isinstance(first, Datum):
        return Datum(first.family, Source(cx.fresh("carried")))
    assert isinstance(first, Tensor)
    shape = [D.symbol(sizes[k]) if k in sizes else d for k, d in enumerate(first.shape)]
    return Tensor(cx, first.dtype, shape, Source(cx.fresh("carried")))


def _loop(cx: Context, trips: DimLike | None, start: Tensor | None, go_on: Tensor | None, round_name: str, body: Block, carried: list[Carried],
          stacked: list[Tensor]) -> list[Value]:  # fmt: skip
    fixed = trips is not None and go_on is None
    count = None if fixed else cx.unknown()
    rounds: DimLike = D.maximum(trips, 0) if fixed else D.symbol(count)  # type: ignore[arg-type]
    loop = Loop(trips, start, go_on, round_name, body, carried, stacked, count)
    for c in carried:
        if isinstance(c.first, Datum):
            loop.results.append(Datum(c.first.family, loop))
            continue
        assert isinstance(c.first, Tensor)
        shape = [D.symbol(cx.unknown()) if k in c.sizes else d for k, d in enumerate(c.first.shape)]
        loop.results.append(Tensor(cx, c.first.dtype, shape, loop))
    for t in stacked:
        changing = {round_name, *(s for c in carried for s in c.sizes.values())}
        if any(_inner(cx, d, (body,)) or changing & cx.base_symbols(d) for d in t.shape):
            raise NoNative(f"the size of a scan output changes from round to round: {t}")
        loop.results.append(Tensor(cx, t.dtype, (rounds, *t.shape), loop))
    return list(loop.results)


@operator("Scan")
def scan_node(cx: Context, node: Node, *values: Tensor) -> list[Value]:
    """Scan: like Loop over slices of the last num_scan_inputs inputs."""
    graph = node.attr("body")
    n = int(node.attr("num_scan_inputs"))
    first, scanned = list(values[: len(values) - n]), list(values[len(values) - n :])
    for v in values:
        if not isinstance(v, Tensor):
            raise NoNative("Scan over host values")
    backwards = list(node.attr("scan_input_directions", None) or [0] * n)
    axes = [a % x.rank for a, x in zip(node.attr("scan_input_axes", None) or [0] * n, scanned, strict=True)]
    length = scanned[0].shape[axes[0]]
    for x, a in zip(scanned, axes, strict=True):
        cx.require(x.shape[a], "==", length, f"{node}: scanned sizes agree")
    name = cx.fresh("i")

    def inputs(seen: list[Value]) -> list[Value]:
        at = D.symbol(name, length)
        slices = [_slice(cx, x, a, length - 1 - at if b else at) for x, a, b in zip(scanned, axes, backwards, strict=True)]
        return [*seen, *slices]

    body, carried = _trace_body(cx, node, graph, first, inputs, 0)
    stacked = [_tensor(v) for v in body.values[len(first) :]]
    results = _loop(cx, length, None, None, name, body, carried, stacked)
    out_back = list(node.attr("scan_output_directions", None) or [0] * len(stacked))
    out_axes = list(node.attr("scan_output_axes", None) or [0] * len(stacked))
    for k, (b, a) in enumerate(zip(out_back, out_axes, strict=True)):
        results[len(first) + k] = _placed(cx, results[len(first) + k], bool(b), a)  # type: ignore[arg-type]
    return results


def _slice(cx: Context, x: Tensor, axis: int, at: DimLike) -> Tensor:
    return cx.view([*x.shape[:axis], *x.shape[axis + 1 :]], x, lambda i: (*i[:axis], at, *i[axis:]))


def _placed(cx: Context, y: Tensor, backwards: bool, axis: int) -> Tensor:
    """A scan output with its rounds in the wanted order and along the wanted axis."""
    if backwards:
        inner, last = y, y.shape[0] - 1
        y = cx.view(y.shape, inner, lambda i: (last - i[0], *i[1:]))
    axis %= y.rank
    return y if axis == 0 else cx.transpose(y, [*range(1, axis + 1), 0, *range(axis + 1, y.rank)])


