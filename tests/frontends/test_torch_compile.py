"""torch.compile(backend="hasten"): the same numbers as eager PyTorch, one compilation for all lengths, and everything else runs eagerly and is said."""

from __future__ import annotations

import importlib.metadata
import logging
import subprocess
import sys
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'torch'")

from torch import nn  # noqa: E402
from torch._dynamo.utils import counters  # noqa: E402

from hasten import dynamo  # noqa: E402
from hasten.frontends.torch_arrays import reader, to_array, writer  # noqa: E402

F = nn.functional
ENTRY = [e for e in importlib.metadata.entry_points(group="torch_dynamo_backends") if e.name == "hasten"]


@pytest.fixture(autouse=True)
def fresh(rng, caplog):
    """No graphs of other tests; PyTorch's random numbers from the test's own."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(int(rng.integers(2**31)))
    caplog.set_level(logging.INFO, "hasten.torch")
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def compiled(module, **options):
    return torch.compile(module.eval() if isinstance(module, nn.Module) else module, backend=dynamo.backend, dynamic=True, options=options or None)


def said(caplog, what):
    return [r for r in caplog.records if what in r.getMessage()]


def same(got, want, tolerance=1e-5):
    """Equal within `tolerance` of the largest value: sums of some dozens of float32 products."""
    for g, w in zip(torch.utils._pytree.tree_leaves(got), torch.utils._pytree.tree_leaves(want), strict=True):
        if not torch.is_tensor(w):
            assert g == w and type(g) is type(w)
            continue
        assert g.shape == w.shape and g.dtype == w.dtype
        torch.testing.assert_close(g, w, rtol=tolerance, atol=tolerance * max(1.0, float(w.abs().max()) if w.numel() else 0.0))


class Encoder(nn.Module):
    """A layer of a transformer encoder: float[batch, length, 32] and how many positions of each count."""

    def __init__(self):
        super().__init__()
        self.norm, self.after = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out, self.up, self.down = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x, lengths):
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, t, 3, 4, 8).permute(2, 0, 3, 1, 4)
        mask = (torch.arange(t)[None] < lengths[:, None])[:, None, None]
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).reshape(b, t, 32))
        return x + self.down(F.gelu(self.up(self.after(x))))


def test_one_compilation_for_all_lengths(rng, caplog):
    module = Encoder().eval()
    fast = compiled(module)
    for t in (7, *rng.permutation(np.arange(2, 42))[:20]):
        x = torch.randn(int(rng.integers(2, 5)), int(t), 32)
        lengths = torch.randint(1, int(t) + 1, (len(x),))
        same(fast(x, lengths), module(x, lengths))
    assert counters["stats"]["unique_graphs"] == 1
    assert len(said(caplog, "compiled a graph")) == 1 and not said(caplog, "eagerly")


def test_graph_breaks(caplog, capsys):
    class Speaking(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = self.a(x).relu()
            print("halfway")
            return self.b(x) if x.sum().item() > 0 else x

    module = Speaking()
    fast = compiled(module)
    for n in (3, 5):
        x = torch.randn(n, 8)
        same(fast(x), module(x))
    assert capsys.readouterr().out.count("halfway") == 4
    assert len(said(caplog, "compiled a graph")) >= 2


def test_arguments_that_are_written_to():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x, k):
            self.calls.add_(1)
            x.mul_(2)
            return x.view(-1), x * k, x.shape[0] * k, None

    module = Counting().eval()
    fast = compiled(module)
    for n in (3, 4):
        x = torch.randn(n, 2)
        y, z = x.clone(), x.clone()
        want, got = module(y, n + 3), fast(z, n + 3)
        same(got, want)
        same(z, y)
        assert got[0].data_ptr() == z.data_ptr()  # a view of the argument stays one
    assert module.calls.item() == 4


def test_changed_parameters(caplog):
    """Parameters are constants, of this moment: writing to them or giving other ones makes new constants."""
    layers = [nn.Linear(4, 4) for _ in range(3)]
    fast = compiled(lambda layer, x: layer(x).relu())
    x = torch.randn(3, 4)
    for _ in range(2):
        for layer in layers:
            same(fast(layer, x), layer(x).relu())
    layers[0].weight.mul_(2)
    layers[1].load_state_dict(layers[2].state_dict())
    layers[2].weight.data = torch.randn(4, 4)
    for layer in layers:
        same(fast(layer, x), layer(x).relu())
    assert len(said(caplog, "compiled a graph")) == 6


def test_what_falls_back(caplog):
    def f(x):
        return torch.special.bessel_j0(x) + 1

    x = torch.randn(3, 4)
    same(compiled(f)(x), f(x))
    (record,) = said(caplog, "eagerly")
    assert record.levelno == logging.WARNING and "bessel_j0" in record.getMessage()
    torch._dynamo.reset()
    with pytest.raises(Exception, match="bessel_j0"):
        compiled(f, fallback=False)(x)


def test_gradients_and_random_numbers_stay_with_pytorch(caplog):
    module = nn.Linear(4, 4)
    x = torch.randn(3, 4)
    with torch.enable_grad():
        compiled(module)(x).sum().backward()
    assert torch.equal(module.bias.grad, torch.full((4,), 3.0)) and said(caplog, "gradients")
    drop = torch.compile(nn.Dropout(0.5), backend=dynamo.backend)
    torch.manual_seed(1)
    got = drop(x)
    torch.manual_seed(1)
    same(got, nn.Dropout(0.5)(x))
    assert said(caplog, "random")
    torch._dynamo.reset()
    with torch.enable_grad(), pytest.raises(Exception, match="no_grad"):
        compiled(module, fallback=False)(x)


@pytest.mark.slow
def test_options(caplog):
    x = torch.randn(3, 8)
    module = nn.Linear(8, 8)
    same(compiled(module, threads=1, isa="portable", precision="strict")(x), module(x))
    assert "isa portable, threads 1" in said(caplog, "compiled")[0].getMessage()
    for wrong, message in (({"thread": 1}, "'thread'"), ({"precision": "low"}, "precision='low'"), ({"isa": "avx9"}, "avx9"), ({"threads": -1}, "threads")):
        torch._dynamo.reset()
        with pytest.raises(Exception, match=message):
            compiled(module, **wrong)(x)


def test_memory_is_shared():
    for dtype in (torch.float32, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float8_e5m2):
        x = torch.ones(3, 4).to(dtype)
        array = reader(x)(x)
        back = writer(x)(array)
        assert array.dtype.name == str(dtype).removeprefix("torch.") and array.ctypes.data == x.data_ptr() == back.data_ptr()
        assert back.dtype == dtype and torch.equal(back.view(torch.uint8), x.view(torch.uint8))
    weight = nn.Parameter(torch.ones(2))
    assert to_array(weight.detach()).ctypes.data == weight.data_ptr()


@pytest.mark.slow
def test_other_types_and_strides(rng):
    def f(x, i, h):
        return x.double().mean(-1), i[:, None] + h.long().argmax(-1), h * 2

    fast = compiled(f)
    for n in (4, 6):
        x = torch.randn(8, n).t()[:, ::2]
        h = torch.randn(n, 4).to(torch.bfloat16)
        same(fast(x, torch.arange(n), h), f(x, torch.arange(n), h))


@pytest.mark.skipif(not ENTRY, reason="needs an installed Hasten (pip install -e .)")
@pytest.mark.slow
def test_found_without_importing_hasten():
    code = """
