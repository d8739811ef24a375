"""The link's frames: bytes to questions and answers, and back, without I/O.

A frame is, big-endian, the number of bytes that follow (32 bits), the question's id (32 bits), a status (16 bits) and a
payload: what ``POST /node/v1/batch`` takes as its body, or gives. In questions the status is 0, in answers it is
HTTP's. Several questions of one connection may be under way; their answers come in any order and are told apart by
the ids.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

PROTOCOL = b"kv-link/1"
"""What a connection is upgraded to (RFC 9110, section 7.8). Another layout of frames is another number."""

LINK_PATH = b"/node/v1/link"
"""Where a node is asked to switch, with GET."""

ID_MAX = 2**32 - 1

_length = Struct(">I")
_head = Struct(">IIH")
_REST_BYTES = _head.size - _length.size
"""What an empty payload leaves: the id and the status."""


class Frame(NamedTuple):
    """One question, or one answer."""

    id: int
    status: int
    payload: bytes


def head(id_: int, status: int, payload_bytes: int) -> bytes:
    """Give what goes before a payload. The two are not joined here: a payload may be large."""
    return _head.pack(_REST_BYTES + payload_bytes, id_, status)


class Frames:
    """Takes bytes as they come, however they were cut, and gives the frames that are whole.

    Each byte is copied twice at the most: a frame that comes in pieces grows in one buffer, which holds nothing else,
    and one that came whole is cut out of what it came in. Nothing is allocated because a length was announced.

    :param payload_bytes_max: the largest payload. A larger one is a fault as soon as its length is here.
    """

    __slots__ = ("_begun", "_bytes_max", "_whole_bytes", "fault", "finished")

    def __init__(self, payload_bytes_max: int) -> None:
        self._bytes_max = payload_bytes_max
        self._begun = bytearray()
        self._whole_bytes = _length.size
        """The size of the frame that is being read; before that is known, of what says it."""
        self.finished = 0
        """Frames that were given."""
        self.fault = ""
        """Why nothing more can be read, if that is so. The frames before the fault were given."""

    @property
    def begun_bytes(self) -> int:
        """How much is here of the frame that is being read."""
        return len(self._begun)

    def feed(self, data: bytes) -> list[Frame]:
        """Give the frames that are whole with these bytes, in order."""
        frames: list[Frame] = []
        if self.fault:
            return frames
        at, end = 0, len(data)
        while self._begun:
            lacking = self._whole_bytes - len(self._begun)
            self._begun += data[at : at + lacking]
            at = min(end, at + lacking)
            if len(self._begun) < self._whole_bytes:
                return frames
            if self._whole_bytes > _length.size:
                # A new buffer: the old one is as large as its frame was.
                begun, self._begun = self._begun, bytearray()
                frames.append(self._frame(begun, 0, bytes(memoryview(begun)[_head.size :])))
            elif not self._measure(self._begun, 0):
                return frames
        while end - at >= _length.size:
            if not self._measure(data, at):
                return frames
            if end - at < self._whole_bytes:
                break
            after = at + self._whole_bytes
            frames.append(self._frame(data, at, data[at + _head.size : after]))
            at = after
        self._begun += data[at:]
        return frames

    def _measure(self, begun: bytes | bytearray, at: int) -> bool:
        """Learn the size of the frame that begins there, and say whether it may be read."""
        (rest,) = _length.unpack_from(begun, at)
        if rest < _REST_BYTES:
            self.fault = f"a frame of {rest} bytes is none"
        elif rest - _REST_BYTES > self._bytes_max:
            self.fault = f"a payload of {rest - _REST_BYTES} bytes is larger than {self._bytes_max}"
        else:
            self._whole_bytes = _length.size + rest
            return True
        self._begun = bytearray()
        return False

    def _frame(self, begun: bytes | bytearray, at: int, payload: bytes) -> Frame:
        _, id_, status = _head.unpack_from(begun, at)
        self.finished += 1
        self._whole_bytes = _length.size
        return Frame(id_, status, payload)
