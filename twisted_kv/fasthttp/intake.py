"""What the bodies that are on their way into one port may take of memory, all together."""

from __future__ import annotations

from ..errors import Overloaded


class Intake:
    """Counts the bytes of requests' bodies, from the moment they are announced until the request was answered."""

    __slots__ = ("_bytes_max", "bytes")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.bytes = 0

    def take(self, size: int) -> None:
        """:raises Overloaded: if there is no room for that much more. The first one always fits."""
        if self.bytes and self.bytes + size > self._bytes_max:
            raise Overloaded(
                f"bodies of {self.bytes} bytes are on their way into this daemon", "try again after a pause"
            )
        self.bytes += size

    def give_back(self, size: int) -> None:
        self.bytes -= size
