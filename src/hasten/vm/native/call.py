"""The call path: `hst_call`, the CPython function (METH_FASTCALL) of one model, which takes its inputs by position.

It reads NumPy arrays directly where every input is exactly an `ndarray` of the right dtype and rank, contiguous and
aligned; anything else goes to the Python function `self[0]`, called with the same arguments, which raises or returns a
tuple of arrays to go on with. Sizes that do not fit go to `self[1]`, other failures to `self[2]`, called with (code,
left, right), which raise. `self` is a tuple. One output is returned as itself, several (or none) as a tuple. Output
memory belongs to a capsule, the base of its array.

Fields of ndarray objects are read by their offsets, which belong to NumPy's ABI (its macros compile to the same); the
layout is that of interpreters with a global lock, and `hasten.vm.runtime` checks it before the first use.
"""

from __future__ import annotations

from hasten.base.dims import Dim
from hasten.codegen.builder import Function, Module, V
from hasten.vm import abi
from hasten.vm.abi import CALL, RUN, Word
from hasten.vm.native.memory import HEADER, RAW, context_word, field
from hasten.vm.native.sizes import Sizes
from hasten.vm.program import Program, While

TYPE, DATA, RANK, DIMS, DESCRIPTOR, FLAGS = 8, 16, 24, 32, 56, 64
"""Offsets in an ndarray object."""
BYTE_ORDER, TYPE_NUMBER = 26, 28
"""Offsets in a dtype object."""
_CONTIGUOUS_ALIGNED, _FRESH = 0x101, 0x501
_SLOW, _WRONG_SHAPE, _FAILED = 0, 1, 2
_WRAP = "hst_wrap"


def emit_call(module: Module, program: Program) -> None:
    """hst_call, and what hst_run asks of Python, into the module that has hst_run."""
    _Call(module, program).emit()
    _emit_wrap(module)
    if any(isinstance(i, While) for i in abi.walk(program.instructions)):
        _emit_poll(module)


def _emit_poll(module: Module) -> None:
    """hst_poll(): runs Python's handlers of signals that came; nonzero where one raised an exception."""
    f = module.function(abi.POLL, [], "i64", "noinline", internal=True)
    state = f.call("PyGILState_Ensure", "i32", [])
    raised = f.call("PyErr_CheckSignals", "i32", [])
    f.call("PyGILState_Release", "void", [state])
    f.ret(f.cast(raised, "i64"))


