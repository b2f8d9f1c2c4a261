"""Pictures as inputs: exact pixels, nothing done unasked, helpful refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.base.errors import InputError, MissingDependency, ShapeMismatch
from hasten.cli.pictures import PictureOptions, read_picture

Image = pytest.importorskip("PIL.Image", reason="needs pillow")


@pytest.fixture
def pixels() -> np.ndarray[Any, Any]:
    return np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3) * 2


@pytest.fixture
def file(tmp_path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    Image.fromarray(pixels).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def options(**given: Any) -> PictureOptions:
    texts: dict[str, Any] = dict(resize=None, scale=None, mean=None, std=None, layout=None, bgr=False)
    return PictureOptions.parse(**(texts | given))


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("uint8", (1, 3, 5, 6), lambda p: p.transpose(2, 0, 1)[None]),
        ("float32", ("n", "h", "w", 3), lambda p: p[None]),
        ("float16", (3, "h", "w"), lambda p: p.transpose(2, 0, 1)),
        ("uint8", (5, 6, 3), lambda p: p),
    ],
)
def test_pixels_as_they_are(tensor: Any, file: Path, pixels: Any, dtype: str, shape: Any, expected: Any) -> None:
    array, remarks = read_picture(file, tensor("x", dtype, shape), options())
    assert array.dtype == dtype and array.flags.c_contiguous and np.array_equal(array, expected(pixels))
    assert bool(remarks) == (dtype != "uint8")  # a float input may want another range


def test_grey(tensor: Any, file: Path) -> None:
    planes, _ = read_picture(file, tensor("x", "uint8", (1, 1, 5, 6)), options())
    plain, _ = read_picture(file, tensor("x", "uint8", (5, 6)), options())
    last, _ = read_picture(file, tensor("x", "uint8", (1, 5, 6, 1)), options())
    assert planes.shape == (1, 1, 5, 6) and last.shape == (1, 5, 6, 1)
    assert np.array_equal(planes[0, 0], plain) and np.array_equal(last[0, :, :, 0], plain)


def test_scale_mean_std_in_this_order(tensor: Any, file: Path, pixels: Any) -> None:
    asked = options(scale="1/255", mean="0.1,0.2,0.3", std="0.5")
    array, remarks = read_picture(file, tensor("x", "float32", (1, 5, 6, 3)), asked)
    assert np.allclose(array[0], (pixels / 255 - [0.1, 0.2, 0.3]) / 0.5, atol=1e-6) and not remarks


def test_bgr(tensor: Any, file: Path, pixels: Any) -> None:
    array, _ = read_picture(file, tensor("x", "uint8", (5, 6, 3)), options(bgr=True))
    assert np.array_equal(array, pixels[..., ::-1])


def test_a_wrong_size_is_refused_until_resizing_is_asked_for(tensor: Any, file: Path) -> None:
    wanted = tensor("x", "uint8", (1, 3, 8, 10))
    with pytest.raises(ShapeMismatch, match=r"p.png is 6x5 \(width x height\), and input 'x'.* wants 10x8"):
        read_picture(file, wanted, options())
    assert read_picture(file, wanted, options(resize="auto"))[0].shape == (1, 3, 8, 10)
    assert read_picture(file, tensor("x", "uint8", (1, 3, "h", "w")), options(resize="20x12"))[0].shape == (
        1,
        3,
        12,
        20,
    )
    with pytest.raises(ShapeMismatch):
        read_picture(file, wanted, options(resize="20x12"))


def test_an_unclear_layout_must_be_told(tensor: Any, file: Path) -> None:
    wanted = tensor("x", "uint8", ("n", "a", "b", "c"))
    with pytest.raises(InputError, match="--layout nchw"):
        read_picture(file, wanted, options())
    assert read_picture(file, wanted, options(layout="nhwc"))[0].shape == (1, 5, 6, 3)
    assert read_picture(file, wanted, options(layout="NCHW"))[0].shape == (1, 3, 5, 6)


@pytest.mark.parametrize(
    ("dtype", "shape", "asked", "message"),
    [
        ("float32", (1, 10), {}, None),
        ("float32", (10,), {}, "that is no picture"),
        ("float32", (2, 3, 5, 6), {}, "wants 2 pictures"),
        ("float32", (1, 7, 5, 6), {"layout": "nchw"}, "not 7"),
        ("uint8", (1, 3, 5, 6), {"scale": "1/255"}, "make fractions"),
        ("float32", (1, 3, 5, 6), {"mean": "1,2"}, "--mean has 2 values for 3 channels"),
    ],
)
def test_refusals(tensor: Any, file: Path, dtype: str, shape: Any, asked: Any, message: str | None) -> None:
    with pytest.raises(InputError, match=message):
        read_picture(file, tensor("x", dtype, shape), options(**asked))


@pytest.mark.parametrize(
    "asked",
    [
        {"scale": "a"},
        {"scale": "1/0"},
        {"scale": "1,2"},
        {"std": "0"},
        {"resize": "3"},
        {"resize": "0x3"},
        {"layout": "hw"},
    ],
)
def test_options_that_mean_nothing(asked: Any) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(asked))}"):
        options(**asked)


def test_no_picture(tensor: Any, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"text")
    with pytest.raises(InputError, match="no picture that Pillow can read"):
        read_picture(tmp_path / "p.png", tensor("x", "uint8", (1, 3, 5, 6)), options())


def test_without_pillow(tensor: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingDependency, match="pip install pillow"):
        read_picture(file, tensor("x", "uint8", (1, 3, 5, 6)), options())
