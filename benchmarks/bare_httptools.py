"""The original's two calls on httptools and nothing else, as a ceiling: ``python -m benchmarks.bare_httptools PORT``.

A protocol of Twisted's whose bytes llhttp parses, in C. It looks at no header and knows no route but the method, so no
door that does its duty can be faster; how near ours comes is what the ratio says.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpRequestParser
from twisted.internet.protocol import Factory, Protocol

from .bare import get, put, serve

DONE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
ABSENT = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
FOUND = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


class Calls(Protocol):
    """One connection. What was asked in one piece is answered in one."""

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self._parser = HttpRequestParser(self)
        self._body = b""
        self._answers: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self.transport.loseConnection()
            return
        if self._answers:
            self.transport.write(b"".join(self._answers))
            self._answers.clear()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        if self._parser.get_method() == b"PUT":
            put(body)
            self._answers.append(DONE)
        else:
            value = get(body) if body else None  # whoever waits for the server asks for nothing
            self._answers.append(ABSENT if value is None else FOUND % (len(value), value))


if __name__ == "__main__":
    serve(Factory.forProtocol(Calls))
