"""The node's side of the link: a connection that was upgraded takes batches and gives answers, as they are ready."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..limits import KIB, Limits
from ..tokens import Access, Ticket
from .frames import Frame, Frames, head
from .intake import Intake
from .outlet import Outlet
from .upgrade import SWITCHED

Serve: TypeAlias = Callable[[bytes], "Deferred[tuple[int, bytes]]"]
"""Answers the body of a batch with a status and a body, as ``POST /node/v1/batch`` does. What goes wrong is an answer,
too: an error here is a bug."""

GATHERED_BYTES = 64 * KIB
"""Answers that are written at once, at the least: as much as a transport takes before it says that it is full."""


@implementer(IPushProducer)
class Linked:
    """One connection, from the moment its request to switch was granted. It is a guest of the server lane.

    Whether a request may switch (its method, path and fields, its token) is decided by the door, before there is one of
    these. The lane unregisters its own producer and calls ``makeConnection`` with the transport, which answers 101;
    then ``dataReceived`` with all the bytes that follow the request's head, those first that it has already;
    ``connectionLost`` once; ``look`` about once a second; and ``hang_up`` where the node wants the connection closed,
    in the place of the transport's ``loseConnection``, which waits for who has not read his answers. The transport is
    one that pushes (TCP, or TLS over it): it says here when the proxy reads no more (``pauseProducing``) and when it
    does again (``resumeProducing``), and it is told the same about what the proxy sends.

    So many questions are under way, and no more is read while they are, while answers lie unread, or while the port's
    intake is full. Each question is served once and answered once; when the connection has gone what is under way goes
    on, and its answers are dropped.

    :param intake: the port's; one of its own where the link is all that the port has.
    :param ticket: what the proxy's token allows, where one was asked for; the link ends when it holds no longer.
    """

    log = Logger()

    def __init__(
        self, serve: Serve, limits: Limits, intake: Intake | None = None, ticket: Ticket | None = None
    ) -> None:
        self._serve = serve
        self._limits = limits
        self._ticket = ticket
        self._intake = intake if intake is not None else Intake(limits.intake_bytes_max)
        self._frames = Frames(limits.node_body_bytes_max)
        self._waiting: deque[Frame] = deque()
        """Questions that came with others when there was no room for them: as many as one read from a socket holds."""
        self._under_way: dict[int, int] = {}
        """The bytes of each, by id: they are held until it was answered, also when the connection has gone."""
        self._answers: list[bytes] = []
        self._answers_bytes = 0
        self._going = False
        self._reads = True
        self._stalled = False
        self._stalled_s: float | None = None
        self._begun: tuple[int, float] | None = None
        """Which frame was being read when last looked, and since when."""
        self._open = True
        self._hung_up = False
        self._hung_up_s: float | None = None
        self._transport: Any = None

    def makeConnection(self, transport: Any) -> None:
        self._transport = transport
        # A proxy's machine that vanishes says nothing; the kernel finds out, on a connection that may be idle for days.
        transport.setTcpKeepAlive(True)
        transport.write(SWITCHED)
        transport.registerProducer(self, True)
        self._outlet = Outlet(transport)

    def dataReceived(self, data: bytes) -> None:
        if not self._open:
            return
        for question in self._frames.feed(data):
            self._intake.count(len(question.payload))
            self._waiting.append(question)
        if self._frames.fault:
            self._give_up(self._frames.fault)
        else:
            self._go_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._forget()

    # Questions and answers.

    def _go_on(self) -> None:
        """Ask what may be asked, send what was answered meanwhile in one write, and read on if nothing is left."""
        self._going = True
        while self._waiting and self._has_room():
            self._ask(self._waiting.popleft())
        self._going = False
        self._send()
        self._read_or_rest()

    def _has_room(self) -> bool:
        return not self._stalled and len(self._under_way) < self._limits.link_questions_max

    def _ask(self, question: Frame) -> None:
        id_, size = question.id, len(question.payload)
        if question.status or id_ in self._under_way:
            self._intake.give_back(size)
            self._give_up(f"question {id_} is none, or is asked already")
            return
        self._under_way[id_] = size
        try:
            answer = self._serve(question.payload)
        except Exception:
            self._bug(Failure(), id_)
        else:
            answer.addCallback(self._answered, id_).addErrback(self._bug, id_)

    def _answered(self, answer: tuple[int, bytes], id_: int) -> None:
        status, body = answer
        if len(body) > self._limits.node_body_bytes_max:
            # The proxy would have to give up the link, and all that is under way on it.
            self.log.error("an answer of {count} bytes is too large to be sent", count=len(body))
            status, body = 500, b""
        self._intake.give_back(self._under_way.pop(id_))
        if not self._open:
            return
        self._answers += (head(id_, status, len(body)), body)
        self._answers_bytes += len(body)
        if not self._going:
            self._go_on()
        elif self._answers_bytes >= GATHERED_BYTES:
            self._send()

    def _bug(self, failure: Failure, id_: int) -> None:
        self.log.failure("a batch could not be answered", failure)
        if id_ in self._under_way:
            self._answered((500, b""), id_)

    def _send(self) -> None:
        # Answers that are ready later in the same turn of the reactor are joined with these by the transport.
        if self._answers:
            answers, self._answers, self._answers_bytes = self._answers, [], 0
            self._outlet.write(b"".join(answers))

    # Reading, as long as there is room.

    def _read_or_rest(self) -> None:
        if not self._open:
            return
        full = self._intake.full
        if full:
            self._intake.rest(self._read_or_rest)
        reads = not full and not self._waiting and self._has_room()
        if reads == self._reads:
            return
        self._reads = reads
        if reads:
            self._transport.resumeProducing()
        else:
            self._transport.pauseProducing()

    def pauseProducing(self) -> None:
        """The proxy does not read its answers."""
        self._stalled = True
        self._read_or_rest()

    def resumeProducing(self) -> None:
        """It has read them."""
        self._stalled = False
        self._outlet.drained()
        self._go_on()

    def stopProducing(self) -> None:
        self._forget()

    # The end.

    def look(self, now_s: float) -> None:
        """End what takes too long: answers that lie unread, a question that does not come to its end, and the end."""
        limits = self._limits
        if not self._open:
            if self._hung_up and self._hung_up_s is None:
                self._hung_up_s = now_s
            elif self._hung_up_s is not None and now_s - self._hung_up_s > limits.linger_s:
                self._transport.abortConnection()  # the proxy does not read what it waits to send
            return
        if self._ticket is not None and not (self._ticket.holds() and self._ticket.access is Access.READ_WRITE):
            self._give_up("its token does not allow it any more")
            return
        if not self._stalled:
            self._stalled_s = None
        elif self._stalled_s is None:
            self._stalled_s = now_s
        elif now_s - self._stalled_s > limits.stalled_s_max:
            self._give_up("answers lie unread")
            return
        frames = self._frames
        if not frames.begun_bytes or not self._reads:
            self._begun = None
        elif self._begun is None or self._begun[0] != frames.finished:
            self._begun = frames.finished, now_s
        elif now_s - self._begun[1] > limits.body_s(frames.begun_bytes):
            self._give_up("a question did not come in time")

    def hang_up(self) -> None:
        """Close when what was answered has been sent, or soon after; nothing more is answered."""
        if self._open:
            self._hung_up = True
            self._send()
            self._forget()
            # Otherwise a transport that has told its producer to pause would wait for it to end.
            self._transport.unregisterProducer()
            self._transport.loseConnection()

    @property
    def busy(self) -> bool:
        """See ``overdue``."""
        return self._open and bool(self._under_way)

    @property
    def idle_since_s(self) -> float | None:
        """See ``overdue``. A link is a proxy's, which needs it."""
        return None

    @property
    def begun_since_s(self) -> float | None:
        """See ``overdue``."""
        return None

    def part_if_idle(self) -> None:
        """See ``overdue``."""
        if not self.busy:
            self.hang_up()

    def _give_up(self, why: str) -> None:
        self.log.warn("a link is closed: {why}", why=why)
        self._forget()
        self._transport.abortConnection()

    def _forget(self) -> None:
        self._open = False
        self._intake.give_back(sum(len(question.payload) for question in self._waiting))
        self._waiting.clear()
        self._answers, self._answers_bytes = [], 0
