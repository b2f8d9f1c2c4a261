"""Intervals hold what they promise: simulations with fixed seeds, and references worked out otherwise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hasten.bench.statistics import (
    Interval,
    chance_interval,
    evidence,
    exact_interval,
    geometric_mean,
    interval,
    middle_interval,
    rank_interval,
    sign_margin,
)


def test_evidence_is_the_mixture_computed_by_quadrature() -> None:
    for wins, rounds, chance in ((0, 5, 0.5), (7, 10, 0.5), (30, 40, 0.9)):
        p = (np.arange(200_000) + 0.5) / 200_000
        mixed = np.mean((p / chance) ** wins * ((1 - p) / (1 - chance)) ** (rounds - wins))
        assert evidence(wins, rounds, chance) == pytest.approx(math.log(mixed), abs=1e-5)


def test_evidence_is_a_martingale() -> None:
    """Its mean after one more round is what it was: with it, Ville's inequality bounds all times of looking together."""
    for wins, rounds, chance in ((0, 1, 0.3), (5, 9, 0.5), (20, 21, 0.9)):
        after = chance * math.exp(evidence(wins + 1, rounds + 1, chance)) + (1 - chance) * math.exp(evidence(wins, rounds + 1, chance))
        assert after == pytest.approx(math.exp(evidence(wins, rounds, chance)))


@pytest.mark.parametrize("chance", [0.5, 0.75, 0.95])
def test_chance_interval_holds_at_all_times_together(chance: float) -> None:
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(300):
        wins = np.cumsum(rng.random(300) < chance)
        missed += any(evidence(int(wins[n - 1]), n, chance) > math.log(20) for n in range(1, 301))
    assert missed <= 0.05 * 300 + 2 * math.sqrt(300 * 0.05 * 0.95)  # two standard errors of the simulation


def test_chance_interval_is_what_evidence_does_not_refute() -> None:
    for wins, rounds in ((0, 10), (3, 10), (10.5, 21), (40, 40)):
        found = chance_interval(wins, rounds)
        assert 0 <= found.low <= found.value <= found.high <= 1 and found.high - found.low > 0.05
        for end in (found.low, found.high):
            if 0 < end < 1:
                assert evidence(wins, rounds, end) == pytest.approx(math.log(20), abs=1e-6)
    assert chance_interval(0, 0) == Interval(0.5, 0.0, 1.0)


@pytest.mark.parametrize("rounds", [10, 29, 100])
def test_exact_interval_covers(rounds: int) -> None:
    """By summing the binomial distribution, not by drawing from it."""
    from scipy.stats import binom

    ends = [exact_interval(wins, rounds) for wins in range(rounds + 1)]
    for p in np.linspace(0.5, 0.99, 50):
        weights = binom.pmf(np.arange(rounds + 1), rounds, p)
        assert sum(w for w, found in zip(weights, ends, strict=True) if found.low <= p <= found.high) >= 0.95
    assert all(found.high > found.low for found in ends)
    half = exact_interval(7.5, rounds)
    assert half.low == ends[7].low and half.high == ends[8].high and half.value == 7.5 / rounds


def test_sign_margin() -> None:
    """Against the definitions, by trying all counts."""
    from scipy.stats import binom

    for rounds in (1, 5, 7, 8, 10, 29, 100, 500):
        refuted = [k for k in range(rounds // 2 + 1) if evidence(k, rounds, 0.5) >= math.log(20)]
        assert sign_margin(rounds) == max(refuted, default=-1)
        fixed = [k for k in range(rounds // 2 + 1) if binom.cdf(k, rounds, 0.5) < 0.025]
        assert sign_margin(rounds, sequential=False) == max(fixed, default=-1)
    assert sign_margin(7) == -1 and sign_margin(8) == 0  # verdict.FEW


@pytest.mark.parametrize("draw", ["normal", "cauchy", "lognormal"])
def test_middle_interval_holds_for_heavy_tails_and_any_stopping(draw: str) -> None:
    """Stop as soon as the interval misses the truth: the worst that a stopping rule can do."""
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(200):
        values = {"normal": rng.normal(size=200), "cauchy": rng.standard_cauchy(200), "lognormal": rng.lognormal(size=200) - 1}[draw]
        below = np.cumsum(values < 0)
        missed += any(min(below[n - 1], n - below[n - 1]) <= sign_margin(n) for n in range(8, 201, 3))
        found = middle_interval(list(values))
        assert found.low < found.value < found.high
    assert missed <= 0.05 * 200 + 2 * math.sqrt(200 * 0.05 * 0.95)


def test_middle_interval_says_when_it_cannot_say_and_is_never_of_zero_width() -> None:
    assert middle_interval([]).low == -math.inf and middle_interval([1.0] * 7) == Interval(1.0, -math.inf, math.inf)
    found = middle_interval([1.0] * 50)
    assert found.low < 1 < found.high and found.high - found.low < 1e-5
    assert middle_interval(list(range(100)), sequential=False).low > middle_interval(list(range(100))).low  # looking costs width


def test_rank_interval_covers_and_has_no_zero_width() -> None:
    rng = np.random.default_rng(3)
    for shift in (0.0, 1.0, 2.5):
        truth = 0.5 * math.erfc(-shift / 2)  # P(a < b) of two normal variables `shift` apart
        found = [rank_interval(list(rng.normal(size=20)), list(rng.normal(shift, size=30))) for _ in range(200)]
        assert np.mean([f.low <= truth <= f.high for f in found]) >= 0.92
    sure = rank_interval([1.0, 2.0, 3.0], [4.0, 5.0])
    assert sure.value == 1 == sure.high and sure.low < 0.95
    assert rank_interval([1.0, 1.0], [1.0, 1.0]).value == 0.5


def test_bootstrap_interval_and_geometric_mean() -> None:
    random = np.random.default_rng(1)
    held = [interval(random.normal(5, 1, 25), resamples=300, seed=i) for i in range(100)]
    assert sum(found.low <= 5 <= found.high for found in held) >= 85
    assert all(found.low <= found.value <= found.high for found in held)
    assert geometric_mean([1.0, 4.0]) == 2