import sys, torch
assert "hasten" in torch._dynamo.list_backends() and "hasten" not in sys.modules
module = torch.nn.Linear(4, 4).eval()
with torch.no_grad():
    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.compile(module, backend="hasten", options={"fallback": False})(x), module(x))
assert "hasten.dynamo" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.slow
def test_from_several_threads(rng):
    module = Encoder().eval()
    fast = compiled(module, threads=2)
    fast(torch.randn(2, 5, 32), torch.tensor([5, 3]))
    cases = [(torch.randn(2, int(t), 32), torch.tensor([int(t), 1])) for t in rng.integers(2, 60, 24)]
    wrong: list[str] = []

    def work(mine):
        with torch.no_grad():
            for case in mine:
                try:
                    same(fast(*case), module(*case))
                except AssertionError as e:
                    wrong.append(str(e))

    threads = [threading.Thread(target=work, args=(cases[k::4],)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.SiLU())
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.body(x), 1).flatten(1))


class Choosing(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x.cos(), lambda x: x.sin() + 1, (x,))


class Looping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        from torch._higher_order_ops.while_loop import while_loop

        return while_loop(lambda i, y: i < 5, lambda i, y: (i + 1, self.layer(y).tanh()), (torch.tensor(0), x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True)

    def forward(self, x):
        y, (h, c) = self.layers(x)
        return y * 2, h, c


@pytest.mark.slow
@pytest.mark.parametrize("case", ["cnn", "cond", "while_loop", "lstm"])
def test_modules(case, caplog):
    module, shapes = {
        "cnn": (Pictures, [(2, 3, 16, 20), (3, 3, 31, 17), (5, 3, 12, 12)]),
        "cond": (Choosing, [(3, 4), (5, 4), (9, 4)]),
        "while_loop": (Looping, [(3, 4), (5, 4), (9, 4)]),
        "lstm": (Recurrent, [(2, 5, 4), (3, 9, 4), (2, 40, 4)]),
    }[case]
    module = module().eval()
    with torch._dynamo.config.patch(allow_rnn=True):
        fast = compiled(module, fallback=False)
        for shape in shapes:
            x = torch.randn(shape)
            for sign in (1, -1):
                same(fast(x.abs() * sign), module(x.abs() * sign))
    assert len(said(caplog, "compiled a graph")) == 1
