"""Loaders that die, sleep, come and go: nothing is lost and nothing is doubled."""

from __future__ import annotations

import random
import time

import pytest
from loader_fixtures import balanced, rig
from loader_rig import Rig, sending

__all__ = ["rig"]


def killed_at_random(rig: Rig, events: int, kills: int) -> None:
    rng = random.Random(rig.fresh)
    load = sending(rig, events, bad=lambda n: n % 20_011 == 7)
    loader = rig.loader(batch_rows=20_000, batch_seconds=0.1)
    for n in range(kills):
        # Each life gets to load a little, and is ended at any point of what comes then.
        before = rig.stored()
        rig.wait(lambda before=before: rig.stored() > before or rig.stored() >= rig.sent > 0, 60, "some rows came")
        time.sleep(rng.uniform(0, 0.4))
        loader.kill()
        if n % 3 == 0:
            rig.send(500)  # so that there is always something to load
        loader.start()
    load.join()
    balanced(rig)


def test_sigkill_ten_times_at_random_moments(rig: Rig) -> None:
    killed_at_random(rig, 300_000, 10)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_sigkill_a_hundred_times_at_random_moments(rig: Rig) -> None:
    killed_at_random(rig, 1_000_000, 100)


def test_another_batch_size_between_a_crash_and_the_restart(rig: Rig) -> None:
    load = sending(rig, 100_000)
    first = rig.loader(batch_rows=30_000)
    for rows in (1_000, 50_000, 3_000):
        before = rig.stored()
        rig.wait(lambda before=before: rig.stored() > before or rig.stored() >= 100_000, 60, "some rows came")
        first.kill()
        first = rig.loader(batch_rows=rows)
    load.join()
    balanced(rig)


def test_three_loaders_join_and_leave(rig: Rig) -> None:
    load = sending(rig, 200_000, bad=lambda n: n % 50_021 == 11)
    a = rig.loader("a", batch_rows=10_000)
    rig.wait(lambda: rig.stored() > 0, why="the first loader loads")
    b = rig.loader("b", batch_rows=10_000)
    c = rig.loader("c", batch_rows=10_000)
    rig.wait(lambda: rig.metric(c, "tidewatch_loader_owned_partitions", topic=rig.topic) > 0, why="c owns some")
    a.stop()
    rig.wait(lambda: rig.metric(b, "tidewatch_loader_owned_partitions", topic=rig.topic) == 3, why="b and c share")
    rig.send(10_000)
    c.kill()
    rig.send(10_000)
    load.join()
    balanced(rig)


def test_a_zombie_wakes_after_its_partitions_moved(rig: Rig) -> None:
    a = rig.loader("a", batch_rows=5_000, batch_seconds=0.05)
    load = sending(rig, 200_000)
    rig.wait(lambda: rig.stored() > 0, why="a loads")
    a.pause()
    b = rig.loader("b", batch_rows=7_000)
    rig.wait(lambda: rig.metric(b, "tidewatch_loader_owned_partitions", topic=rig.topic) == 6, why="b took over")
    rig.wait(lambda: rig.metric(b, "tidewatch_loader_rows_total", topic=rig.topic) > 10_000, why="b loads")
    a.resume()
    rig.send(20_000)
    load.join()
    balanced(rig)
    rig.wait(lambda: rig.ready(a)[0] == 200, why="the zombie is a member again")


def test_sigterm_leaves_nothing_half_done(rig: Rig) -> None:
    loader = rig.loader(batch_rows=10_000)
    load = sending(rig, 60_000)
    rig.wait(lambda: rig.stored() > 0, why="it loads")
    loader.stop()
    assert loader.returncode == 0
    load.join()
    loader.start()
    balanced(rig)
