"""Tracing a prepared graph: every node's operator is run once with lazy tensors; the result is the typed, lowered-to-meaning model.

What has no rule in `ops` is tried as its ONNX function body, and else becomes a host op (or UnsupportedOperator where host ops are forbidden).
"""

from __future__ import annotations

import functools
import gc
import json
import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.base.errors import HastenError, ModelError, TypeInferenceError, UnsupportedOperator
from hasten.base.ranges import Dim
from hasten.lower.sizes import Sizes
from hasten.lower.trace import Block, Const, Context, HostCall, Object, Source, Tensor, TracedFunction, Value
from hasten.ops.registry import Node, NoNative, find

ASSUMPTIONS = 8  # ways of choosing sides that are tried
LESSONS = 6  # traces after which nothing more is learnt about the sizes of inputs


@dataclass
class Options:
    """What changes the trace: see hasten.compile."""

    host_ops: bool = True
    precision: str = "highest"
    isa: str = ""
    dims: Mapping[str, Dim | int] = field(default_factory=dict)


@dataclass
class Traced:
    """A traced model. Inputs and outputs in the model's order. `bound`: for each input that is a tensor the sizes as its shape gives them, where
    its Tensor has other expressions for them (see `lower.sizes`)."""

    cx: Context
    inputs: list[tuple[str, Value]] = field(default_factory=list)
    outputs: list[tuple[str, Value]] = field(default_factory=list)
    host: list[tuple[str, str, str]] = field(default_factory=list)  # node, operator, reason
    hints: dict[str, tuple[DimLike | str | None, ...]] = field(default_factory=dict)  # declared output shapes: for display only
    functions: list[TracedFunction] = field(default_factory=list)
    sizes: Sizes = field(default_factory=Sizes)
    bound: dict[str, tuple[DimLike, ...]] = field(default_factory=dict)

    def release(self) -> None:
        """Let go of all tensors: who has lowered the model needs them no more, and a model's constants can be most of the memory."""
        self.cx = Context(self.cx.options)
        self.inputs, self.outputs, self.functions = [], [], []
        gc.collect()  # graphs and traces are full of cycles


def trace_model(model: ir.Model, options: Options | None = None) -> Traced:
    """Trace a model prepared by `hasten.graph.prepare`. Raises ModelError (types and shapes contradict) or UnsupportedOperator.

    An If whose sides differ in rank (what exporters make of `squeeze`) has no type of its own: one side is assumed, which the run then checks,
    and where the rest of the model contradicts it, the other one.
    """
    assumed: dict[str, bool] = {}
    for _ in range(ASSUMPTIONS):
        try:
            return _settled(model, options or Options(), assumed)
        except (ModelError, TypeInferenceError):
            undecided = [k for k, side in assumed.items() if side]
            if not undecided:
                raise
            assumed[undecided[-1]] = False
    raise ModelError(f"more than {ASSUMPTIONS} ways to choose between branches of different ranks ({', '.join(assumed)})")


def _settled(model: ir.Model, options: Options, assumed: dict[str, bool]) -> Traced:
    """The trace from which nothing more is learnt about the sizes of inputs."""
    sizes = Sizes(options.dims, model.meta.get("hasten.dims"))
    for _ in range(LESSONS):
        cx = Context(options)
        cx.assumed = assumed
        traced = _trace(model, cx, sizes)
        if not sizes.learn(cx.checks, cx.aliases):
            break
    return traced


def _trace(model: ir.Model, cx: Context, sizes: Sizes) -> Traced:
    tracer = _Tracer(cx, model, sizes)
    graph = model.graph
    for value in graph.inputs:
        if value.name in graph.initializers:
            continue
        tracer.env[value] = tracer.input(value)
        tracer.result.inputs.append((value.name or "", tracer.env[value]))
    sizes.unmet()
    tracer.run(graph)
    names = model.meta.get("hasten.outputs", [value.name or "" for value in graph.outputs])
    for name, value in zip(names, graph.outputs, strict=True):
        tracer.result.outputs.append((name, tracer.value(value, "graph output")))
    return tracer.result


