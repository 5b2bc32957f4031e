"""How `bench.detect` counts: events, merged alarms, delay; and the peers' rules."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from bench import detect
from bench._detect_peers import elementary, grafana_adaptive
from bench._detect_score import Series, read, score
from tidewatch.errors import UsageError

HOUR, WEEK = 3_600, 604_800


def series(*windows: tuple[int, int], length: int = 336) -> Series:
    return Series("a", 0, HOUR, np.ones(length), windows)


def alarmed(*buckets: int, length: int = 336) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    alarms = np.zeros(length, dtype=bool)
    alarms[list(buckets)] = True
    return alarms


def test_an_event_is_found_by_any_alarm_inside_and_consecutive_alarms_are_one() -> None:
    tally = score(series((200, 209), (300, 301)), alarmed(203, 204, 205, 250, 251, 260))
    assert (tally.events, tally.found, tally.alarms, tally.true_alarms) == (2, 1, 3, 1)
    assert tally.delays == [3 * HOUR]
    figures = tally.figures()
    assert (figures["recall"], figures["precision"], figures["f1"]) == (0.5, 0.333, 0.4)
    assert figures["false_alarms_per_series_week"] == 2.0


def test_an_alarm_just_beside_an_event_is_false_and_one_that_reaches_into_it_is_not() -> None:
    beside = score(series((200, 209)), alarmed(198, 199, 210))
    assert (beside.found, beside.alarms, beside.true_alarms) == (0, 2, 0)
    reaching = score(series((200, 209)), alarmed(199, 200))
    assert (reaching.found, reaching.alarms, reaching.true_alarms) == (1, 1, 1)


def test_only_the_second_half_counts() -> None:
    tally = score(series((100, 110), (160, 172)), alarmed(50, 105, 170))
    assert (tally.events, tally.alarms, tally.true_alarms) == (0, 1, 1), "a window that straddles is no event"


def test_nothing_to_divide_by_is_none() -> None:
    figures = score(series(), alarmed()).figures()
    assert (figures["recall"], figures["precision"], figures["f1"], figures["median_delay_s"]) == (
        None,
        None,
        None,
        None,
    )


def write(directory: Path, name: str, rows: list[tuple[int, float]], windows: list[list[int]]) -> None:
    (directory / "series").mkdir(exist_ok=True)
    with gzip.open(directory / "series" / f"{name}.csv.gz", "wt", encoding="utf-8") as file:
        file.write("timestamp,value\n" + "".join(f"{at},{value}\n" for at, value in rows))
    (directory / "labels.json").write_text(json.dumps({name: windows}))


def test_reads_gaps_as_holes_and_windows_as_buckets(tmp_path: Path) -> None:
    start = 1_700_000_000
    write(tmp_path, "a", [(start + i * 300, i) for i in range(10) if i != 4], [[start + 600, start + 900]])
    (found,) = read(tmp_path)
    assert (found.step, found.windows) == (300, ((2, 3),))
    assert np.flatnonzero(np.isnan(found.values)).tolist() == [4]


def test_a_directory_of_another_layout_is_refused_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"series/NAME\.csv\.gz"):
        read(tmp_path)
    assert detect.main(["--data", str(tmp_path), "--json"]) == 2


def test_the_command_finds_what_is_planted_and_reports_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench._report.RESULTS", tmp_path / "results")
    start, random = 1_700_006_400, np.random.default_rng(5)
    values = random.poisson(1_000, 6 * 168).astype(float)
    values[800:804] = 0
    write(
        tmp_path,
        "planted",
        [(start + i * HOUR, v) for i, v in enumerate(values)],
        [[start + 799 * HOUR, start + 804 * HOUR]],
    )
    assert detect.main(["--data", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])
    assert (figures["recall"], figures["precision"], figures["f1"]) == (1.0, 1.0, 1.0)
    assert figures["median_delay_s"] == HOUR
    assert figures["hourly"]["series"] == 1
    assert "planted" in printed.err
    assert json.loads((tmp_path / "results" / "detect.json").read_text())["recall"] == 1.0


def test_elementary_counts_the_tested_point_in() -> None:
    values = np.concatenate((np.tile([9.0, 11.0], 4), [1_000.0]))
    assert not elementary(values, 86_400)[-1], "of fewer than 11 buckets none can ever be beyond 3 deviations"
    assert elementary(np.concatenate((np.tile([9.0, 11.0], 7), [1_000.0])), 86_400)[-1]


def test_grafanas_rule_cannot_see_an_outage() -> None:
    random = np.random.default_rng(2)
    values = random.poisson(100, 9 * 1_440).astype(float)
    values[-600:-590], values[-300:-290] = 0, 500
    alarms = grafana_adaptive(values, 60)
    assert not alarms[-600:-590].any()
    assert alarms[-300]
