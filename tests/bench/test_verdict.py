"""Verdicts: seldom wrong under load that comes and goes and with a look after every round, and found where there is something to find."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from hasten.base.errors import InputError
from hasten.bench.results import Sample
from hasten.bench.verdict import FEW, Verdict, compare, seconds_interval

SIMULATIONS = 120


def loaded_rounds(rng: np.random.Generator, ratio: float, rounds: int) -> Iterator[tuple[list[float], list[float]]]:
    """Rounds of two engines in turns on a machine where load comes and goes for many rounds on end: it doubles times with sudden jumps between the
    turns of a round, in heavy tails, and the second turn of a round is always the slower one. Gives all rounds so far, after each of some rounds."""
    a: list[float] = []
    b: list[float] = []
    on, jump = False, 1.0
    for number in range(rounds):
        if rng.random() < 0.05:
            on = not on
        turns = []
        for position in range(2):
            if on and rng.random() < 0.3:
                jump = 1 + rng.pareto(1.5)
            turns.append((2.0 * jump if on else 1.0) * (1 + 0.02 * position) * rng.lognormal(0, 0.01))
        first = rng.random() < 0.5
        a.append(ratio * turns[0 if first else 1])
        b.append(turns[1 if first else 0])
        if number >= 9 and number % max(1, number // 20) == 0:
            yield a, b


def word(seed: int, ratio: float, rounds: int) -> str:
    """The first word that is said."""
    for a, b in loaded_rounds(np.random.default_rng([4, seed]), ratio, rounds):
        if (found := compare(a, b).word) != "undecided":
            return found
    return "undecided"


def test_equals_are_seldom_told_apart_however_often_one_looks() -> None:
    words = [word(seed, 1.0, 500) for seed in range(SIMULATIONS)]
    assert sum(w in ("a", "b") for w in words) <= 0.05 * SIMULATIONS
    assert words.count("same") >= 0.8 * SIMULATIONS


def test_without_a_band_equals_are_seldom_told_apart() -> None:
    false = 0
    for seed in range(SIMULATIONS):
        false += any(compare(a, b, band=None, gamma=0.5).word in ("a", "b") for a, b in loaded_rounds(np.random.default_rng([5, seed]), 1.0, 200))
    assert false <= 0.05 * SIMULATIONS + 2 * math.sqrt(SIMULATIONS * 0.05 * 0.95)  # two standard errors of the simulation


def test_a_slowdown_is_found() -> None:
    words = [word(seed, 1.05, 800) for seed in range(SIMULATIONS // 2)]
    assert words.count("b") >= 0.95 * len(words) and "a" not in words
    words = [word(seed, 1 / 1.05, 800) for seed in range(SIMULATIONS // 2)]
    assert words.count("a") >= 0.95 * len(words)


def test_words_and_figures() -> None:
    rng = np.random.default_rng(6)
    a, b = list(rng.lognormal(0, 0.01, 100)), list(1.1 * rng.lognormal(0, 0.01, 100))
    found = compare(a, b)
    assert found.word == "a" and str(found) == "a is better" and found.rounds_needed is None
    assert found.ratio.low < 1 / 1.1 < found.ratio.high < 0.98 and found.chance.low > 0.9 and found.effect < -3
    mirror = compare(b, a)
    assert mirror.word == "b" and mirror.ratio.value == pytest.approx(1 / found.ratio.value) and mirror.effect == pytest.approx(-found.effect)
    assert mirror.ratio.low == pytest.approx(1 / found.ratio.high) and mirror.chance.low == pytest.approx(1 - found.chance.high)
    assert compare(a, a).word == "same" and compare(a, a).chance.value == 0.5 and compare(a, a).effect == 0
    assert compare(a, b, band=0.2).word == "same"
    facts = found.to_dict()
    assert facts["word"] == "a" and facts["ratio"]["value"] == found.ratio.value


def test_identical_samples_have_an_interval_of_some_width() -> None:
    found = compare([1.0] * 20, [1.0] * 20)
    assert found.word == "same" and found.ratio.low < 1 < found.ratio.high and found.chance.low < 0.5 < found.chance.high


def test_too_few_rounds_decide_nothing() -> None:
    for rounds in range(FEW):
        found = compare([1.0] * rounds, [2.0] * rounds)
        assert found.word == "undecided" and found.rounds_needed == FEW - rounds and (found.ratio.low, found.ratio.high) == (0, math.inf)
        assert any("too few" in caution for caution in found.cautions)
    assert compare([1.0] * FEW, [2.0] * FEW).word == "a"


def test_rounds_needed_are_about_what_it_takes() -> None:
    needed, took = [], []
    for seed in range(40):
        rng = np.random.default_rng([7, seed])
        logs = rng.normal(math.log(1.04), 0.03, 3000)
        a, b = list(np.exp(logs)), [1.0] * 3000
        early = compare(a[:60], b[:60])
        if early.word == "undecided" and early.rounds_needed:
            needed.append(60 + early.rounds_needed)
            took.append(next(n for n in range(60, 3000) if compare(a[:n], b[:n]).word != "undecided"))
    assert len(needed) >= 5 and 0.3 < np.median(needed) / np.median(took) < 3
    edge = compare([1.02 * x for x in np.exp(np.random.default_rng(8).normal(0, 1e-6, 101))], [1.0] * 101)
    assert edge.word == "undecided"  # a ratio at the edge of the band


def test_a_noisy_win_is_cautioned() -> None:
    logs = np.random.default_rng(9).normal(0.05, 0.1, 4000)
    found = compare(list(np.exp(logs)), [1.0] * 4000)
    assert found.word == "b" and "won only" in found.cautions[0]


def test_gamma_decides_without_a_band() -> None:
    rng = np.random.default_rng(10)
    small, large = (list(np.exp(rng.normal(shift, 1, 2000))) for shift in (0.2, 1.5))
    ones = [1.0] * 2000
    assert compare(small, ones, band=None).word == "same"  # certainly worse, in too few rounds to matter
    assert compare(large, ones, band=None).word == "b" and compare(ones, large, band=None).word == "a"
    assert compare(small[:20], ones[:20], band=None).word == "undecided"


def test_samples_pair_by_their_round() -> None:
    def samples(rounds: list[int], seconds: float) -> list[Sample]:
        return [Sample(r, 0, 10, round(10 * seconds * (1 + r) * 1e9), 0, 0) for r in rounds]

    a, b = samples(list(range(20)), 0.001), samples(list(range(3, 25)), 0.002)
    found = compare(a, b)
    assert found.rounds == 17 and found.ratio.value == pytest.approx(0.5) and found.word == "a"
    assert seconds_interval(a).value == pytest.approx(0.0105)


def test_separate_samples() -> None:
    rng = np.random.default_rng(11)
    false = sum(compare(list(rng.lognormal(0, 0.05, 40)), list(rng.lognormal(0, 0.05, 60)), paired=False).word in ("a", "b") for _ in range(200))
    assert false <= 10
    found = compare(list(rng.lognormal(0, 0.05, 40)), list(rng.lognormal(0.2, 0.05, 60)), paired=False)
    assert found.word == "a" and found.cautions and found.chance.low > 0.9
    assert compare([], [1.0], paired=False) != compare([1.0], [1.0], paired=False)


def test_bad_samples_are_refused() -> None:
    for a, b in (([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([math.nan], [1.0]), ([1.0], [math.inf])):
        with pytest.raises(InputError):
            compare(a, b)
    assert isinstance(compare([], []), Verdict)
