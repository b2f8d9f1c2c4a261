"""Every model of the data folder against ONNX Runtime, on its own kinds of inputs, in several shapes; state is fed back over several steps.

Which input goes to which model says benchmarks/trained.py; models without a row there get random numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hasten

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import trained
from trained import Case, Feeds, run_steps

pytestmark = [pytest.mark.models, pytest.mark.slow]


def names() -> list[str]:
    """Models of the data folder (none where there is no folder)."""
    folder = trained.data_folder()
    return sorted(p.stem for p in (folder / "models").glob("*.onnx")) if folder else []


def cases(data: Path, name: str) -> list[Case]:
    """All shapes of a model."""
    return [case for case in trained.load(data, [name]) if case.model == name]


def peer(path: Path) -> Callable[[Feeds], Feeds]:
    """ONNX Runtime with the model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options)
    outputs = [o.name for o in session.get_outputs()]
    return lambda feeds: dict(zip(outputs, session.run(None, feeds), strict=True))


@pytest.mark.parametrize("name", names())
def test_against_onnxruntime(name: str, data: Path, tmp_path: Path) -> None:
    path = data / "models" / f"{name}.onnx"
    run = peer(path)
    compiled = hasten.compile(path, threads=2)
    compiled.save(tmp_path / "model.hasten")
    loaded = hasten.load(tmp_path / "model.hasten")
    for case in cases(data, name):
        want = run_steps(run, case)
        for model in (compiled, loaded):
            got = run_steps(model.run, case)
            assert [list(step) for step in got] == [list(step) for step in want], case.label
            case.check(got, want)


@pytest.mark.parametrize("name", names())
def test_no_host_ops(name: str, data: Path) -> None:
    """Everything in these models is native."""
    assert hasten.compile(data / "models" / f"{name}.onnx", host_ops=False, threads=2).report().host_ops == []


@pytest.mark.parametrize("precision", ["strict", "medium"])
@pytest.mark.parametrize("name", ["face_mtcnn_pnet", "ocr_rec_ppocrv4", "text_nnsplit_en"])
def test_precisions(name: str, precision: str, data: Path) -> None:
    case = cases(data, name)[0]
    got, want = (run_steps(run, case) for run in (hasten.compile(case.path, precision=precision, threads=2).run, peer(case.path)))
    apart = case.check(got, want, loose=precision == "medium")
    assert apart <= (1e-4 if precision == "strict" else trained.LOOSE_TOLERANCE)


@pytest.mark.parametrize("isa", ["portable", "avx2"])
@pytest.mark.parametrize("name", ["face_yunet_n", "vad_silero", "classify_squeezenet_fp16", "tab_xgb_movielens"])
def test_other_levels(name: str, isa: str, data: Path) -> None:
    path = data / "models" / f"{name}.onnx"
    compiled, run = hasten.compile(path, isa=isa, threads=2), peer(path)
    for case in cases(data, name):
        case.check(run_steps(compiled.run, case), run_steps(run, case))
