"""One client of the Redis door: its commands in, their replies out, in the same order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol as Connection
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..errors import KvError, Overloaded
from ..fasthttp.intake import Intake
from ..fasthttp.outlet import Outlet
from ..fasthttp.overdue import Overdue
from ..fasthttp.parting import end_writing
from ..tokens import Access
from .greeting import permit
from .order import Order, Store
from .plans import Errand, NotForUs, Plan, Refused
from .refusals import BUG, reply_to
from .replies import error
from .requests import Cutter, Requests, Unreadable
from .session import Server, Session
from .table import Table


class Door(Server, Protocol):
    """The port that a client is connected to."""

    clock: IReactorTime
    store: Store
    table: Table
    cutter: Cutter
    intake: Intake
    overdue: Overdue
    output: int
    """Bytes of replies that are there and were not read, of all clients."""
    promised: int
    """About how many bytes the replies to all that is under way will have."""

    def welcome(self, client: Client) -> Session | None:
        """Take in a client, unless there are too many."""

    def farewell(self, client: Client) -> None:
        """Hear that a client has gone."""


FADES = 0.9
"""By how much a large reply counts less with each smaller one behind it."""


class Slot:
    """The place of one command's reply, until that is there."""

    __slots__ = ("promised", "reply")

    def __init__(self) -> None:
        self.reply: bytes | None = None
        self.promised = 0
        """For how many bytes room is held."""


class _Run(Slot):
    """A plan under way: what its questions were answered, and how many answers are still to come."""

    __slots__ = ("answers", "client", "left", "make")

    def __init__(self, client: Client, plan: Plan) -> None:
        self.reply = None
        self.promised = 0
        self.client = client
        self.make = plan.reply
        self.left = len(plan.asks)
        self.answers: list[Any] = []

    def hear(self, answer: Any) -> None:
        """Take the answer to a plan's only question."""
        self.client.answered(self, [answer])

    def hears(self, number: int) -> Callable[[Any], None]:
        """Give what takes the answer to one of several questions."""
        if not self.answers:
            self.answers = [None] * self.left

        def hear(answer: Any) -> None:
            self.answers[number] = answer
            self.left -= 1
            if not self.left:
                self.client.answered(self, self.answers)

        return hear


