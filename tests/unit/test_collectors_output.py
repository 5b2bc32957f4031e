"""How the commands that show measurements print them."""

from __future__ import annotations

import json
from math import inf, nan

import pytest

from controlplane.cli.output import count, duration, print_json


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0 s"),
        (3.24, "3.24 s"),
        (119, "119 s"),
        (120, "2 min"),
        (9000, "2.5 h"),
        (604_800, "7 d"),
        (inf, "never"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_counts_tell_none_from_unknown() -> None:
    assert (count(0), count(None), count(1234567)) == ("0", "–", "1,234,567")


def test_json_has_no_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [inf, nan, 1.5], "b": {"c": -inf}, "d": "–"})
    assert json.loads(capsys.readouterr().out) == {"a": [None, None, 1.5], "b": {"c": None}, "d": "–"}
