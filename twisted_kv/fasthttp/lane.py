"""The lane: a port's server for the calls that come by the thousand. Everything else is handed to twisted.web.

It reads what nearly every client sends, an HTTP/1.1 request whose body's length is known, and answers it through the
same routes. It chooses by the first line and the fields, before anything was done about a request, and hands a
connection over with the bytes that it has: for good, so that there is never a doubt who reads it. What is wrong with a
request is for twisted.web to say, too. So the lane holds no rule of HTTP that is not in ``heads``.

One request of a connection is under way at a time: answers keep their order, and so do operations on one key.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol as Connection
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..errors import BadInput, KvError, Overloaded, RequestTooSlow
from ..limits import Limits
from ..tokens import Ticket
from .frames import LINK_PATH
from .gate import Gate
from .heads import END, Fields, Head, Remembered, read_head
from .intake import Intake
from .outlet import Outlet
from .overdue import Overdue, Watched
from .parting import end_writing
from .request import LaneRequest, Stamp

_data_call = re.compile(
    rb"([A-Z]+) (/PUT|/GET|/node/v1/[a-z]+|/v1/kv/[!-\"$->@-~]*)(?:\?([!-\"$-~]*))? HTTP/1\.1\r\n"
).match
"""The first line of what is for the lane. What should have been percent-encoded (RFC 3986, appendix A) is not.

A node's own interface is, all of it: proxies send batches and other calls over the same connections."""
_link_call = re.compile(rb"GET /node/v1/link HTTP/1\.1\r\n").match


class Guest(Protocol):
    """Who takes a connection over: a protocol that is watched."""

    def makeConnection(self, transport: Any) -> None: ...
    def dataReceived(self, data: bytes) -> None: ...
    def connectionLost(self, reason: Failure) -> None: ...
    def look(self, now_s: float) -> None: ...
    @property
    def busy(self) -> bool: ...
    @property
    def idle_since_s(self) -> float | None: ...
    @property
    def begun_since_s(self) -> float | None: ...
    def hang_up(self) -> None: ...
    def part_if_idle(self) -> None: ...


class WebGuest(Guest, Protocol):
    """twisted.web's own."""

    def refuse(self, error: KvError) -> None:
        """Answer with an error, and close."""


class Door(Protocol):
    """The port that a lane is a connection of."""

    clock: IReactorTime
    limits: Limits
    bytes_max: int
    gate: Gate
    intake: Intake
    remembered: Remembered
    stamp: Stamp
    overdue: Overdue
    parting: bool
    """Whether the daemon stops: each answer is the last of its connection, and says so."""

    def make_room(self, newcomer: Watched, transport: Any) -> None:
        """Close others, or this new connection, where file descriptors are short."""

    def render(self, request: LaneRequest) -> object:
        """Answer a request, now or later."""

    def web_guest(self) -> WebGuest: ...

    def link_guest(self, head: Head, ticket: Ticket | None) -> Guest | None:
        """Give who speaks the link, if there is one behind this port and the client asks to switch to it.

        :param ticket: what the client's token allows, where one is asked for; the link ends when it holds no longer.
        """