@implementer(IPushProducer)
class Client(Connection):
    """One connection. Commands are begun as they come, up to a bound; those of several keys are under way together."""

    log = Logger()
    session: Session
    transport: Any

    def __init__(self, door: Door) -> None:
        self._door = door
        self._todo: deque[list[bytes]] = deque()
        """Commands that have come and were not begun."""
        self._slots: deque[Slot] = deque()
        """Commands that were begun and not replied to, in their order."""
        self._under_way = 0
        """How many of them wait for the store."""
        self._alone = False
        """Whether an errand runs, or waits until it may: the commands behind it wait, too."""
        self._taken = 0
        """What the intake counts of this connection."""
        self._since_s = 0.0
        """When the command began to come that is not whole."""
        self._stalled_s: float | None = None
        """Since when the client does not read."""
        self._known_s = door.clock.seconds()
        """When the client was seen last with a token, where one is asked for; at first, when it came."""
        self._expected: float = door.limits.value_bytes_max
        """How large the next replies may be, going by the last ones: so many are under way as could be kept."""
        self._ready = 0
        """Bytes of replies that are there and were not sent: one before them is still to come."""
        self._unread = 0
        """Bytes that were sent since the client stopped reading."""
        self._held = False
        """Whether nothing is read from the client for now."""
        self._beginning = False
        self._flushing = False
        self._last: bytes | None = None
        """What is said when all was replied to, before the connection ends; None while it goes on."""
        self._gone = False
        self._parting = False
        """Whether the daemon stops."""

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        session = self._door.welcome(self)
        if session is None:
            self._gone = True
            self.transport.write(error("ERR max number of clients reached"))
            self.transport.loseConnection()
            return
        self.session = session
        limits = self._door.limits
        self._requests = Requests(self._door.cutter, limits.value_bytes_max, limits.resp_command_bytes_max)
        self._order = Order(self._door.store)
        self._outlet = Outlet(self.transport)
        self.transport.registerProducer(self, True)
        self._door.overdue.watch(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """What is under way goes on: a write must not stop half-way because its client has gone."""
        self._forget()
        self._count(0)
        self._door.overdue.forget(self)
        self._door.farewell(self)

    def _forget(self) -> None:
        """Have nothing more to do with this client's commands, and keep none of its replies."""
        self._gone = True
        self._todo.clear()
        self._slots.clear()
        self._door.output -= self._ready + self._unread
        self._ready = self._unread = 0

    # Commands.

    def dataReceived(self, data: bytes) -> None:
        if self._gone or self._last is not None:
            return
        requests = self._requests
        requests.guarded = self.session.ticket.access is None
        was_whole = not requests.held
        fault: Unreadable | None = None
        commands: list[list[bytes]] = []
        try:
            requests.feed(data, commands)
        except Unreadable as found:
            fault = found
        self._todo += commands
        if commands or was_whole:
            self._since_s = self._door.clock.seconds()
        if fault is not None:
            self._last = error(b"ERR Protocol error: %b" % fault.text)
        elif requests.held or self._taken:
            try:
                self._count(requests.held)
            except Overloaded as trouble:
                self._last = reply_to(trouble)
        self._begin()

    def _count(self, held: int) -> None:
        """Tell the intake how much is here of a command that is not whole.

        :raises Overloaded: if all connections together hold too much.
        """
        intake = self._door.intake
        intake.give_back(self._taken)
        self._taken = 0
        intake.take(held)
        self._taken = held

    def _begin(self) -> None:
        """Begin commands, as many as may be under way, and send what was replied to at once."""
        if self._beginning:
            return
        self._beginning = True
        todo = self._todo
        while todo and not self._alone and self._stalled_s is None:
            room = self._room()
            if not room:
                break
            # What is replied to at once may change what the next replies are expected to be.
            while todo and room and not self._alone and self._run(todo.popleft()):
                room -= 1
        self._beginning = False
        if not self._flushing:
            self._flush()
        self._read_on()

    def _room(self) -> int:
        """Say how many more commands may be under way. The first always may, so that everybody gets on."""
        under_way, door = self._under_way, self._door
        limits, expected = door.limits, max(1.0, self._expected)
        room = min(
            limits.resp_pipeline_max - under_way,
            int(limits.resp_output_bytes_max / 2 / expected) - under_way,
            int((limits.resp_outputs_bytes_max - door.output - door.promised) / expected),
        )
        return max(room, 0 if under_way else 1)

    def _read_on(self) -> None:
        """Read from the client only while all that came from it was begun."""
        holds = bool(self._todo) or self._stalled_s is not None
        if holds != self._held and not self._gone:
            self._held = holds
            if holds:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _run(self, words: list[bytes]) -> bool:
        """Begin a command; say whether its reply waits for the store."""
        door, session = self._door, self.session
        try:
            command = door.table.find(words)
            if session.ticket.access is not Access.READ_WRITE:
                permit(session, command)
            outcome = command.plan(session, words)
        except Refused as refusal:
            outcome = error(refusal.text)
            session.closing = session.closing or isinstance(refusal, NotForUs)
        except Exception:
            self.log.failure("a command could not be planned")
            outcome = BUG
        if type(outcome) is Plan:
            door.processed += 1
            run = _Run(self, outcome)
            self._slots.append(run)
            self._under_way += 1
            run.promised = int(self._expected)
            door.promised += run.promised
            asks = outcome.asks
            if len(asks) == 1:
                self._order.ask(asks[0], session.level, run.hear)
            else:
                for number, ask in enumerate(asks):
                    self._order.ask(ask, session.level, run.hears(number))
            return True
        if type(outcome) is Errand and self._under_way:
            # It is to see what was done before it.
            self._todo.appendleft(words)
            self._alone = True
            return False
        door.processed += 1
        slot = Slot()
        self._slots.append(slot)
        if type(outcome) is bytes:
            self._keep(slot, outcome)
            if session.closing:
                self._todo.clear()
                self._last = b""
            return False
        assert type(outcome) is Errand
        self._under_way += 1
        self._alone = True
        running: Deferred[Any] = ensureDeferred(outcome.run())
        running.addBoth(self._returned, slot)
        return True

    def answered(self, run: _Run, answers: list[Any]) -> None:
        """Take all answers to a plan's questions."""
        reply: bytes
        for answer in answers:
            if isinstance(answer, Failure):
                reply = self._failed(answer)
                break
        else:
            try:
                reply = run.make(answers)
            except Refused as refusal:
                reply = error(refusal.text)
            except Exception:
                self.log.failure("a reply could not be made")
                reply = BUG
        self._reply(run, reply)

    def _returned(self, result: Any, slot: Slot) -> None:
        self._reply(slot, self._failed(result) if isinstance(result, Failure) else result)

    def _failed(self, failure: Failure) -> bytes:
        if isinstance(failure.value, KvError):
            return reply_to(failure.value)
        if isinstance(failure.value, Refused):
            return error(failure.value.text)
        self.log.failure("a command failed", failure)
        return BUG

    # Replies.

    def _reply(self, slot: Slot, reply: bytes) -> None:
        """Take a reply. Those that come in one turn of the reactor leave together."""
        self._door.promised -= slot.promised
        if self._gone:
            return
        self._keep(slot, reply)
        self._under_way -= 1
        if not self._under_way:
            self._alone = False
            self._begin()
        elif not self._flushing:
            self._flushing = True
            self._door.clock.callLater(0, self._flush_now)

    def _keep(self, slot: Slot, reply: bytes) -> None:
        """Keep a reply until it may leave; cut the client off where too much is kept for it, or for all of them."""
        slot.reply = reply
        size, door = len(reply), self._door
        self._expected = max(size, self._expected * FADES)
        self._ready += size
        door.output += size
        limits = door.limits
        too_much = door.output > limits.resp_outputs_bytes_max and self._stalled_s is not None
        if too_much or self._ready + self._unread > limits.resp_output_bytes_max:
            self._forget()
            self.transport.abortConnection()

    def _flush_now(self) -> None:
        self._flushing = False
        if not self._gone:
            self._begin()

    def _flush(self) -> None:
        """Send what can be sent in order, and hang up where all was said."""
        slots = self._slots
        self._send_ready()
        if self._last is not None and not slots and not self._todo:
            last, self._last = self._last, b""
            if last:
                self._outlet.write(last)
            self.hang_up()

    def _send_ready(self) -> None:
        slots = self._slots
        if slots and slots[0].reply is not None:
            replies: list[bytes] = []
            while slots and (reply := slots[0].reply) is not None:
                replies.append(reply)
                slots.popleft()
            self._write(replies[0] if len(replies) == 1 else b"".join(replies))

    def _write(self, data: bytes) -> None:
        """Send replies. Those that a client does not read stay in the transport's memory."""
        size = len(data)
        self._ready -= size
        self._unread += size
        self._outlet.write(data)
        if self._stalled_s is None:
            self._all_read()

    def _all_read(self) -> None:
        self._door.output -= self._unread
        self._unread = 0

    # What the transport says about its client: it reads replies no longer; it reads on.

    def pauseProducing(self) -> None:
        if self._stalled_s is None:
            self._stalled_s = self._door.clock.seconds()
        self._read_on()

    def resumeProducing(self) -> None:
        self._stalled_s = None
        self._all_read()
        self._outlet.drained()
        if not self._gone:
            self._begin()

    def stopProducing(self) -> None:
        pass

    # What becomes of those who take their time.

    def look(self, now_s: float) -> None:
        """See ``overdue``. Who asks nothing may stay: clients keep their connections for hours."""
        limits, ticket = self._door.limits, self.session.ticket
        if ticket.holds():
            self._known_s = now_s
        elif ticket.shown or now_s - self._known_s > limits.resp_token_s_max:
            self.transport.abortConnection()
            return
        if self._stalled_s is not None:
            if now_s - self._stalled_s > limits.unread_s(self._unread):
                self.transport.abortConnection()
        elif self._requests.held and not self._todo and now_s - self._since_s > limits.body_s(self._requests.held):
            self.transport.abortConnection()

    @property
    def busy(self) -> bool:
        """See ``overdue``."""
        return not self._gone and bool(self._slots or self._todo or self._stalled_s is not None)

    @property
    def idle_since_s(self) -> float | None:
        """See ``overdue``. Redis's clients keep their connections, and their door lets so many in."""
        return None

    @property
    def begun_since_s(self) -> float | None:
        """See ``overdue``."""
        return None

    def part_if_idle(self) -> None:
        """See ``overdue``: everybody is idle who has the replies to all that has come whole."""
        self.part()

    def part(self) -> None:
        """Reply to all that has come, and close: see ``parting``. What comes from now on is not begun."""
        if not self._gone and self._last is None:
            self._parting = True
            self._last = b""
            self._begin()

    def hang_up(self) -> None:
        """See ``overdue``: nothing more is answered."""
        if not self._gone:
            self._gone = True
            self._send_ready()
            self.transport.unregisterProducer()
            if self._parting:
                self.transport.resumeProducing()
                end_writing(self.transport)
            else:
                self.transport.loseConnection()
