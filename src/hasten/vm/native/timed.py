"""The native driver with marks: it notes when each instruction begins and when it ends, for profiles.

    emit_timed(program, isa, kernels)     LLVM text of such a driver with its call path; link exporting `EXPORTS`

Kernels are called where they lie: `kernels` maps their names to addresses in this process. The clock is the CPU's own counter. Marks are kept in two
arrays, `TICKS` (the counter) and `CODES` (twice the number of the instruction among all of the Program, as in `abi.everything`; one more where it ends);
`POSITION` is how many there are, and is set back from outside. A Return and a tail call do not end: the Invoke does that brought the run there.
"""

from __future__ import annotations

from collections.abc import Mapping

from hasten.codegen.builder import Function, Module, V
from hasten.codegen.isa import Isa
from hasten.vm import abi
from hasten.vm.native.call import emit_call
from hasten.vm.native.code import Code, Numbers
from hasten.vm.native.driver import emit_driver
from hasten.vm.program import Instruction, Invoke, Program, Return

CAPACITY = 1 << 17  # marks of one run; later ones are not noted
CALIBRATION = 4096  # marks that CALIBRATE makes
POSITION, TICKS, CODES, CALIBRATE = "hst_position", "hst_ticks", "hst_codes", "hst_calibrate"
EXPORTS = (*abi.MODEL_EXPORTS, POSITION, TICKS, CODES, CALIBRATE)
_MARK = "hst_mark"
_COUNTERS = {"x86_64": "llvm.readcyclecounter", "aarch64": "llvm.readsteadycounter"}


class _MarkedNumbers(Numbers):
    """Emits marks around every instruction."""

    def __init__(self, program: Program):
        super().__init__()
        self.number = {id(i): n for n, i in enumerate(abi.everything(program))}

    def begin(self, code: Code, i: Instruction) -> None:
        _mark(code.f, 2 * self.number[id(i)])

    def end(self, code: Code, i: Instruction) -> None:
        if not isinstance(i, Return) and not (isinstance(i, Invoke) and i.tail):
            _mark(code.f, 2 * self.number[id(i)] + 1)


def _mark(f: Function, what: int) -> None:
    f.call(_MARK, "void", [f.const("i64", what)])


def _emit_mark(module: Module) -> None:
    """hst_mark(what); hst_calibrate() makes many."""
    for name, count in ((POSITION, 1), (TICKS, CAPACITY), (CODES, CAPACITY)):
        module.global_text(name, f"@{name} = dso_local global [{count} x i64] zeroinitializer, align 64")
    f = module.function(_MARK, [("what", "i64")], "void", "nounwind noinline", internal=True)
    position = V(f, "ptr", f"@{POSITION}")
    at = f.load("i64", position)
    with f.when(at < CAPACITY):
        now = f.intrinsic(_COUNTERS[module.isa.architecture], "i64", [], [])
        f.store(now, f.at(V(f, "ptr", f"@{TICKS}"), at, 8))
        f.store(f.args[0], f.at(V(f, "ptr", f"@{CODES}"), at, 8))
        f.store(at + 1, position)
    f.ret()
    f = module.function(CALIBRATE, [])
    with f.loop(0, CALIBRATION):
        _mark(f, 0)
    f.ret()


def emit_timed(program: Program, isa: Isa, kernels: Mapping[str, int]) -> str:
    """See the text of this file. Raises CompileError for a Program that only the interpreter can run."""
    module = Module(isa)
    for name, address in kernels.items():  # of the same name as those in the model's image
        module.global_text(name, f"define internal void @{name}(ptr %a, i64 %t, i64 %n) {{\n  %k = inttoptr i64 {address} to ptr\n"
                           "  tail call void %k(ptr %a, i64 %t, i64 %n)\n  ret void\n}")  # fmt: skip
    emit_driver(module, program, _MarkedNumbers(program))
    emit_call(module, program)
    _emit_mark(module)
    return module.text()
