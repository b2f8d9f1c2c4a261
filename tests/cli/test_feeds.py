"""`--input` and `--dim`: every kind of source, and every message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hasten.base.errors import InputError
from hasten.cli.feeds import Declared, declared_inputs, make_feeds


@pytest.fixture
def image(tensor: Any) -> Any:
    return tensor("image", "float32", ("batch", 3, "height", "width"))


def test_missing_inputs_are_listed_with_how_to_give_them(tensor: Any, image: Any) -> None:
    with pytest.raises(InputError) as caught:
        make_feeds([image, tensor("k", "int64", ())], ["k=3"])
    message = str(caught.value)
    assert message.startswith("1 input not given:\n  image  float32 (batch, 3, height, width)")
    assert "--input image=random --dim batch=1 --dim height=1 --dim width=1" in message
    assert "@file.npy" in message


@pytest.mark.parametrize(
    ("source", "check"),
    [
        ("zeros", lambda x: not x.any()),
        ("ones", lambda x: (x == 1).all()),
        ("2.5", lambda x: (x == 2.5).all()),
        ("random:3:4", lambda x: x.min() >= 3 and x.max() <= 4),
        ("random", lambda x: x.min() < 0 < x.max()),
    ],
)
def test_generated_inputs(image: Any, source: str, check: Any) -> None:
    x = make_feeds([image], [f"image={source}"], ["batch=2", "height=4", "width=5"]).arrays["image"]
    assert x.shape == (2, 3, 4, 5) and x.dtype == np.float32 and check(x)


def test_random_inputs_repeat_with_the_seed(image: Any) -> None:
    dims = ["height=2", "width=2"]
    first, again, other = (make_feeds([image], ["random"], dims, seed=seed).arrays["image"] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_first_axis_that_nothing_tells_is_one_and_said(image: Any) -> None:
    feeds = make_feeds([image], [], ["height=2", "width=2"], default="random")
    assert feeds.arrays["image"].shape == (1, 3, 2, 2)
    assert feeds.remarks == ["batch = 1; another size: --dim batch=SIZE"]


def test_other_axes_must_be_told(image: Any) -> None:
    with pytest.raises(InputError, match=r"to generate it, say --dim height=SIZE --dim width=SIZE"):
        make_feeds([image], ["random"])


def test_sizes_are_learnt_from_files(tensor: Any, image: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3, 6, 7), np.float32))
    mask = tensor("mask", "bool", ("batch", "height", "width"))
    feeds = make_feeds([mask, image], [f"image=@{tmp_path}/x.npy", "mask=ones"])
    assert feeds.arrays["mask"].shape == (2, 6, 7) and feeds.arrays["mask"].dtype == bool
    assert list(feeds.arrays) == ["mask", "image"]
    with pytest.raises(InputError, match="a file that was given has height = 6"):
        make_feeds([mask, image], [f"image=@{tmp_path}/x.npy", "mask=ones"], ["height=9"])


def test_nameless_dims(tensor: Any) -> None:
    x = tensor("a:0", "int64", (None, None))
    assert make_feeds([x], ["a:0=zeros"], ["a:0:1=5"]).arrays["a:0"].shape == (1, 5)
    with pytest.raises(InputError, match=r"say --dim a:0:1=SIZE$"):
        make_feeds([x], ["a:0=zeros"])


@pytest.mark.parametrize("text", ["nothere=3", "height", "height=x", "image:9=3"])
def test_wrong_dims(image: Any, text: str) -> None:
    with pytest.raises(InputError, match=f"--dim {text}"):
        make_feeds([image], ["random"], [text])


def test_stray_dims_may_be_allowed(image: Any) -> None:
    dims = ["height=2", "width=2", "length=9"]
    assert make_feeds([image], ["random"], dims, stray_dims=True).arrays["image"].shape == (1, 3, 2, 2)


def test_json_lists_and_scalars(tensor: Any) -> None:
    feeds = make_feeds([tensor("k", "int64", (2,)), tensor("s", "int32", ())], ["k=[3, 4]", "s=7"])
    assert feeds.arrays["k"].tolist() == [3, 4] and feeds.arrays["s"].shape == () and feeds.arrays["s"] == 7


@pytest.mark.parametrize(
    "source", ["k=1.5", "k=[1, 2.5]", "k=99999999999999999999", "k=some", "k=random:a:b", "k=[1, [2]]"]
)
def test_values_that_do_not_fit(tensor: Any, source: str) -> None:
    with pytest.raises(InputError, match="--input k"):
        make_feeds([tensor("k", "int64", (2,))], [source])


def test_text_inputs(tensor: Any) -> None:
    words = tensor("words", "str", ("n",))
    assert make_feeds([words], ['words=["a", "b"]']).arrays["words"].tolist() == ["a", "b"]
    assert make_feeds([words], ["words=hello"]).arrays["words"].tolist() == ["hello"]


def test_small_floats(tensor: Any, tmp_path: Path) -> None:
    x = tensor("x", "bfloat16", (4,))
    assert make_feeds([x], ["x=random"]).arrays["x"].dtype == ml_dtypes.bfloat16
    np.save(tmp_path / "x.npy", np.arange(4).astype(ml_dtypes.bfloat16))
    read = make_feeds([x], [f"x=@{tmp_path}/x.npy"]).arrays["x"]
    assert read.dtype == ml_dtypes.bfloat16 and read.astype(int).tolist() == [0, 1, 2, 3]


def test_npz(tensor: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", x=np.zeros(3), y=np.ones(3))
    x = tensor("x", "float64", (3,))
    assert make_feeds([x], [f"@{tmp_path}/two.npz"]).arrays["x"].sum() == 0
    assert make_feeds([x], [f"@{tmp_path}/two.npz:y"]).arrays["x"].sum() == 3
    with pytest.raises(InputError, match="holds x, y, no 'z'"):
        make_feeds([x], [f"@{tmp_path}/two.npz:z"])


@pytest.mark.parametrize(
    ("name", "content"), [("a.npy", b"no array"), ("a.npy", b""), ("a.npz", b"PK\x03\x04"), ("a.wav", b"")]
)
def test_unreadable_files(tensor: Any, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="--input x: a"):
        make_feeds([tensor("x", "float32", (3,))], [f"x=@{tmp_path / name}"])


def test_no_pickles_are_read(tensor: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        make_feeds([tensor("x", "float32", (3,))], [f"@{tmp_path}/p.npy"])


def test_which_input(tensor: Any, image: Any) -> None:
    two = [image, tensor("image=2", "float32", (1,))]
    feeds = make_feeds(two, ["image=2=5", "image=zeros"], ["height=1", "width=1"])
    assert feeds.arrays["image=2"] == 5
    with pytest.raises(InputError, match="which input"):
        make_feeds(two, ["zeros"])
    with pytest.raises(InputError, match="no input 'picture'; it has 'image', 'image=2'"):
        make_feeds(two, ["picture=zeros"])
    with pytest.raises(InputError, match="there is no file"):
        make_feeds([image], ["@nothere.npy"])


def test_what_the_command_line_cannot_make(tensor: Any) -> None:
    with pytest.raises(InputError, match="feed it from Python"):
        make_feeds([tensor("x", "sequence(float32)", ())], ["x=random"])


def test_inputs_as_a_file_declares_them(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h

    def save(*inputs: Any) -> Path:
        nodes = [h.make_node("Identity", [inputs[0].name], ["y"])]
        graph = h.make_graph(nodes, "g", list(inputs), [h.make_value_info("y", inputs[0].type)])
        onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 18)]), tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    path = save(h.make_tensor_value_info("x", T.FLOAT, ["n", 3, "?", None]), h.make_tensor_value_info("k", T.BFLOAT16, []),
                h.make_tensor_value_info("s", T.STRING, [2]))  # fmt: skip
    assert declared_inputs(path) == [Declared("x", "float32", ("n", 3, None, None)), Declared("k", "bfloat16", ()), Declared("s", "object", (2,))]
    assert make_feeds(declared_inputs(path), ["x=zeros"], ["x:2=5", "x:3=6"], default="random").arrays["x"].shape == (1, 3, 5, 6)
    sequence = h.make_tensor_sequence_value_info("q", T.FLOAT, None)
    with pytest.raises(InputError, match="m.onnx: input 'q' is .*: the command line gives tensors of known rank only"):
        declared_inputs(save(sequence))
