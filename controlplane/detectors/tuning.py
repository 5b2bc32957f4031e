"""The few numbers that the row-count detector turns on. docs/detection.md says what each was chosen by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    spreads: float = 4.0
    """The band reaches at least so many robust spreads (in roots of rows) from the centre …"""
    beyond_usual: float = 0.7
    """… and so many times as far as the surprise that comes about `surprises_per_week` times a week."""
    large_share: float = 0.5
    """The upper edge lies by this share of the way towards what would be large at any hour …"""
    large_deviations: float = 2.0
    """… so many standard deviations above the mean of the past two weeks: a surge has to matter, too."""
    surprises_per_week: float = 1.5
    surprise_days: int = 28
    surprise_hours_apart: int = 6
    least_spread: float = 0.03
    """Spread that is always granted, as a share of the week's typical root: what nobody would act upon."""
    level_buckets: int = 6
    """The recent level is the median residual of so many buckets that raised no alarm …"""
    level_days: int = 3
    """… not older than this; a shift that lasts longer is the new level."""
    level_clip: float = 4.0
    """How many spreads (of itself, or of the residuals) the level may stray; beyond, a slow leak shows as low."""
    spread_days: int = 14
    chance: float = 1e-5
    """Of the count model: how rare a small count must be on one side."""
    settled: float = 0.99
    """The share of its rows that must have arrived before a bucket is judged."""
    zero_share: float = 0.05
    """Zero is unusual where it made up at most this share of comparable buckets."""
