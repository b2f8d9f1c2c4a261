"""From a schedule to a Program: memory formats, kernels, calls.

Every realized tensor gets a `Buffer` (a name, strides, an offset); its kernel is emitted as text with KERNEL for a name; equal texts are one
kernel. Formats: row-major, or with the axis that a kernel runs its lanes along (channels) innermost; elementwise work keeps the format of what
it reads, so a network of convolutions flows channels-last from end to end and is converted only where row-major memory is asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.codegen.builder import Function, Module, V
from hasten.codegen.isa import Isa
from hasten.kernels import expr as E
from hasten.kernels import nest
from hasten.kernels import spec as kernel_spec
from hasten.kernels.emit import Arguments, Emitter, Words
from hasten.kernels.expr import Expr
from hasten.kernels.nest import NestProblem, StageProblem, StoreProblem
from hasten.lower import accounts
from hasten.lower import trace as T
from hasten.lower.accounts import Account
from hasten.lower.emit_control import emit_branch, emit_host, emit_loop
from hasten.lower.evaluate import Evaluation
from hasten.lower.formats import Buffer, flat_offset, format_name, is_one, is_row_major, is_zero, loops, memory_order, row_major, seen_through, symbols_behind
from hasten.lower.graph import Traced
from hasten.lower.report import NodeReport, fused_rows
from hasten.lower.schedule import Inverse, Schedule, symbols
from hasten.lower.trace import Tensor
from hasten.vm import program as P

FOLD_LIMIT = 1 << 22  # elements up to which constant subexpressions are computed at compile time
_MAY_FAIL = re.compile(r"^.*(store|call)\b.*%status\b", re.MULTILINE)  # texts of kernels that can set the run's status

MAX_WORK = 10**14  # nanoseconds that one kernel may take: more than a day
FOLD_POINTS = 1 << 24  # evaluations of one expression that this may take


@dataclass
class Temporary:
    """A buffer to be placed by the memory plan."""

    name: str
    size: DimLike  # bytes
    output: bool = False


@dataclass
class Lowered:
    """A Program still without places for its temporaries, and all it needs."""

    program: P.Program
    kernels: dict[str, str] = field(default_factory=dict)  # name -> text
    temporaries: dict[str, Temporary] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)  # buffer -> bytes
    report: list[NodeReport] = field(default_factory=list)
    known: frozenset[str] = frozenset()  # sizes that follow from the inputs
    lead: int = 0  # instructions that compute them, at the beginning


def lower(traced: Traced, isa: Isa) -> Lowered:
    """Schedule and emit a traced model."""
    emission = Emission(traced, isa)
    emission.run()
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
        self.const_names: dict[tuple[int, bytes], list[str]] = {}  # size and first bytes -> names of constants
        self.names: dict[str, int] = {}
        self.done: set[int] = set()
        self.static: dict[int, bool] = {}
        self.placed: set[tuple[int, str, DimLike]] = set()  # parts of Concats that are where they belong: part, memory, offset
        self.hosts: dict[int, tuple[Tensor, DimLike] | None] = {}  # Concats in the memory of larger ones
        self.keep: list[Tensor] = []  # tensors made here: their ids are keys of `buffers`
        self.objects: dict[int, str] = {}
        self.regions: dict[int, str] = {}  # kernel that computes a tensor

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
        program = self.lowered.program
        self.checks = list(self.cx.checks)
        for name, value in self.traced.inputs:
            if isinstance(value, Tensor):
                buffer = self.fresh("in")
                self.buffers[id(value)] = Buffer(buffer, row_major(value.shape))
                program.inputs.append(P.TensorSpec(name, value.dtype, value.shape, buffer))
                for d in value.shape:
                    self.defined |= D.symbols(d)
            else:
                program.inputs.append(P.ObjectSpec(name, value.kind, self.object_name(value)))
        for name, size in self.cx.aliases.items():  # those that the inputs give come first: the arena's size may need them
            if name not in self.defined and self.cx.base_symbols(size) - self.cx.aliases.keys() <= self.defined:
                self._name(name)
        self.lowered.known, self.lowered.lead = frozenset(self.defined), len(self.code)
        values = [v for _, v in self.traced.outputs]
        self.schedule = Schedule(self.cx, values).run()  # type: ignore[arg-type]
        self.outputs = self._output_homes([v for v in values if isinstance(v, Tensor)])
        self.emit_checks()
        for t in self.schedule.order:
            self.is_static(t)
            if id(t) in self.schedule.realized:
                self.realize(t)
        self.emit_checks(last=True)
        for k, (name, value) in enumerate(self.traced.outputs):
            self._output(k, name, value)
        self.lowered.report.extend(fused_rows(self.schedule, self.regions))

    def _output_homes(self, outputs: list[Tensor]) -> dict[int, Tensor]:
        """For each output the tensor whose memory can be handed out: itself, or what it reshapes; each memory only once."""
        homes: dict[int, Tensor] = {}
        taken: set[int] = set()
        for t in outputs:
            home = t
            while isinstance(home.origin, T.View) and home.origin.flat:
                home = home.origin.base
            free = id(home) not in taken and not isinstance(home.origin, (T.Source, T.Const)) and id(home) not in homes
            if isinstance(home.origin, T.View) and id(home) not in self.schedule.realized:
                free = False
            homes[id(t)] = home if free else t
            if free:
                taken.add(id(home))
        self.homes = {id(h) for h in homes.values()}
        return homes

    def _output(self, k: int, name: str, value: T.Value) -> None:
        program = self.lowered.program
        if not isinstance(value, Tensor):
            program.outputs.append(P.ObjectSpec(name, value.kind, self.object_name(value)))
            return
        self.need(*value.shape)
        buffer = self.buffers.get(id(self.outputs[id(value)]))
        temporary = self.lowered.temporaries.get(buffer.name) if buffer else None
        if buffer is None or temporary is None or not temporary.output or buffer.name in self._given():
            buffer = self.copy(value, output=True)
        program.outputs.append(P.TensorSpec(name, value.dtype, value.shape, buffer.name))
        self.code.append(P.Output(k, buffer.name, value.shape))

    def _given(self) -> set[str]:
        return {i.buffer for i in self.code if isinstance(i, P.Output)}

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
        value = self.cx.aliases[name]
        self.define(name, value)
        if not D.nonnegative(value):
            self.code.append(P.Check(0, "<=", value, f"the size {value} can't be negative"))
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
        if not output and (inside := self._in_concat(t, order)) is not None:
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

    def _in_concat(self, t: Tensor, order: list[int]) -> Buffer | None:
        """t's place in the memory of a Concat that has it as a part: then nothing is copied later."""
        if id(t) in self.homes or id(t) in self.schedule.plain or not isinstance(t.origin, (T.Map, T.Nest, T.Kernel)):
            return None
        whole = next((u for u in self.schedule.users.get(id(t), []) if isinstance(u.origin, (T.Concat, T.Woven)) and id(u) in self.schedule.realized), None)
        if whole is None or not self.schedule.block_holds(whole):
            return None
        o = whole.origin
        assert isinstance(o, (T.Concat, T.Woven))
        position = [k for k, p in enumerate(o.parts) if p is t]
        if len(position) != 1:
            return None
        place = o.place(position[0])
        if not {s for d in (*whole.shape, *(start for start, _ in place)) for s in D.symbols(d)} <= self.defined:
            return None
        outermost = self._outermost(whole)
        if id(outermost) not in self.buffers:
            assert isinstance(outermost.origin, (T.Concat, T.Woven))
            self.allocate(outermost, self._whole_order(outermost, outermost.origin, order))
        have = self._within(whole)
        root = self.schedule.fused[id(t)].root if id(t) in self.schedule.fused else t
        if isinstance(root.origin, T.Kernel) and (have.strides[order[-1]] != 1 or place[order[-1]][1] != 1):
            return None
        part = _part(have, place)
        self.placed.add((id(t), part.name, part.offset))
        return part

    def _outermost(self, whole: Tensor) -> Tensor:
        """The tensor in whose memory a Concat lies: its own, or a larger Concat that begins with the same parts, or has it as a part."""
        while (host := self._host(whole)) is not None:
            whole = host[0]
        return whole

    def _host(self, whole: Tensor) -> tuple[Tensor, DimLike] | None:
        """The next larger Concat that holds all of a Concat, and where along the axis it begins in it. Decided when first asked."""
        if id(whole) not in self.hosts:
            self.hosts[id(whole)] = self._find_host(whole)
        return self.hosts[id(whole)]

    def _find_host(self, whole: Tensor) -> tuple[Tensor, DimLike] | None:
        o, users = whole.origin, self.schedule.users
        if not isinstance(o, T.Concat) or not self._may_share(whole):
            return None
        for u in (*users.get(id(whole), []), *users.get(id(o.parts[0]), [])):
            other = u.origin
            if not isinstance(other, T.Concat) or u is whole or other.axis != o.axis or not self._may_share(u):
                continue
            if not {s for d in u.shape for s in D.symbols(d)} <= self.defined:
                continue
            position = [k for k, p in enumerate(other.parts) if p is whole]
            if len(position) == 1:
                return u, other.starts[position[0]]
            if len(other.parts) > len(o.parts) and all(a is b for a, b in zip(o.parts, other.parts, strict=False)):
                return u, 0
        return None

    def _may_share(self, t: Tensor) -> bool:
        """Whether a Concat's memory may be part of another one's, or hold another one."""
        return id(t) in self.schedule.realized and id(t) not in self.schedule.plain and id(t) not in self.homes and self.schedule.block_holds(t)

    def _within(self, whole: Tensor) -> Buffer:
        """Where a Concat lies, the outermost one being allocated."""
        host = self._host(whole)
        if host is None:
            return self.buffers[id(whole)]
        have, axis = self._within(host[0]), whole.origin.axis  # type: ignore[union-attr]
        return replace(have, offset=have.offset + host[1] * have.strides[axis])

    def _lane_by_lane(self, t: Tensor, axis: int) -> bool:
        """Whether an output of the model, in row-major order, would be stored lane by lane by a kernel whose lanes run along `axis`: then it is
        stored in the kernel's order first, and turned as a whole."""
        return not is_one(t.shape[axis]) and not all(map(is_one, t.shape[axis + 1 :]))

    def _whole_order(self, whole: Tensor, o: T.Concat | T.Woven, order: list[int]) -> list[int]:
        """The order of axes of a Concat: what its convolutions write, where it has some; else `order`."""
        row = list(range(whole.rank))
        if id(whole) in self.schedule.plain:
            return row
        for p in o.parts:
            root = self.schedule.fused[id(p)].root if id(p) in self.schedule.fused else p
            spec = root.origin.spec if isinstance(root.origin, T.Kernel) else None
            if spec is not None and spec.lane_axis == "c" and root.rank == whole.rank and self._lane_by_lane(whole, 1):
                self.homes.discard(id(whole))
                return [0, *row[2:], 1]
        if id(whole) in self.homes:
            return row
        return order if order != row else self.wish(whole) or row

    def _constant(self, array: np.ndarray, t: Tensor) -> Buffer:
        data = np.ascontiguousarray(array)
        raw = data.reshape(-1).view(np.uint8) if data.size else np.zeros(0, np.uint8)
        twins = self.const_names.setdefault((raw.size, raw[:256].tobytes()), [])
        name = next((n for n in twins if np.array_equal(self.lowered.constants[n], raw)), None)
        if name is None:
            name = self.fresh("c")
            twins.append(name)
            self.lowered.constants[name] = raw
        return Buffer(name, row_major(t.shape))

    def buffer(self, t: Tensor) -> Buffer | None:
        """Where t lies in memory, if it does: its own memory, or another tensor's seen through views with plain strides."""
        if id(t) in self.buffers:
            return self.buffers[id(t)]
        o = t.origin
        if isinstance(o, T.Const):
            self.buffers[id(t)] = self._constant(o.array, t)
            return self.buffers[id(t)]
        if not isinstance(o, T.View):
            return None
        base = self.buffer(o.base)
        if base is None:
            return None
        return seen_through(o, t.shape, base)

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
        self.nest_call(t, loops(idx, t.shape, target), [(value, t.dtype, target, idx)], "copy")
        return target

    # --- tensors ------------------------------------------------------------------------------------------------------------
    def realize(self, t: Tensor) -> None:
        o = t.origin
        if (id(t) in self.buffers and not isinstance(o, (T.Concat, T.Woven))) or isinstance(o, T.Const):
            return
        if isinstance(o, T.Source):
            if isinstance(t, T.Object):  # type: ignore[unreachable]
                return  # type: ignore[unreachable]
            raise ModelError(f"{t} is used where it isn't available")
        if isinstance(o, (T.HostCall, T.Branch, T.Loop)):
            self._other(t, o)
            return
        if self._fold(t):
            return
        fusion = self.schedule.fused.get(id(t))
        before, self.cx.node = self.cx.node, t.node
        try:
            if fusion is not None:
                self._fused(t, fusion.root, fusion.own)
            elif isinstance(o, T.View) and o.flat and (have := self.buffer(t)) is not None:
                self.buffers[id(t)] = have
            elif isinstance(o, (T.Map, T.View)):
                self._map(t)
            elif isinstance(o, T.Nest):
                self._fused(t, t, lambda i: i)
            elif isinstance(o, (T.Concat, T.Woven)):
                self._concat(t, o)
            elif isinstance(o, T.Kernel):
                if o.spec.accumulates:
                    self._fused(t, t, lambda i: i)
                elif t is o.results[0] or id(o.results[0]) not in self.buffers:
                    self._kernel(o)
            else:
                raise ModelError(f"{t.node}: {type(o).__name__} can't be lowered")
        finally:
            self.cx.node = before

    def _other(self, t: Tensor, o: T.HostCall | T.Branch | T.Loop) -> None:
        """Host ops and control flow: once for all of their results."""
        if id(o) in self.done:
            return
        self.done.add(id(o))
        before, self.cx.node = self.cx.node, t.node
        if isinstance(o, T.HostCall):
            emit_host(self, o)
        elif isinstance(o, T.Branch):
            emit_branch(self, o)
        else:
            emit_loop(self, o)
        if not isinstance(o, T.HostCall):
            self.note(str(t.node), getattr(t.node, "op_type", ""), "control")
        self.cx.node = before

    def _fold(self, t: Tensor) -> bool:
        """Compute t now where it depends on constants only."""
        if not isinstance(t.origin, (T.Map, T.View, T.Nest, T.Concat)) or not all(isinstance(d, int) for d in t.shape):
            return False
        if isinstance(t.size, int) and t.size > FOLD_LIMIT or not self.is_static(t):
            return False
        array = Evaluation(self.cx, {}).of(t)
        t.origin = T.Const(np.ascontiguousarray(array).reshape(array.shape))  # which makes vectors of scalars
        return True

    def is_static(self, t: Tensor) -> bool:
        """Whether t depends on constants only, and little enough to be computed here."""
        memo = self.static
        if id(t) not in memo:
            o = t.origin
            memo[id(t)] = False
            if isinstance(o, T.Const):
                memo[id(t)] = True
            elif isinstance(o, (T.Map, T.View, T.Nest)) and all(isinstance(d, int) for d in t.shape):
                look = self.schedule.look(t)
                free = {s for e in look.exprs for s in E.free_symbols(e) if not s.startswith(("o$", "r$"))}
                fixed = isinstance(look.points, int) and look.points <= FOLD_POINTS and not free
                memo[id(t)] = fixed and all(self.is_static(u) for u, _ in look.loads)
            elif isinstance(o, T.Concat):
                memo[id(t)] = all(self.is_static(u) for u in o.parts)
            self.keep.append(t)
        return memo[id(t)]

    def evaluating(self) -> T._Evaluating:
        return self.cx.evaluating(self.schedule.inline)

    def _map(self, t: Tensor) -> None:
        idx = symbols("o", t.shape)
        with self.evaluating():
            value = t.origin.fn(idx) if isinstance(t.origin, T.Map) else t.origin.base.at(t.origin.index(idx))  # type: ignore[union-attr]
        target = self.allocate(t, self._order(t, value, idx))
        self.nest_call(t, loops(idx, t.shape, target), [(value, t.dtype, target, idx)], "map")

    def _order(self, t: Tensor, value: Expr, idx: tuple[DimLike, ...]) -> list[int]:
        """The order of axes in memory: that of the largest tensor that is read element by element, else row-major."""
        if id(t) in self.schedule.plain or id(t) in self.homes or t.rank < 2:
            return list(range(t.rank))
        return self._order_of([value], idx) or self.wish(t) or list(range(t.rank))

    def _order_of(self, exprs: Sequence[Expr], index: tuple[DimLike, ...]) -> list[int] | None:
        """The order of axes that follows from the first tensor read in `exprs` that isn't row-major; None if there is none."""
        for e in exprs:
            for n in E.walk(e):
                have = self.buffer(n.source) if n.kind == "load" and isinstance(n.source, Tensor) else None
                if have is None:
                    continue
                order = memory_order(have, n.source.shape)
                if order == list(range(len(order))):
                    continue
                axes: list[int] = []
                for k in order:
                    known = symbols_behind(n, k)
                    axes.extend(a for a, x in enumerate(index) if D.symbols(x) & known and a not in axes)
                if len(axes) == len(index):
                    return axes
        return None

    def wish(self, t: Tensor, depth: int = 8) -> list[int] | None:
        """The order of axes in which what follows wants to read t: a kernel at once, or behind elementwise work; None where nothing wants one."""
        for u in self.schedule.users.get(id(t), []) if depth else []:
            o = u.origin
            if isinstance(o, T.Kernel):
                wants = [o.spec.wants(k) for k, x in enumerate(o.operands) if x is t]
                axes = [int(w[6:]) % t.rank for w in wants if w.startswith("lanes:")]
                if axes:
                    return [k for k in range(t.rank) if k != axes[0]] + [axes[0]]
            elif isinstance(o, (T.Map, T.Nest, T.Concat, T.Woven)) and u.rank == t.rank and id(u) not in self.schedule.plain and id(u) not in self.homes:
                found = self.wish(u, depth - 1)
                if found is not None:
                    return found
        return None

    def _concat_order(self, t: Tensor, o: T.Concat | T.Woven) -> list[int]:
        """The order of axes that most parts have."""
        row = list(range(t.rank))
        if id(t) in self.schedule.plain or id(t) in self.homes:
            return row
        orders = [memory_order(have, p.shape) if (have := self.buffer(p)) is not None else row for p in o.parts]
        best = max(orders, key=lambda x: (orders.count(x), x != row))
        return best if best != row else self.wish(t) or row

    def _concat(self, t: Tensor, o: T.Concat | T.Woven) -> None:
        outermost = self._outermost(t)
        if id(outermost) not in self.buffers:
            self.allocate(outermost, self._concat_order(outermost, outermost.origin))  # type: ignore[arg-type]
        target = self.buffers[id(t)] = self._within(t)
        self.placed.add((id(t), target.name, target.offset))
        for k, p in enumerate(o.parts):
            spot = (id(p), target.name, _part(target, o.place(k)).offset)
            if spot in self.placed or (isinstance(p.size, int) and p.size == 0):
                continue
            self.placed.add(spot)
            idx = symbols("o", p.shape)
            with self.evaluating():
                value = p.at(idx)
            place = tuple(i * step + start for i, (start, step) in zip(idx, o.place(k), strict=True))
            self.need(*p.shape, *(start for start, _ in o.place(k)))
            self.nest_call(t, loops(idx, p.shape, replace(target)), [(value, t.dtype, target, place)], "concat")

    # --- nests and kernels with what follows them -------------------------------------------------------------------------------
    def _fused(self, last: Tensor, root: Tensor, own: Inverse) -> None:
        """Compute `last` in the kernel of root (see Fusion)."""
        if isinstance(root.origin, T.Nest):
            self._nest(last, root, root.origin, own)
        else:
            self._sink_kernel(last, root, own)

    def _epilogue(self, last: Tensor, root: Tensor, own_of: Inverse, idx: tuple[DimLike, ...], value: Expr) -> tuple[Expr, tuple[DimLike, ...]]:
        """last's element in terms of root's element `value` at root index idx; and last's index."""
        if last is root:
            return value, idx
        own = own_of(idx)
        with self.evaluating():
            self.cx.provide(root, idx, value)
            try:
                o = last.origin
                result = o.fn(own) if isinstance(o, T.Map) else o.base.at(o.index(own))  # type: ignore[union-attr]
            finally:
                self.cx.provide(None, (), value)
        return result, own

    def _nest(self, last: Tensor, root: Tensor, o: T.Nest, own: Inverse) -> None:
        i, r = symbols("o", o.outer), symbols("r", o.inner)
        stages: list[StageProblem] = []
        params: dict[str, Expr] = {}
        with self.evaluating():
            for s in o.stages:
                e = s.fn(i, r, params)
                stages.append(StageProblem(s.name, s.kind, e))
                params[s.name] = E.param(s.name, "int64" if s.kind.startswith("arg") else e.dtype)
            value = o.final(i, params) if o.place is None else o.final(i, r, params)
        if o.place is None:
            value, index = self._epilogue(last, root, own, i, value)
            order = self._nest_order(last, stages, index)
        else:
            index = o.place(i, r)
            order = self._nest_order(last, stages, index)
        target = self.allocate(last, order)
        outer = [(D.as_symbol(x), n) for x, n in zip(i, o.outer, strict=True)]
        rank_of = {axis: k for k, axis in enumerate(memory_order(target, last.shape))}
        position = {str(x): rank_of[k] for k, x in enumerate(index)}
        outer.sort(key=lambda x: position.get(str(x[0]), 99))
        inner = self._inner_order([(D.as_symbol(x), n) for x, n in zip(r, o.inner, strict=True)], stages)
        self.nest_call(last, outer, [(value, last.dtype, target, index)], "reduce" if o.place is None else "rows",
                        inner=inner, stages=stages, inner_store=o.place is not None)  # fmt: skip

    def _inner_order(self, inner: list[tuple[str | None, DimLike]], stages: list[StageProblem]) -> list[tuple[str | None, DimLike]]:
        """Inner loops by the memory of what they walk through (the arg kinds need the order as it is)."""
        if any(s.kind.startswith("arg") for s in stages) or len(inner) < 2:
            return inner
        for s in stages:
            for n in E.walk(s.expr):
                have = self.buffer(n.source) if n.kind == "load" and isinstance(n.source, Tensor) else None
                if have is None:
                    continue
                order = memory_order(have, n.source.shape)
                ranks = {}
                for name, _ in inner:
                    hits = [order.index(k) for k, d in enumerate(n.index) if name in D.symbols(d)]
                    ranks[name] = hits[0] if hits else -1
                if all(v >= 0 for v in ranks.values()):
                    return sorted(inner, key=lambda x: ranks[x[0]])
        return inner

    def _nest_order(self, t: Tensor, stages: list[StageProblem], index: tuple[DimLike, ...]) -> list[int]:
        plain = list(range(t.rank))
        if id(t) in self.schedule.plain or id(t) in self.homes or t.rank < 2:
            return plain
        return self._order_of([s.expr for s in stages], index) or self.wish(t) or plain

    def nest_call(self, t: Tensor, outer: Sequence[tuple[str | None, DimLike]], stores: Sequence[tuple[Expr, str, Buffer, tuple[DimLike, ...]]], what: str,
                   inner: Sequence[tuple[str | None, DimLike]] = (), stages: Sequence[StageProblem] = (), inner_store: bool = False) -> None:  # fmt: skip
        memo: dict[int, Expr] = {}
        problem = NestProblem(
            tuple((str(s), n) for s, n in outer), tuple((str(s), n) for s, n in inner),
            tuple(replace(s, expr=self._resolve(s.expr, memo)) for s in stages),
            tuple(StoreProblem(self._resolve(v, memo), stored, b.name, flat_offset(b, idx)) for v, stored, b, idx in stores), inner_store,
        )  # fmt: skip
        points = D.product([n for _, n in (*outer, *inner)])
        cycles = sum(E.cost(e) for e in problem.exprs()) + 1
        text = nest.emit(problem, self.isa)
        work = D.floordiv(points * cycles, 2 * self.isa.lanes(32))
        account = accounts.of_nest(outer, inner, stages, [(value, stored) for value, stored, *_ in stores], inner_store, self.held)
        self._call(text.text, text.words, work, what, t, account, "generic nest")

    def held(self, t: Tensor) -> DimLike:
        """Elements of the memory of t: those along axes of stride 0 are the same ones."""
        have = self.buffer(t)
        return t.size if have is None else D.product([n for n, s in zip(t.shape, have.strides, strict=True) if not is_zero(s)])

    def _resolve(self, e: Expr, memo: dict[int, Expr]) -> Expr:
        """Loads of tensors become loads of buffers at offsets."""
        if id(e) not in memo:
            binds = tuple((n, self._resolve(b, memo)) for n, b in e.binds)
            guard = None if e.guard is None else self._resolve(e.guard, memo)
            args = tuple(self._resolve(a, memo) for a in e.args)
            if e.kind == "load":
                have = self.buffer(e.source)
                if have is None:
                    raise ModelError(f"{e.source.node}: {e.source} has no memory where it is read")
                memo[id(e)] = replace(e, source=have.name, index=(flat_offset(have, e.index),), binds=binds, guard=guard, args=args)
            else:
                memo[id(e)] = replace(e, args=args) if args else e
        return memo[id(e)]

    def _kernel(self, o: T.Kernel) -> None:
        """A hand-written kernel that stores its results itself (row-major)."""
        operands = [self.operand(u, o.spec.wants(k)) for k, u in enumerate(o.operands)]
        results = [self.allocate(u) for u in o.results]
        self._spec_call(o, operands, results, None, o.results[0], accounts.of_results(o.results))

    def _sink_kernel(self, last: Tensor, root: Tensor, own_of: Inverse) -> None:
        """A kernel that hands its elements to a sink: the epilogue and the store are emitted there."""
        o = root.origin
        assert isinstance(o, T.Kernel)
        spec = o.spec
        idx = tuple(D.symbol(f"o${a}", n) for a, n in zip(spec.axes, root.shape, strict=True))
        value, own = self._epilogue(last, root, own_of, idx, E.param("acc", dtypes.compute_type(root.dtype)))
        lane = idx[spec.axes.index(spec.lane_axis)]
        order = list(range(last.rank))
        if lane in own and id(last) not in self.schedule.plain:
            if self._lane_by_lane(last, own.index(lane)):
                self.homes.discard(id(last))
            if id(last) not in self.homes:
                order.append(order.pop(own.index(lane)))
        operands = [self.operand(u, spec.wants(k)) for k, u in enumerate(o.operands)]
        memo: dict[int, Expr] = {}
        resolved = self._resolve(value, memo)
        target = self.allocate(last, order)
        epilogue = accounts.of_nest([(str(i), n) for i, n in zip(idx, root.shape, strict=True)], (), (), [(value, last.dtype)], False, self.held)
        self._spec_call(o, operands, [], (resolved, last.dtype, target, flat_offset(target, own)), last, epilogue)

    def _spec_call(self, o: T.Kernel, operands: list[Buffer], results: list[Buffer], sink: tuple[Expr, str, Buffer, DimLike] | None, t: Tensor,
                   rest: Account) -> None:  # fmt: skip
        """`rest`: what there is to account for besides the kernel's operands and operations."""
        spec = o.spec
        call = SpecCall(o.operands, o.results, [b.strides for b in operands])
        ints = spec.dims(call)
        scratch = spec.scratch(call)
        self.need(*ints.values(), scratch, *(s for b in operands for s in (*b.strides, b.offset)))
        module = Module(self.isa)
        module.global_text("!0", "!0 = !{}")
        f = module.function("KERNEL", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
        words = Words()
        args = Arguments(f, words)
        arg: dict[str, V] = {"status": args.status()}
        for k, b in enumerate(operands):
            size = dtypes.dtype(o.operands[k].dtype).size
            p = args.pointer(b.name)
            arg[f"in{k}"] = f.at(p, args.integer(b.offset), size) if not is_zero(b.offset) else p
            if spec.wants(k) != "plain":
                arg.update({f"in{k}_s{a}": args.integer(s) for a, s in enumerate(b.strides)})
        arg.update({f"out{k}": args.pointer(b.name) for k, b in enumerate(results)})
        arg.update({name: args.integer(d) for name, d in ints.items()})
        if not is_zero(scratch):
            name = self.fresh("s")
            part = D.ceildiv(scratch, 64) * 64
            self.lowered.temporaries[name] = Temporary(name, part * THREADS)
            arg["scratch"] = f.offset(args.pointer(name), args.integer(part) * f.args[1])
        emission = kernel_spec.Emission(f, self.isa, arg, f.args[1], f.args[2], None if sink is None else _Sink(args, spec.lane_axis, *sink), call)
        spec.emit(emission)
        f.ret()
        f._allocas.extend(args.prologue)
        info = spec.describe()
        account = accounts.of_operands(o.operands, self.held, spec.operations(call)) + rest
        self._call(module.text(), words, spec.work(call), spec.name, t, account, info.get("algorithm", spec.name), info.get("precision", "fp32"))

    # --- calls ----------------------------------------------------------------------------------------------------------------
    def _call(self, text: str, words: Words, work: DimLike, what: str, t: Tensor, account: Account, algorithm: str,
              precision: str = "fp32") -> None:  # fmt: skip
        name = f"{what}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        self.lowered.kernels.setdefault(name, text)
        self.need(*(w for kind, w in words.rows if kind == "int"))  # type: ignore[arg-type,misc]
        node = t.node
        where = str(node) if node is not None and _MAY_FAIL.search(text) else ""
        self.code.append(P.Call(name, tuple(w for _, w in words.rows), work, where))  # type: ignore[misc]
        self.regions[id(t)] = name
        self.lowered.report.append(NodeReport(str(node) if node else t.name, getattr(node, "op_type", what), name, "kernel", None,
                                              format_name(self.buffers.get(id(t)), t), algorithm, precision, str(account.bytes),
                                              str(account.operations), str(account.written)))  # fmt: skip


@dataclass
class SpecCall:
    """What a KernelSpec is asked about: one call with the memory of its operands."""

    operands: list[Tensor]
    results: list[Tensor]
    strides: list[tuple[DimLike, ...]]


THREADS = D.symbol("threads$")  # replaced by the number of threads when memory is planned


class _Sink:
    """Epilogue and store of one accumulator vector: what a kernel that accumulates calls."""

    def __init__(self, args: Arguments, lane: str, value: Expr, stored: str, target: Buffer, offset: DimLike):
        self.args, self.lane, self.value, self.stored, self.target, self.offset = args, lane, value, stored, target, offset

    def __call__(self, f: Function, acc: V, where: dict[str, V], lanes: int, mask: V | None) -> None:
        env = {f"o${a}": v for a, v in where.items()}
        e = Emitter(self.args, env, f"o${self.lane}", lanes, mask, {"acc": acc})
        e.store(f.splat(e.emit(self.value), lanes), self.stored, self.target.name, self.offset)


def _part(whole: Buffer, place: Sequence[tuple[DimLike, int]]) -> Buffer:
    """A part's place in the memory of a Concat (see `Concat.place`)."""
    offset = whole.offset
    for (start, _), stride in zip(place, whole.strides, strict=True):
        offset = offset + start * stride
    return Buffer(whole.name, tuple(stride * step for (_, step), stride in zip(place, whole.strides, strict=True)), offset)
