"""Progress on a terminal as a bar, elsewhere as a line now and then."""

from __future__ import annotations

import time
from collections import Counter

from rich.console import Console
from rich.live import Live
from rich.table import Table

_LINE_EVERY_SECONDS = 10.0


class Progress:
    """Counts answered events by stream; `say` names what happens now."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._answered: Counter[str] = Counter()
        self._live: Live | None = None
        self._started = time.monotonic()
        self._last_line = self._started

    def say(self, text: str) -> None:
        self._console.print(
            f"[dim]{time.monotonic() - self._started:6.1f} s[/]  {text}", highlight=False, soft_wrap=True
        )

    def advance(self, stream: str, events: int) -> None:
        self._answered[stream] += events
        now = time.monotonic()
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=8, transient=True)
                self._live.start()
            self._live.update(self._table())
        elif now - self._last_line >= _LINE_EVERY_SECONDS:
            self._last_line = now
            self.say("  ".join(f"{name} {count:,}" for name, count in sorted(self._answered.items())))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, count in sorted(self._answered.items()):
            table.add_row(f"  {name}", f"{count:>9,} events answered")
        return table
