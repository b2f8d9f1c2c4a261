"""Every model of the data folder against ONNX Runtime, on its own kinds of inputs, in several shapes; state is fed back over several steps.

Inputs come from the folder's photographs, recordings and texts where there are some; models without a row in `cases` get random numbers.
"""

from __future__ import annotations

import wave
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hasten

pytestmark = [pytest.mark.models, pytest.mark.slow]
Feeds = dict[str, np.ndarray]


@dataclass
class Case:
    """Inputs of one call; `carry`: outputs that become inputs of the next."""

    label: str
    feeds: Feeds
    carry: Mapping[str, str] = field(default_factory=dict)


class Inputs:
    """Real inputs in the shapes that models take."""

    def __init__(self, folder: Path):
        self.folder = folder

    def photo(self, h: int, w: int, name: str = "photo_astronaut.png", last: bool = False, scale: float = 1 / 255, shift: float = 0.0,
              batch: int = 1) -> np.ndarray:  # fmt: skip
        """[batch, 3, h, w], or channels last; values times scale plus shift."""
        from PIL import Image

        picture = Image.open(self.folder / name).convert("RGB").resize((w, h))
        x = np.asarray(picture, np.float32) * np.float32(scale) + np.float32(shift)
        x = np.stack([np.roll(x, 7 * i, 1) for i in range(batch)])
        return np.ascontiguousarray(x if last else x.transpose(0, 3, 1, 2))

    def speech(self, n: int, at: int = 16000) -> np.ndarray:
        with wave.open(str(self.folder / "speech_librispeech_16k_30s.wav")) as w:
            x = np.frombuffer(w.readframes(w.getnframes()), "<i2").astype(np.float32) / 32768
        return np.resize(x[at:], n).astype(np.float32)

    def text(self, n: int, at: int = 0) -> np.ndarray:
        return np.frombuffer((self.folder / "text_shakespeare_200k.txt").read_bytes()[at : at + n], np.uint8)

    def rows(self, name: str, columns: int, n: int) -> np.ndarray:
        with np.load(self.folder / name) as z:
            x = next(z[k] for k in z.files if z[k].ndim == 2 and z[k].shape[1] == columns)
        return np.resize(x, (n, columns)).astype(np.float32)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def cases(i: Inputs) -> dict[str, list[Case]]:
    """By model."""

    def images(key: str, *sizes: tuple[int, int], **how: Any) -> list[Case]:
        return [Case(f"{h}x{w}", {key: i.photo(h, w, **how)}) for h, w in sizes]

    page = "scan_page.png"
    digit = np.ascontiguousarray(i.photo(28, 28, scale=1.0)[:, :1])
    fourier = np.abs(np.fft.rfft(i.speech(512, 30000))).astype(np.float32)[None, None]
    return {
        "audio_dnsmos": [Case(f"n{n}", {"input_1": np.stack([i.speech(144160, 9000 * j) for j in range(n)])}) for n in (1, 2)],
        "audio_melspectrogram": [Case(f"{b}x{n}", {"input": np.stack([i.speech(n, 16000 + 999 * j) * 32768 for j in range(b)])})
                                 for b, n in ((1, 1280), (1, 12400), (2, 12400), (1, 31333))],
        "audio_speech_embedding": [Case(f"n{n}", {"input_1": np.resize(i.speech(n * 76 * 32) * 8, (n, 76, 32, 1))}) for n in (1, 5, 16)],
        "classify_mnist_cnn": [Case("1", {"Input3": digit})],
        "classify_squeezenet_fp16": [Case("224", {"data_0": i.photo(224, 224, "photo_chelsea.png", scale=1 / 58, shift=-2.1).astype(np.float16)})],
        "denoise_dtln_1": [Case("frame", {"input_2": fourier, "input_3": zeros(1, 2, 128, 2)}, {"tf_op_layer_stack_2": "input_3"})],
        "denoise_dtln_2": [Case("frame", {"input_4": i.speech(512, 30000)[None, None], "input_5": zeros(1, 2, 128, 2)},
                                {"tf_op_layer_stack_5": "input_5"})],
        "detect_nanodet_m320": images("input.1", (320, 320), scale=1 / 57, shift=-2.0),
        "face_mtcnn_onet": [c for n in (1, 3, 17) for c in images("crops", (48, 48), batch=n, scale=1 / 128, shift=-1)],
        "face_mtcnn_pnet": images("image", (96, 80), (128, 128), (333, 257), (12, 12), scale=1 / 128, shift=-1),
        "face_ultraface_rfb320": images("input", (240, 320), scale=1 / 128, shift=-1),
        "face_yunet_n": images("input", (320, 320), (160, 256), (480, 640), scale=1.0),
        "landmark_face468": images("input_1", (192, 192), last=True, scale=1 / 128, shift=-1),
        "music_basic_pitch": [Case(f"n{n}", {"serving_default_input_2:0": np.stack([i.speech(43844, 50000 * j)[:, None] for j in range(n)])})
                              for n in (1, 3)],
        "ocr_cls_ppocr": [c for n in (1, 2, 3) for c in images("x", (48, 192), name=page, batch=n, scale=1 / 128, shift=-1)],
        "ocr_det_ppocrv4": images("x", (160, 384), (192, 384), (416, 768), (96, 96), name=page, scale=1 / 58, shift=-2.1),
        "ocr_rec_ppocrv4": [c for n, w in ((1, 320), (1, 384), (2, 192), (1, 97))
                            for c in images("x", (48, w), name=page, batch=n, scale=1 / 128, shift=-1)],
        "rl_go1_policy": [Case("1", {"obs": i.speech(48)[None] * 4})],
        "segment_espnet": images("image", (256, 512), (432, 768), (128, 128)),
        "segment_selfie": images("input_1", (256, 256), last=True),
        "style_candy": images("inputImage", (256, 256), (192, 320), (100, 76), scale=1.0),
        "superres_realesr_x4": images("image", (64, 64), (48, 80), (33, 17)),
        "tab_rf_digits": [Case(f"n{n}", {"x": i.rows("tab_digits_256.npz", 64, n)}) for n in (1, 256)],
        "tab_xgb_movielens": [Case(f"n{n}", {"x": i.rows("tab_movielens_2048.npz", 25, n)}) for n in (1, 2048)],
        "text_magika_v3_3": [Case(f"n{n}", {"bytes": np.stack([i.text(2048, 3000 * j) for j in range(n)]).astype(np.int32)}) for n in (1, 3)],
        "text_nnsplit_en": [Case(f"{b}x{n}", {"input": np.stack([i.text(n, 500 * j) for j in range(b)])})
                            for b, n in ((1, 200), (4, 400), (1, 58), (2, 1000))],
        "vad_silero": [Case(f"b{b}x{n}", {"input": np.stack([i.speech(n, 16000 * (j + 1)) for j in range(b)]), "state": zeros(2, b, 128),
                                          "sr": np.array(rate, np.int64)}, {"stateN": "state"})
                       for b, n, rate in ((1, 576, 16000), (3, 576, 16000), (1, 288, 8000))],
        "vad_silero_16k_sequence": [Case(f"s{n}", {"input": np.resize(i.speech(n * 576), (n, 576)), "h": zeros(1, 1, 128), "c": zeros(1, 1, 128)},
                                         {"hn": "h", "cn": "c"}) for n in (10, 200, 3)],
    }  # fmt: skip


