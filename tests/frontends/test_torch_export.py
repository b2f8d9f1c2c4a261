"""Exported programs with sizes, control flow and shapes that only the run knows: the same numbers as eager PyTorch, for sizes other than the example's."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'torch'")

from torch import nn  # noqa: E402
from torch.export import Dim  # noqa: E402

import hasten  # noqa: E402
from hasten.base.errors import HastenError, ModelError  # noqa: E402

N = Dim("n", min=2, max=64)


def same(model, module, *args):
    """Within 1e-5 of the largest value: sums of a dozen float32 products."""
    with torch.no_grad():
        want = torch.utils._pytree.tree_leaves(module(*args))
    got = model(*args)
    for g, w in zip(got if isinstance(got, tuple) else (got,), want, strict=True):
        assert g.shape == tuple(w.shape) and str(w.dtype) == f"torch.{g.dtype}"
        np.testing.assert_allclose(g, w.numpy(), 1e-5, 1e-5 * max(1, float(w.abs().max()) if w.numel() else 0))


class Cond(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x.cos(), lambda x: x.sin() + 1, (x,))


class While(nn.Module):
    """Loops inside of a loop's body's condition: leaves early where the sum grows."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        from torch._higher_order_ops.while_loop import while_loop

        return while_loop(lambda i, y: (i < 6) & (y.sum() < 50), lambda i, y: (i + 1, y + self.layer(y).abs()), (torch.tensor(0), x))


class Scan(nn.Module):
    def forward(self, x):
        from torch._higher_order_ops.scan import scan

        def step(h, x):
            h = torch.tanh(h + x)
            return h, h * 2

        return scan(step, x[0], x, dim=0)


class Chosen(nn.Module):
    """Sizes that depend on values."""

    def forward(self, x):
        return x[x > 0] * 2, torch.nonzero(x), torch.masked_select(x, x < 0).sum()


class Item(nn.Module):
    def forward(self, x, k):
        m = k.item()
        torch._check(m >= 0)
        torch._check(m <= x.shape[0])
        return x[:m].sum(0), torch.zeros(m, 3) + 1


class Derived(nn.Module):
    """y is twice as long as x."""

    def forward(self, x, y):
        return x.repeat(2, 1) + y


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.layers = kind(4, 6, **options)

    def forward(self, x):
        return self.layers(x)


class Distances(nn.Module):
    """Operators that PyTorch's exporter lacks."""

    def forward(self, x):
        return torch.cdist(x, x[:3], compute_mode="donot_use_mm_for_euclid_dist"), x.kthvalue(2, 1).values


def rows(n):
    return (torch.randn(n, 4),)


CASES = {
    "cond": (Cond, rows, ({0: N},)),
    "while_loop": (While, lambda n: (torch.rand(n, 4),), ({0: N},)),
    "scan": (Scan, rows, ({0: N},)),
    "shapes from values": (Chosen, rows, ({0: N},)),
    "operators that the exporter lacks": (Distances, rows, ({0: Dim("n", min=3, max=64)},)),
    "an item as size": (Item, lambda n: (torch.randn(n, 4), torch.tensor(n // 2)), ({0: N}, None)),
    "a derived dim": (Derived, lambda n: (torch.randn(n, 4), torch.randn(2 * n, 4)), ({0: N}, {0: 2 * N})),
}
LAYERS = {
    "lstm": lambda: Recurrent(nn.LSTM),
    "lstm of two layers in both directions": lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
    "gru": lambda: Recurrent(nn.GRU, num_layers=2),
    "gru in both directions without biases": lambda: Recurrent(nn.GRU, bidirectional=True, bias=False),
    "rnn with relu": lambda: Recurrent(nn.RNN, nonlinearity="relu"),
}


@pytest.fixture(autouse=True)
def seeded(rng):
    torch.manual_seed(int(rng.integers(2**31)))


@pytest.mark.parametrize("case", [pytest.param(k, marks=[] if k in ("while_loop", "an item as size") else pytest.mark.slow) for k in CASES])
def test_lengths(case):
    kind, example, shapes = CASES[case]
    module = kind().eval()
    model = hasten.compile(module, example_inputs=example(5), dynamic_shapes=shapes, host_ops=False)
    for n in (5, 3, 17, 64):
        same(model, module, *example(n))


@pytest.mark.parametrize("case", [pytest.param(k, marks=[] if k == "gru" else pytest.mark.slow) for k in LAYERS])
def test_recurrent_layers_for_any_length(case):
    """PyTorch would unroll them over the example's length."""
    module = LAYERS[case]().eval()
    model = hasten.compile(module, example_inputs=(torch.randn(5, 3, 4),), dynamic_shapes=({0: "length", 1: "batch"},), host_ops=False)
    assert model.inputs[0].shape == ("length", "batch", 4)
    kind = type(module.layers).__name__
    assert kind in {node.op for node in model.report().nodes}
    for n, b in ((5, 3), (9, 1), (1, 2), (40, 4)):
        same(model, module, torch.randn(n, b, 4))


def test_exported_programs():
    module = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)).eval()
    program = torch.export.export(module, rows(5), dynamic_shapes=({0: N},))
    model = hasten.compile(program)
    for n in (2, 9):
        same(model, module, *rows(n))


def test_a_size_that_pytorch_makes_constant_is_refused():
    class Unrolled(nn.Module):
        def forward(self, x):
            return sum(x[k] for k in range(x.shape[0]))

    with pytest.raises(ModelError, match="specialized it to be a constant"):
        hasten.compile(Unrolled(), example_inputs=rows(5), dynamic_shapes=({0: N},))


def test_sizes_contradict():
    module = Derived()
    model = hasten.compile(module, example_inputs=CASES["a derived dim"][1](5), dynamic_shapes=CASES["a derived dim"][2])
    with pytest.raises(HastenError):
        model(*rows(5), *rows(9))
