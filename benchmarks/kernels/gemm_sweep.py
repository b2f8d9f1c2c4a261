"""Matrix products on one thread: GFLOP/s, bytes of B a second, share of the FMA peak, and speed relative to ONNX
Runtime's MatMul.

python benchmarks/kernels/gemm_sweep.py [--isa avx512] [--seconds 0.4] [name ...]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from harness import Kernel, aligned, fma_peak, minima, session

from hasten.base.dims import evaluate
from hasten.codegen import isa as isa_module
from hasten.codegen.isa import Isa
from hasten.kernels.gemm import GemmProblem, emit_gemm, gemm_args, gemm_scratch_bytes, pack_gemm_weights


@dataclass(frozen=True)
class Product:
    name: str
    m: int
    k: int
    n: int
    b: str = "packed"
    batch: int = 1
    static_m: bool = False


PRODUCTS = [
    Product("fc 1x2048x1000", 1, 2048, 1000),
    Product("fc 1x1280x1000", 1, 1280, 1000, static_m=True),
    Product("vgg fc 1x4096x4096", 1, 4096, 4096, static_m=True),
    Product("decoder 1x768x3072", 1, 768, 3072),
    Product("decoder 2x768x3072", 2, 768, 3072),
    Product("decoder 4x768x3072", 4, 768, 3072),
    Product("decoder 8x768x3072", 8, 768, 3072),
    Product("mlp 16x784x128", 16, 784, 128),
    Product("bert 128x768x768", 128, 768, 768),
    Product("bert 128x768x3072", 128, 768, 3072),
    Product("bert 128x3072x768", 128, 3072, 768, static_m=True),
    Product("vit 197x768x768", 197, 768, 768, static_m=True),
    Product("gpt 64x1024x4096", 64, 1024, 4096),
    Product("attention QK 12x128x64x128", 128, 64, 128, "columns", 12),
    Product("attention PV 12x128x128x64", 128, 128, 64, "rows", 12),
    Product("decode QK 12x1x64x512", 1, 64, 512, "columns", 12),
    Product("decode PV 12x1x512x64", 1, 512, 64, "rows", 12),
    Product("square 512 run-time B", 512, 512, 512, "rows"),
    Product("square 1024 run-time B", 1024, 1024, 1024, "rows"),
    Product("tiny 3x10x20", 3, 10, 20),
]


def store(arg):
    def sink(f, acc, where, lanes, mask):
        p = f.at(arg["c"], (where["b"] * arg["m"] + where["m"]) * arg["n"] + where["n"], 4)
        if mask is None:
            f.store(acc, p)
        else:
            f.masked_store(acc, p, mask)

    return sink


def measure(product: Product, isa: Isa, peak: float, seconds: float) -> float:
    from onnx import helper

    m, k, n, batch = product.m, product.k, product.n, product.batch
    problem = GemmProblem(k, n, product.b, m=m if product.static_m else None, a_pitch=k)
    a, b = aligned([batch, m, k], 1), aligned([batch, k, n], 2)
    c = aligned([batch, m, n])

    def emit(f, isa, arg, thread, threads):
        emit_gemm(f, problem, isa, arg, thread, threads, store(arg))

    compiled = Kernel(isa, [*gemm_args(problem), ("c", "ptr")], emit)
    constant = product.b == "packed"
    packed = pack_gemm_weights(problem, isa, b) if constant else b.transpose(0, 2, 1) if product.b == "columns" else b
    right = aligned(packed.shape)
    right[...] = packed
    call = compiled.bind(
        {
            "a": a,
            "b": right,
            "c": c,
            "scratch": aligned([evaluate(gemm_scratch_bytes(problem, isa, m, n, k), {}) // 4 + 16]),
            "groups": 1,
            "batch": batch,
            "m": m,
            "n": n,
            "k": k,
            "as_b": m * k,
            "as_m": k,
            "bs_b": right[0].size,
            "bs_k": n,
            "bs_n": k,
        }
    )
    if product.b == "columns":
        node = helper.make_node("FusedMatMul", ["a", "b"], ["c"], domain="com.microsoft", transB=1)
    else:
        node = helper.make_node("MatMul", ["a", "b"], ["c"])
    inputs = {"a": a} if constant else {"a": a, "b": right}
    other = session(node, inputs, {"b": b[0] if batch == 1 else b} if constant else {})
    mine, theirs = minima([call, other], seconds)
    error = np.abs(c - a.astype(np.float64) @ b).max() / np.abs(c).max()
    rate = 2 * batch * m * n * k / mine / 1e9
    speed = (
        f"{mine * 1e3:8.3f} ms {rate:7.1f} GFLOP/s {rate / peak:5.0%} of peak {b.nbytes / mine / 1e9:6.1f} GB/s of B"
    )
    rest = f"error {error:.0e}  compiled in {compiled.compile_seconds * 1e3:4.0f} ms"
    print(f"{product.name:28s} {speed} {theirs / mine:5.2f} x ort  {rest}", flush=True)
    return theirs / mine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of product names")
    parser.add_argument("--isa")
    parser.add_argument("--seconds", type=float, default=0.4, help="for each side of a product")
    options = parser.parse_args()
    isa = isa_module.get(options.isa)
    peak = fma_peak(isa)
    print(f"{isa.name}: FMA peak {peak:.1f} GFLOP/s")
    chosen = [x for x in PRODUCTS if not options.names or any(n in x.name for n in options.names)]
    ratios = [measure(product, isa, peak, options.seconds) for product in chosen]
    print(f"geometric mean {np.exp(np.mean(np.log(ratios))):.2f} x ort")


if __name__ == "__main__":
    main()
