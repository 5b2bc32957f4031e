"""Detectors judge readings: pure functions of what was counted and when. They measure nothing and notify nobody."""
