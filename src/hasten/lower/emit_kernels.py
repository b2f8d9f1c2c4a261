"""Emission of hand-written kernels: their operands as they want them, their arguments, and the sink that stores what they accumulate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.codegen.builder import Function, Module, V
from hasten.kernels import expr as E
from hasten.kernels import spec as kernel_spec
from hasten.kernels.emit import Arguments, Emitter, Words
from hasten.kernels.expr import Expr
from hasten.lower import accounts
from hasten.lower import trace as T
from hasten.lower.accounts import Account
from hasten.lower.emit_nests import epilogue, resolve
from hasten.lower.formats import Buffer, flat_offset, is_zero
from hasten.lower.in_place import replaceable
from hasten.lower.lowered import THREADS, Temporary
from hasten.lower.orders import lane_by_lane
from hasten.lower.schedule import Inverse
from hasten.lower.trace import Tensor

if TYPE_CHECKING:
    from hasten.lower.emit import Emission


@dataclass
class SpecCall:
    """What a KernelSpec is asked about: one call with the memory of its operands."""

    operands: list[Tensor]
    results: list[Tensor]
    strides: list[tuple[DimLike, ...]]


@dataclass
class Sink:
    """Epilogue and store of one accumulator vector: what a kernel that accumulates calls. `value` is the Expr that is stored, as dtype
    `stored`, in `target` at element `offset`."""

    value: Expr
    stored: str
    target: Buffer
    offset: DimLike

    def into(self, args: Arguments, lane: str) -> kernel_spec.Sink:
        """The sink of a kernel with these arguments, whose lanes run along the axis `lane`."""

        def store(f: Function, acc: V, where: dict[str, V], lanes: int, mask: V | None) -> None:
            env = {f"o${a}": v for a, v in where.items()}
            e = Emitter(args, env, f"o${lane}", lanes, mask, {"acc": acc})
            e.store(f.splat(e.emit(self.value), lanes), self.stored, self.target.name, self.offset)

        return store


@dataclass
class Middle:
    """Elementwise work between two kernels that are computed as one: `value` is an Expr of the first one's sums, whose axes are `axes` and
    whose lanes run along `lane`."""

    value: Expr
    axes: tuple[str, ...]
    lane: str
    account: Account

    def into(self, args: Arguments) -> kernel_spec.Middle:
        """What the kernel calls, having these arguments."""

        def values(f: Function, acc: V, where: dict[str, V], lanes: int, mask: V | None) -> V:
            env = {f"o${a}": where[a] for a in self.axes}
            return f.splat(Emitter(args, env, f"o${self.lane}", lanes, mask, {"acc": acc}).emit(self.value), lanes)

        return values


def emit_kernel(e: Emission, o: T.Kernel) -> None:
    """A kernel that stores its results itself (row-major)."""
    operands = [e.operand(u, o.spec.wants(k)) for k, u in enumerate(o.operands)]
    results = [e.allocate(u) for u in o.results]
    _spec_call(e, o, operands, results, None, o.results[0], accounts.of_results(o.results))


def emit_sink_kernel(e: Emission, last: Tensor, root: Tensor, own_of: Inverse) -> None:
    """A kernel that hands its elements to a sink: the epilogue up to `last` and the store are emitted there."""
    joined = e.schedule.joined.get(id(root))
    o = root.origin if joined is None else joined.kernel
    assert isinstance(o, T.Kernel)
    spec = o.spec
    idx = _indices(spec, root)
    value, own = epilogue(e, last, root, own_of, idx, _sums(root))
    lane = idx[spec.axes.index(spec.lane_axis)]
    order = list(range(last.rank))
    if lane in own and id(last) not in e.schedule.plain:
        if lane_by_lane(last, own.index(lane)):
            e.homes.discard(id(last))
        if id(last) not in e.homes:
            order.append(order.pop(own.index(lane)))
    operands = [e.operand(u, spec.wants(k)) for k, u in enumerate(o.operands)]
    resolved = resolve(e, value, {})
    target = e.allocate(last, order)
    sink = Sink(resolved, last.dtype, target, flat_offset(target, own))
    loops = [(str(i), n) for i, n in zip(idx, root.shape, strict=True)]
    between = [_middle(e, *pair) for pair in joined.middles] if joined else []
    read = {n.source for m in between for n in E.walk(m.value) if n.kind == "load"}
    over = replaceable([resolved], last.dtype, sink.offset, loops) - {b.name for b in operands} - read
    e.written_over(target, over)
    rest = sum((m.account for m in between), accounts.of_nest(loops, (), (), [(value, last.dtype)], False, e.held))
    _spec_call(e, o, operands, [], sink, last, rest, between)


def _middle(e: Emission, between: Tensor, source: Tensor) -> Middle:
    """What `between` is, of the sums of the kernel of `source` (see lower.joining)."""
    assert isinstance(source.origin, T.Kernel)
    spec = source.origin.spec
    idx = _indices(spec, source)
    value, _ = epilogue(e, between, source, lambda i: i, idx, _sums(source))
    loops = [(str(i), n) for i, n in zip(idx, source.shape, strict=True)]
    account = accounts.of_nest(loops, (), (), [(value, between.dtype)], False, e.held)
    return Middle(resolve(e, value, {}), spec.axes, spec.lane_axis, replace(account, written=0))


def _indices(spec: kernel_spec.KernelSpec, root: Tensor) -> tuple[DimLike, ...]:
    return tuple(D.symbol(f"o${a}", n) for a, n in zip(spec.axes, root.shape, strict=True))


def _sums(root: Tensor) -> Expr:
    return E.param("acc", dtypes.compute_type(root.dtype))


def _spec_call(e: Emission, o: T.Kernel, operands: list[Buffer], results: list[Buffer], sink: Sink | None, t: Tensor, rest: Account,
               between: Sequence[Middle] = ()) -> None:  # fmt: skip
    """`rest`: what there is to account for besides the kernel's operands and operations."""
    spec = o.spec
    call = SpecCall(o.operands, o.results, [b.strides for b in operands])
    ints, scratch = spec.dims(call), spec.scratch(call)
    e.need(*ints.values(), scratch, *(s for b in operands for s in (*b.strides, b.offset)))
    module = Module(e.isa)
    module.global_text("!0", "!0 = !{}")
    f = module.function("KERNEL", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
    words = Words()
    args = Arguments(f, words)
    arg = _arguments(f, args, o, operands, results, ints)
    if not is_zero(scratch):
        name = e.fresh("s")
        part = D.ceildiv(scratch, 64) * 64
        e.lowered.temporaries[name] = Temporary(name, part * THREADS)
        arg["scratch"] = f.offset(args.pointer(name), args.integer(part) * f.args[1])
    store = None if sink is None else sink.into(args, spec.lane_axis)
    spec.emit(kernel_spec.Emission(f, e.isa, arg, f.args[1], f.args[2], store, call, [m.into(args) for m in between]))
    f.ret()
    f._allocas.extend(args.prologue)
    info = spec.describe()
    account = accounts.of_operands(o.operands, e.held, spec.operations(call)) + rest
    e.call(module.text(), words, spec.work(call), spec.name, t, account, info.get("algorithm", spec.name), info.get("precision", "fp32"))


def _arguments(f: Function, args: Arguments, o: T.Kernel, operands: list[Buffer], results: list[Buffer], ints: dict[str, DimLike]) -> dict[str, V]:
    """Pointers, strides and integers by the names that `KernelSpec.emit` knows them by."""
    arg: dict[str, V] = {"status": args.status()}
    for k, b in enumerate(operands):
        size = dtypes.dtype(o.operands[k].dtype).size
        p = args.pointer(b.name)
        arg[f"in{k}"] = f.at(p, args.integer(b.offset), size) if not is_zero(b.offset) else p
        if o.spec.wants(k) != "plain":
            arg.update({f"in{k}_s{a}": args.integer(s) for a, s in enumerate(b.strides)})
    arg.update({f"out{k}": args.pointer(b.name) for k, b in enumerate(results)})
    arg.update({name: args.integer(d) for name, d in ints.items()})
    return arg
