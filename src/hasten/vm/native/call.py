"""The call path: `hst_call`, the CPython function (METH_FASTCALL) of one model, which takes its inputs by position.

It reads NumPy arrays directly where every input is exactly an `ndarray` of the right dtype and rank, contiguous and
aligned; anything else goes to the Python function `self[0]`, called with the same arguments, which raises or returns a
tuple of arrays to go on with. Sizes that do not fit go to `self[1]`, other failures to `self[2]`, called with (code,
left, right), which raise. `self` is a tuple. One output is returned as itself, several (or none) as a tuple. Output
memory belongs to a capsule, the base of its array.

Values of data types are converted by `hasten.vm.native.values`, in a pool that the call opens and closes.
"""

from __future__ import annotations

from hasten.base.dims import Dim
from hasten.codegen.builder import Module, V
from hasten.vm import abi
from hasten.vm.abi import CALL, RUN, Word
from hasten.vm.native import counted
from hasten.vm.native.arrays import WRAP, emit_wrap, emit_wrap_copy, read_array
from hasten.vm.native.memory import HEADER, RAW, context_word, field
from hasten.vm.native.sizes import Sizes
from hasten.vm.native.values import LET_GO, VALUE_IN, VALUE_OUT, emit_values
from hasten.vm.program import Program, TensorSpec, ValueSpec, While

_SLOW, _WRONG_SHAPE, _FAILED = 0, 1, 2


def emit_call(module: Module, program: Program) -> None:
    """hst_call, and what hst_run asks of Python, into the module that has hst_run."""
    _Call(module, program).emit()
    emit_wrap(module)
    if abi.passes_values(program):
        emit_wrap_copy(module)
        emit_values(module, program)
    if program.functions or any(isinstance(i, While) for i in abi.walk(program.instructions)):
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
        self.inputs, self.outputs = program.inputs, program.outputs
        self.f = module.function(CALL, [("self", "ptr"), ("args", "ptr"), ("count", "i64")], "ptr")
        self.words_in = self.f.alloca(8 * (1 + abi.words_of(self.inputs)), 16)
        self.words_out = self.f.alloca(8 * (1 + abi.words_of(self.outputs)), 16)
        self.inputs_at, self.outputs_at = abi.word_offsets(self.inputs), abi.word_offsets(self.outputs)
        self.info = self.f.alloca(8 * abi.INFO_WORDS, 16)
        self.values = abi.passes_values(program)
        self.slow = "slow"

    def emit(self) -> None:
        f = self.f
        self.need(f.args[2].eq(len(self.inputs)))
        self.read_tensors()
        if self.values:
            self.read_values()
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

    def read_tensors(self) -> None:
        f = self.f
        for number, (spec, at) in enumerate(zip(self.inputs, self.inputs_at, strict=True)):
            if isinstance(spec, TensorSpec):
                descriptor = f.load("ptr", context_word(f, Word.DESCRIPTORS + number))
                data, dims = read_array(f, self.argument(number), descriptor, len(spec.shape), self.need)
                for n, word in enumerate((data, *dims)):
                    f.store(word, f.offset(self.words_in, 8 * (at + n)))

    def argument(self, number: int) -> V:
        return self.f.load("ptr", self.f.offset(self.f.args[1], 8 * number))

    def read_values(self) -> None:
        """Open the pool, and make values in it."""
        f, null = self.f, self.f.const("ptr", 0)
        pool = f.call(counted.OPEN, "ptr", [])
        with f.when(pool.eq(null)):
            f.ret(f.call("PyErr_NoMemory", "ptr", []))
        f.store(pool, f.offset(self.info, 8 * abi.INFO_POOL))
        for number, (spec, at) in enumerate(zip(self.inputs, self.inputs_at, strict=True)):
            if isinstance(spec, ValueSpec):
                p = f.call(VALUE_IN, "ptr", [pool, self.argument(number), self.type_number(spec)])
                with f.when(p.eq(null)):
                    self.close_pool()
                    f.jump(self.slow)
                f.store(p, f.offset(self.words_in, 8 * at))

    def type_number(self, spec: ValueSpec) -> V:
        return self.f.const("i64", [t.name for t in self.program.types].index(spec.type))

    def close_pool(self) -> None:
        if self.values:
            self.f.call(LET_GO, "void", [self.pool()])
            self.f.call(counted.CLOSE, "void", [self.pool()])

    def pool(self) -> V:
        return self.f.load("ptr", self.f.offset(self.info, 8 * abi.INFO_POOL))

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

        def size(name: str) -> V:
            number, axis = bound[name]
            return f.load("i64", f.offset(self.words_in, 8 * (self.inputs_at[number] + 1 + axis)))

        return Sizes(f, size).value(work) >= abi.RELEASE_GIL

    def give_outputs(self) -> None:
        f = self.f
        several = len(self.outputs) != 1
        null = f.const("ptr", 0)
        trouble = f.label("trouble")
        result = f.var("ptr", f.call("PyTuple_New", "ptr", [f.const("i64", len(self.outputs))]) if several else null)
        if several:
            self.go_unless(result.get().ne(null), trouble)
        for number, spec in enumerate(self.outputs):
            made = self.made(number, spec)
            self.go_unless(made.ne(null), trouble)
            if several:
                f.call("PyTuple_SetItem", "i32", [result.get(), f.const("i64", number), made])
            else:
                result.set(made)
        self.close_pool()
        f.ret(result.get())
        f.place(trouble)
        self.drop_outputs()
        self.close_pool()
        if several:
            with f.when(result.get().ne(null)):
                f.call("Py_DecRef", "void", [result.get()])
        f.ret(null)

    def made(self, number: int, spec: object) -> V:
        """An output as an object of Python; null with an exception set."""
        f, place = self.f, self.f.offset(self.words_out, 8 * self.outputs_at[number])
        if isinstance(spec, ValueSpec):
            p = f.load("ptr", place)
            made = f.call(VALUE_OUT, "ptr", [self.pool(), p, self.type_number(spec)])
            counted.release(f, self.pool(), p)
            return made
        assert isinstance(spec, TensorSpec)
        descriptor = f.load("ptr", context_word(f, Word.DESCRIPTORS + len(self.inputs) + number))
        return f.call(WRAP, "ptr", [descriptor, f.const("i32", len(spec.shape)), place])

    def go_unless(self, condition: V, label: str) -> None:
        after = self.f.label("go")
        self.f.branch(condition, after, label)
        self.f.place(after)

    def drop_outputs(self) -> None:
        """Free what no array owns yet (`hst_wrap` clears the pointers that it took)."""
        f = self.f
        for spec, at in zip(self.outputs, self.outputs_at, strict=True):
            if isinstance(spec, TensorSpec):
                p = f.load("ptr", f.offset(self.words_out, 8 * at))
                with f.when(p.ne(f.const("ptr", 0))):
                    f.call("free", "void", [field(f, f.offset(p, -HEADER), RAW)])

    def fail(self, code: V) -> None:
        f = self.f
        self.close_pool()
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
