"""Reports and the summary that they are made from: right figures, well-formed pages, nothing from outside, no unhappy run without its page."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from synthetic import make_entry, make_run  # noqa: E402

from hasten.base.errors import InputError  # noqa: E402
from hasten.bench import report  # noqa: E402
from hasten.bench.report.axes import LogAxis  # noqa: E402
from hasten.bench.report.markup import Markup, el, join  # noqa: E402
from hasten.bench.results import Run  # noqa: E402
from hasten.bench.summary import summarise  # noqa: E402


def page(run: Run) -> tuple[str, ET.Element]:
    """The HTML as text and parsed: it is well-formed XML."""
    text = report.html(summarise(run))
    return text, ET.fromstring(text)


def texts(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


# -- the summary ---------------------------------------------------------------------------------------------------------------------------


def test_ratios_words_and_means() -> None:
    """An engine that always takes 1.5 times as long, one that takes 0.8 times, one that is the same: to the noise of the samples."""
    engines = {"hasten": 1.0, "slow": 1.5, "fast": 0.8, "equal": 1.0}
    run = make_run(["hasten"], {"a.onnx": 1e-3, "b.onnx": 1e-2}, rounds=60, noise=0.002)
    for subject in run.subjects:
        seconds = subject.entries[0].samples[0].seconds
        subject.entries = [make_entry(name, seconds * ratio, rounds=60, noise=0.002) for name, ratio in engines.items()]
    summary = summarise(run)
    assert (summary.base, summary.engines) == ("hasten", list(engines))
    assert [[line.word for line in block.lines] for block in summary.blocks] == [["", "slower", "faster", "same"]] * 2
    for mean in summary.means:
        assert mean.ratio.low < mean.ratio.value < mean.ratio.high and mean.models == 2
        assert mean.ratio.value == pytest.approx(engines[mean.engine], rel=0.003)  # five deviations of a median of 60 at 0.3% noise are 0.25%
        assert mean.least <= mean.ratio.value <= mean.most


def test_the_interval_of_a_mean_covers() -> None:
    """The true mean, 1.5, lies in at least 95% of the intervals: of 120, three and a half deviations below that are 88%."""
    covered = 0
    for seed in range(120):
        run = make_run(["hasten"], {"a.onnx": 1e-3, "b.onnx": 2e-3, "c.onnx": 3e-3}, rounds=0)
        for number, subject in enumerate(run.subjects):
            subject.entries = [make_entry(name, seconds, rounds=14, noise=0.1, seed=10 * seed + number) for name, seconds in (("hasten", 1e-3), ("peer", 1.5e-3))]
        (mean,) = summarise(run).means
        covered += mean.ratio.low <= 1.5 <= mean.ratio.high
    assert covered >= 0.88 * 120


def test_the_base_can_be_chosen() -> None:
    run = make_run(rounds=12)
    assert summarise(run, "openvino").base == "openvino"
    with pytest.raises(InputError, match="no engine 'abacus'; it has hasten, onnxruntime"):
        summarise(run, "abacus")
    run.subjects[0].entries.reverse()
    assert summarise(run).blocks[0].base.entry.engine == "hasten"


def test_a_refused_run_concludes_nothing() -> None:
    run = dataclasses.replace(make_run(), status="refused", cautions=["other work leaves 0.1 of 2 CPUs free"])
    assert {line.word for block in summarise(run).blocks for line in block.lines[1:]} == {"withheld"}
    text, _ = page(run)
    assert "Nothing is concluded" in text and "other work leaves" in text


def test_engines_that_failed_have_no_figures() -> None:
    run = make_run(["hasten", "ncnn"], rounds=12)
    run.subjects[0].entries[1].trouble = "crashed after 5 rounds"
    run.subjects[1].entries[0].trouble = "refused"
    summary = summarise(run)
    assert summary.blocks[0].lines[1].ratio is None and summary.blocks[0].lines[1].says == "failed"
    assert summary.blocks[1].lines[1].seconds is not None and summary.blocks[1].lines[1].ratio is None
    assert summary.means[0].models == 1
    assert "crashed after 5 rounds" in texts(page(run)[1])


# -- pages ---------------------------------------------------------------------------------------------------------------------------------


def test_the_page_shows_it_all() -> None:
    run = make_run(threads=(1, 2), rounds=12)
    run.design["command"] = ["hasten", "bench", "a b.onnx", "--peers", "ncnn"]
    run.cautions = ["turbo is on & <warm>"]
    run.machine |= {"memory_bytes": 24 << 30, "cautions": ["the clock is slow to read"]}
    text, root = page(run)
    said = texts(root)
    for words in ("3 models, 5 engines, 1 and 2 threads", "hasten bench 'a b.onnx' --peers ncnn", "turbo is on & <warm>", "git checkout 1a2b3c4d5e",
                  "A Processor 9000", "the clock is slow to read", "24.0 GiB", "float32[1, 3, 224, 224]", "geometric mean", "1.2.3", run.id):  # fmt: skip
        assert words in said, words
    pictures = [svg.findtext("title") for svg in root.iter("svg") if svg.find("title") is not None]
    assert pictures.count("Ratios of times, 1 threads") == pictures.count("Speed against error, 2 threads") == 1
    assert sum(name == "Rounds of ncnn" for name in pictures) == 6
    targets = {element.get("id") for element in root.iter() if element.get("id")}
    links = {element.get("href", "") for element in root.iter("a")}
    assert links and {link.removeprefix("#") for link in links} <= targets


def test_the_page_fetches_nothing() -> None:
    text, root = page(make_run(rounds=12))
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & {element.tag for element in root.iter()}
    assert not re.search(r"https?:|//[a-z]|url\(|@import|src=|javascript:", text)
    assert all(href.startswith("#") for element in root.iter() if (href := element.get("href")))


def test_coordinates_lie_in_the_pictures() -> None:
    """No picture draws beside itself, whatever the ratios."""
    run = make_run({"hasten": (1, 0.0), "a": (300.0, math.inf), "b": (0.002, 1e-30), "c": (1.0, 0.4)}, rounds=9)
    for svg in page(run)[1].iter("svg"):
        width, height = map(float, svg.get("viewBox", "").split()[2:])
        for element in svg.iter():
            for name, most in (("x", width), ("x1", width), ("x2", width), ("cx", width), ("y", height), ("y1", height), ("y2", height), ("cy", height)):
                assert 0 <= float(element.get(name, 0)) <= most, ET.tostring(element)


@pytest.mark.parametrize("rounds", [0, 1, 2, 5])
def test_few_rounds_have_no_intervals_and_still_a_page(rounds: int) -> None:
    run = make_run(rounds=rounds)
    text, _ = page(run)
    warned = "onnxruntime, openvino:precision=f32, openvino, ncnn: " in " ".join(summarise(run).blocks[0].cautions())
    assert warned == (rounds > 0)
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", text) and "inf " not in text and ">inf" not in text


def test_ratios_without_intervals_lie_on_the_axis() -> None:
    run = make_run({"hasten": (1, 0.0), "a": (4.0, 0.0)}, {"m.onnx": 1e-3}, rounds=3)
    ticks = [text for text in page(run)[1].itertext() if re.fullmatch(r"[\d.]+x", text)]
    assert {"1x", "2x", "3x"} <= set(ticks)


def test_runs_without_anything() -> None:
    empty = Run("12345678-0", "2026-01-01T00:00:00+00:00", "", status="refused", cautions=["busy"])
    assert "busy" in texts(page(empty)[1])
    alone = make_run(["hasten"], rounds=9)
    assert "nothing to compare it with" in texts(page(alone)[1])
    assert report.markdown(summarise(empty)) and json.loads(report.as_json(summarise(empty)))["models"] == []


def test_strange_names_break_nothing() -> None:
    run = make_run(["hasten", "ncnn"], {"<b>&\"'|\x00\x1b.onnx": 1e-3}, rounds=9)
    run.subjects[0].entries[1].about = {"<script>": "]]> & \u0007"}
    run.subjects[0].entries[1].engine = "ncnn|x"
    said = texts(page(run)[1])
    assert "<b>&\"'|" in said and "<script>" in said
    assert "| ncnn\\|x |" in report.markdown(summarise(run))


def test_many_rounds_make_a_small_page() -> None:
    run = make_run(["hasten", "ncnn"], {"m.onnx": 1e-3}, rounds=20_000)
    assert len(page(run)[0]) < 100_000


def test_markdown_tables_are_even() -> None:
    text = report.markdown(summarise(make_run(threads=(1, 2), rounds=12)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) > 30 and all(line.endswith("|") for line in rows) and {line.count("|") for line in rows} == {6, 9}
    assert "onnxruntime" in text and "Time beside hasten, threads: 2" in text


def test_json_has_the_figures_and_no_infinity() -> None:
    run = make_run(rounds=3)
    run.subjects[0].entries[2].error = math.inf
    found = json.loads(report.as_json(summarise(run)), parse_constant=lambda name: pytest.fail(name))
    engine = found["models"][0]["engines"][1]
    assert engine["engine"] == "onnxruntime" and engine["rounds"] == 3 and engine["ratio"]["value"] > 0
    assert found["base"] == "hasten" and found["means"][0]["models"] == 3


def test_verdicts_are_json_also_without_intervals() -> None:
    for rounds in (2, 20):
        run = make_run(rounds=rounds)
        found = list(summarise(run).verdicts())
        assert len(found) == 12 and all(verdict["base"] is run.subjects[index // 4].entries[0] for index, verdict in enumerate(found))
        json.loads(json.dumps([verdict["facts"] for verdict in found]), parse_constant=lambda name: pytest.fail(name))


def test_files_by_their_suffix(tmp_path: Path) -> None:
    summary = summarise(make_run(rounds=9))
    for suffix, begins in ((".html", "<!DOCTYPE html>"), (".md", "# hasten bench"), (".json", "{")):
        report.write(summary, tmp_path / "new" / f"r{suffix}")
        assert (tmp_path / "new" / f"r{suffix}").read_text().startswith(begins)
    with pytest.raises(InputError, match="one of .html, .md, .json"):
        report.write(summary, tmp_path / "r.pdf")


# -- the parts -----------------------------------------------------------------------------------------------------------------------------


def test_markup_escapes_text_and_not_markup() -> None:
    assert el("p", "a < b & c", Markup("<i>d</i>"), None, [1, 2.50], class_='"x"', data_a=1) == '<p class="&quot;x&quot;" data-a="1">a &lt; b &amp; c<i>d</i>12.5</p>'
    assert el("rect", x=1.0) == '<rect x="1"/>' and join() == ""


@pytest.mark.parametrize(("low", "high"), [(0.98, 1.03), (0.7, 2.3), (0.3, 40), (1e-3, 1e4), (1e-9, 1e-1), (1.0, 1.0001), (8.5, 9.7)])
def test_ticks_are_few_and_round(low: float, high: float) -> None:
    axis = LogAxis(low, high, 100, 900)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 9 and ticks == sorted(ticks) and all(low <= tick <= high for tick in ticks)
    assert (axis.at(low), axis.at(high)) == (100, 900) and axis.at(math.sqrt(low * high)) == pytest.approx(500)
    assert axis.at(high * 10) == 900 and axis.at(0) == 100 and axis.at(math.inf) == 900