@implementer(IPushProducer)
class Lane(Connection):
    """One connection."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._buffer = b""
        self._searched = 0
        """How much of it holds no end of a head."""
        self._may_be_ours = False
        """Whether its first line was looked at, and is one for the lane."""
        self._call: tuple[bytes, bytes, bytes] = (b"", b"", b"")
        """Method, path and query of what is being read."""
        self._fields: Fields | None = None
        """Its fields, where its head was read."""
        self._parts: list[bytes] = []
        self._lacking = 0
        self._taken = 0
        """What the intake counts of this connection."""
        self._request: LaneRequest | None = None
        self._advancing = False
        self._guest: Guest | None = None
        self._held = False
        self._written = 0
        """The size of the last answer."""
        self._stalled_s: float | None = None
        self._closed_s: float | None = None
        self._since_s = 0.0

    def connectionMade(self) -> None:
        self._since_s = self._door.clock.seconds()
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        self._outlet = Outlet(self.transport)
        self.transport.registerProducer(self, True)
        self._door.overdue.watch(self)
        self._door.make_room(self, self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._door.overdue.forget(self)
        self._give_back()
        if self._request is not None:
            self._request.channel = None
        self._buffer = b""
        if self._guest is not None:
            self._guest.connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        if self._guest is not None:
            self._guest.dataReceived(data)
        elif self._closed_s is not None:
            pass
        elif self._fields is not None:
            self._fill(data)
            self._advance()
        else:
            if not self._buffer:
                self._since_s = self._door.clock.seconds()
            self._buffer += data
            if self._request is None:
                self._advance()
            elif len(self._buffer) > self._door.limits.pipelined_bytes_max:
                self._hold()

    def _advance(self) -> None:
        """Begin one request after the other, as they are here. Those that are answered at once do not nest."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._buffer and self._request is None and self._fields is None and self._stalled_s is None:
                if not self._begin(self._buffer):
                    break
        finally:
            self._advancing = False

    def _begin(self, data: bytes) -> bool:
        """Take the next head, and say whether there was one for the lane."""
        end = data.find(END, max(0, self._searched - len(END) + 1))
        if end < 0:
            self._searched = len(data)
            if len(data) > self._door.limits.head_bytes_max or not self._is_worth_waiting_for(data):
                self._hand_over(self._door.web_guest())
            return False
        self._searched, self._may_be_ours = 0, False
        after = end + len(END)
        fields = self._read_head(data, after)
        if fields is None:
            self._hand_over(self._guest_for(data, end))
            return False
        self._fields = fields
        self._buffer = b""
        self._fill(data[after:])
        return self._guest is None

    def _is_worth_waiting_for(self, data: bytes) -> bool:
        """Say whether a head of which a part is here may become one for the lane."""
        if not self._may_be_ours and b"\r\n" in data:
            self._may_be_ours = bool(_data_call(data) or _link_call(data))
            return self._may_be_ours
        return True

    def _read_head(self, data: bytes, after: int) -> Fields | None:
        """Read a head, if it is one for the lane; what it says of its body is lacking then.

        :param after: where it ends.
        """
        door = self._door
        call = _data_call(data)
        if call is None or after > door.limits.head_bytes_max:
            return None
        try:
            found = door.remembered.read(data[call.end() : after])
        except BadInput:
            return None
        if found is None:
            return None
        fields, self._lacking = found
        if self._lacking > door.bytes_max:
            return None
        method, path, query = call.groups(b"")
        try:
            door.gate.judge(method, path, fields)
        except BadInput:
            return None
        self._call = method, path, query
        return fields

    def _guest_for(self, data: bytes, end: int) -> Guest:
        """Find out who takes the connection over: twisted.web, unless it asks for the link and may have it."""
        if _link_call(data):
            try:
                head = read_head(data[: end + len(END)], self._door.limits.head_fields_max)
                ticket = self._door.gate.judge(head.method, LINK_PATH, head)
            except BadInput:
                return self._door.web_guest()
            guest = self._door.link_guest(head, ticket)
            if guest is not None:
                self._buffer = data[end + len(END) :]
                return guest
        return self._door.web_guest()

    def _fill(self, data: bytes) -> None:
        """Take a part of a body, and answer when it is whole."""
        lacking, door = self._lacking, self._door
        size = len(data)
        if size > lacking:
            self._buffer = data[lacking:]
            data = data[:lacking]
            size = lacking
        try:
            door.intake.take(size)
        except Overloaded as error:
            self._refuse(error)
            return
        self._taken += size
        self._lacking = lacking - size
        if self._lacking:
            self._parts.append(data)
            return
        if self._parts:
            data = b"".join((*self._parts, data))
            self._parts = []
        fields, self._fields = self._fields, None
        assert fields is not None
        self._request = LaneRequest(self, door.stamp, *self._call, fields, data)
        door.render(self._request)

    def answered(self, data: bytes) -> None:
        """Send an answer, and go on to the next request."""
        self._request = None
        self._give_back()
        self._written = len(data)
        self._outlet.write(data)
        self._since_s = self._door.clock.seconds()
        if self._door.parting:
            self._part()
            return
        if self._held:
            self._release()
        if self._buffer:
            self._advance()

    def _give_back(self) -> None:
        self._door.intake.give_back(self._taken)
        self._taken = 0

    def _hand_over(self, guest: Guest) -> None:
        data, self._buffer = self._buffer, b""
        self._guest = guest
        self.transport.unregisterProducer()
        guest.makeConnection(self.transport)
        if data:
            guest.dataReceived(data)

    def _hold(self) -> None:
        """Read no more before what is here was answered, and the answers were read."""
        if not self._held:
            self._held = True
            self.transport.pauseProducing()

    def _release(self) -> None:
        if self._held and self._stalled_s is None:
            self._held = False
            self.transport.resumeProducing()

    # What the transport says about its client: it reads answers no longer; it reads on.

    def pauseProducing(self) -> None:
        # A transport says it again with each write.
        if self._stalled_s is None:
            self._stalled_s = self._door.clock.seconds()
        self._hold()

    def resumeProducing(self) -> None:
        self._stalled_s = None
        self._outlet.drained()
        if self._door.parting and self._closed_s is None and self._request is None:
            self._part()
        elif self._request is None:
            self._release()
            self._advance()

    def stopProducing(self) -> None:
        pass

    # What becomes of those who take their time.

    def look(self, now_s: float) -> None:
        """See ``overdue``. What is wrong is said where twisted.web says it."""
        limits = self._door.limits
        if self._guest is not None:
            self._guest.look(now_s)
        elif self._closed_s is not None:
            if now_s - self._closed_s > limits.unread_s(self._written):
                self.transport.abortConnection()
        elif self._stalled_s is not None:
            if now_s - self._stalled_s > limits.unread_s(self._written):
                self.transport.abortConnection()
        elif self._request is not None:
            pass  # an operation has a deadline of its own
        elif self._fields is not None:
            if now_s - self._since_s > limits.body_s(self._taken):
                self._refuse(RequestTooSlow("the body did not come in time", "send it faster, or less of it"))
        elif self._buffer:
            if now_s - self._since_s > limits.head_s_max:
                self._refuse(RequestTooSlow("the request's head did not come in time", "send it in one piece"))
        elif now_s - self._since_s > limits.idle_s_max:
            self._close()

    def _refuse(self, error: KvError) -> None:
        self._buffer = b""
        self._fields = None
        self._parts = []
        self._give_back()
        guest = self._door.web_guest()
        self._hand_over(guest)
        guest.refuse(error)

    def hang_up(self) -> None:
        """See ``overdue``."""
        if self._guest is not None:
            self._guest.hang_up()
        elif self._closed_s is None:
            self._close()

    @property
    def busy(self) -> bool:
        """See ``overdue``."""
        if self._guest is not None:
            return self._guest.busy
        return self._closed_s is None and (self._request is not None or self._stalled_s is not None)

    @property
    def idle_since_s(self) -> float | None:
        """See ``overdue``."""
        if self._guest is not None:
            return self._guest.idle_since_s
        asked = self.busy or self._fields is not None or self._buffer or self._closed_s is not None
        return None if asked else self._since_s

    @property
    def begun_since_s(self) -> float | None:
        """See ``overdue``."""
        if self._guest is not None:
            return self._guest.begun_since_s
        begun = self._fields is not None or self._buffer
        return self._since_s if begun and not self.busy and self._closed_s is None else None

    def part_if_idle(self) -> None:
        """See ``overdue``. What has come in part is nothing yet."""
        if self._guest is not None:
            self._guest.part_if_idle()
        elif self._closed_s is None and not self.busy:
            self._part()

    def _part(self) -> None:
        """Close as ``_close`` does, and leave an answer on its way whole: see ``parting``."""
        if self._stalled_s is not None:
            return  # when the client has read on
        self._give_back()
        self._closed_s = self._door.clock.seconds()
        self._buffer = b""
        self._fields = None
        self._parts = []
        self.transport.unregisterProducer()
        if self._held:
            self.transport.resumeProducing()
        end_writing(self.transport)

    def _close(self) -> None:
        """Close when the last answer has been read, and answer nothing more."""
        self._closed_s = self._door.clock.seconds()
        self._buffer = b""
        if self._request is not None:
            self._request.channel = None
        # Otherwise a transport that has told its producer to pause would have it go on, in the place of closing.
        self.transport.unregisterProducer()
        self.transport.loseConnection()
