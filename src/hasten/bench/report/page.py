"""The HTML report: one file without anything from outside, readable in light and dark and on paper."""

from __future__ import annotations

from importlib import resources

from hasten.base.units import time_text
from hasten.bench.report import pictures, words
from hasten.bench.report.markup import Markup, el, join
from hasten.bench.summary import Block, Line, Mean, Summary

RATIOS = (
    "{threads}. Time of each engine divided by that of {base} in the same rounds, with its 95% interval; hollow: undecided. The axis is logarithmic, the grey "
    "band around 1 is what counts as no difference. Models are sorted by the lead over the best engine."
)
ERRORS = (
    "Errors are the largest difference from the model computed in float64 (models for which that failed are left out), relative to the largest value of the "
    "output. An engine further up and right is better in both; one that is right and below is faster because it is less exact."
)
METHOD = (
    "Every engine ran in a process of its own and was stopped while others had their turn. In each round all took a turn, in an order drawn anew; ratios are "
    "taken between turns of the same round. Small curves show the rounds in time: what drifts or jumps there was not the engine alone."
)


def html(summary: Summary) -> str:
    """The whole page."""
    run = summary.run
    style = resources.files(__package__).joinpath("style.css").read_text()
    head = el("head", el("meta", charset="utf-8"), el("meta", name="viewport", content="width=device-width, initial-scale=1"),
              el("title", f"hasten bench: {words.title(summary)}"), el("style", Markup(style)))  # fmt: skip
    parts = [_header(summary), _notices(summary)]
    if summary.measured:
        parts += [_who(summary), _pictures(summary), _overview(summary)]
    parts += [_models(summary), _machine(summary), _reproduce(summary), _reading(summary)]
    export = el("code", f"hasten bench export {run.id[:8]} -o samples.csv")
    parts.append(el("footer", f"Run {run.id}, made from its samples by hasten bench. Raw samples: ", export))
    return "<!DOCTYPE html>\n" + el("html", head, el("body", parts), lang="en") + "\n"


def _header(summary: Summary) -> Markup:
    run = summary.run
    cpu = next((text for name, text in words.facts(run.machine) if name.rpartition(".")[2] in ("cpu", "model", "cpu_model")), "")
    facts = (run.began.replace("T", " ")[:16] + " UTC", cpu, f"revision {run.revision}" if run.revision else "")
    tone = {"complete": "good", "interrupted": "open", "refused": "bad"}[run.status]
    line = [el("span", run.status, class_=f"pill {tone}"), " ", " \N{MIDDLE DOT} ".join(filter(None, facts))]
    return el("header", el("div", "hasten bench", class_="eyebrow"), el("h1", words.title(summary)), el("p", line, class_="soft"))


def _notices(summary: Summary) -> list[Markup]:
    run, made = summary.run, []
    kind = "notice refused" if run.status == "refused" else "notice"
    if says := words.STATUS[run.status]:
        made.append(el("p", el("strong", says)))
    if cautions := words.cautions(run):
        made.append(el("ul", [el("li", caution) for caution in cautions]))
    return [el("div", made, class_=kind)] if made else []


# -- who is faster -------------------------------------------------------------------------------------------------------------------------


def _who(summary: Summary) -> list[Markup]:
    made = [el("h2", "Who is faster")]
    if not summary.means:
        return [*made, el("p", f"Only {summary.base} was measured: there is nothing to compare it with.", class_="soft")]
    made.append(el("p", f"How many times as long as {summary.base} each engine takes, as the geometric mean over models. The interval is that of the "
                        "rounds' noise for these very models; how much models differ, the range says.", class_="soft"))  # fmt: skip
    for threads in summary.threads:
        if len(summary.threads) > 1:
            made.append(el("h3", _threads(threads)))
        made.append(el("div", [_card(mean, summary) for mean in summary.means if mean.threads == threads], class_="cards"))
    return made