def trace_into(cx: Context, model: ir.Model, inputs: Sequence[Tensor]) -> list[Value]:
    """The outputs of a prepared model for these inputs, as part of a trace that exists. Raises TypeInferenceError where the inputs do not fit."""
    tracer = _Tracer(cx, model, Sizes())
    wanted = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    if len(wanted) != len(inputs):
        raise TypeInferenceError(f"the model takes {len(wanted)} inputs ({', '.join(v.name or '' for v in wanted)}), {len(inputs)} are given")
    open_sizes: dict[str, DimLike] = {}
    for value, x in zip(wanted, inputs, strict=True):
        dt = None if value.dtype is None else dtypes.BY_ONNX.get(int(value.dtype))
        if dt is None or dt.name != x.dtype or value.shape is None or len(value.shape) != x.rank:
            raise TypeInferenceError(f"the model's input {value.name!r} is {value.dtype}{value.shape}, given is {x}")
        for d, have in zip(value.shape, x.shape, strict=True):
            size = d if isinstance(d, int) else open_sizes.setdefault(str(d.value), have) if d.value else have
            cx.require(have, "==", size, f"a size of the model's input {value.name!r}")
        tracer.env[value] = x
    tracer.run(model.graph)
    return [tracer.value(value, "graph output") for value in model.graph.outputs]