class _Call:
    def __init__(self, module: Module, program: Program):
        self.program = program
        self.inputs, self.outputs = abi.tensors(program.inputs), abi.tensors(program.outputs)
        self.f = module.function(CALL, [("self", "ptr"), ("args", "ptr"), ("count", "i64")], "ptr")
        self.words_in = self.f.alloca(8 * (1 + sum(1 + len(s.shape) for s in self.inputs)), 16)
        self.words_out = self.f.alloca(8 * (1 + sum(1 + len(s.shape) for s in self.outputs)), 16)
        self.info = self.f.alloca(16, 16)
        self.slow = "slow"

    def emit(self) -> None:
        f = self.f
        self.need(f.args[2].eq(len(self.inputs)))
        self.read_inputs()
        code = self.run()
        failed, fine = f.label("failed"), f.label("fine")
        f.branch(code.ne(0), failed, fine)
        f.place(fine)
        self.give_outputs()
        f.place(failed)
        self.fail(code)
        f.place(self.slow)
        self.again()

    def need(self, condition: V) -> None:
        """Go the slow way unless `condition`."""
        after = self.f.label("go")
        self.f.branch(condition, after, self.slow)
        self.f.place(after)

    def read_inputs(self) -> None:
        f, at = self.f, 0
        array_type = f.load("ptr", context_word(f, Word.ARRAY_TYPE))
        for number, spec in enumerate(self.inputs):
            array = f.load("ptr", f.offset(f.args[1], 8 * number))
            self.need(f.load("ptr", f.offset(array, TYPE)).eq(array_type))
            descriptor = f.load("ptr", context_word(f, Word.DESCRIPTORS + number))
            good = self.same_dtype(f.load("ptr", f.offset(array, DESCRIPTOR)), descriptor)
            good = good & f.load("i32", f.offset(array, RANK)).eq(len(spec.shape))
            flags = f.load("i32", f.offset(array, FLAGS)) & _CONTIGUOUS_ALIGNED
            self.need(good & flags.eq(_CONTIGUOUS_ALIGNED))
            f.store(f.load("ptr", f.offset(array, DATA)), f.offset(self.words_in, 8 * at))
            dims = f.load("ptr", f.offset(array, DIMS)) if spec.shape else None
            for axis in range(len(spec.shape)):
                assert dims is not None
                f.store(f.load("i64", f.offset(dims, 8 * axis)), f.offset(self.words_in, 8 * (at + 1 + axis)))
            at += 1 + len(spec.shape)

    def same_dtype(self, one: V, other: V) -> V:
        """Whether two dtype objects mean the same. Usually they are one; arrays that came out of a pickle or another process have their own."""
        f = self.f
        number = f.load("i32", f.offset(one, TYPE_NUMBER)).eq(f.load("i32", f.offset(other, TYPE_NUMBER)))
        return one.eq(other) | (number & f.load("i8", f.offset(one, BYTE_ORDER)).eq(f.load("i8", f.offset(other, BYTE_ORDER))))

    def run(self) -> V:
        """hst_run's code; Python's global lock is released where the work is worth it."""
        f = self.f
        unlock = self.worth_unlocking()
        state = f.var("ptr", f.const("ptr", 0))
        with f.when(unlock):
            state.set(f.call("PyEval_SaveThread", "ptr", []))
        code = f.call(RUN, "i64", [self.words_in, self.words_out, self.info])
        with f.when(state.get().ne(f.const("ptr", 0))):
            f.call("PyEval_RestoreThread", "void", [state.get()])
        return code

    def worth_unlocking(self) -> V:
        f = self.f
        work = abi.total_work(self.program)
        if not isinstance(work, Dim):
            return f.const("i1", work is None or work >= abi.RELEASE_GIL)
        bound = abi.bind(self.program).bound
        starts = [sum(1 + len(s.shape) for s in self.inputs[:n]) for n in range(len(self.inputs))]

        def size(name: str) -> V:
            number, axis = bound[name]
            return f.load("i64", f.offset(self.words_in, 8 * (starts[number] + 1 + axis)))

        return Sizes(f, size).value(work) >= abi.RELEASE_GIL

    def give_outputs(self) -> None:
        f, at = self.f, 0
        several = len(self.outputs) != 1
        null = f.const("ptr", 0)
        trouble = f.label("trouble")
        result = f.var("ptr", f.call("PyTuple_New", "ptr", [f.const("i64", len(self.outputs))]) if several else null)
        if several:
            self.go_unless(result.get().ne(null), trouble)
        for number, spec in enumerate(self.outputs):
            descriptor = f.load("ptr", context_word(f, Word.DESCRIPTORS + len(self.inputs) + number))
            array = f.call(
                _WRAP, "ptr", [descriptor, f.const("i32", len(spec.shape)), f.offset(self.words_out, 8 * at)]
            )
            self.go_unless(array.ne(null), trouble)
            if several:
                f.call("PyTuple_SetItem", "i32", [result.get(), f.const("i64", number), array])
            else:
                result.set(array)
            at += 1 + len(spec.shape)
        f.ret(result.get())
        f.place(trouble)
        self.drop_outputs()
        if several:
            with f.when(result.get().ne(null)):
                f.call("Py_DecRef", "void", [result.get()])
        f.ret(null)

    def go_unless(self, condition: V, label: str) -> None:
        after = self.f.label("go")
        self.f.branch(condition, after, label)
        self.f.place(after)

    def drop_outputs(self) -> None:
        """Free what no array owns yet (`hst_wrap` clears the pointers that it took)."""
        f, at = self.f, 0
        for spec in self.outputs:
            p = f.load("ptr", f.offset(self.words_out, 8 * at))
            with f.when(p.ne(f.const("ptr", 0))):
                f.call("free", "void", [field(f, f.offset(p, -HEADER), RAW)])
            at += 1 + len(spec.shape)

    def fail(self, code: V) -> None:
        f = self.f
        with f.when(code.eq(abi.STATUS_INPUT)):
            self.hand_over(_WRONG_SHAPE)
        with f.when(code.eq(abi.STATUS_INTERRUPTED)):
            f.ret(f.const("ptr", 0))
        values = [code, f.load("i64", self.info), f.load("i64", f.offset(self.info, 8))]
        numbers = [f.call("PyLong_FromLongLong", "ptr", [v]) for v in values]
        args = f.alloca(24, 16)
        for i, number in enumerate(numbers):
            f.store(number, f.offset(args, 8 * i))
        result = self.python(_FAILED, args, f.const("i64", 3))
        for number in numbers:
            f.call("Py_DecRef", "void", [number])
        f.ret(result)

    def again(self) -> None:
        """Call ourselves with what the Python function makes of the inputs."""
        f, null = self.f, self.f.const("ptr", 0)
        converted = self.python(_SLOW, f.args[1], f.args[2])
        with f.when(converted.eq(null)):
            f.ret(null)
        arrays = f.alloca(8 * (len(self.inputs) + 1), 16)
        for number in range(len(self.inputs)):
            array = f.call("PyTuple_GetItem", "ptr", [converted, f.const("i64", number)])
            f.store(array, f.offset(arrays, 8 * number))
        result = f.emit("ptr", f"call ptr @{CALL}({f.args[0]}, {arrays}, i64 {len(self.inputs)})")
        f.call("Py_DecRef", "void", [converted])
        f.ret(result)

    def hand_over(self, which: int) -> None:
        self.f.ret(self.python(which, self.f.args[1], self.f.args[2]))

    def python(self, which: int, args: V, count: V) -> V:
        f = self.f
        function = f.call("PyTuple_GetItem", "ptr", [f.args[0], f.const("i64", which)])
        return f.call("PyObject_Vectorcall", "ptr", [function, args, count, f.const("ptr", 0)])