def random_case(path: Path) -> Case:
    """Seeded numbers for a model that has no row; unknown sizes are 2."""
    import onnx

    rng, feeds = np.random.default_rng(0), {}
    graph = onnx.load(path, load_external_data=False).graph
    held = {x.name for x in graph.initializer}
    for v in graph.input:
        if v.name not in held:
            t = v.type.tensor_type
            shape = [d.dim_value or 2 for d in t.shape.dim]
            dt = onnx.helper.tensor_dtype_to_np_dtype(t.elem_type)
            feeds[v.name] = rng.standard_normal(shape).astype(dt) if dt.kind == "f" else rng.integers(0, 10, shape).astype(dt)
    return Case("random", feeds)


def same(got: Any, want: Any, where: str, tolerance: float = 1e-3) -> None:
    """Integers and text exactly, floats within the tolerance times the largest value."""
    if isinstance(want, (list, tuple)):
        assert len(got) == len(want), where
        for a, b in zip(got, want, strict=True):
            same(a, b, where, tolerance)
        return
    if isinstance(want, dict):
        assert set(got) == set(want), where
        for k in want:
            same(got[k], want[k], where, tolerance)
        return
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape and got.dtype == want.dtype, f"{where}: {got.dtype}{got.shape}, not {want.dtype}{want.shape}"
    if want.dtype.kind != "f":
        assert np.array_equal(got, want), f"{where}: {np.count_nonzero(got != want)} of {want.size} differ"
        return
    a, b = got.astype(np.float64), want.astype(np.float64)
    fine = np.isfinite(b)
    assert np.array_equal(a[~fine], b[~fine], equal_nan=True), f"{where}: NaN or infinity differs"
    error = np.abs(a[fine] - b[fine]).max(initial=0) / max(1e-6, np.abs(b[fine]).max(initial=0))
    assert error <= max(tolerance, 4e-3 if want.dtype.itemsize == 2 else 0), f"{where}: error {error:.2e} of the largest value"