def _card(mean: Mean, summary: Summary) -> Markup:
    ratio, number = mean.ratio, summary.engines.index(mean.engine)
    tone = "good" if ratio.low > 1 else "bad" if ratio.high < 1 else "even"
    parts = [el("span", class_=f"fill-{tone}", style=f"flex:{mean.words[word]}") for word, tone in words.TONE.items() if mean.words[word]]
    bar = el("div", parts, class_="tally")
    mark = el("svg", pictures.mark(number, 6, 6), viewBox="0 0 12 12", aria_hidden="true")
    interval = f"95% interval {words.interval_text(ratio, 2)}" if words.bounded(ratio) else "too few rounds for an interval"
    reach = f"models {mean.least:.2f} to {mean.most:.2f}" if mean.models > 1 else "one model"
    small = (interval, reach, bar, words.tally(mean))
    return el("div", el("div", mark, mean.engine, class_="name"), el("div", f"{ratio.value:.2f}\N{MULTIPLICATION SIGN}", class_=f"big {tone}"),
              [part if part is bar else el("div", part, class_="soft small") for part in small], class_="card")  # fmt: skip


def _pictures(summary: Summary) -> list[Markup]:
    made = []
    if summary.means:
        made += [el("h2", "Model by model"), pictures.legend(summary, base=False)]
        for threads in summary.threads:
            caption = RATIOS.format(threads=_threads(threads), base=summary.base)
            made.append(el("figure", el("div", pictures.ratios(summary, threads), class_="scroll"), el("figcaption", caption)))
    width = 1000 if len(summary.threads) == 1 else 620
    drawn = [(threads, picture) for threads in summary.threads if (picture := pictures.speed_and_error(summary, threads, width))]
    if drawn:
        made += [el("h2", "As fast as possible, as right as one needs"), pictures.legend(summary)]
        caption = "Large: an engine's geometric means; faint: single models."
        figures = [el("figure", picture, el("figcaption", f"{_threads(threads)}. {caption}")) for threads, picture in drawn]
        made.append(el("div", figures, class_="two" if len(figures) > 1 else None))
        made.append(el("p", ERRORS, class_="soft small"))
    return made


def _overview(summary: Summary) -> list[Markup]:
    if not summary.means:
        return []
    key = [[el("span", word, class_=words.TONE[word]), end] for word, end in (("slower", ", "), ("faster", ", "), ("same", ", "), ("undecided", "."))]
    made = [el("h2", "In numbers"), el("p", f"Times as long as {summary.base}: ", key, class_="soft small")]
    peers = summary.engines[1:]
    for threads in summary.threads:
        head = el("tr", el("th", "model" if len(summary.threads) == 1 else f"model, {_threads(threads)}"), el("th", summary.base, class_="number"),
                  [el("th", name, class_="number") for name in peers])  # fmt: skip
        rows = [_overview_row(summary, block, peers) for block in summary.of_threads(threads)]
        means = {mean.engine: mean for mean in summary.means if mean.threads == threads}
        cells = [el("td", f"{means[name].ratio.value:.2f}x" if name in means else "", class_="number") for name in peers]
        last = el("tr", el("td", "geometric mean"), el("td"), cells, class_="base")
        made.append(el("div", el("table", el("thead", head), el("tbody", rows, last if len(rows) > 1 else None)), class_="scroll"))
    return made


def _overview_row(summary: Summary, block: Block, peers: list[str]) -> Markup:
    cells = []
    for name in peers:
        line = block.line(name)
        if line is None or line.ratio is None:
            cells.append(el("td", "failed" if line and line.entry.trouble else "", class_="number soft"))
        else:
            cells.append(el("td", el("span", f"{line.ratio.value:.2f}x", class_=words.TONE.get(line.word, "even"), title=line.says), class_="number"))
    base = time_text(block.base.seconds.value) if block.base.seconds else "failed"
    return el("tr", el("td", el("a", block.name, href=f"#{_anchor(summary, block)}")), el("td", base, class_="number"), cells)


# -- each model ----------------------------------------------------------------------------------------------------------------------------


def _models(summary: Summary) -> list[Markup]:
    return [el("h2", "Each model"), *(_model(summary, block) for block in summary.blocks)]


