"""What calls take and give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ..errors import KvError

Text: TypeAlias = bytes | str
"""Keys and values are bytes; a string stands for its UTF-8."""

OCTETS = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"


def bytes_of(text: Text) -> bytes:
    """:raises TypeError: if it is neither: without a body a put would write an empty value."""
    if isinstance(text, str):
        return text.encode()
    if not isinstance(text, bytes):
        raise TypeError(f"keys and values are bytes or strings, and not {type(text).__name__}")
    return text


def type_of(value: Text, content_type: str | None) -> str:
    """Say what a value is, where its writer does not.

    :raises ValueError: if no header could hold it.
    """
    if content_type is None:
        return TEXT if isinstance(value, str) else OCTETS
    if not content_type or not content_type.isascii() or not content_type.isprintable():
        raise ValueError(f"{content_type[:80]!r} is no content type: give one like text/plain")
    return content_type


def tag_of(etag: str) -> str:
    """Give a version without its quotes, if it has any.

    :raises ValueError: if it can be none.
    """
    found = etag.strip('"')
    if not found.isascii() or not found.isalnum():
        raise ValueError(f"{etag[:80]!r} is no version: give the etag of a Value, or of what a change gave")
    return found


@dataclass(frozen=True, slots=True)
class Value:
    """What a key holds.

    ``etag`` is its version, for ``cas``. ``expires_ms`` is wall time in milliseconds, 0 for
    never, and where a proxy of an older build did not say.
    """

    value: bytes
    etag: str
    content_type: str = OCTETS
    expires_ms: int = 0

    @property
    def text(self) -> str:
        """The value as UTF-8.

        :raises UnicodeDecodeError: if it is none.
        """
        return self.value.decode()


class Written(NamedTuple):
    """A change that has happened. ``etag`` is the new version, None after a delete."""

    etag: str | None
    acks: int | None = None
    """How many of the key's owners had taken it when it was acknowledged, where that was told."""
    owners: int | None = None


@dataclass(frozen=True, slots=True)
class Get:
    """One line of ``bulk``: gives a ``Value``, or None."""

    key: Text


@dataclass(frozen=True, slots=True)
class Put:
    """One line of ``bulk``: gives ``Written``.

    :param ttl: seconds that it lives.
    :param expires_ms: when it expires, in milliseconds of wall time, in the place of ``ttl``.
    :param if_match: the version that the key has to hold.
    :param if_absent: whether the key has to hold none.
    """

    key: Text
    value: Text
    ttl: float | None = None
    expires_ms: int | None = None
    content_type: str | None = None
    if_match: str | None = None
    if_absent: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """One line of ``bulk``: gives ``Written``."""

    key: Text
    if_match: str | None = None


Line: TypeAlias = Get | Put | Delete
Result: TypeAlias = Value | Written | KvError | None
"""What became of a line. An error is given, not raised: the others go on."""
