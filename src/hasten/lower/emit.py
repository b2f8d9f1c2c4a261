"""From a schedule to a Program: the walk through what is left to compute, and the memory of tensors.

Every realized tensor gets a `Buffer` (a name, strides, an offset); its kernel is emitted as text with KERNEL for a name; equal texts are one
kernel. Which order of axes memory has is decided in `orders`, where parts of Concats lie in `emit_concats`; kernels are emitted by `emit_nests` and
`emit_kernels`, control flow and host ops by `emit_control`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.codegen.isa import Isa
from hasten.kernels.emit import Words
from hasten.lower import trace as T
from hasten.lower.accounts import Account
from hasten.lower.emit_concats import Concats
from hasten.lower.emit_control import emit_branch, emit_host, emit_loop
from hasten.lower.emit_functions import emit_function, own_lowered
from hasten.lower.emit_kernels import emit_kernel, emit_sink_kernel
from hasten.lower.emit_nests import emit_map, emit_nest, nest_call
from hasten.lower.emit_outputs import emit_output, output_homes
from hasten.lower.emit_steps import emit_step
from hasten.lower.folding import fold, is_static
from hasten.lower.formats import Buffer, format_name, is_one, is_row_major, is_zero, loops, row_major, seen_through
from hasten.lower.graph import Traced
from hasten.lower.lowered import Lowered, Temporary
from hasten.lower.report import NodeReport, fused_rows
from hasten.lower.schedule import Inverse, Schedule, symbols
from hasten.lower.trace import Tensor
from hasten.vm import program as P
from hasten.vm.values import describe

_MAY_FAIL = re.compile(r"^.*(store|call)\b.*%status\b", re.MULTILINE)  # texts of kernels that can set the run's status


def lower(traced: Traced, isa: Isa) -> Lowered:
    """Schedule and emit a traced model."""
    emission = Emission(traced, isa)
    emission.run()
    for f in traced.functions:
        inner = Emission(replace(traced, cx=f.cx), isa)
        inner.lowered, inner.names = own_lowered(emission.lowered), emission.names
        inner.code = inner.lowered.program.instructions
        emission.lowered.functions.append(emit_function(inner, f))
    return emission.lowered


class Emission:
    """The state of emitting one model."""

    def __init__(self, traced: Traced, isa: Isa):
        self.traced, self.cx, self.isa = traced, traced.cx, isa
        self.lowered = Lowered(P.Program())
        self.code: list[P.Instruction] = self.lowered.program.instructions
        self.buffers: dict[int, Buffer] = {}
        self.converted: dict[tuple[int, str, int], Buffer] = {}  # copies made for kernels: tensor, its memory, the fastest axis -> where
        self.defined: set[str] = set()
        self.called: set[str] = set()  # buffers that a call has been given
        self.names: dict[str, int] = {}
        self.done: set[int] = set()
        self.static: dict[int, bool] = {}
        self.changing: set[str] = set()  # memory of carried values, which each round writes over
        self.keep: list[Tensor] = []  # tensors made here: their ids are keys of `buffers`
        self.objects: dict[int, str] = {}
        self.regions: dict[int, str] = {}  # kernel that computes a tensor
        self.concats = Concats(self)

    def fresh(self, prefix: str) -> str:
        """A name that nothing has yet, neither here nor among the sizes of the trace."""
        while True:
            n = self.names.get(prefix, 0)
            self.names[prefix] = n + 1
            name = f"{prefix}{n}"
            if name not in self.cx.fresh.taken:
                return name

    # --- the whole ----------------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Emit everything."""
        program = self.lowered.program
        for name, value in self.traced.inputs:
            if isinstance(value, Tensor):
                buffer = self.fresh("in")
                self.buffers[id(value)] = Buffer(buffer, row_major(value.shape))
                bound = self.traced.bound.get(name, value.shape)
                program.inputs.append(P.TensorSpec(name, value.dtype, bound, buffer))
                self.defined |= {s for d in bound for s in D.symbols(d)}
            elif isinstance(value, T.Datum):
                program.inputs.append(P.ValueSpec(name, value.kind, self.object_name(value)))
            else:
                program.inputs.append(P.ObjectSpec(name, value.kind, self.object_name(value)))
        self.code.extend(P.Check(*row) for row in self.traced.sizes.rows.values())
        self.begin()
        values = [v for _, v in self.traced.outputs]
        self.schedule = Schedule(self.cx, values).run()  # type: ignore[arg-type]
        outputs = output_homes(self.schedule, [v for v in values if isinstance(v, Tensor)])
        self.homes = {id(home) for home in outputs.values()}
        for t in self.schedule.order:
            is_static(self, t)
            if id(t) in self.schedule.realized:
                self.realize(t)
        self.emit_checks(last=True)
        for k, (name, value) in enumerate(self.traced.outputs):
            emit_output(self, k, name, value, outputs)
        families = [v.family for _, v in (*self.traced.inputs, *self.traced.outputs) if isinstance(v, T.Datum)]
        program.types = list({t.name: t for family in families for t in describe(family)}.values())
        self.lowered.report.extend(fused_rows(self.schedule, self.regions))

    def begin(self) -> None:
        """Sizes and checks that what is given decides: they come first, as the arena's size may need them."""
        self.checks = list(self.cx.checks)
        for name, size in self.cx.aliases.items():
            if name not in self.defined and self.cx.base_symbols(size) - self.cx.aliases.keys() <= self.defined:
                self._name(name)
        self.emit_checks()
        self.lowered.known, self.lowered.lead = frozenset(self.defined), len(self.code)

    def emit_checks(self, last: bool = False) -> None:
        """Run-time checks, as early as their sizes are known."""
        for row in list(self.checks):
            left, op, right, message, kind = row
            unknown = (self.cx.base_symbols(left) | self.cx.base_symbols(right)) - self.defined - self.cx.aliases.keys()
            if unknown and last and all(s in self.cx.defined and id(self.cx.defined[s][0]) in self.buffers for s in unknown):
                self.need(left, right)
                unknown = set()
            if not unknown and row in self.checks:
                self.checks.remove(row)
                self.need(left, right)
                self.code.append(P.Check(left, op, right, message, kind))

    def need(self, *ds: DimLike) -> None:
        """Make every size symbol known that these sizes mention."""
        for d in ds:
            for name in sorted(D.symbols(d) - self.defined):
                if name in self.cx.aliases:
                    self._name(name)
                    continue
                if name not in self.cx.defined:
                    raise ModelError(f"the size {name} is not known where it is needed")
                t, element, sign = self.cx.defined[name]
                buffer = self.buffers.get(id(t)) or self.copy(t)
                self.code.append(P.Read(name, buffer.name, element, t.dtype, sign))
                self.defined.add(name)
                self.emit_checks()

    def _name(self, name: str) -> None:
        """Compute a long size that has a name."""
        self.define(name, D.maximum(self.cx.aliases[name], 0))  # a negative one fails a check of the block that it belongs to
        self.emit_checks()

    def define(self, name: str, value: DimLike) -> None:
        """integer `name` := value."""
        self.need(value)
        self.code.append(P.Let(name, value))
        self.defined.add(name)

    def object_name(self, v: T.Object) -> str:
        """The name of a host value in the Program."""
        if id(v) not in self.objects:
            self.objects[id(v)] = self.fresh("obj")
        return self.objects[id(v)]

    def note(self, name: str, op: str, kind: str) -> None:
        """A report row for what is no kernel."""
        self.lowered.report.append(NodeReport(name, op, "", kind, None, "", "", "", "0", "0"))

    # --- memory -------------------------------------------------------------------------------------------------------------
    def allocate(self, t: Tensor, order: Sequence[int] | None = None, output: bool = False) -> Buffer:
        """Memory for t with its axes in `order` from slowest to fastest; inside of the Concat that t is a part of, where that can be."""
        self.need(*t.shape)
        order = list(range(t.rank)) if order is None else list(order)
        if not output and (inside := self.concats.inside(t, order)) is not None:
            self.buffers[id(t)] = inside
            return inside
        strides: list[DimLike] = [0] * t.rank
        step: DimLike = 1
        for axis in reversed(order):
            strides[axis] = step
            step = step * t.shape[axis]
        name = self.fresh("b")
        self.lowered.temporaries[name] = Temporary(name, step * dtypes.dtype(t.dtype).size, output or id(t) in self.homes)
        buffer = Buffer(name, tuple(strides))
        self.buffers[id(t)] = buffer
        return buffer

    def buffer(self, t: Tensor) -> Buffer | None:
        """Where t lies in memory, if it does: its own memory, or another tensor's seen through views with plain strides."""
        if id(t) in self.buffers:
            return self.buffers[id(t)]
        o = t.origin
        if isinstance(o, T.Const):
            self.buffers[id(t)] = Buffer(self.lowered.constant(o.array, self.fresh), row_major(t.shape))
            return self.buffers[id(t)]
        if not isinstance(o, T.View):
            return None
        base = self.buffer(o.base)
        if base is None:
            return None
        return seen_through(o, t.shape, base)

    def held(self, t: Tensor) -> DimLike:
        """Elements of the memory of t: those along axes of stride 0 are the same ones."""
        have = self.buffer(t)
        return t.size if have is None else D.product([n for n, s in zip(t.shape, have.strides, strict=True) if not is_zero(s)])

    def operand(self, t: Tensor, want: str) -> Buffer:
        """t's memory as a kernel wants it (see KernelSpec.wants), converted where it isn't."""
        have = self.buffer(t)
        if have is not None:
            self.need(have.offset, *have.strides)
            if want == "plain" and is_row_major(have, t.shape):
                return have
            if want == "strided":
                return have
            if want.startswith("lanes:"):
                axis = int(want[6:]) % t.rank
                if isinstance(have.strides[axis], int) and have.strides[axis] == 1 or is_one(t.shape[axis]):
                    return have
        axis = int(want[6:]) % t.rank if want.startswith("lanes:") else t.rank - 1
        key = (id(t), have.name if have else "", axis)
        if key not in self.converted:
            self.converted[key] = self.copy(t, [k for k in range(t.rank) if k != axis] + [axis])
        return self.converted[key]

    def copy(self, t: Tensor, order: Sequence[int] | None = None, output: bool = False) -> Buffer:
        """A fresh copy of t in the given order of axes."""
        had = self.buffers.get(id(t))
        target = self.allocate(t, order, output)
        if had is not None:
            self.buffers[id(t)] = had
        else:
            del self.buffers[id(t)]
        idx = symbols("o", t.shape)
        with self.evaluating():
            value = t.at(idx)
        nest_call(self, t, loops(idx, t.shape, target), [(value, t.dtype, target, idx)], "copy")
        return target

    # --- tensors ------------------------------------------------------------------------------------------------------------
    def realize(self, t: Tensor) -> None:
        """Emit what computes t, unless it is in memory."""
        o = t.origin
        if (id(t) in self.buffers and not isinstance(o, (T.Concat, T.Woven))) or isinstance(o, T.Const):
            return
        if isinstance(o, T.Source) or (isinstance(t, T.Datum) and t.family == T.END):  # type: ignore[unreachable]
            if isinstance(t, T.Object):  # type: ignore[unreachable]
                return  # type: ignore[unreachable]
            raise ModelError(f"{t} is used where it isn't available")
        if isinstance(o, (T.HostCall, T.Branch, T.Loop, T.Step)):
            self._other(t, o)
            return
        if fold(self, t):
            return
        fusion = self.schedule.fused.get(id(t))
        before, self.cx.node = self.cx.node, t.node
        try:
            if fusion is not None:
                self._fused(t, fusion.root, fusion.own)
            elif isinstance(o, T.View) and o.flat and (have := self.buffer(t)) is not None:
                self.buffers[id(t)] = have
            elif isinstance(o, (T.Map, T.View)):
                emit_map(self, t)
            elif isinstance(o, T.Nest):
                self._fused(t, t, lambda i: i)
            elif isinstance(o, (T.Concat, T.Woven)):
                self.concats.emit(t, o)
            elif isinstance(o, T.Kernel):
                if o.spec.accumulates:
                    self._fused(t, t, lambda i: i)
                elif t is o.results[0] or id(o.results[0]) not in self.buffers:
                    emit_kernel(self, o)
            else:
                raise ModelError(f"{t.node}: {type(o).__name__} can't be lowered")
        finally:
            self.cx.node = before

    def _fused(self, last: Tensor, root: Tensor, own: Inverse) -> None:
        """Compute `last` in the kernel of root (see Fusion)."""
        if isinstance(root.origin, T.Nest):
            emit_nest(self, last, root, root.origin, own)
        else:
            emit_sink_kernel(self, last, root, own)

    def _other(self, t: Tensor, o: T.HostCall | T.Branch | T.Loop | T.Step) -> None:
        """Host ops, control flow and steps: once for all of their results."""
        if id(o) in self.done:
            return
        self.done.add(id(o))
        before, self.cx.node = self.cx.node, t.node
        if isinstance(o, T.HostCall):
            emit_host(self, o)
        elif isinstance(o, T.Step):
            emit_step(self, o)
        elif isinstance(o, T.Branch):
            emit_branch(self, o)
        else:
            emit_loop(self, o)
        if isinstance(o, (T.Branch, T.Loop)):
            self.note(str(t.node), getattr(t.node, "op_type", ""), "control")
        self.cx.node = before

    def evaluating(self) -> T._Evaluating:
        """While this lasts, reading a tensor that has no memory gives the Expr that computes it."""
        return self.cx.evaluating(self.schedule.inline)

    # --- calls ----------------------------------------------------------------------------------------------------------------
    def written_over(self, target: Buffer, buffers: frozenset[str]) -> None:
        """Note that the next call, which makes what lies in `target`, may do so over these buffers."""
        if target.name not in self.called:
            self.lowered.over[target.name] = buffers

    def call(self, text: str, words: Words, work: DimLike, what: str, t: Tensor, account: Account, algorithm: str,
              precision: str = "fp32") -> None:  # fmt: skip
        """Call the kernel with this text, which works for t; equal texts are one kernel. `what`: a readable prefix of its name."""
        name = f"{what}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        self.lowered.kernels.setdefault(name, text)
        self.need(*(w for kind, w in words.rows if kind == "int"))  # type: ignore[arg-type,misc]
        self.called |= {str(w) for kind, w in words.rows if kind == "ptr"}
        node = t.node
        where = str(node) if node is not None and _MAY_FAIL.search(text) else ""
        self.code.append(P.Call(name, tuple(w for _, w in words.rows), work, where))  # type: ignore[misc]
        self.regions[id(t)] = name
        self.lowered.report.append(NodeReport(str(node) if node else t.name, getattr(node, "op_type", what), name, "kernel", None,
                                              format_name(self.buffers.get(id(t)), t), algorithm, precision, str(account.bytes),
                                              str(account.operations), str(account.written)))  # fmt: skip
