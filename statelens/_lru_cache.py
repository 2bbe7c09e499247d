"""A bounded cache that threads share: what was used longest ago is evicted first."""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Values by key, at most so many."""

    def __init__(self, most: int):
        self.most = most
        # Each with its own key, which is faster to find again than one that equals it.
        self._values: OrderedDict[K, tuple[K, V]] = OrderedDict()
        # Reentrant, since garbage may be collected while it is held, and evict values.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """Returns a value, which is used with that, or None."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            own, value = found
            self._values.move_to_end(own)
            return value

    def put(self, key: K, value: V) -> None:
        """Caches a value, and evicts others where there are too many."""
        evicted = []  # outlives the lock: what ends with a value may run any code
        with self._lock:
            evicted.append(self._values.pop(key, None))
            self._values[key] = key, value
            while len(self._values) > self.most:
                evicted.append(self._values.popitem(last=False))

    def evicts(self, key: K) -> Callable[[Any], Any]:
        """Returns what forgets a value, if it is there: a function of C, for weak references.

        An interrupt that comes while a callback of Python runs is lost.
        """
        return functools.partial(self._values.pop, key)  # what it is called with is the default

    def values(self) -> list[V]:
        """Lists the values, the one that was used last at the end."""
        with self._lock:
            return [value for _, value in self._values.values()]
