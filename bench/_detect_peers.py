"""What peers would have said of the same series: their published rules on a regular grid, nothing tuned.

Written from the rules' descriptions, not taken from their code. nan is a bucket without a reading.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Values = NDArray[np.float64]
Alarms = NDArray[np.bool_]
DAY, HOUR = 86_400, 3_600


def elementary(values: Values, step: int) -> Alarms:
    """Elementary's volume anomalies, defaults: 14 days up to *and with* the tested bucket, beyond 3 deviations."""
    mean, deviation, count = _trailing(values, 14 * DAY // step)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Sample deviation, as in SQL.
        score = np.abs(values - mean) / (deviation * np.sqrt(count / np.maximum(count - 1, 1)))
    alarms: Alarms = (score > 3) & (deviation > 0) & (count >= 2)
    return alarms


def grafana_adaptive(values: Values, step: int) -> Alarms:
    """Grafana's adaptive PromQL rules, defaults, without `for: 5m`: zeros dropped; widest of three bands around 1 h.

    At hourly buckets its one-hour average is the tested point itself: it never fires.
    """
    kept = np.where(values > 0, values, np.nan)
    hour = max(1, HOUR // step)
    mean, deviation, _ = _trailing(kept, hour)
    restless = np.where(deviation > 0.5 * mean, deviation, np.nan)
    short, _, _ = _trailing(restless, 26 * hour)
    low, high = 0.5 * mean, 1.5 * mean
    low, high = np.fmin(low, mean - 2 * short), np.fmax(high, mean + 2 * short)
    for lag in (DAY // step - hour // 2, 7 * DAY // step - hour // 2):
        past_mean, past_deviation = _shift(mean, lag), _shift(deviation, lag)
        low = np.fmin(low, past_mean - 2 * past_deviation)
        high = np.fmax(high, past_mean + 2 * past_deviation)
    with np.errstate(invalid="ignore"):
        alarms: Alarms = (kept < np.maximum(low, 0)) | (kept > high)
    return alarms


def _trailing(values: Values, window: int) -> tuple[Values, Values, Values]:
    """Mean, population deviation and count of the readings in the `window` buckets up to and with each."""
    windows = sliding_window_view(np.concatenate((np.full(window - 1, np.nan), values)), window)
    mean, deviation, count = (np.full(len(values), np.nan) for _ in range(3))
    for first in range(0, len(values), 4096):
        part = slice(first, first + 4096)
        known = ~np.isnan(windows[part])
        count[part] = known.sum(axis=1)
        filled = np.where(known, windows[part], 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean[part] = filled.sum(axis=1) / count[part]
            away = np.where(known, windows[part] - mean[part, None], 0.0)
            deviation[part] = np.sqrt((away**2).sum(axis=1) / count[part])
    return mean, deviation, count


def _shift(values: Values, lag: int) -> Values:
    shifted = np.full(len(values), np.nan)
    shifted[lag:] = values[:-lag] if lag < len(values) else np.nan
    return shifted


PEERS = {"elementary": elementary, "grafana_adaptive": grafana_adaptive}