class _Tracer:
    def __init__(self, cx: Context, model: ir.Model, sizes: Sizes):
        self.cx, self.model, self.sizes = cx, model, sizes
        self.env: dict[ir.Value, Value] = {}
        self.result = Traced(cx, sizes=sizes)
        self.depth = 0
        self.symbols: dict[str, DimLike] = {}  # what the inputs' sizes are bound to, by the model's names of them

    # --- inputs -------------------------------------------------------------------------------------------------------------
    def input(self, value: ir.Value) -> Value:
        kind = value.type
        name = value.name or ""
        if kind is None:
            raise ModelError(f"input {name!r} has no type")
        if not isinstance(kind, ir.TensorType):
            return Object(str(kind), Source(name))
        dt = dtypes.BY_ONNX.get(int(kind.dtype))
        if dt is None or dt.kind == "s" or value.shape is None:
            return Object(f"tensor({kind.dtype.name.lower()})", Source(name))
        bound = self.result.bound[name] = self.bind(name, value.shape)
        shape = [self.sizes.find(d) for d in bound]
        for part, (size, step) in self.sizes.parts.items():
            self.cx.fresh.taken.add(part)
            self.cx.aliases[part] = D.floordiv(D.symbol(size), step)
        return Tensor(self.cx, dt.name, shape, Source(name))

    def bind(self, name: str, shape: ir.Shape) -> tuple[DimLike, ...]:
        """What the sizes of an input are bound to."""
        out: list[DimLike] = []
        for k, d in enumerate(shape):
            if isinstance(d, int) and d >= 0:
                out.append(d)
                continue
            label = "" if isinstance(d, int) else str(d.value or "")
            if not any(ch.isalnum() for ch in label):  # nameless, or "?": sizes that have nothing to do with each other
                label = f"{name}_{k}"
            if label not in self.symbols:
                self.symbols[label] = self.sizes.enter(label, _identifier(label, self.cx), f"input {name!r}, axis {k}")
            out.append(self.symbols[label])
        return tuple(out)

    # --- nodes --------------------------------------------------------------------------------------------------------------
    def value(self, v: ir.Value, where: str) -> Value:
        found = self.env.get(v)
        if found is None and v.const_value is not None:
            found = self.env[v] = self.constant(v)
        if found is None:
            raise ModelError(f"{where}: the value {v.name!r} is not defined before its use")
        return found

    def constant(self, v: ir.Value) -> Value:
        assert v.const_value is not None
        tensor = v.const_value
        dt = dtypes.BY_ONNX.get(int(tensor.dtype))
        if dt is None or dt.kind == "s":
            import onnx

            proto = ir.to_proto(tensor)
            node = onnx.helper.make_node("Constant", [], ["y"], value=proto)
            call = HostCall(v.name or "", "Constant", payload(self.model, node), [])
            call.results = [Object(f"tensor({tensor.dtype.name.lower()})", call)]
            return call.results[0]  # type: ignore[return-value]
        array = np.ascontiguousarray(tensor.numpy()).reshape([int(d) for d in tensor.shape])  # type: ignore[arg-type,misc]
        return Tensor(self.cx, dt.name, array.shape, Const(array.astype(dtypes.to_numpy(dt.name), copy=False)))

    def run(self, graph: ir.Graph) -> None:
        for node in list(graph):
            self.node(node)

    def node(self, node: ir.Node) -> None:
        wrapped = self.wrap(node)
        before, self.cx.node = self.cx.node, wrapped
        try:
            inputs = [None if v is None else self.value(v, str(wrapped)) for v in node.inputs]
            results = self.apply(node, wrapped, inputs)
        finally:
            self.cx.node = before
        for v, r in zip(node.outputs, results, strict=False):
            if r is not None:
                if isinstance(r, Tensor) and r.dtype in ("int64", "int32"):
                    self.cx.ints(r)  # now, one step from what is known: long chains aren't followed at once
                self.env[v] = r
                if not r.name:
                    r.name = v.name or ""
                v.meta["hasten.type"] = r

    def apply(self, node: ir.Node, wrapped: Node, inputs: list[Value | None]) -> list[Value | None]:
        while inputs and inputs[-1] is None:
            inputs.pop()
        _check_types(node, wrapped, inputs)
        rule = find(node.domain, node.op_type)
        reason = "no native kernel for this operator"
        if rule is not None:
            try:
                got = rule(self.cx, wrapped, *inputs)
                return list(got) if isinstance(got, (list, tuple)) else [got]
            except NoNative as e:
                reason = str(e)
            except HastenError:
                raise
            except (TypeError, ValueError, AttributeError, KeyError, IndexError, AssertionError, ZeroDivisionError, OverflowError) as e:
                if self.depth > 40:
                    raise
                raise ModelError(f"{wrapped}: {type(e).__name__}: {e}; its inputs are {inputs}") from e
        elif (expanded := self.expand(node, inputs)) is not None:
            return expanded
        return self.host(node, wrapped, inputs, reason)

    def expand(self, node: ir.Node, inputs: list[Value | None]) -> list[Value | None] | None:
        """Put the operator's ONNX function body in the node's place and trace that; None where it has none."""
        from hasten.graph.functions import expand_schema_function

        if self.depth > 20:
            return None
        types = [None if v is None or isinstance(v, Object) else (ir.DataType(dtypes.dtype(v.dtype).onnx), [d if isinstance(d, int) else None for d in v.shape])
                 for v in inputs]  # fmt: skip
        body = expand_schema_function(node, types, self.model)
        if body is None:
            return None
        self.depth += 1
        try:
            for inner in body:
                self.node(inner)
        finally:
            self.depth -= 1
        return []

    def wrap(self, node: ir.Node) -> Node:
        return Node(node.op_type, node.domain, node.name or "", {k: _attribute(a) for k, a in node.attributes.items()}, len(node.outputs),
                    tuple((v.name or "") if v.name and (v.uses() or v.is_graph_output()) else "" for v in node.outputs), self.subgraph)  # fmt: skip

    def subgraph(self, graph: ir.Graph, inputs: Sequence[Value] | Callable[[], Sequence[Value]]) -> Block:
        """Trace a nested graph with the given inputs; its results may use outer tensors. A function makes inputs that belong to the block (as
        what depends on the number of the round)."""
        if self.depth > 40:
            raise ModelError("graphs are nested more than 40 deep")
        outer, self.env = self.env, dict(self.env)
        checks, self.cx.checks = self.cx.checks, []
        first = self.cx.const(0, "int64").order
        self.depth += 1
        try:
            for v, x in zip(graph.inputs, inputs() if callable(inputs) else inputs, strict=True):
                self.env[v] = x
            self.run(graph)
            values = [self.value(v, "subgraph output") for v in graph.outputs]
            return Block(values, first, self.cx.const(0, "int64").order, self.cx.checks)
        finally:
            self.depth -= 1
            self.env, self.cx.checks = outer, checks

    # --- host ops -----------------------------------------------------------------------------------------------------------
    def host(self, node: ir.Node, wrapped: Node, inputs: list[Value | None], reason: str) -> list[Value | None]:
        if not self.cx.options.host_ops:
            raise UnsupportedOperator(f"{wrapped}: {reason}, and host ops are forbidden (host_ops=False); allow them or replace the operator")
        from hasten.lower.host import result_types

        proto = ir.to_proto(node)
        captured = [v for v in _captured(node) if v not in node.inputs]
        names = [v.name or "" for v in captured]
        operands = [*inputs, *[None] * (len(node.inputs) - len(inputs)), *(self.value(v, str(wrapped)) for v in captured)]
        call = HostCall(str(wrapped), node.op_type, payload(self.model, proto, names), operands)
        self.result.host.append((str(wrapped), node.op_type, reason))
        results: list[Value | None] = []
        for k, kind in enumerate(result_types(self.model, node, inputs)):
            if not node.outputs[k].name:
                results.append(None)
            elif isinstance(kind, str):
                results.append(Object(kind, call))
            else:
                dt, shape = kind
                results.append(Tensor(self.cx, dt, tuple(D.symbol(self.cx.unknown()) if d is None else d for d in shape), call))
        call.results = results
        return results


