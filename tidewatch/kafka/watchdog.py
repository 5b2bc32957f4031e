"""A bound on calls into librdkafka that may not return.

`send_offsets_to_transaction` ignores its timeout when the group's coordinator went away in the middle (librdkafka
issues 5456 and 5511, seen here with 2.16: it waits for ever once the broker is back). The only way out is to leave the
call, and the producer with it, behind.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from tidewatch.errors import KafkaUnavailable


def bounded(call: Callable[[], None], seconds: float, doing: str) -> None:
    """Run `call` on a thread of its own; raise what it raises, or KafkaUnavailable when it takes longer.

    After that the producer it used must not be touched again: a new one under the same transactional id fences it.
    """
    outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # handed to the waiting thread, whatever it is
            outcome.put(error)
        else:
            outcome.put(None)

    threading.Thread(target=run, name="bounded-kafka-call", daemon=True).start()
    try:
        error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise KafkaUnavailable(
            f"Kafka's client did not return while {doing}", fix="nothing: a new producer begins again by itself"
        ) from None
    if error is not None:
        raise error