def steps(run: Any, case: Case) -> list[dict[str, Any]]:
    feeds, answers = dict(case.feeds), []
    for _ in range(5 if case.carry else 1):
        answers.append(run(feeds))
        for produced, consumed in case.carry.items():
            feeds[consumed] = answers[-1][produced]
    return answers


def names() -> list[str]:
    """Models of the data folder (none where there is no folder)."""
    import os

    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("HASTEN_DATA") or root.parent / "shared" / "data") / "models"
    return sorted(p.stem for p in folder.glob("*.onnx"))


@pytest.fixture(scope="module")
def table(data: Path) -> dict[str, list[Case]]:
    return cases(Inputs(data / "inputs"))


@pytest.mark.parametrize("name", names())
def test_against_onnxruntime(name: str, data: Path, table: dict[str, list[Case]], tmp_path: Path) -> None:
    import onnxruntime as ort

    path = data / "models" / f"{name}.onnx"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options)
    outputs = [o.name for o in session.get_outputs()]
    compiled = hasten.compile(path, threads=2)
    compiled.save(tmp_path / "model.hasten")
    loaded = hasten.load(tmp_path / "model.hasten")
    for case in table.get(name) or [random_case(path)]:
        want = steps(lambda feeds: dict(zip(outputs, session.run(None, feeds), strict=True)), case)
        for model in (compiled, loaded):
            got = steps(model.run, case)
            for step, (g, w) in enumerate(zip(got, want, strict=True)):
                assert list(g) == list(w)
                for output in w:
                    same(g[output], w[output], f"{name} {case.label}, step {step}, output {output!r}")


@pytest.mark.parametrize("name", names())
def test_no_host_ops(name: str, data: Path) -> None:
    """Everything in these models is native."""
    assert hasten.compile(data / "models" / f"{name}.onnx", host_ops=False, threads=2).report().host_ops == []


@pytest.mark.parametrize("precision", ["strict", "medium"])
@pytest.mark.parametrize("name", ["face_mtcnn_pnet", "ocr_rec_ppocrv4", "text_nnsplit_en"])
def test_precisions(name: str, precision: str, data: Path, table: dict[str, list[Case]]) -> None:
    import onnxruntime as ort

    path = data / "models" / f"{name}.onnx"
    session = ort.InferenceSession(str(path))
    outputs = [o.name for o in session.get_outputs()]
    compiled = hasten.compile(path, precision=precision, threads=2)
    case = table[name][0]
    want = dict(zip(outputs, session.run(None, case.feeds), strict=True))
    got = compiled.run(case.feeds)
    for output in outputs:
        same(got[output], want[output], f"{name} {output}", 1e-4 if precision == "strict" else 0.05)


@pytest.mark.parametrize("isa", ["portable", "avx2"])
@pytest.mark.parametrize("name", ["face_yunet_n", "vad_silero", "classify_squeezenet_fp16", "tab_xgb_movielens"])
def test_other_levels(name: str, isa: str, data: Path, table: dict[str, list[Case]]) -> None:
    import onnxruntime as ort

    path = data / "models" / f"{name}.onnx"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options)
    outputs = [o.name for o in session.get_outputs()]
    compiled = hasten.compile(path, isa=isa, threads=2)
    for case in table[name]:
        got, want = steps(compiled.run, case), steps(lambda feeds: dict(zip(outputs, session.run(None, feeds), strict=True)), case)
        for g, w in zip(got, want, strict=True):
            for output in outputs:
                same(g[output], w[output], f"{name} {case.label} {output}")
