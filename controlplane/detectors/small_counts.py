"""The count model: how far a small count strays by chance, where a spread measured in roots says too little."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LARGE = 400.0
"""From this mean on, the band of roots (variance-stabilised) is as good, and cheaper."""


def count_band(mean: float, dispersion: float, tail: float) -> tuple[float, float]:
    """The counts beyond which lies less than `tail` of a negative binomial (Poisson when `dispersion` is 1).

    `dispersion` is variance ÷ mean, at least 1. Above LARGE: (mean, mean): no model.
    """
    if mean >= LARGE:
        return mean, mean
    if mean <= 0:
        return 0.0, 0.0
    shares = _shares(mean, max(1.0, dispersion))
    below = np.cumsum(shares)
    # The lowest count that is not too rare below, the highest that is not too rare above.
    low = int(np.searchsorted(below, tail, side="left"))
    high = int(np.searchsorted(below, 1.0 - tail, side="left"))
    return float(low), float(min(high, len(shares) - 1))


def chance_of_zero(mean: float, dispersion: float) -> float:
    return float(_shares(mean, max(1.0, dispersion))[0]) if mean > 0 else 1.0


def _shares(mean: float, dispersion: float) -> NDArray[np.float64]:
    """P(0), P(1), … up to ten deviations above the mean, by the ratio of neighbours, in logarithms."""
    until = math.ceil(mean + 10 * math.sqrt(mean * dispersion) + 20 * dispersion)
    counts = np.arange(until, dtype=np.float64)
    if dispersion < 1.001:
        first, ratios = -mean, math.log(mean) - np.log(counts + 1)
    else:
        size = mean / (dispersion - 1)
        first = -size * math.log(dispersion)
        ratios = np.log((counts + size) / (counts + 1)) + math.log((dispersion - 1) / dispersion)
    logs: NDArray[np.float64] = np.concatenate(([0.0], np.cumsum(ratios)))
    return np.exp(first + logs)
