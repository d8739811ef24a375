"""twisted.web's connection, made strict: it refuses what could be read in two ways, and those who take their time."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from ..errors import BadInput, HeadTooLarge, KvError, MalformedRequest, RequestTooSlow, TokenMissing, TokenTooWeak
from ..fasthttp.heads import entries_of, judge_trailers, read_head
from ..fasthttp.parting import end_writing
from ..limits import Limits
from .answers import PROBLEM, RETRY_AFTER_S, STATUS, problem_body


class Phase(Enum):
    """What a connection waits for: a request, its head's end, its body's end, the answer, or its own end."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    BUSY = auto()
    CLOSING = auto()


_REASONS = {
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    408: b"Request Timeout",
    413: b"Content Too Large",
    421: b"Misdirected Request",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
}


class StrictChannel(HTTPChannel):
    """One connection. A head is collected, judged as a whole, and only then shown to twisted.web, line by line.

    :param watched: whether this connection is one that its site has to watch: not where it is a lane's guest.
    """

    def __init__(self, site: Any, clock: IReactorTime, limits: Limits, watched: bool) -> None:
        super().__init__()
        self.site = self.factory = site
        self.requestFactory = site.requestFactory
        self.timeOut = None  # see ``look``
        self.MAX_LENGTH = limits.head_bytes_max
        self.totalHeadersSize = limits.head_bytes_max
        self._optimisticEagerReadSize = limits.pipelined_bytes_max
        self._clock = clock
        self._limits = limits
        self._watched = watched
        self._lines: list[bytes] = []
        self._head_bytes = 0
        self._blank = False
        self._refused = False
        self._phase = Phase.IDLE
        self._since_s = 0.0
        self._written = 0
        """The size of what was written last."""
        self._stalled_s: float | None = None
        self._lingering: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._enter(Phase.IDLE)
        super().connectionMade()
        if self._watched:
            self.site.overdue.watch(self)
            self.site.make_room(self, self.transport)

    def connectionLost(self, reason: Failure) -> None:
        if self._watched:
            self.site.overdue.forget(self)
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        for request in self.requests:
            request.give_back()
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        if self._refused or self._phase is Phase.CLOSING:
            return  # what was hung up on begins nothing more
        if self._phase is Phase.IDLE:
            self._enter(Phase.HEAD)
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        if self._refused:
            return
        if not line and not self._lines and not self._blank:
            self._blank = True  # one empty line before a request is forgiven (RFC 9112, section 2.2)
            return
        self._head_bytes += len(line) + 2
        if self._head_bytes > self._limits.head_bytes_max:
            self._refuse_large()
            return
        self._lines.append(line)
        if line:
            return
        lines, self._lines, self._head_bytes, self._blank = self._lines, [], 0, False
        try:
            head = read_head(b"\r\n".join(lines) + b"\r\n", self._limits.head_fields_max)
            self.site.gate.judge(head.method, head.target.partition(b"?")[0], head)
        except BadInput as error:
            self.refuse(error)
            return
        self._enter(Phase.BODY)
        for line in lines:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse_large()

    def rawDataReceived(self, data: bytes) -> None:
        if not self._refused:
            super().rawDataReceived(data)

    def allContentReceived(self) -> None:
        try:
            judge_trailers(getattr(self._transferDecoder, "_trailerHeaders", ()), self._limits.head_fields_max)
        except BadInput as error:
            self.refuse(error)
            return
        self._enter(Phase.BUSY)
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        request.give_back()
        if self.site.parting:
            self.persistent = False
        begun = any(self._dataBuffer)
        self._enter(Phase.IDLE)
        # Who does not read this answer is given no further one: HTTPChannel by itself would go on to the next request.
        self.paused = self._stalled_s is not None
        super().requestDone(request)
        if self.paused:
            self._networkProducer.pauseProducing()
        if begun and self._phase is Phase.IDLE:
            self._enter(Phase.HEAD)

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        """Read Connection as the list that it is (RFC 9110, section 7.6.1)."""
        if version != b"HTTP/1.1":
            return False
        if b"close" not in entries_of(request.requestHeaders.getRawHeaders(b"connection", [])):
            return True
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def refuse(self, error: KvError) -> None:
        """Answer with an error and close.

        What still arrives is read for a moment and thrown away: closing on unread bytes would reset the connection,
        and destroy the answer on its way.
        """
        if self._refused:
            return
        self._refused = True
        status = STATUS[type(error)]
        body = problem_body(error, status)
        transport = self.transport
        more = b"Retry-After: %s\r\n" % RETRY_AFTER_S[status] if status in RETRY_AFTER_S else _challenge(error)
        transport.write(
            b"HTTP/1.1 %d %s\r\nConnection: close\r\n%sContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
            % (status, _REASONS[status], more, PROBLEM, len(body), body)
        )
        if isinstance(transport, TLSMemoryBIOProtocol):
            self.loseConnection()  # it hands what it does not know to the socket, which would close under the answer
        elif hasattr(transport, "loseWriteConnection"):
            transport.loseWriteConnection()
        self._lingering = self._clock.callLater(self._limits.linger_s, transport.abortConnection)

    def _refuse_large(self) -> None:
        self.refuse(
            HeadTooLarge(f"the request's head is larger than {self._limits.head_bytes_max} bytes", "send fewer fields")
        )

    def _respondToBadRequestAndDisconnect(self) -> None:
        """See ``HTTPChannel``. What is left for it to find are faults of a chunked body."""
        self.refuse(MalformedRequest("the chunks of the body cannot be read", "see RFC 9112, section 7.1"))

    def write(self, data: bytes) -> None:
        self._written = len(data)
        super().write(data)

    def pauseProducing(self) -> None:
        if self._stalled_s is None:
            self._stalled_s = self._clock.seconds()
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._stalled_s = None
        self.paused = False
        super().resumeProducing()
        if self._buffer and not self._handlingRequest:
            self.dataReceived(b"")

    def look(self, now_s: float) -> None:
        """End what has taken too long: to ask, or to read what was answered."""
        limits, phase, waited_s = self._limits, self._phase, now_s - self._since_s
        if self._refused:
            return
        if self._stalled_s is not None:
            if now_s - self._stalled_s > limits.unread_s(self._written):
                self.transport.abortConnection()
        elif phase is Phase.IDLE and waited_s > limits.idle_s_max:
            self._enter(Phase.CLOSING)
            self.loseConnection()
        elif phase is Phase.CLOSING and waited_s > limits.unread_s(self._written):
            self.transport.abortConnection()
        elif phase is Phase.HEAD and waited_s > limits.head_s_max:
            self.refuse(RequestTooSlow("the request's head did not come in time", "send it in one piece"))
        elif phase is Phase.BODY and waited_s > limits.body_s(self.requests[-1].taken):
            self.refuse(RequestTooSlow("the body did not come in time", "send it faster, or less of it"))

    def hang_up(self) -> None:
        """See ``fasthttp.overdue``."""
        self._enter(Phase.CLOSING)
        self.loseConnection()

    @property
    def busy(self) -> bool:
        """See ``fasthttp.overdue``."""
        return self._phase is Phase.BUSY or self._stalled_s is not None

    @property
    def idle_since_s(self) -> float | None:
        """See ``fasthttp.overdue``."""
        return self._since_s if self._phase is Phase.IDLE and self._stalled_s is None else None

    @property
    def begun_since_s(self) -> float | None:
        """See ``fasthttp.overdue``."""
        begins = self._phase in (Phase.HEAD, Phase.BODY) and self._stalled_s is None and not self._refused
        return self._since_s if begins else None

    def part_if_idle(self) -> None:
        """See ``fasthttp.overdue``. What has come in part is nothing yet."""
        if self._phase in (Phase.IDLE, Phase.HEAD, Phase.BODY) and not (self.busy or self._refused):
            self._enter(Phase.CLOSING)
            self._refused = True  # what comes now is thrown away
            self._networkProducer.unregisterProducer()
            end_writing(self.transport)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since_s = self._clock.seconds()


def _challenge(error: KvError) -> bytes:
    """Give the field that says which token is asked for (RFC 6750, section 3), where one is."""
    if isinstance(error, TokenMissing):
        why = b', error="invalid_token"' if error.shown else b""
    elif isinstance(error, TokenTooWeak):
        why = b', error="insufficient_scope"'
    else:
        return b""
    return b'WWW-Authenticate: Bearer realm="twisted_kv"%s\r\n' % why
