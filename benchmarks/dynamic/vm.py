"""What Programs cost around their kernels (bar N8 of the published system, docs/dynamic.md).

python benchmarks/dynamic/vm.py

The encoder at length 128 and trained models of the data folder, on one thread. Each Program runs with kernels that return at once, in the native driver and in
the interpreter: nanoseconds of a whole call for each instruction that it runs, and the share of such a call of a real one. `around` is what the profile
of real calls finds outside of kernels, memory that is cold after them included.
The same for a recursive network is in tree.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import machine  # noqa: E402
import minilm  # noqa: E402
import numpy as np  # noqa: E402
import trained  # noqa: E402
from encoder import turns  # noqa: E402
from tree import least  # noqa: E402

import hasten  # noqa: E402
from hasten.bench.statistics import interval  # noqa: E402
from hasten.codegen import isa as isas  # noqa: E402
from hasten.codegen.link import link  # noqa: E402
from hasten.codegen.llvm import compile_text  # noqa: E402
from hasten.profile.record import record  # noqa: E402
from hasten.vm import abi, callpath  # noqa: E402
from hasten.vm.image import LoadedImage  # noqa: E402
from hasten.vm.interpreter import InterpretedModel  # noqa: E402
from hasten.vm.native import emit_model  # noqa: E402
from hasten.vm.runtime import loaded_runtime, numpy_api  # noqa: E402

Data = dict[str, Any]
MODELS = ("denoise_dtln_2", "face_yunet_n", "ocr_rec_ppocrv4", "text_nnsplit_en", "vad_silero_16k_sequence")  # what kernels find decides nothing in them
GOALS = {"ns": 100.0, "native over interpreter": 0.5, "share": 0.02}
LENGTH = 128


def drivers(model: hasten.CompiledModel) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    """Both drivers of the model's Program, with kernels that return at once."""
    program, target = model.driver.program, isas.get(model.report().isa)
    kernels = "".join(f"define void @{name}(ptr %args, i64 %thread, i64 %threads) {{ ret void }}\n" for name in abi.kernel_names(program))
    objects = [compile_text(text, target, 1) for text in (emit_model(program, target), kernels)]
    image = LoadedImage.from_memory(link(objects, callpath.exports(program, interpreted=True)))
    runtime, api = loaded_runtime(), numpy_api()
    assert isinstance(model.driver, callpath.NativeModel) and runtime is not None and api is not None
    constants = model.driver.constants
    native = callpath.NativeModel(program, image, constants, runtime, api, 1)
    return {"native": native.run, "interpreter": InterpretedModel(program, image, constants, runtime, 1).run}


def measured(name: str, model: hasten.CompiledModel, feeds: Mapping[str, Any], args: argparse.Namespace) -> Data:
    profile = record(model, feeds, seconds=0.2 if args.quick else 2.0)
    assert profile.instructions is not None
    instructions = sum(row.calls for row in profile.instructions.rows)
    calls = drivers(model)
    times: dict[str, list[float]] = {driver: [] for driver in calls}
    for driver in turns(calls, args.rounds or (3 if args.quick else 20)):
        times[driver].append(least(lambda driver=driver: calls[driver](feeds), 20 if driver == "native" else 3))
    ns = {driver: interval([seconds / instructions * 1e9 for seconds in found]) for driver, found in times.items()}
    over = interval([a / b for a, b in zip(times["native"], times["interpreter"], strict=True)])
    row = {"instructions": instructions, "kernels": len(profile.kernels), "ns": {driver: vars(found) for driver, found in ns.items()}, "ratio": vars(over),
           "call_us": profile.least_call * 1e6, "share": min(times["native"]) / profile.least_call, "around": profile.around / profile.least_call}  # fmt: skip
    print(f"{name:18} {instructions:5} instructions, {len(profile.kernels):4} of them kernels: an instruction takes {ns['native'].value:.1f} ns in the native "
          f"driver and {ns['interpreter'].value:.0f} ns in the interpreter, {over.value:.4f} as long (goals {GOALS['ns']:.0f} ns, "
          f"{GOALS['native over interpreter']}); without kernels {row['share']:.3%} of a call, around kernels {row['around']:.2%}")  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int)
    machine.add_arguments(parser)
    args = parser.parse_args()
    data = trained.data_folder()
    if data is None:
        sys.exit("the data folder is not here: set HASTEN_DATA")
    quiet = machine.Quiet(args.even_if_busy)
    machine.pin(1)
    with tempfile.TemporaryDirectory(prefix="hasten-vm-") as folder:
        path = Path(folder) / "minilm.onnx"
        minilm.export(path)
        ids = np.random.default_rng(5).integers(999, 30522, (1, LENGTH))
        found = {"minilm": measured("minilm", hasten.compile(str(path), threads=1), {"ids": ids}, args)}
    print(f"the encoder at {LENGTH}: {found['minilm']['around']:.2%} of a call is not in kernels (goal {GOALS['share']:.0%})")
    for case in trained.load(data, MODELS[:2] if args.quick else MODELS, first_only=True):
        if case.model in MODELS:
            found[case.model] = measured(case.model, hasten.compile(str(case.path), threads=1), case.feeds, args)
    machine.write("dynamic/vm", quiet, {"goals": GOALS, "length": LENGTH, "models": found}, args)


if __name__ == "__main__":
    main()
