"""Transposes move towards the outputs and cancel; the numbers stay the same."""

from __future__ import annotations

import numpy as np
import pytest

X = "g (float[2,3,4,5] x) => (float y)"
IN, OUT = "t = Transpose<perm=[0,2,3,1]>(x)", "y = Transpose<perm=[0,3,1,2]>(u)"

CANCEL = {
    "unary": (f"{IN} u = Relu(t) {OUT}", ["Relu"]),
    "a chain": (f"{IN} a = Sigmoid(t) b = Add(a, half) u = Clip(b, half, one) {OUT}", ["Sigmoid", "Add", "Clip"]),
    "a constant over the last dim": (f"{IN} u = Mul(t, v3) {OUT}", ["Mul"]),
    "a constant of full rank": (f"{IN} u = Sub(m, t) {OUT}", ["Sub"]),
    "both operands": (f"{IN} a = Exp(t) u = Div(a, t) {OUT}", ["Exp", "Div"]),
    "concat": (f"{IN} a = Exp(t) u = Concat<axis=-1>(a, t) {OUT}", ["Exp", "Concat"]),
    "pad": (f"{IN} u = Pad(t, pads) {OUT}", ["Pad"]),
    "slice": (f"{IN} u = Slice(t, i1, i3, axes) {OUT}", ["Slice"]),
    "mean that keeps dims": (f"{IN} u = ReduceMean<axes=[1,2]>(t) {OUT}", ["ReduceMean"]),
    "mean that drops dims": (f"{IN} y = ReduceMean<axes=[1,2],keepdims=0>(t)", ["ReduceMean"]),
    "a reshaped factor": (f"{IN} s = ReduceMax<axes=[0,2,3]>(x) r = Reshape(s, shape) u = Mul(t, r) {OUT}",
                          ["ReduceMax", "Reshape", "Mul"]),
    "slope of PRelu": (f"{IN} u = PRelu(t, v3) {OUT}", ["PRelu"]),
}  # fmt: skip


def arrays(body, rng):
    pads, shape = np.array([0, 1, 0, 2, 0, 0, 1, 0]), np.array([1, 1, 1, 3])
    known = {"half": np.float32(0.5), "one": np.float32(1), "v3": rng.random(3, np.float32) + 1,
             "m": rng.random((4, 5, 3), np.float32), "pads": pads, "i1": np.array([1]), "i3": np.array([3]),
             "axes": np.array([2]), "shape": shape, "w": rng.random((2, 4, 3, 5), np.float32)}  # fmt: skip
    return {
        name: value
        for name, value in known.items()
        if f"({name}," in body or f", {name}" in body or f"({name})" in body
    }


@pytest.mark.parametrize("name", CANCEL)
def test_cancel(name, same, rng):
    body, ops = CANCEL[name]
    assert same(f"{X} {{ {body} }}", **arrays(body, rng)).ops == ops


def test_softmax_keeps_its_order(same):
    assert same(f"{X} {{ {IN} u = Softmax<axis=1>(t) {OUT} }}").ops == ["Transpose", "Softmax", "Transpose"]


def test_different_orders_stay(same):
    text = "g (float[2,3,4,3] x, float[2,3,4,3] w) => (float y) { a = Transpose<perm=[0,3,2,1]>(x) " \
           "b = Transpose<perm=[0,1,2,3]>(w) c = Transpose<perm=[0,3,2,1]>(w) d = Add(a, b) "\
           "y = Add(d, c) }"  # fmt: skip
    assert "Transpose" in same(text).ops


def test_used_elsewhere_stays(same):
    nodes = "t = Transpose<perm=[0,2,1]>(x) y = Relu(t) z = Softmax<axis=-1>(t)"
    text = f"g (float[2,3,4] x) => (float y, float z) {{ {nodes} }}"
    assert same(text).ops == ["Transpose", "Relu", "Softmax"]


def test_the_only_change_is_at_the_output(same):
    assert same("g (float[2,3,4] x) => (float y) { t = Transpose<perm=[0,2,1]>(x) y = Relu(t) }").ops == [
        "Relu",
        "Transpose",
    ]