def _model(summary: Summary, block: Block) -> Markup:
    subject = block.subject
    inputs = ", ".join(f"{name} {kind}" for name, kind in subject.inputs.items())
    reference = f"reference: {subject.reference or 'none'}" + (f" ({subject.reference_note})" if subject.reference_note else "")
    about = " \N{MIDDLE DOT} ".join(filter(None, (subject.model if subject.model != block.name else "", inputs, reference, f"SHA-256 {subject.sha256[:12]}")))
    head = [("engine", ""), ("a call", "number"), ("ratio", "number"), ("95% interval", "number"), ("verdict", ""), ("error", "number"),
            ("CPU / wall", "number"), ("cold / warm start", "number"), ("peak memory (model's)", "number"), ("rounds", "number")]  # fmt: skip
    table = el("table", el("thead", el("tr", [el("th", name, class_=kind or None) for name, kind in head])),
               el("tbody", [_line(line, first=line is block.base) for line in block.lines]))  # fmt: skip
    troubles = [el("p", el("strong", line.entry.engine), f": {line.entry.trouble}", class_="small bad") for line in block.lines if line.entry.trouble]
    numbers = {name: number for number, name in enumerate(summary.engines)}
    title = el("h3", block.name, el("span", f" \N{MIDDLE DOT} {_threads(block.threads)}", class_="soft"))
    notes = [el("p", caution, class_="small open") for caution in block.cautions()]
    return el("section", title, el("div", about, class_="soft small"), el("div", table, class_="scroll"), troubles, notes,
              pictures.drift(block, numbers), class_="model", id=_anchor(summary, block))  # fmt: skip


def _line(line: Line, first: bool) -> Markup:
    entry, ratio = line.entry, line.ratio
    wall = sum(sample.wall_ns for sample in entry.samples)
    about = "\n".join(f"{name}: {value}" for name, value in entry.about.items())
    cells = [el("td", el("span", entry.engine, title=about or None))]
    cells += [el("td", text, class_="number") for text in (
        time_text(line.seconds.value) if line.seconds else "",
        "1" if first and line.seconds else f"{ratio.value:.3f}" if ratio else "",
        words.interval_text(ratio),
    )]  # fmt: skip
    cells.append(el("td", line.says, class_="bad" if entry.trouble else words.TONE.get(line.word), style="white-space:nowrap"))
    cells += [el("td", text, class_="number") for text in (
        words.error_text(line), f"{sum(s.cpu_ns for s in entry.samples) / wall:.2f}" if wall else "", words.start_text(line), words.memory_text(line),
        str(len(entry.samples)) if entry.samples else "",
    )]  # fmt: skip
    return el("tr", cells, class_="base" if first else None)


# -- how it was measured -------------------------------------------------------------------------------------------------------------------


def _machine(summary: Summary) -> Markup:
    run = summary.run
    engines: dict[str, dict[str, str]] = {}
    for block in summary.blocks:
        for line in block.lines:
            if line.entry.about:
                engines.setdefault(line.entry.engine, line.entry.about)
    pairs = [(name, "; ".join(f"{k} {v}" for k, v in about.items())) for name, about in engines.items()]
    said = [el("h3", "What the engines say of themselves"), _facts(pairs)]
    machine = {name: value for name, value in run.machine.items() if name != "cautions"}  # they stand at the top
    design = {name: value for name, value in run.design.items() if name != "command"}
    return join(el("h2", "Machine and design"), el("h3", "Machine"), _facts(list(words.facts(machine))),
                el("h3", "Design"), _facts(list(words.facts(design))), said if engines else None)  # fmt: skip


def _facts(pairs: list[tuple[str, str]]) -> Markup:
    return el("table", el("tbody", [el("tr", el("td", name.replace("_", " ")), el("td", text)) for name, text in pairs]), class_="facts")


def _reproduce(summary: Summary) -> Markup:
    command, revision = words.command(summary.run), summary.run.revision
    told = [f"git checkout {revision.rstrip('+')}"] if revision else []
    told += [command] if command else []
    unknown = el("p", "The run does not say with which command it was made.", class_="soft")
    return join(el("h2", "Measure it again"), el("pre", "\n".join(told)) if told else unknown)


def _reading(summary: Summary) -> Markup:
    band = float(summary.run.design.get("band") or 0)
    rows = [el("tr", el("td", word), el("td", says.format(base=summary.base, band=band))) for word, says in words.READING.items()]
    return join(el("h2", "How to read it"), el("table", el("tbody", rows), class_="facts"),
                el("p", METHOD, class_="soft"))  # fmt: skip


def _anchor(summary: Summary, block: Block) -> str:
    return f"m{summary.blocks.index(block)}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
