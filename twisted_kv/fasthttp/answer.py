"""Answers, read by httptools in whatever pieces they come."""

from __future__ import annotations

from collections.abc import Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH

from ..limits import Limits
from .heads import END

WITHOUT_BODY = {204, 304}
"""RFC 9112, section 6.3. An answer to HEAD has none either, which only its reader can know."""


class Unreadable(Exception):
    """This is no HTTP answer, or one that is larger or stranger than a client has to put up with."""


class Reader:
    """Takes the bytes of one answer and says what they held so far. It knows nothing of connections.

    - ``begun``: any byte came;
    - ``headed``: ``code``, ``phrase``, ``headers`` and ``length`` are known, and ``modern``: whether it is HTTP/1.1;
    - ``body``: what came of it since it was taken last, in its pieces;
    - ``done``: the answer is whole; then ``keeps`` says whether another one may follow it on its connection, and
      ``excess`` whether bytes follow that nobody asked for. (An empty line behind an answer passes for nothing.)

    Interim answers (RFC 9110, section 15.2) are skipped. Each answer has a reader and a parser of its own, which
    costs a microsecond: a parser that is used again remembers, and answers to HEAD need a new one in any case.
    """

    __slots__ = (
        "_barren_bytes",
        "_bodiless",
        "_fields",
        "_final",
        "_head_bytes",
        "_interim_fields",
        "_limits",
        "_parser",
        "_tail",
        "begun",
        "body",
        "code",
        "done",
        "excess",
        "headed",
        "headers",
        "keeps",
        "length",
        "modern",
        "on_body",
        "phrase",
    )

    def __init__(self, limits: Limits, bodiless: bool) -> None:
        """:param bodiless: this answers HEAD."""
        self._limits = limits
        self._bodiless = bodiless
        self._fields: list[tuple[bytes, bytes]] = []
        self._final = False
        self._head_bytes = self._barren_bytes = self._interim_fields = 0
        self._tail = b""
        self.begun = self.headed = self.done = self.keeps = self.excess = self.modern = False
        self.code = 0
        self.phrase = b""
        self.headers = Headers()
        self.length: int | str = UNKNOWN_LENGTH
        self.body: list[bytes] = []
        self.on_body: Callable[[bytes], None] = self.body.append
        self._parser: HttpResponseParser | None = HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take the next bytes, at least one. Nothing may come after ``done`` or an error.

        :raises Unreadable: and nothing else; what was read before that still holds.
        """
        self.begun = True
        while data and not self.headed:
            data = self._feed_head(data)
        if data and self.done:
            self.excess = True
        elif data:
            self._feed_body(data)
        if self.done:
            self._parser = None  # the parser and its callbacks hold one another

    @property
    def announced(self) -> bool:
        """Whether the answer says where it ends; if it does not, its connection's end may be its own, or a cut."""
        return self.length is not UNKNOWN_LENGTH or self.headers.hasHeader(b"transfer-encoding")

    def take(self) -> bytes:
        """Give what came of the body. (A chunk may be a byte: pieces are put together before anybody holds them.)"""
        data = b"".join(self.body)
        self.body.clear()
        return data

    def _feed_head(self, data: bytes) -> bytes:
        """Parse what belongs to a head, and give the rest."""
        window = self._tail + data
        found = window.find(END)
        size = len(data) if found < 0 else found + len(END) - len(self._tail)
        self._tail = window[-3:] if found < 0 else b""
        self._head_bytes += size
        if self._head_bytes > self._limits.answer_head_bytes_max:
            raise Unreadable(f"the answer's head is larger than {self._limits.answer_head_bytes_max} bytes")
        self._parse(data[:size])
        if self._interim_fields + len(self._fields) > self._limits.answer_fields_max:
            raise Unreadable(f"the answer has more than {self._limits.answer_fields_max} header fields")
        if self._final:
            self._judge()
            self.headed = True
        return data[size:]

    def _judge(self) -> None:
        headers = self.headers
        for name, value in self._fields:
            headers.addRawHeader(name, value)
        encodings = headers.getRawHeaders(b"transfer-encoding")
        if encodings is not None and (len(encodings) > 1 or encodings[0].strip().lower() != b"chunked"):
            raise Unreadable("the answer has a transfer encoding other than chunked")
        if self.code < 100:
            raise Unreadable(f"the answer has status {self.code}")
        if self._bodiless or self.code in WITHOUT_BODY:
            self.length = 0
            self.on_message_complete()
            return
        lengths = headers.getRawHeaders(b"content-length")
        if lengths is not None:
            self.length = int(lengths[0])  # there is one at most, and of digits: llhttp has seen to that

    def _feed_body(self, data: bytes) -> None:
        parts = len(self.body)
        self._parse(data)
        # What stands between the chunks is read and forgotten, but it must not go on for ever.
        self._barren_bytes = self._barren_bytes + len(data) if len(self.body) == parts else 0
        if self._barren_bytes > self._limits.answer_head_bytes_max:
            raise Unreadable("the answer goes on without a body")

    def _parse(self, data: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            raise Unreadable("the connection was upgraded, which was not asked for") from None
        except HttpParserError as error:
            if not self.done:
                raise Unreadable(str(error)) from None
            self.excess = True

    # What the parser found. Nobody is told before it has returned.

    def on_message_begin(self) -> None:
        if self.done:
            raise Unreadable("bytes follow the answer")  # or the parser would go on and read the next one

    def on_status(self, phrase: bytes) -> None:
        self.phrase += phrase

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._final:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self.code = self._parser.get_status_code()
        if 100 <= self.code < 200:
            self.phrase = b""
            self._interim_fields += len(self._fields)
            self._fields.clear()
        else:
            self._final = True
            self.modern = self._parser.get_http_version() == "1.1"

    def on_message_complete(self) -> None:
        if self._final:
            assert self._parser is not None
            self.done = True
            # HTTP/1.0 keeps connections by an extension, and what its servers mean by it differs.
            self.keeps = self.modern and self._parser.should_keep_alive()