def _emit_wrap(module: Module) -> None:
    """hst_wrap(descriptor, rank, words): an array that owns the block words[0], of the dims words[1:]; null with an
    exception set where that fails. words[0] is cleared once an object of Python owns the block."""
    f: Function = module.function(
        _WRAP, [("descriptor", "ptr"), ("rank", "i32"), ("words", "ptr")], "ptr", "nounwind noinline", internal=True
    )
    descriptor, rank, words = f.args
    null = f.const("ptr", 0)
    f.call("Py_IncRef", "void", [descriptor])  # the new array takes this reference
    array_type, data = f.load("ptr", context_word(f, Word.ARRAY_TYPE)), f.load("ptr", words)
    new_array = f.load("ptr", context_word(f, Word.NEW_ARRAY))
    args = [array_type, descriptor, rank, f.offset(words, 8), null, data, f.const("i32", _FRESH), null]
    array = f.call_pointer(new_array, "ptr", args)
    with f.when(array.eq(null)):
        f.ret(null)
    capsule = f.call("PyCapsule_New", "ptr", [data, null, f.load("ptr", context_word(f, Word.RELEASE))])
    with f.when(capsule.eq(null)):
        f.call("Py_DecRef", "void", [array])
        f.ret(null)
    f.store(null, words)
    set_base = f.load("ptr", context_word(f, Word.SET_BASE))
    with f.when(f.call_pointer(set_base, "i32", [array, capsule]).ne(0)):
        f.call("Py_DecRef", "void", [array])
        f.ret(null)
    f.ret(array)
