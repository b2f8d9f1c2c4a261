"""Tables of the results of models.py, in Markdown. A figure under its bar is bold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bars import BARS, DEFAULT_OPENVINO, HIGH, mean, two_threads
from points import BASE, BF16_PEERS, FP32_PEERS, WRONG, Point, grouped

SHORT = {
    "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO f32", "openvino:precision=default": "OpenVINO default", "torch": "torch",
    "torch_compile": "torch.compile", "torch:dtype=bf16": "torch bf16", "torch_compile:dtype=bf16": "torch.compile bf16", "ncnn": "ncnn",
    "best fp32": "best fp32 peer", "best bf16": "best bf16 peer",
}  # fmt: skip


def bars(all_points: Sequence[Point], best_isa: str) -> str:
    """The bars that this machine can show, for every batch and number of threads. `best_isa`: the machine's."""
    groups = grouped(all_points)
    rows = []
    for bar in BARS:
        cells = [bar.cell(chosen) for chosen in groups.values()]
        if bar.needs in ("", best_isa) and any(cells):
            rows.append([bar.what, f"{'at most' if bar.at_most else 'at least'} {bar.text(bar.bar)}", *cells])
    return table(["", "bar", *(_group_name(*key) for key in groups)], [*rows, *_two_threads(groups)])


def _two_threads(groups: Mapping[tuple[int, int], Sequence[Point]]) -> list[list[str]]:
    values = [two_threads(chosen, groups.get((batch, 1), [])) if threads == 2 else None for (batch, threads), chosen in groups.items()]
    cells = ["" if value is None else f"{value:.2f}x" if value >= 1.8 else f"**{value:.2f}x**" for value in values]
    return [["two threads beside one, models over 20 ms", "at least 1.80x", *cells]] if any(cells) else []


def _group_name(batch: int, threads: int) -> str:
    return f"batch {batch}, {threads} thr"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown; all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def engines_of(all_points: Sequence[Point]) -> tuple[list[str], list[str]]:
    """The settings of Hasten and the peers that have times."""
    timed = list(dict.fromkeys(name for p in all_points for name in p.engines if p.time(name)))
    settings = [name for name in timed if name.partition(":")[0] == BASE]
    order = [*FP32_PEERS, *BF16_PEERS]
    return settings, sorted((name for name in timed if name not in settings), key=lambda name: order.index(name) if name in order else len(order))


def means(all_points: Sequence[Point]) -> str:
    """Geometric means with the least and the largest, for each setting of Hasten beside each peer."""
    settings, peers = engines_of(all_points)
    columns = [*peers, "best fp32"]
    rows = []
    for (batch, threads), chosen in grouped(all_points).items():
        for setting in settings:
            cells = []
            for peer in columns:
                found = [ratio for p in chosen if (ratio := p.speedup(setting, peer))]
                cells.append(f"{mean(found):.2f}x ({min(found):.2f} to {max(found):.2f}; {len(found)})" if found else "")
            rows.append([f"`{setting}`, {_group_name(batch, threads)}", *cells])
    return table(["", *(SHORT.get(name, name) for name in columns)], rows)


def models(all_points: Sequence[Point]) -> str:
    """Every model at batch 1 on one thread: milliseconds, speed-ups beside each peer, errors; and the other groups in short."""
    _, peers = engines_of(all_points)
    groups = grouped(all_points)
    first = next(iter(groups), None)
    rows = []
    for p in groups.get(first, []) if first else []:
        times = [_ms(p.seconds(BASE)), *(_x(p.speedup(BASE, peer)) for peer in peers), _x(p.speedup(BASE, "best fp32"))]
        rows.append([f"`{p.name}`", *times, _error(p, BASE), _error(p, "onnxruntime")])
    head = ["model", "ms", *(SHORT.get(peer, peer) for peer in peers), "best fp32", "error", "ONNX Runtime's"]
    texts = [f"{_group_name(*first)}:\n\n{table(head, rows)}"] if first else []
    rest = list(groups)[1:]
    if rest:
        texts.append("The others, beside ONNX Runtime and the best fp32 peer:\n\n" + _short(groups, rest))
    return "\n\n".join(texts)


