"""Concats inside of larger Concats share memory: same results as ONNX Runtime, and no copies where none are needed."""

import sys
from pathlib import Path

import numpy as np
import onnx.parser
import onnxruntime
import pytest

import hasten

sys.path.insert(0, str(Path(__file__).parent))
from compiling import kernels, lowered  # noqa: E402

CASES = {
    "prefixes": "a = Conv(x, w16)  b = Concat<axis = 1>(x, a)  c = Conv(b, w24)  d = Concat<axis = 1>(x, a, c)  e = Conv(d, w32)  y = Relu(e)",
    "nested": "a = Conv(x, w16)  b = Concat<axis = 1>(x, a)  c = Conv(b, w24)  d = Concat<axis = 1>(b, c)  e = Conv(d, w32)  y = Relu(e)",
    "nested at the end": "a = Conv(x, w16)  b = Concat<axis = 1>(a, x)  c = Conv(b, w24)  d = Concat<axis = 1>(c, b)  e = Conv(d, w32)  y = Relu(e)",
    "twice the same": "a = Conv(x, w16)  b = Concat<axis = 1>(a, a)  c = Conv(b, w16)  d = Concat<axis = 1>(a, a, c)  e = Conv(d, w24)  y = Relu(e)",
    "two larger ones": """a = Conv(x, w16)  b = Concat<axis = 1>(x, a)  c = Conv(b, w24)  d = Concat<axis = 1>(x, a, c)  e = Concat<axis = 1>(b, c)
                          f = Conv(d, w32)  g1 = Conv(e, w32)  y = Add(f, g1)""",
    "a part of another": "a = Conv(x, w16)  b = Concat<axis = 1>(a, x)  c = Concat<axis = 1>(x, a)  d = Concat<axis = 1>(x, a, b)  e = Conv(c, w24)  "
                         "f = Conv(b, w24)  g1 = Conv(d, w48)  q = Add(e, f)  y = Add(q, g1)",
    "kernels that store themselves": "k = Constant<value_ints = [1]>()  a = Neg(x)  b, i = TopK(x, k)  c, j = TopK(a, k)  y = Concat<axis = 1>(b, c)",
    "an output": "a = Conv(x, w16)  b = Concat<axis = 1>(x, a)  c = Conv(b, w24)  y = Concat<axis = 1>(x, a, c)",
}  # fmt: skip


def model(text: str) -> bytes:
    """x has 16 channels, a convolution 8; w24 is the filter for 24 channels."""
    rng = np.random.default_rng(0)
    parsed = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> g (float[n, 16, h, w] x) => (float[n, m, h, w] y) {{ {text} }}')
    for channels in (16, 24, 32, 48):
        weights = rng.standard_normal((8, channels, 1, 1)).astype(np.float32)
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(weights, f"w{channels}"))
    return parsed.SerializeToString()


@pytest.mark.parametrize("text", list(CASES.values()), ids=list(CASES))
@pytest.mark.parametrize("threads", [1, 2])
def test_same_as_onnxruntime(text, threads):
    data = model(text)
    ours = hasten.compile(data, threads=threads)
    theirs = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(2)
    for shape in ((1, 16, 5, 7), (3, 16, 1, 1), (2, 16, 9, 4)):
        x = rng.standard_normal(shape).astype(np.float32)
        want = theirs.run(None, {"x": x})[0]
        np.testing.assert_allclose(ours(x), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())  # sums of at most 48 products


def test_what_is_computed_here_is_not_copied():
    graph = onnx.load_model_from_string(model(CASES["prefixes"]))
    names = kernels(lowered(graph)[0])
    assert [n for n in names if n.startswith("concat")] == ["concat"]  # of x, which lies elsewhere
