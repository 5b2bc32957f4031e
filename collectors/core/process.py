"""What the process of the collectors does once, before the first cycle."""

from __future__ import annotations

import gc
import sys

# A cycle makes a few hundred thousand objects and drops them all: looking for cycles among them, as Python does by
# default after each 700, takes longer than reading them.
_YOUNG = 200_000
_SWITCH_SECONDS = 0.001


def settle() -> None:
    """What was imported and built so far stays for ever, and is looked at no more by the garbage collector.

    A scrape gets the interpreter after a millisecond, rather than five, of whoever decodes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)
    sys.setswitchinterval(_SWITCH_SECONDS)