def _short(groups: Mapping[tuple[int, int], Sequence[Point]], keys: Sequence[tuple[int, int]]) -> str:
    cells: dict[str, dict[tuple[int, int], str]] = {}
    for key in keys:
        for p in groups[key]:
            row = cells.setdefault(p.name, {})
            if p.seconds(BASE):
                row[key] = f"{_ms(p.seconds(BASE))} ms {_x(p.speedup(BASE, 'onnxruntime'))} {_x(p.speedup(BASE, 'best fp32'))}"
    return table(["model", *(_group_name(*key) for key in keys)], [[f"`{name}`", *(row.get(key, "") for key in keys)] for name, row in cells.items()])


def precise(all_points: Sequence[Point]) -> str:
    """`high` beside OpenVINO in its default precision: times, and how far both are from float64. Empty where there are no such points."""
    rows = []
    for p in all_points:
        ratio = p.speedup(HIGH, DEFAULT_OPENVINO)
        if p.group == "data" and (p.batch, p.threads) == (1, 1) and ratio:
            rows.append([f"`{p.name}`", _ms(p.seconds(HIGH)), _ms(p.seconds(DEFAULT_OPENVINO)), _x(ratio), _error(p, HIGH), _error(p, DEFAULT_OPENVINO)])
    return table(["model", "`high` ms", "OpenVINO ms", "", "error of `high`", "error of OpenVINO"], rows) if rows else ""


def starts(all_points: Sequence[Point]) -> str:
    """First and second starts, memory after the second, and what a batch of 8 gives, on one thread."""
    shown = (BASE, "onnxruntime", "openvino")
    many = {p.name: p for p in all_points if p.batch == 8 and p.threads == 1}
    rows = []
    for p in all_points:
        if (p.batch, p.threads) != (1, 1) or not any(p.engines.get(name, {}).get("warm_start_ns") for name in shown):
            continue
        cells = [_each(p, shown, key, scale) for key, scale in (("cold_start_ns", 1e-9), ("warm_start_ns", 1e-9), ("peak_bytes", 2**-20))]
        batch = many.get(p.name)
        cells.append(" / ".join(_rate(batch, name) for name in shown) if batch else "")
        rows.append([f"`{p.name}`", *cells])
    return table(["model", "cold start s", "warm start s", "peak MiB", "items a second, batch 8"], rows)


def absent(all_points: Sequence[Point]) -> str:
    """Engines that could not run a model, and why; wrong answers."""
    found: dict[tuple[str, str], set[str]] = {}
    for p in all_points:
        for name, entry in p.engines.items():
            error = entry.get("error")
            if entry.get("trouble"):
                found.setdefault((name, entry["trouble"]), set()).add(p.model)
            elif error is not None and error > WRONG:
                found.setdefault((name, "answers are wrong by more than 1% of the largest output"), set()).add(p.model)
    rows = [[f"`{name}`", ", ".join(sorted(who)), why.replace("|", "\\|").replace("\n", " ")] for (name, why), who in sorted(found.items())]
    return table(["engine", "models", "why"], rows) if rows else "Every engine ran every model."


def _each(p: Point, names: Sequence[str], key: str, scale: float) -> str:
    values = [p.engines.get(name, {}).get(key) for name in names]
    return " / ".join("-" if value is None else f"{value * scale:.3g}" for value in values)


def _rate(p: Point, engine: str) -> str:
    seconds = p.seconds(engine)
    return f"{p.batch / seconds:.3g}" if seconds else "-"


def _ms(seconds: float | None) -> str:
    return f"{seconds * 1e3:.3g}" if seconds else ""


def _x(ratio: float | None) -> str:
    return f"{ratio:.2f}x" if ratio else ""


def _error(p: Point, engine: str) -> str:
    error = p.engines.get(engine, {}).get("error")
    return "" if error is None else f"{error:.0e}"
