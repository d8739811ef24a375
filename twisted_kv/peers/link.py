"""The transport over links: batches go over one upgraded connection to each node, everything else over HTTP.

A link is an HTTP/1.1 connection to the node's one port, switched (RFC 9110, section 7.8) to the frames of
``fasthttp.frames``. Batches go over HTTP as well while there is none: before it is open, where the node or something
between does not know it, and after it broke. So it is never waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IAddress, IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from ..errors import PeerSilent
from ..fasthttp.frames import ID_MAX, LINK_PATH, Frames, head
from ..fasthttp.heads import END
from ..fasthttp.outlet import Outlet
from ..fasthttp.upgrade import SWITCHING, is_link, request_to_switch
from ..limits import Limits
from ..tokens import Keyring
from .http import HttpTransport
from .peer import Answer, unconnected

BATCH_PATH = "/node/v1/batch"
CLOSING = "the proxy closes it"


class _Question(NamedTuple):
    """One batch on its way. ``heard``: how often something had come when it was asked."""

    done: Deferred[Answer]
    timeout_s: float
    deadline_s: float
    heard: int


@implementer(IPushProducer)
class Link(Protocol):
    """One connection, from its making to its end.

    :param request: the request to switch.
    :param opened: called when the node has switched; from then on there may be questions.
    :param ended: told why there is no such link any more, or why there never was: exactly once, before those hear of it
        whose questions were under way.
    """

    transport: Any

    def __init__(
        self,
        clock: IReactorTime,
        limits: Limits,
        request: bytes,
        opened: Callable[[Link], None],
        ended: Callable[[Link, str], None],
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._request = request
        self._opened = opened
        self._ended = ended
        self._head: bytes | None = b""
        """What there is of the answer to the request, None when that was read."""
        self._frames = Frames(limits.node_body_bytes_max)
        self._waiting: dict[int, _Question] = {}
        self._last_id = 0
        self._asked_s = 0.0
        """When the last question was asked; before the first one, when the node had switched."""
        self._timer: IDelayedCall | None = None
        self._heard = 0
        self._choked_id: int | None = None
        """The question since which the transport is full, if it is."""
        self._over = False
        self.gone: Deferred[None] | None = None
        """There while there is a connection; fires when it has been closed."""
        self.reached = False
        """Whether somebody was there."""
        self.answered = False
        """Whether a question was ever answered: before that nobody knows that this works."""

    # Switching.

    def connectionMade(self) -> None:
        self.gone = Deferred()
        self.reached = True
        if self._over:
            self.transport.abortConnection()
            return
        self.transport.setTcpNoDelay(True)
        # A node's machine that vanishes while nobody asks says nothing.
        self.transport.setTcpKeepAlive(True)
        self.transport.registerProducer(self, True)
        self.transport.write(self._request)
        self._outlet = Outlet(self.transport)

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            return
        if self._head is not None:
            data = self._switch(self._head + data)
            if not data:
                return
        self._heard += 1
        for id_, status, payload in self._frames.feed(data):
            if not 0 < id_ <= self._last_id or not 200 <= status <= 599:
                self.end("the node answers what was not asked")
                return
            question = self._waiting.pop(id_, None)
            if question is not None:  # otherwise it was given up, and this comes too late
                self.answered = True
                question.done.callback(Answer(status, payload))
        if self._frames.fault:
            self.end(self._frames.fault)

    def _switch(self, data: bytes) -> bytes:
        """Read the answer to the request to switch, and give what follows it."""
        start, end = data[: len(SWITCHING)], data.find(END)
        if not SWITCHING.startswith(start):
            line = data[:80].partition(b"\r\n")[0].decode("ascii", "backslashreplace")
            self.end(f"the node has no link: {line}")
        elif end > self._limits.link_head_bytes_max or (end < 0 and len(data) > self._limits.link_head_bytes_max):
            self.end("the answer to the request for a link does not end")
        elif end < 0:
            self._head = data
        elif not is_link(data[:end]):
            self.end("the node has switched to something else")
        else:
            self._head = None
            self._asked_s = self._clock.seconds()
            self._wake(self._asked_s + self._limits.link_idle_s)
            self._opened(self)
            return data[end + len(END) :]
        return b""

    # Questions and answers.

    @property
    def idle(self) -> bool:
        return not self._waiting

    @property
    def asked(self) -> bool:
        """Whether there ever was a question."""
        return self._last_id > 0

    @property
    def spent(self) -> bool:
        """Whether all ids were given: one that was used again could be taken for an older question's."""
        return self._last_id == ID_MAX

    def ask(self, body: bytes, timeout_s: float) -> Deferred[Answer]:
        """Send a batch. Fails with ``PeerSilent`` only: once written it may arrive."""
        id_ = self._last_id = self._last_id + 1
        self._asked_s = self._clock.seconds()
        question = _Question(Deferred(), timeout_s, self._asked_s + timeout_s, self._heard)
        self._waiting[id_] = question
        self._outlet.write(head(id_, 0, len(body)) + body)
        self._wake(question.deadline_s)
        return question.done

    # Deadlines.

    def _wake(self, at_s: float) -> None:
        """See to it that it is looked then, or before. One timer serves all deadlines: most find nothing due."""
        if self._timer is not None:
            if self._timer.getTime() <= at_s:
                return
            self._timer.cancel()
        self._timer = self._clock.callLater(max(0.0, at_s - self._clock.seconds()), self._look)

    def _look(self) -> None:
        self._timer = None
        now_s = self._clock.seconds()
        due = {id_: question for id_, question in self._waiting.items() if question.deadline_s <= now_s}
        for id_ in due:
            del self._waiting[id_]
        # Nothing came, or nothing that was written left, for as long as a question may take: that is no slow node.
        if any(question.heard == self._heard for question in due.values()):
            self.end("nothing came back while questions waited")
        elif self._choked_id is not None and any(id_ >= self._choked_id for id_ in due):
            self.end("the node does not read")
        elif not self._waiting and now_s >= self._asked_s + self._limits.link_idle_s:
            self.end("nobody has asked anything for long")
        if not self._over:
            deadlines_s = [question.deadline_s for question in self._waiting.values()]
            self._wake(min(deadlines_s, default=self._asked_s + self._limits.link_idle_s))
        for question in due.values():
            question.done.errback(Failure(PeerSilent(f"no answer within {question.timeout_s:g} s")))

    # What the transport says: the node does not read what is written; it has read it.

    def pauseProducing(self) -> None:
        if self._choked_id is None:
            self._choked_id = self._last_id

    def resumeProducing(self) -> None:
        self._choked_id = None
        self._outlet.drained()

    def stopProducing(self) -> None:
        """See ``connectionLost``, which comes as well."""

    # The end.

    def end(self, why: str) -> None:
        """Give the connection up. What is under way on it may have arrived."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, {}
        if self.gone is not None and not self.gone.called:
            # Nothing waits here for a node that may not read, or answer, a polite goodbye.
            self.transport.abortConnection()
        self._ended(self, why)
        for question in waiting.values():
            question.done.errback(Failure(PeerSilent(f"the link broke: {why}")))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.gone is not None
        self.gone.callback(None)
        self.end(reason.getErrorMessage())


class _Single(Factory):
    """Makes the one connection that it is there for."""

    noisy = False

    def __init__(self, link: Link) -> None:
        self._link = link

    def buildProtocol(self, addr: IAddress | None) -> Link:
        return self._link


class Way:
    """The way to one node: its link, or when one may be opened again. At most one is being opened."""

    log = Logger()

    def __init__(
        self, clock: IReactorTime, limits: Limits, endpoints: IAgentEndpointFactory, uri: URI, keyring: Keyring
    ) -> None:
        self._clock = clock
        self._keyring = keyring
        self._limits = limits
        self._endpoints = endpoints
        self._uri = uri
        self._open: Link | None = None
        self._trying: Link | None = None
        self._connecting: Deferred[Any] | None = None
        self._timer: IDelayedCall | None = None
        self._not_before_s = -inf
        self._pause_s = limits.link_pause_s
        self._complaint = ""
        self._closed = False

    @property
    def is_open(self) -> bool:
        return self._open is not None

    @property
    def is_forgotten(self) -> bool:
        """Whether nothing is lost with it. Batches would have tried to open the link since it may be tried again."""
        return self._open is None and self._trying is None and self._clock.seconds() >= self._not_before_s

    def link(self) -> Link | None:
        """Give the link. Where there is none one is opened, unless that has just failed."""
        link = self._open
        if link is None:
            if self._trying is None and not self._closed and self._clock.seconds() >= self._not_before_s:
                self._try()
        elif link.spent:
            if link.idle:
                link.end("its ids are used up")
            return None
        return link

    def _try(self) -> None:
        limits, uri = self._limits, self._uri
        request = request_to_switch(uri.path[: -len(BATCH_PATH)] + LINK_PATH, uri.netloc, self._keyring.shown)
        link = self._trying = Link(self._clock, limits, request, self._opened, self._ended)
        self._timer = self._clock.callLater(
            limits.control_timeout_s, self._stop_trying, f"not open within {limits.control_timeout_s:g} s"
        )
        try:
            connecting = self._endpoints.endpointForURI(uri).connect(_Single(link))
        except Exception as error:
            # Endpoints refuse some hosts and ports by raising.
            link.end(f"no connection can be made: {error}")
            return
        self._connecting = connecting
        connecting.addErrback(lambda failure: link.end(f"cannot connect: {unconnected(failure.value)}"))

    def _stop_trying(self, why: str) -> None:
        link, connecting = self._trying, self._connecting
        if link is not None:
            link.end(why)
        if connecting is not None:
            connecting.cancel()

    def _opened(self, link: Link) -> None:
        self._tried()
        self._open = link
        self._complaint = ""
        self.log.info("batches to {node} go over a link", node=self._uri.netloc.decode())

    def _ended(self, link: Link, why: str) -> None:
        was_open = link is self._open
        if was_open:
            self._open = None
        else:
            self._tried()
        if link.answered or not link.reached or (was_open and not link.asked):
            # Where nobody was there the node is down: when it is back its link shall be, too. So it is where one that
            # has a link was down again before anybody asked.
            self._pause_s = self._limits.link_pause_s
        if not link.answered:
            self._not_before_s = self._clock.seconds() + self._pause_s
            self._pause_s = min(2 * self._pause_s, self._limits.link_pause_s_max)
        if why != self._complaint and not self._closed:
            self._complaint = why
            self.log.info("batches to {node} go over HTTP: {why}", node=self._uri.netloc.decode(), why=why)

    def _tried(self) -> None:
        self._trying = self._connecting = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def close(self) -> Deferred[None] | None:
        """Close the link, and open none again. Gives what fires when it is closed, if there is one."""
        self._closed = True
        link = self._open or self._trying
        if link is None:
            return None
        self._stop_trying(CLOSING)
        link.end(CLOSING)
        return link.gone


class LinkTransport:
    """Batches over links, and what is no batch, or finds no link, over HTTP. See ``peer.Transport``.

    A batch is sent once: over the link, where it is never ``resent``, or over HTTP. There is one link for each URL that
    batches are sent to, while there are any.
    """

    def __init__(
        self, reactor: Any, limits: Limits, http: HttpTransport, endpoints: IAgentEndpointFactory | None = None
    ) -> None:
        self._clock: IReactorTime = reactor
        self._limits = limits
        self._http = http
        self._endpoints = endpoints if endpoints is not None else http.endpoints
        self._ways: dict[str, Way] = {}
        self._closed = False

    def request(
        self,
        method: str,
        url: str,
        body: bytes,
        *,
        content_type: str,
        timeout_s: float,
    ) -> Deferred[Answer]:
        # What is too large for a node is for HTTP to bring: there the node says so, here it would close the link.
        if method == "POST" and url.endswith(BATCH_PATH) and len(body) <= self._limits.node_body_bytes_max:
            way = self._ways.get(url) or self._way(url)
            link = way.link() if way is not None else None
            if link is not None:
                return link.ask(body, timeout_s)
        return self._http.request(method, url, body, content_type=content_type, timeout_s=timeout_s)

    def close(self) -> Deferred[None]:
        """Close all links, open none again, and close the pool. What is under way on a link fails at once."""
        self._closed = True
        closing = [gone for way in self._ways.values() if (gone := way.close()) is not None]
        closed: Deferred[Any] = DeferredList([*closing, self._http.close()], consumeErrors=True)
        return closed.addCallback(lambda _: None)

    def links(self) -> int:
        """Count the links that are open now."""
        return sum(way.is_open for way in self._ways.values())

    def _way(self, url: str) -> Way | None:
        if self._closed:
            return None
        try:
            uri = URI.fromBytes(url.encode("ascii"))
        except ValueError:
            return None
        if uri.scheme not in (b"http", b"https") or not uri.host or b":" in uri.host.rpartition(b"]")[2]:
            return None
        # Members leave, and their links end when nobody asks any more. Here is the one place where ways become more.
        self._ways = {known: way for known, way in self._ways.items() if not way.is_forgotten}
        way = self._ways[url] = Way(self._clock, self._limits, self._endpoints, uri, self._http.keyring)
        return way
