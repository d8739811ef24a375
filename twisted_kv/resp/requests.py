"""Bytes to commands, as Redis reads them (redis.io, "Redis serialization protocol specification"; networking.c).

What comes in whole commands is cut by hiredis, several times as fast as by anything in Python. But it is made for
replies: it makes room for whatever an array announces, knows no inline commands, and takes numbers for words. So it is
shown only what announces nothing large; where something is not whole, or no command, the same bytes are read again, but
word by word.
"""

from __future__ import annotations

import re

import hiredis

from .inline import words

LINE_BYTES_MAX = 65_536
"""The longest inline command, and the longest announcement (Redis: PROTO_INLINE_MAX_SIZE)."""
ARGUMENTS_MAX = 1_048_576
"""Words of one command. Redis takes 2^31; this many keys would already take seconds."""
GUARDED_ARGUMENTS_MAX, GUARDED_BULK_BYTES_MAX = 10, 16_384
"""The same of a client that has shown no token, as in Redis."""
DIGITS_MAX = 20
PIECE_BYTES_MAX = 131_072
"""What is larger is not cut in one go: a transport's read brings 64 KiB, and no command in that is too large."""

_STAR, _DOLLAR = b"*$"
_announces_much = re.compile(rb"\*[0-9]{5}").search


class Unreadable(Exception):
    """The stream is no RESP from here on: where the next command begins cannot be known. Its text is Redis's own."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


_END = b"*1\r\n$1\r\n\0\r\n"
_ENDED = [b"\0"]
_BYTES = {bytes}


class Cutter:
    """hiredis, for all of a door's connections: between two calls it holds nothing.

    It does not say whether it waits for more. So each piece is followed by a command of our own: if that comes out as
    it went in, what was before it was whole. (No other stream can end in that one: its star fits into nothing that has
    begun but a word, and then it comes out as a part of that.)
    """

    def __init__(self) -> None:
        self._reader = hiredis.Reader()

    def cut(self, data: bytes, found: list[list[bytes]]) -> bool:
        """Append the commands of a piece that begins with one; or say that it has to be read with more care."""
        if len(data) > PIECE_BYTES_MAX or _announces_much(data) or b"\r\n+" in data:  # it would take +PING for a word
            return False
        reader, before = self._reader, len(found)
        try:
            reader.feed(data)
            reader.feed(_END)
            while (command := reader.gets()) is not False:
                if type(command) is not list or {*map(type, command)} != _BYTES:
                    break
                found.append(command)
        except hiredis.HiredisError:
            pass
        else:
            if command is False and found[before:] and found[-1] == _ENDED:
                found.pop()
                return True
        self._reader = hiredis.Reader()
        del found[before:]
        return False


class Requests:
    """Reads one client's stream.

    :param bulk_bytes_max: the largest word.
    :param command_bytes_max: the largest command, all its words together.
    """

    __slots__ = (
        "_bulk_bytes_max",
        "_command_bytes_max",
        "_cutter",
        "_lacking",
        "_left",
        "_parts",
        "_rest",
        "_words",
        "guarded",
        "held",
    )

    def __init__(self, cutter: Cutter, bulk_bytes_max: int, command_bytes_max: int) -> None:
        self._cutter = cutter
        self._bulk_bytes_max = bulk_bytes_max
        self._command_bytes_max = command_bytes_max
        self._rest = b""
        self._words: list[bytes] = []
        self._left = 0
        """How many words the command lacks that is being read."""
        self._lacking = -1
        """The size of the word that is being read, -1 where that has yet to be announced."""
        self._parts: list[bytes] = []
        """What is there of a large word."""
        self.guarded = False
        """Whether the client has yet to show a token: until then commands are short."""
        self.held = 0
        """Bytes that are here and belong to no whole command."""

    def feed(self, data: bytes, found: list[list[bytes]]) -> None:
        """Take what came, and append the commands that are whole by now.

        :raises Unreadable: after all commands before the fault were appended.
        """
        if self._parts:
            self._parts.append(data)
            self.held += len(data)
            if self.held < self._lacking + 2:
                return
            data = b"".join(self._parts)
            self._parts = []
        elif self._rest:
            data = self._rest + data
        if not self._left and not self.guarded and data[:1] == b"*" and self._cutter.cut(data, found):
            self._rest = b""
            self.held = 0
        else:
            self._read(data, found)

    def _read(self, data: bytes, found: list[list[bytes]]) -> None:
        """Read word by word, and keep what is not whole."""
        at, size = 0, len(data)
        while at < size:
            if not self._left:
                end = self._begin(data, at, found)
            elif self._lacking < 0:
                end = self._announced(data, at)
            else:
                end = at + self._lacking + 2
                if end <= size:
                    self._words.append(data[at : end - 2])
                    self._lacking = -1
                    self._left -= 1
                    if not self._left:
                        found.append(self._words)
                        self._words = []
            if end > size:
                break
            at = end
        rest = data[at:]
        self.held = len(rest) + sum(map(len, self._words))
        if self._lacking > LINE_BYTES_MAX and rest:
            self._rest, self._parts = b"", [rest]
            self.held = len(rest)
        else:
            self._rest = rest

    def _begin(self, data: bytes, at: int, found: list[list[bytes]]) -> int:
        """Read what a command begins with, or all of one that is inline; give where that ends, if it has come."""
        if data[at] == _STAR:
            end = _end_of_line(data, at, b"too big mbulk count string")
            if end <= len(data):
                self._left = max(0, _number(data[at + 1 : end - 2], ARGUMENTS_MAX, b"invalid multibulk length"))
                if self.guarded and self._left > GUARDED_ARGUMENTS_MAX:
                    raise Unreadable(b"unauthenticated multibulk length")
            return end
        newline = data.find(b"\n", at)
        if newline < 0:
            if len(data) - at > LINE_BYTES_MAX:
                raise Unreadable(b"too big inline request")
            return len(data) + 1
        command = words(data[at:newline].removesuffix(b"\r"))
        if command is None:
            raise Unreadable(b"unbalanced quotes in request")
        if command:
            found.append(command)
        return newline + 1

    def _announced(self, data: bytes, at: int) -> int:
        """Read how long the next word is; give where that ends, if it has come."""
        end = _end_of_line(data, at, b"too big bulk count string")
        if end > len(data):
            return end
        if data[at] != _DOLLAR:
            raise Unreadable(b"expected '$', got '%c'" % data[at])
        length = _number(data[at + 1 : end - 2], self._bulk_bytes_max, b"invalid bulk length")
        if length < 0:
            raise Unreadable(b"invalid bulk length")
        if self.guarded and length > GUARDED_BULK_BYTES_MAX:
            raise Unreadable(b"unauthenticated bulk length")
        if length + sum(map(len, self._words)) > self._command_bytes_max:
            raise Unreadable(b"the command is too large")
        self._lacking = length
        return end


def _end_of_line(data: bytes, at: int, too_long: bytes) -> int:
    """Say where the line ends that begins here; beyond all there is, if that has yet to come.

    The byte behind a carriage return is passed over, whatever it is, as in Redis.
    """
    end = data.find(b"\r", at)
    if end >= 0:
        return end + 2
    if len(data) - at > LINE_BYTES_MAX:
        raise Unreadable(too_long)
    return len(data) + 2


def _number(text: bytes, most: int, wrong: bytes) -> int:
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or len(text) > DIGITS_MAX or (digits[:1] == b"0" and text != b"0"):
        raise Unreadable(wrong)
    number = int(text)
    if number > most:
        raise Unreadable(wrong)
    return number
