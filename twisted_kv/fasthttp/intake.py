"""What the bodies that are on their way into one port may take of memory, all together."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import Overloaded


class Intake:
    """Counts the bytes of requests' bodies, as they come, until the request was answered.

    What comes by a link is counted when it is whole, and is not refused then: the link reads no more while the intake
    is full.
    """

    __slots__ = ("_bytes_max", "_resting", "bytes")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._resting: dict[Callable[[], None], None] = {}  # in the order of their coming
        self.bytes = 0

    @property
    def full(self) -> bool:
        return self.bytes >= self._bytes_max

    def take(self, size: int) -> None:
        """:raises Overloaded: if there is no room for that much more. The first one always fits."""
        if self.bytes and self.bytes + size > self._bytes_max:
            raise Overloaded(
                f"bodies of {self.bytes} bytes are on their way into this daemon", "try again after a pause"
            )
        self.bytes += size

    def count(self, size: int) -> None:
        """Count what is here, whether there is room or not. Who has brought it answers it without more room."""
        self.bytes += size

    def rest(self, read_on: Callable[[], None]) -> None:
        """Have that called, once, when it is no longer full. It must not answer anything by itself."""
        self._resting[read_on] = None

    def give_back(self, size: int) -> None:
        self.bytes -= size
        if self._resting and not self.full:
            resting, self._resting = self._resting, {}
            for read_on in resting:
                read_on()
