"""What this process remembers of the updates it has dealt with lately."""

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """A mapping from update ids that forgets the oldest ones."""

    def __init__(self, limit: int = 65_536) -> None:
        """Make an empty mapping of at most `limit` ids."""
        self._limit = limit
        self._values: OrderedDict[int, V] = OrderedDict()

    def __contains__(self, update_id: int) -> bool:
        """Whether the id is remembered."""
        return update_id in self._values

    def get(self, update_id: int, default: V) -> V:
        """The value of an id."""
        return self._values.get(update_id, default)

    def set(self, update_id: int, value: V) -> None:
        """Remember a value, which makes the id the newest."""
        self._values[update_id] = value
        self._values.move_to_end(update_id)
        if len(self._values) > self._limit:
            self._values.popitem(last=False)
