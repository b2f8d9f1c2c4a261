"""Convolutions that mix channels go in front of an enlarging Resize, and only those."""

import numpy as np
import pytest

IMAGE = "g (float[1,4,5,6] x) => (float y)"
LINEAR = 'mode="linear", coordinate_transformation_mode="half_pixel"'
NEAREST = 'mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"'


def constants(rng, outputs=3, kernel=1, scales=(1, 1, 2, 3)):
    w = rng.standard_normal((outputs, 4, kernel, kernel)).astype(np.float32)
    return {"w": w, "b": rng.standard_normal(outputs).astype(np.float32), "s": np.array(scales, np.float32)}


@pytest.mark.parametrize("mode", [LINEAR, NEAREST])
def test_goes_in_front(mode, same, rng):
    text = f"{IMAGE} {{ r = Resize<{mode}>(x, , s) c = Conv(r, w, b) y = Relu(c) }}"
    assert same(text, tolerance=1e-4, **constants(rng)).ops == ["Conv", "Resize", "Relu"]


@pytest.mark.parametrize("case", [{"kernel": 3}, {"outputs": 5}, {"scales": (1, 1, 0.5, 1)}, {"scales": (1, 1, 1, 0.5)}], ids=str)
def test_stays(case, same, rng):
    """Filters of several pixels, more channels behind than in front, pictures that get smaller."""
    text = f"{IMAGE} {{ r = Resize<{NEAREST}>(x, , s) y = Conv(r, w, b) }}"
    assert same(text, tolerance=1e-4, **constants(rng, **case)).ops == ["Resize", "Conv"]


@pytest.mark.parametrize("conv", ["Conv<pads=[1,1,1,1]>", "Conv<strides=[2,2]>"])
def test_padded_or_strided_stays(conv, same, rng):
    text = f"{IMAGE} {{ r = Resize<{NEAREST}>(x, , s) y = {conv}(r, w, b) }}"
    assert same(text, tolerance=1e-4, **constants(rng)).ops == ["Resize", "Conv"]


def test_a_picture_that_is_used_twice_stays(same, rng):
    text = f"{IMAGE} {{ r = Resize<{NEAREST}>(x, , s) c = Conv(r, w, b) d = Conv(r, w, b) e = Relu(r) f = ReduceMax(e) y = Add(c, f) }}"
    assert "Resize" == same(text, tolerance=1e-4, **constants(rng)).ops[0]
