"""etcd's JSON gateway: its calls as POST with JSON, its watches as streams of lines (etcd 3.4 and later, ``/v3/``)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from ..errors import KvError, PeerUnreachable, StateUnusable
from ..limits import Limits
from ..peers.http import HttpTransport
from ..wire.header import UNDECODED

JSON = "application/json"
LINE_BYTES_MAX = 8 * 1024 * 1024
"""A line of a watch holds one state document in base64; etcd itself takes requests of 1.5 MiB."""

HINT = "look whether etcd runs and has a leader: etcdctl endpoint status"


def text(data: bytes) -> str:
    """Write bytes as the gateway wants them."""
    return b64encode(data).decode()


class Gateway(Protocol):
    """What a store needs of etcd."""

    async def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make one call.

        :raises StateUnusable: if it failed; it may have been carried out all the same.
        """

    def stream(
        self, path: str, body: dict[str, Any], line: Callable[[dict[str, Any]], None], ended: Callable[[], None]
    ) -> Callable[[], None]:
        """Begin a call that answers line by line, and give what ends it.

        :param ended: called once when the stream is at its end, for whatever reason, also where it never began.
        """


class HttpGateway:
    """The gateways of one etcd cluster: the one that answered last is asked first. See ``Gateway``.

    :param urls: of its members, like ``http://127.0.0.1:2379``.
    """

    def __init__(self, transport: HttpTransport, urls: Sequence[str], limits: Limits) -> None:
        self._transport = transport
        self._urls = list(urls)
        self._limits = limits

    async def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """See ``Gateway``."""
        complaint = ""
        for url in list(self._urls):
            try:
                answer = await self._transport.request(
                    "POST",
                    f"{url}/v3/{path}",
                    msgspec.json.encode(body),
                    content_type=JSON,
                    timeout_s=self._limits.control_timeout_s,
                )
            except PeerUnreachable as error:
                complaint = f"{url}: {error.detail}"
                continue
            except KvError as error:
                self._last(url)
                raise StateUnusable(f"etcd at {url} does not answer: {error.detail}", HINT) from None
            if answer.code == 200:
                try:
                    return msgspec.json.decode(answer.body, type=dict[str, Any])
                except UNDECODED as error:
                    raise StateUnusable(f"what answers at {url} is no etcd: {error}", HINT) from None
            complaint = f"{url}: status {answer.code}, {answer.body[:200].decode('utf-8', 'replace')}"
            self._last(url)
        raise StateUnusable(f"no etcd could be asked; the last complaint: {complaint}", HINT)

    def _last(self, url: str) -> None:
        self._urls.remove(url)
        self._urls.append(url)

    def stream(
        self, path: str, body: dict[str, Any], line: Callable[[dict[str, Any]], None], ended: Callable[[], None]
    ) -> Callable[[], None]:
        """See ``Gateway``."""
        return _Stream(self._transport, f"{self._urls[0]}/v3/{path}", msgspec.json.encode(body), line, ended).stop


class _Stream(LineOnlyReceiver):
    """One answer that comes line by line."""

    delimiter = b"\n"
    MAX_LENGTH = LINE_BYTES_MAX

    def __init__(
        self,
        transport: HttpTransport,
        url: str,
        body: bytes,
        line: Callable[[dict[str, Any]], None],
        ended: Callable[[], None],
    ) -> None:
        self._line = line
        self._ended: Callable[[], None] | None = ended
        self._asked = transport.send("POST", url, body, JSON)
        self._asked.addCallbacks(lambda response: response.original.deliverBody(self), self.connectionLost)

    def lineReceived(self, line: bytes) -> None:
        if self._ended is None:
            return
        try:
            message = msgspec.json.decode(line, type=dict[str, Any])
        except UNDECODED:
            self.transport.loseConnection()
        else:
            self._line(message)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()

    def stop(self) -> None:
        self._ended = None
        self._asked.cancel()
        if self.transport is not None:
            self.transport.loseConnection()
