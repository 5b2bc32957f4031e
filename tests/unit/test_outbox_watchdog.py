import threading

import pytest

from tidewatch.errors import KafkaUnavailable
from tidewatch.kafka.watchdog import bounded


def test_what_the_call_raises_is_raised() -> None:
    def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        bounded(fails, 10, "testing")


def test_a_call_that_returns_returns() -> None:
    called = []
    bounded(lambda: called.append(1), 10, "testing")
    assert called == [1]


def test_a_call_that_never_returns_is_left_behind() -> None:
    forever = threading.Event()
    with pytest.raises(KafkaUnavailable, match="did not return while testing"):
        bounded(lambda: forever.wait(60) and None, 0.01, "testing")
    forever.set()
