"""A ring of past values by bucket number: fixed in size, with holes where nothing was learned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Lags = NDArray[np.int64]


class Memory:
    """The last `size` buckets of `rows` parallel series; buckets that were passed over are holes."""

    def __init__(self, size: int, rows: int = 1) -> None:
        self._size = size
        self._values: Array = np.full((rows, size), np.nan, dtype=np.float32)
        self._last: int | None = None

    def put(self, bucket: int, *values: float) -> None:
        if self._last is not None and bucket > self._last + 1:
            first = max(self._last + 1, bucket - self._size)
            self._values[:, np.arange(first, bucket) % self._size] = np.nan
        # An hour that happens twice, in autumn, goes back by less than the memory is long.
        self._last = bucket if self._last is None else max(bucket, self._last)
        self._values[:, bucket % self._size] = values

    def at(self, bucket: int, lags: Lags, row: int = 0) -> Array:
        """What was known at `bucket - lags`, without the holes. Lags at or beyond the size, or to the future, are holes."""
        if self._last is None:
            return self._values[row, :0]
        buckets = bucket - lags
        known = buckets[(buckets <= self._last) & (buckets > self._last - self._size)]
        found: Array = self._values[row, known % self._size]
        return found[~np.isnan(found)]

    def all(self, row: int = 0) -> Array:
        """Every value, in no order."""
        values: Array = self._values[row]
        return values[~np.isnan(values)]

    def blank(self, first: int, last: int) -> None:
        """Forget the buckets from `first` to `last`, both included."""
        if self._last is None:
            return
        first, last = max(first, self._last - self._size + 1), min(last, self._last)
        if first <= last:
            self._values[:, np.arange(first, last + 1) % self._size] = np.nan
