"""A server that answers every call with what it was sent, over gRPC or HTTP.

``python -m benchmarks.echo PORT grpc|http``. The HTTP one is httptools in a protocol and nothing else, and it lets a
connection switch to the link, as a node does. So what differs between two callers of it is the callers.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from httptools import HttpRequestParser
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from twisted_kv.fasthttp.frames import LINK_PATH
from twisted_kv.fasthttp.linked import Linked
from twisted_kv.limits import Limits

from .servers import HOST

METHOD = "/bench.Echo/Call"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
END = b"\r\n\r\n"


def echoed(body: bytes) -> Deferred[tuple[int, bytes]]:
    return succeed((200, body))


class Echo(Protocol):
    """One connection, which has one request under way at a time."""

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self._parser = HttpRequestParser(self)
        self._body: list[bytes] = []
        self._link: Linked | None = None

    def dataReceived(self, data: bytes) -> None:
        if self._link is not None:
            self._link.dataReceived(data)
        elif data.startswith(b"GET " + LINK_PATH):
            self._link = Linked(echoed, Limits())
            self._link.makeConnection(self.transport)
            if rest := data.partition(END)[2]:
                self._link.dataReceived(rest)
        else:
            self._parser.feed_data(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._link is not None:
            self._link.connectionLost(reason)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        self._body.clear()
        self.transport.write(HEAD % (len(body), body))


async def serve_grpc(port: int) -> None:
    """Serve until standard input ends, which the benchmark that started this holds."""
    try:
        import grpc
    except ImportError:
        sys.exit("grpcio is missing: pip install -e '.[bench]'")

    async def echo(request: bytes, _: Any) -> bytes:
        return request

    server = grpc.aio.server()
    service, method = METHOD[1:].split("/")
    # Without serialisers bytes pass as they are.
    handlers = {method: grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    if not server.add_insecure_port(f"{HOST}:{port}"):
        sys.exit(f"port {port} cannot be used")
    await server.start()
    await asyncio.to_thread(sys.stdin.buffer.read)
    await server.stop(None)


if __name__ == "__main__":
    if sys.argv[2] == "grpc":
        asyncio.run(serve_grpc(int(sys.argv[1])))
    else:
        from .bare import serve

        serve(Factory.forProtocol(Echo))
