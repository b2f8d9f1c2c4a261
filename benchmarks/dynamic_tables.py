"""Tables of the results of the programs in dynamic/, in Markdown, with the bars of the published system beside the figures. A figure that misses its bar is
bold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tables import table

Data = dict[str, Any]
NAMES = {
    "hasten": "Hasten", "onnxruntime": "ONNX Runtime", "openvino:shapes=any": "OpenVINO f32", "openvino:precision=default,shapes=any": "OpenVINO default",
    "torch_eager": "PyTorch", "torch_dynamic": "torch.compile, dynamic", "padded": "Hasten, padded to the longest", "torch_lstm": "torch.nn.LSTM",
    "torch_cells": "a loop over torch.nn.LSTMCell", "tree_hasten": "Hasten", "tree_recursion": "PyTorch, recursion",
    "tree_levels": "PyTorch, batched by levels", "tree_dynet": "DyNet, autobatch", "decode_hasten": "Hasten", "decode_eager": "PyTorch",
    "decode_compiled": "torch.compile, dynamic", "decode_onnxruntime": "ONNX Runtime", "decode_openvino": "OpenVINO f32",
}  # fmt: skip


FLAT = 0.02  # of its memory at most that a soak may add
DOORS = {"hasten": "torch.compile, Hasten", "eager": "PyTorch", "inductor": "torch.compile, Inductor", "hasten.compile": "hasten.compile"}


def name(engine: str) -> str:
    return NAMES.get(engine, engine)


def at_least(value: float, bar: float | None, form: str = ".2f", unit: str = "x") -> str:
    """The figure, bold where it is below its bar."""
    text = f"{value:{form}}{unit}"
    return f"**{text}**" if bar is not None and value < bar else text


def at_most(value: float, bar: float | None, form: str = ".2f", unit: str = "x") -> str:
    text = f"{value:{form}}{unit}"
    return f"**{text}**" if bar is not None and value > bar else text


def spread(row: Mapping[str, float], form: str = ".2f") -> str:
    return f"[{row['low']:{form}}, {row['high']:{form}}]"


def engines(rows: Mapping[str, Data], goals: Mapping[str, float], unit: str, key: str) -> str:
    """A line for each engine: its time, how many times as fast Hasten is, the bar for that, the error."""
    lines = []
    for engine, row in rows.items():
        bar = goals.get(engine)
        beside = f"{at_least(row['ratio'], bar)} {spread(row)}" if (row["low"], row["high"]) != (1.0, 1.0) else ""
        error = "" if row.get("error") is None else f"{row['error']:.0e}"
        lines.append([name(engine), f"{row[key]:.2f}", beside, "" if bar is None else f"at least {bar:.2f}x", error])
    return table(["engine", unit, "Hasten is so many times as fast", "bar", "error"], lines)


def goals_of(rows: Mapping[str, Data]) -> dict[str, float]:
    return {engine: row["goal"] for engine, row in rows.items() if row.get("goal") is not None}


def encoder(data: Data) -> Iterable[str]:
    if found := data.get("lengths"):
        yield f"{found['sentences']} sentences, {found['tokens']} tokens, the longest {found['longest']}; {data['threads']} threads:"
        yield engines(found["engines"], goals_of(found["engines"]), "us a token", "us_per_token")
    if found := data.get("unseen"):
        yield f"The first call with each of {found['lengths']} lengths that an engine has not seen, over its next calls with it:"
        lines = []
        for engine, row in found["engines"].items():
            bars = row["goals"] or {}
            bar = f"at most {bars['median']:.1f}x, {bars['most']:.1f}x, none" if bars else ""
            compiled = "" if row["compilations"] is None else at_most(row["compilations"], 0 if bars else None, "d", "")
            lines.append([name(engine), at_most(row["median"], bars.get("median")), at_most(row["most"], bars.get("most")), compiled, bar])
        yield table(["engine", "median", "most", "compilations", "bar"], lines)
    if found := data.get("static"):
        bars, lines = found["goals"], []
        for size, row in found["lengths"].items():
            whole, kernels = (bars["each at 128"], bars["kernels at 128"]) if size == "128" else (None, None)
            bar = f"at most {whole:.2f}x, {kernels:.2f}x" if whole else ""
            lines.append([size, f"{at_most(row['ratio'], whole, '.3f')} {spread(row, '.3f')}", at_most(row["kernels"], kernels, ".3f"), bar])
        lines.append(["geometric mean", at_most(found["mean"], bars["mean"], ".3f"), "", f"at most {bars['mean']:.2f}x"])
        yield "Time of the model of any length over that of a model of one length:"
        yield table(["length", "call", "kernels alone", "bar"], lines)


def tree(data: Data) -> Iterable[str]:
    if found := data.get("sentiment"):
        yield f"{found['trees']} trees, {found['tokens']} tokens; {data['threads']} threads:"
        yield engines(found["engines"], goals_of(found["engines"]), "us a token", "us_per_token")
        test, share = found["test"], found["share"]
        yield (f"Of the {test['trees']} trees of the test part {test['same']} have PyTorch's class at the root. What is not kernels takes "
               f"{at_most(100 * share['not_kernels'], 100 * share['goal'], '.1f', '%')} of a call with a tree of {share['nodes']} nodes, on one thread "
               f"(bar: at most {share['goal']:.0%}).")  # fmt: skip
    if found := data.get("deep"):
        depths = ", ".join(f"{ns:.0f} ns a level at depth {depth}" for depth, ns in found["depths"].items())
        tail = found["tail_over_loop"]
        beside = f"{at_most(tail['ratio'], tail['goal'], '.3f')} {spread(tail, '.3f')}"
        yield f"Recursion that is no tail call: {depths}. A fold over a list of 5,000 cells: {found['fold_ns']:.0f} ns a cell."
        yield f"A tail call beside a round of a loop that does the same: {beside} the time (bar: at most {tail['goal']:.2f}x)."


def streams(data: Data) -> Iterable[str]:
    for threads, found in data["threads"].items():
        peers = list(dict.fromkeys(engine for row in found["models"].values() for engine in row["engines"] if engine != "hasten"))
        lines = []
        for model, row in found["models"].items():
            cells = [f"{r['ratio']:.2f}x {spread(r)}" if (r := row["engines"].get(engine)) else "" for engine in peers]
            lines.append([f"`{model}`", str(row["calls"]), str(row["shapes"]), f"{row['engines']['hasten']['us']:.1f}", *cells,
                          at_most(row["compilations"], 0, "d", ""), f"{row['engines']['hasten']['error']:.0e}"])  # fmt: skip
        yield f"{threads} thread{'s' if threads != '1' else ''}:"
        yield table(["model", "calls", "shapes", "us a call", *map(name, peers), "compiled after load", "error"], lines)
        words = {"recurrent": "streams and recurrent models", "sizes": "pictures of many sizes"}
        means = [f"{words[kind]} {at_least(mean, data['goals'][kind])} (bar: at least {data['goals'][kind]:.1f}x)" for kind, mean in found["means"].items()]
        yield f"Beside the best peer of each model, geometric mean: {'; '.join(means)}."


def lstm(data: Data) -> Iterable[str]:
    for layers, found in data["layers"].items():
        lengths = f"{found['sentences']} sentences of {found['lengths']} lengths, {found['tokens']} words"
        yield f"{layers} layer{'s' if layers != '1' else ''}, {lengths}; {data['arguments']['threads']} threads:"
        yield engines(found["engines"], data["goals"], "us a word", "us")


def memory(data: Data) -> Iterable[str]:
    goals = data["goals"]
    if found := data.get("planner"):
        lines = []
        for length, row in found["lengths"].items():
            single, planned, call = row["single"], row["planned"], row["call"]
            fewer, less = (at_least(100 * row[key], 100 * goals[bar], ".1f", "%") for key, bar in (("fewer", "fewer allocations"), ("less_time", "less time")))
            lines.append([length, f"{single['allocations']} and {planned['allocations']}", fewer, f"{single['us']:.2f} and {planned['us']:.2f}", less,
                          f"{call['ratio']:.3f}x {spread(call, '.3f')}"])  # fmt: skip
        bars = ["bar", "", f"at least {goals['fewer allocations']:.0%}", "", f"at least {goals['less time']:.0%}", ""]
        yield "The encoder without a plan (each temporary is an allocation) and with it, on one thread; the last column is whole calls without over with it:"
        yield table(["length", "allocations", "fewer", "us for memory", "less", "call"], [*lines, bars])
    if found := data.get("peaks"):
        lines = [[f"`{network}`", batch, f"{row['static'] / 1e6:.2f}", *(at_most(row["ratios"][unknown], goals["peak"], ".3f") for unknown in ("batch", "all"))]
                 for network, rows in found["networks"].items() for batch, row in rows.items()]  # fmt: skip
        yield f"The arena where sizes are not known, for the sizes of the static model, over that model's (bar: at most {goals['peak']:.2f}x):"
        yield table(["network", "batch", "static, MB", "batch unknown", "batch, height, width unknown"], lines)
    if found := data.get("lengths"):
        yield (f"Resident memory over {found['lengths']} lengths, each run once: {found['bytes'][0] / 1e6:.1f} MB after the first twentieth, at most "
               f"{at_most(found['growth'], goals['resident'], '.4f')} of that later (bar: at most {goals['resident']:.2f}x).")  # fmt: skip


def vm(data: Data) -> Iterable[str]:
    goals, lines = data["goals"], []
    for model, row in data["models"].items():
        ns = {driver: at_most(found["value"], goals["ns"], ".1f", "") for driver, found in row["ns"].items()}
        around = at_most(100 * row["around"], 100 * goals["share"] if model == "minilm" else None, ".2f", "%")
        lines.append([f"`{model}`", str(row["instructions"]), str(row["kernels"]), ns["native"], ns["interpreter"],
                      at_most(row["ratio"]["value"], goals["native over interpreter"], ".4f"), f"{row['call_us']:.1f}", f"{row['share']:.3%}",
                      around])  # fmt: skip
    bars = ["bar", "", "", f"at most {goals['ns']:.0f}", f"at most {goals['ns']:.0f}", f"at most {goals['native over interpreter']:.2f}x", "", "",
            f"`minilm`: at most {goals['share']:.0%}"]  # fmt: skip
    head = ["model", "instructions", "kernels", "ns an instruction", "interpreter's", "native over interpreter", "us a call", "null call", "around kernels"]
    yield table(head, [*lines, bars])


def decode(data: Data) -> Iterable[str]:
    for threads, modes in data["threads"].items():
        for mode, found in modes.items():
            lines = []
            for engine, row in found["engines"].items():
                beside = "" if engine == "decode_hasten" else f"{row['ratio']:.2f}x {spread(row)}"
                lines.append([name(engine), f"{row['tokens_per_second']:.0f}", beside, f"{row['error']:.0e}"])
            best = min(row["ratio"] for engine, row in found["engines"].items() if engine != "decode_hasten")
            text = f"Beside the best peer {at_least(best, data['bar'])} (bar: at least {data['bar']:.1f}x)"
            if "compilations" in found:
                text += f"; compiled after loading: {at_most(found['compilations'], 0, 'd', '')}"
            if "not_kernels" in found:
                text += f"; not kernels: {found['not_kernels']:.1%} of a call"
            words = {"greedy": "The likeliest character again and again", "beam": "A beam search"}[mode]
            yield f"{words}, {found['tokens']} characters, {threads} thread{'s' if threads != '1' else ''}:"
            yield table(["engine", "characters a second", "Hasten is so many times as fast", "error"], lines)
            yield text + "."


def torch_door(data: Data) -> Iterable[str]:
    """No bars: figures beside PyTorch's own compiler."""
    lines = []
    for engine, row in data["first_call_to_repeat"].items():
        slower = data["times_hastens"].get(engine)
        per_call = data["microseconds_a_call"].get(engine)
        lines.append([DOORS[engine], f"{data['microseconds_per_position'][engine]:.2f}", f"{slower['median']:.2f}x {spread(slower)}" if slower else "",
                      f"{row['median']:.2f}x", f"{row['most']:.2f}x", f"{per_call['median']:.2f}" if per_call else ""])  # fmt: skip
    yield table(["engine", "us a position", "time over torch.compile with hasten", "first call over next, median", "most", "us of an empty call"], lines)
    yield f"Graphs compiled for the lengths: {data['graphs_compiled']}. Largest difference from eager PyTorch: {data['largest_difference']:.0e}."


def soak(data: Data) -> Iterable[str]:
    memory, compiler = data["memory"], "**a compiler was loaded**" if data["compiler_loaded"] else "no compiler was loaded"
    growth = "**unknown**" if data["growth"] is None else at_most(100 * data["growth"], 100 * FLAT, ".2f", "%")
    yield (f"{data['calls']} calls from {data['threads']} threads over {data['shapes']} shapes in {data['seconds']:.0f} s: of {data['compared']} answers that "
           f"were compared with ONNX Runtime's {at_most(data['wrong'], 0, 'd', '')} wrong, {compiler}. Resident memory grew by {growth} of the "
           f"{memory['warm'] / 1e6:.1f} MB that it had when every shape had come by once (bar: at most {FLAT:.0%}).")  # fmt: skip


WRITERS: dict[str, Callable[[Data], Iterable[str]]] = {
    "encoder": encoder, "tree": tree, "streams": streams, "lstm": lstm, "decode": decode, "memory": memory, "vm": vm, "soak": soak, "torch_door": torch_door,
}  # fmt: skip
"""Program of dynamic/ -> what makes the paragraphs of its result; its name is the marker on the page, too."""