def _captured(node: ir.Node) -> list[ir.Value]:
    """Outer values that the subgraphs of a node use."""
    found: dict[ir.Value, None] = {}

    def visit(graph: ir.Graph, inside: set[ir.Value]) -> None:
        inside = inside | set(graph.inputs) | set(graph.initializers.values()) | {v for n in graph for v in n.outputs}
        for n in graph:
            found.update(dict.fromkeys(v for v in n.inputs if v is not None and v not in inside))
            for a in n.attributes.values():
                if a.type == ir.AttributeType.GRAPH:
                    visit(a.value, inside)
        found.update(dict.fromkeys(v for v in graph.outputs if v not in inside))

    for a in node.attributes.values():
        if a.type == ir.AttributeType.GRAPH:
            visit(a.value, set())
    return list(found)


@functools.cache
def _formal_types(op_type: str) -> tuple[tuple[str, ...], bool]:
    """The type variables of an operator's inputs in its newest form, and whether the last one stands for all that follow."""
    import onnx.defs

    if not onnx.defs.has(op_type):
        return (), False
    formals = list(onnx.defs.get_schema(op_type).inputs)
    repeated = bool(formals) and formals[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    if repeated and not formals[-1].is_homogeneous:
        formals, repeated = formals[:-1], False
    return tuple(f.type_str for f in formals), repeated


def _check_types(node: ir.Node, wrapped: Node, inputs: Sequence[Value | None]) -> None:
    """Inputs that share a type variable have the same dtype. Raises TypeInferenceError."""
    if node.domain:
        return
    formals, repeated = _formal_types(node.op_type)
    first: dict[str, tuple[int, str]] = {}
    for k, x in enumerate(inputs):
        if not isinstance(x, Tensor) or (k >= len(formals) and not repeated):
            continue
        number, dtype = first.setdefault(formals[min(k, len(formals) - 1)], (k, x.dtype))
        if dtype != x.dtype:
            names = [v.name if v is not None else "" for v in node.inputs]
            raise TypeInferenceError(f"{wrapped}: its inputs {names[number]!r} and {names[k]!r} must have one type, not {dtype} and {x.dtype}")


def types_json(model: ir.Model, traced: Traced) -> str:
    """The types of a traced model's values as JSON: {"values": [{name, dtype, shape, node}], "sizes": {name of a long size: what it is}}. Values of
    nested graphs follow the node that holds them; node is "" for inputs; shape is null for what is no tensor."""
    rows: list[dict[str, Any]] = [_type_row(name, value, "", traced.sizes.whole) for name, value in traced.inputs]
    for node in model.graph.all_nodes():
        for v in node.outputs:
            if "hasten.type" in v.meta:
                rows.append(_type_row(v.name or "", v.meta["hasten.type"], f"{node.op_type} {node.name!r}", traced.sizes.whole))
    return json.dumps({"values": rows, "sizes": {name: str(size) for name, size in traced.cx.aliases.items()}})


def _type_row(name: str, value: Value, node: str, whole: Callable[[DimLike], DimLike]) -> dict[str, Any]:
    if isinstance(value, Object):
        return {"name": name, "dtype": value.kind, "shape": None, "node": node}
    return {"name": name, "dtype": value.dtype, "shape": [d if isinstance(d, int) else str(whole(d)) for d in value.shape], "node": node}


def payload(model: ir.Model, node: Any, captured: Sequence[str] = ()) -> bytes:
    """What `hasten.vm.host` needs to run a node: a one-node model with the opsets, serialised; `captured` values are inputs of it, too."""
    import onnx

    graph = onnx.helper.make_graph([node], "host", [onnx.ValueInfoProto(name=n) for n in dict.fromkeys([*node.input, *captured]) if n],
                                   [onnx.ValueInfoProto(name=n) for n in node.output if n])  # fmt: skip
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items()]
    return onnx.helper.make_model(graph, opset_imports=opsets).SerializeToString()


def _identifier(label: str, cx: Context) -> str:
    """A symbol name of its own for a model's dim name: letters, digits and underscores."""
    clean = "".join(c if c.isalnum() or c == "_" else "_" for c in label)
    if not clean or clean[0].isdigit() or not clean.isascii() or keyword.iskeyword(clean):
        clean = "_" + (clean if clean.isascii() else "")
    while clean in cx.fresh.taken:
        clean += "_"
    cx.fresh.taken.add(clean)
    return clean


def _attribute(a: ir.Attr) -> Any:
    value = a.value
    if a.type == ir.AttributeType.TENSOR:
        return value.numpy()
    if a.type == ir.AttributeType.TENSORS:
        return [v.numpy() for v in value]
    if a.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
        return list(value)
    return value
