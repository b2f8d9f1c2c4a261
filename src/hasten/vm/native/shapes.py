"""Shapes of a run's outputs from those of its inputs, without the run, as a generated function: `hst_shapes`."""

from __future__ import annotations

from hasten.base.dims import symbols
from hasten.codegen.builder import Module, V
from hasten.vm import abi
from hasten.vm.native.sizes import Sizes
from hasten.vm.program import Program


def emit_shapes(module: Module, program: Program) -> None:
    """hst_shapes(inputs, outputs) -> i64, see `hasten.vm.abi`, into the module that has hst_run."""
    f = module.function(abi.SHAPES, [("inputs", "ptr"), ("outputs", "ptr")], "i64")
    inputs, outputs = f.args
    inputs_at, outputs_at = abi.word_offsets(program.inputs), abi.word_offsets(program.outputs)
    binding = abi.bind(program)

    def given(number: int, axis: int) -> V:
        return f.load("i64", f.offset(inputs, 8 * (inputs_at[number] + 1 + axis)))

    values: dict[str, V] = {}
    sizes = Sizes(f, lambda name: values[name] if name in values else given(*binding.bound[name]))
    for number, axis, dim in binding.checked:
        want, overflow = sizes.checked(dim)
        wrong = given(number, axis).ne(want)
        with f.when(wrong if overflow is None else wrong | overflow):
            f.ret(f.const("i64", abi.STATUS_INPUT))
    for name, value in abi.derived(program).items():
        values[name] = sizes.value(value)
    known = binding.bound.keys() | values.keys()
    for at, spec in zip(outputs_at, abi.tensors(program.outputs), strict=True):
        for axis, dim in enumerate(spec.shape):
            size = sizes.value(dim) if symbols(dim) <= known else f.const("i64", -1)
            f.store(size, f.offset(outputs, 8 * (at + 1 + axis)))
    f.ret(f.const("i64", 0))
