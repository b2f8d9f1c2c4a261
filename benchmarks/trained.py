"""Real trained models with real inputs: what the benchmarks and whoever compares engines run.

`load(folder)` gives a `Case` for each model and shape: photographs, speech, text and tables, preprocessed as far as times and comparisons
need it; several shapes where a model's shapes are dynamic, state carried over `STEPS` steps where it has state. A model without a row in the
table gets seeded random inputs.
"""

from __future__ import annotations

import os
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Feeds = dict[str, Any]
TOLERANCE = 1e-3  # largest difference, relative to the largest value of the reference
HALF_TOLERANCE = 4e-3  # for outputs in 16-bit floats: about four roundings
LOOSE_TOLERANCE = 0.05  # for bfloat16 products (precision="medium")
STEPS = 5  # of a model with state


def data_folder() -> Path | None:
    """The folder with models/ and inputs/: HASTEN_DATA, or beside the checkout; None where there is none."""
    folder = Path(os.environ.get("HASTEN_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    return folder if (folder / "models").is_dir() else None


@dataclass
class Case:
    """One model with one set of inputs. `carry` names, for each output that is state, the input that takes it in the next step; of `classes`
    the largest value along the last axis must be the same one."""

    model: str
    label: str
    path: Path
    feeds: Feeds
    carry: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def check(self, got: Sequence[Feeds], want: Sequence[Feeds], loose: bool = False) -> float:
        """The largest relative difference over all steps; AssertionError beyond the tolerance, or where integers or classes differ."""
        worst = 0.0
        for ours, theirs in zip(got, want, strict=True):
            for name, reference in theirs.items():
                assert name in ours, f"output {name!r} is missing"
                worst = max(worst, difference(ours[name], reference, LOOSE_TOLERANCE if loose else TOLERANCE, name))
                if name in self.classes and not loose:
                    same = np.array_equal(np.argmax(ours[name], -1), np.argmax(reference, -1))
                    assert same, f"{name}: another class has the largest value"
        return worst


def run_steps(run: Callable[[Feeds], Feeds], case: Case) -> list[Feeds]:
    """The outputs of a case: of one step, or of several with the state carried over."""
    feeds, outputs = dict(case.feeds), []
    for _ in range(STEPS if case.carry else 1):
        out = {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in run(feeds).items()}
        outputs.append(out)
        feeds.update({into: out[name] for name, into in case.carry.items()})
    return outputs


def difference(got: Any, want: Any, tolerance: float, where: str) -> float:
    """The largest difference relative to the largest reference value. AssertionError where it is beyond the tolerance, where shapes, dtypes
    or integers differ, or NaN and infinity are in different places."""
    if isinstance(want, dict):
        assert set(got) == set(want), f"{where}: different keys"
        return max((difference(got[k], want[k], tolerance, where) for k in want), default=0.0)
    if isinstance(want, (list, tuple)):
        assert len(got) == len(want), f"{where}: {len(got)} elements instead of {len(want)}"
        return max((difference(a, b, tolerance, where) for a, b in zip(got, want, strict=True)), default=0.0)
    x, y = np.asarray(got), np.asarray(want)
    assert x.shape == y.shape, f"{where}: shape {x.shape} instead of {y.shape}"
    assert x.dtype == y.dtype, f"{where}: {x.dtype} instead of {y.dtype}"
    if y.dtype.kind != "f":
        assert np.array_equal(x, y), f"{where}: {np.count_nonzero(x != y)} of {y.size} values differ"
        return 0.0
    a, b = x.astype(np.float64), y.astype(np.float64)
    fine = np.isfinite(b)
    assert np.array_equal(a[~fine], b[~fine], equal_nan=True), f"{where}: NaN or infinity in different places"
    if not fine.any():
        return 0.0
    apart = float(np.abs(a[fine] - b[fine]).max() / max(1e-6, np.abs(b[fine]).max()))
    limit = max(tolerance, HALF_TOLERANCE if y.dtype.itemsize == 2 else 0.0)
    assert apart <= limit, f"{where}: {apart:.1e} of the largest value apart, more than {limit:.0e}"
    return apart


class Inputs:
    """The real inputs, as float32 arrays."""

    def __init__(self, folder: Path):
        self.folder = folder

    def photo(
        self, height: int, width: int, name: str = "photo_astronaut", *, scale: float = 1 / 255, shift: float = 0.0, batch: int = 1, last: bool = False
    ) -> Array:
        """A photograph as [batch, 3, height, width] (`last`: channels last), pixels * scale + shift; the batch is the picture moved along."""
        from PIL import Image

        pixels = np.asarray(Image.open(self.folder / f"{name}.png").convert("RGB").resize((width, height)), np.float32)
        x = pixels * np.float32(scale) + np.float32(shift)
        x = np.stack([np.roll(x, 7 * k, 1) for k in range(batch)])
        return np.ascontiguousarray(x if last else x.transpose(0, 3, 1, 2), np.float32)

    def speech(self, count: int, at: int = 16000) -> Array:
        """Samples at 16 kHz, -1 to 1."""
        with wave.open(str(self.folder / "speech_librispeech_16k_30s.wav")) as sound:
            samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.float32) / 32768
        return np.resize(samples[at:], count).astype(np.float32)

    def speeches(self, batch: int, count: int, at: int, step: int) -> Array:
        """[batch, count] samples, rows beginning `step` apart."""
        return np.stack([self.speech(count, at + step * k) for k in range(batch)])

    def text(self, batch: int, count: int, step: int) -> Array:
        """[batch, count] bytes of English."""
        raw = np.frombuffer((self.folder / "text_shakespeare_200k.txt").read_bytes(), np.uint8)
        return np.stack([raw[step * k : step * k + count] for k in range(batch)])

    def rows(self, name: str, columns: int, count: int) -> Array:
        """[count, columns] of a table."""
        with np.load(self.folder / f"{name}.npz") as tables:
            table = next(tables[key] for key in tables.files if tables[key].ndim == 2 and tables[key].shape[1] == columns)
        return np.resize(table, (count, columns)).astype(np.float32)


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


Row = tuple[str, Feeds]  # label of the shape, inputs


def vision(i: Inputs) -> dict[str, list[Row]]:
    """Models of pictures: one input each."""

    def photos(key: str, sizes: Sequence[tuple[int, int]], **options: Any) -> list[Row]:
        return [(f"{h}x{w}", {key: i.photo(h, w, **options)}) for h, w in sizes]

    unit, imagenet = {"scale": 1 / 128, "shift": -1.0}, {"scale": 1 / 58, "shift": -2.1}
    page = {"name": "scan_page"}
    return {
        "classify_mnist_cnn": [("28x28", {"Input3": i.photo(28, 28, scale=1.0)[:, :1]})],
        "classify_squeezenet_fp16": [("224x224", {"data_0": i.photo(224, 224, "photo_chelsea", **imagenet).astype(np.float16)})],
        "detect_nanodet_m320": photos("input.1", [(320, 320)], scale=1 / 57, shift=-2.0),
        "face_mtcnn_onet": [(f"n{n}", {"crops": i.photo(48, 48, batch=n, **unit)}) for n in (1, 3, 17)],
        "face_mtcnn_pnet": photos("image", [(96, 80), (128, 128), (333, 257), (12, 12)], **unit),
        "face_ultraface_rfb320": photos("input", [(240, 320)], **unit),
        "face_yunet_n": photos("input", [(320, 320), (160, 256), (480, 640)], scale=1.0),
        "landmark_face468": photos("input_1", [(192, 192)], last=True, **unit),
        "ocr_cls_ppocr": [(f"n{n}", {"x": i.photo(48, 192, batch=n, **page, **unit)}) for n in (1, 2, 3)],
        "ocr_det_ppocrv4": photos("x", [(160, 384), (192, 384), (416, 768), (96, 96)], **page, **imagenet),
        "ocr_rec_ppocrv4": [(f"n{n} {w}", {"x": i.photo(48, w, batch=n, **page, **unit)}) for n, w in ((1, 320), (1, 384), (2, 192), (1, 97))],
        "segment_espnet": photos("image", [(256, 512), (432, 768), (128, 128)]),
        "segment_selfie": photos("input_1", [(256, 256)], last=True),
        "style_candy": photos("inputImage", [(256, 256), (192, 320), (100, 76)], scale=1.0),
        "superres_realesr_x4": photos("image", [(64, 64), (48, 80), (33, 17)]),
    }


def sound(i: Inputs) -> dict[str, list[Row]]:
    """Models of speech and music, some with state."""
    spectrum = np.abs(np.fft.rfft(i.speech(512, 30000))).astype(np.float32)[None, None]

    def silero(batch: int, count: int, rate: int) -> Row:
        feeds = {"input": i.speeches(batch, count, 16000, 16000), "state": zeros(2, batch, 128), "sr": np.array(rate, np.int64)}
        return f"n{batch} {rate // 1000} kHz", feeds

    def sequence(count: int) -> Row:
        return f"{count} frames", {"input": np.resize(i.speech(count * 576), (count, 576)), "h": zeros(1, 1, 128), "c": zeros(1, 1, 128)}

    return {
        "audio_dnsmos": [(f"n{n}", {"input_1": i.speeches(n, 144160, 0, 9000)}) for n in (1, 2)],
        "audio_melspectrogram": [(f"n{b} {n}", {"input": i.speeches(b, n, 16000, 999) * 32768}) for b, n in ((1, 1280), (1, 12400), (2, 12400), (1, 31333))],
        "audio_speech_embedding": [(f"n{n}", {"input_1": np.resize(i.speech(n * 76 * 32) * 8, (n, 76, 32, 1))}) for n in (1, 5, 16)],
        "denoise_dtln_1": [("stream", {"input_2": spectrum, "input_3": zeros(1, 2, 128, 2)})],
        "denoise_dtln_2": [("stream", {"input_4": i.speech(512, 30000)[None, None], "input_5": zeros(1, 2, 128, 2)})],
        "music_basic_pitch": [(f"n{n}", {"serving_default_input_2:0": i.speeches(n, 43844, 0, 50000)[..., None]}) for n in (1, 3)],
        "vad_silero": [silero(1, 576, 16000), silero(3, 576, 16000), silero(1, 288, 8000)],
        "vad_silero_16k_sequence": [sequence(n) for n in (10, 200, 3)],
    }


def other(i: Inputs) -> dict[str, list[Row]]:
    """Models of text, tables, and a robot's joints."""
    return {
        "rl_go1_policy": [("n1", {"obs": i.speech(48)[None] * 4})],
        "tab_rf_digits": [(f"n{n}", {"x": i.rows("tab_digits_256", 64, n)}) for n in (1, 256)],
        "tab_xgb_movielens": [(f"n{n}", {"x": i.rows("tab_movielens_2048", 25, n)}) for n in (1, 2048)],
        "text_magika_v3_3": [(f"n{n}", {"bytes": i.text(n, 2048, 3000).astype(np.int32)}) for n in (1, 3)],
        "text_nnsplit_en": [(f"n{b} {n}", {"input": i.text(b, n, 500)}) for b, n in ((1, 200), (4, 400), (1, 58), (2, 1000))],
    }


CARRIES = {
    "denoise_dtln_1": {"tf_op_layer_stack_2": "input_3"},
    "denoise_dtln_2": {"tf_op_layer_stack_5": "input_5"},
    "vad_silero": {"stateN": "state"},
    "vad_silero_16k_sequence": {"hn": "h", "cn": "c"},
}
CLASSES = {
    "classify_mnist_cnn": ("Plus214_Output_0",),
    "text_magika_v3_3": ("target_label",),
    "tab_rf_digits": ("probabilities",),
    "tab_xgb_movielens": ("probabilities",),
}


BATCH_AXES = {"vad_silero": {"input": 0, "state": 1}}  # by input; of other models, the first axis of all
NOT_BATCHES = ("vad_silero_16k_sequence",)  # models whose first axis is something else


def batched(case: Case, count: int) -> Case | None:
    """The case with `count` items, each the first one moved along; None where the model takes only one."""
    import onnx

    axes = BATCH_AXES.get(case.model) or dict.fromkeys(case.feeds, 0)
    sizes = {v.name: v.type.tensor_type.shape.dim for v in onnx.load(case.path, load_external_data=False).graph.input}
    if case.model in NOT_BATCHES or any(sizes[name][axis].dim_value > 0 for name, axis in axes.items()):
        return None
    feeds = dict(case.feeds)
    for name, axis in axes.items():
        item = np.take(feeds[name], [0], axis)
        along = max((k for k in range(item.ndim) if k != axis), key=lambda k: item.shape[k])
        feeds[name] = np.ascontiguousarray(np.concatenate([np.roll(item, 7 * k, along) for k in range(count)], axis))
    return Case(case.model, f"n{count} {case.label}", case.path, feeds, case.carry, case.classes)


def random_feeds(path: Path, seed: int = 0, size: int = 2) -> Feeds:
    """Seeded random inputs of a model that the tables don't know: `size` for each unknown dim."""
    import onnx

    generator, feeds = np.random.default_rng(seed), {}
    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        shape = [d.dim_value or size for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        feeds[value.name] = generator.standard_normal(shape).astype(dtype) if dtype.kind == "f" else generator.integers(0, 10, shape).astype(dtype)
    return feeds


def load(folder: Path, parts: Sequence[str] = (), first_only: bool = False) -> Iterator[Case]:
    """The cases of the models in folder/models whose names contain one of `parts`."""
    inputs = Inputs(folder / "inputs")
    rows = {**vision(inputs), **sound(inputs), **other(inputs)}
    for path in sorted((folder / "models").glob("*.onnx")):
        name = path.stem
        if parts and not any(part in name for part in parts):
            continue
        shapes = rows.get(name) or [("random", random_feeds(path))]
        for label, feeds in shapes[: 1 if first_only else None]:
            yield Case(name, label, path, feeds, CARRIES.get(name, {}), CLASSES.get(name, ()))
