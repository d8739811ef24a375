"""Many operations in one request: ``/v1/bulk``, a line in and a line out for each, in the same order.

Operations on different keys run beside one another; those on one key take effect in the order of their lines.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as BinasciiError
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import msgspec
from klein import Klein
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from ..bodies import checked_key, checked_value
from ..conditional import Draft
from ..coordinator import Coordinator
from ..errors import BadInput, BadParameter, KeyAbsent, KvError, MalformedBody
from ..limits import Limits
from ..names import Key
from ..operation import Done
from ..preconditions import Precondition, parse_precondition
from ..quorum import Level
from ..sharing import Changed
from ..versions import decode_record, is_tombstone, record_version
from ..wire.header import UNDECODED
from .answers import MSGPACK, log_bug, problem_fields, status_of
from .calls.bulk import BULK, EXPIRES_MS_MAX, OPS, Line, PackedLine
from .keys import NDJSON
from .openapi.described import described
from .outflow import Outflow
from .parameters import expiry_after, level_of, refuse_unknown, seconds, timeout_of
from .v1 import OCTETS, checked_content_type, conditionally, precondition_failed

WEIGHT_MAX = 1_024
"""What one request may have under way: enough for batches that are full while others wait for their sync."""
WEIGHT_MIN = 64
"""The same where other clients leave hardly any room."""
WRITE_WEIGHT, READ_WEIGHT = 1, 4
"""A write's value is in memory already, as part of the request; a read's comes on top, and may be a large one."""
BEGUN_A_TURN = 128
"""After so many the queues are let go: the nodes would wait meanwhile, and the other clients."""


_decode_text = msgspec.json.Decoder(Line).decode
_decode_packed = msgspec.msgpack.Decoder(PackedLine).decode
_split_packed = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode

Answer: TypeAlias = dict[str, Any]
Run: TypeAlias = Callable[[], Deferred[Any]]
Tell: TypeAlias = Callable[[Any], Answer]


def _bytes_of(name: str, plain: object, coded: str | None) -> bytes:
    """:raises BadParameter: unless exactly one of the two forms is given, and can be read."""
    if (plain is None) == (coded is None):
        raise BadParameter(f"{name} is missing, or given twice", f"give {name}, or {name}_b64 for any bytes")
    if coded is not None:
        try:
            return b64decode(coded, validate=True)
        except (BinasciiError, ValueError):
            raise BadParameter(f"{name}_b64 is no base64") from None
    if isinstance(plain, bytes):
        return plain
    if not isinstance(plain, str):
        raise BadParameter(f"{name} is neither text nor bytes")
    return plain.encode()


def _content_type(given: str, limits: Limits) -> bytes:
    """:raises BadParameter: if no header could hold it, or it is too long."""
    # Whoever reads the key gets it as a header: a line end in it would begin another one. All else that a header can
    # bring is taken, as ``_got`` shows it: what was stored once has to come back from an export or a backup.
    try:
        coded = given.encode("latin-1")
    except UnicodeEncodeError:
        coded = b"\0"
    if any(byte in coded for byte in b"\0\r\n"):
        raise BadParameter("content_type holds what no header may", "give one like text/plain")
    return checked_content_type(coded, limits)


class Bulk:
    """One bulk request: its operations on their way, and its answers in order."""

    def __init__(
        self,
        coordinator: Coordinator,
        now_ms: Callable[[], int],
        limits: Limits,
        level: Level,
        timeout_s: float | None,
        packed: bool,
    ) -> None:
        self._coordinator = coordinator
        self._now_ms = now_ms
        self._limits = limits
        self._level = level
        self._timeout_s = timeout_s
        self._packed = packed
        self._behind: dict[Key, deque[tuple[Run, Deferred[Any]]]] = {}
        """For each key with an operation under way, those that come after it."""
        self._running: deque[tuple[Deferred[Answer], int]] = deque()
        self._weight = 0

    def lines(self, body: bytes) -> Iterator[Any]:
        """Split a body into undecoded lines.

        :raises MalformedBody: if it cannot be split.
        """
        if not self._packed:
            return (line for line in body.split(b"\n") if line.strip())
        try:
            return iter(_split_packed(body))
        except UNDECODED as error:
            raise MalformedBody(f"the body is no msgpack array: {error}", "send an array of maps") from None

    @property
    def running(self) -> bool:
        """Whether there are operations whose answers were not taken."""
        return bool(self._running)

    @property
    def full(self) -> bool:
        """Whether an answer should be taken before the next operation is begun.

        What others have under way in this proxy leaves less room, so that no number of requests takes all of it.
        """
        others_room = (self._limits.operations_max - self._coordinator.under_way) // 4
        return self.running and self._weight >= max(WEIGHT_MIN, min(WEIGHT_MAX, others_room))

    def begin(self, raw: Any) -> None:
        """Begin one operation, after the one before it on the same key."""
        weight = WRITE_WEIGHT
        try:
            line: Line = (_decode_packed if self._packed else _decode_text)(raw)
        except UNDECODED as error:
            answer = succeed(self._problem({}, MalformedBody(f"the line cannot be read: {error}")))
        else:
            answer = self._begun(line)
            if line.op == "get":
                weight = READ_WEIGHT
        self._weight += weight
        self._running.append((answer, weight))

    async def ready(self) -> list[Answer]:
        """Wait for the first answer, and take it with those behind it that come in the same turn."""
        answers = [await self._take()]
        await deferLater(self._coordinator.clock, 0)
        while self._running and self._running[0][0].called:
            answers.append(await self._take())
        return answers

    def _take(self) -> Deferred[Answer]:
        answer, weight = self._running.popleft()
        self._weight -= weight
        return answer

    def _begun(self, line: Line) -> Deferred[Answer]:
        """Begin what a line asks for. Its answer always comes, and is no failure."""
        shown: Answer = {}
        try:
            key = checked_key(_bytes_of("key", line.key, line.key_b64), self._limits)
            shown = self._shown("key", key)
            run, tell = self._operation(line, key)
        except BadInput as error:
            return succeed(self._problem(shown, error))
        behind = self._behind.get(key)
        answer = run() if behind is None else Deferred()
        answer.addBoth(self._told, shown, tell)
        if behind is not None:
            behind.append((run, answer))
        else:
            self._behind[key] = deque()
            answer.addCallback(self._go_on, key)
        return answer

    def _go_on(self, fields: Answer, key: Key) -> Answer:
        """Begin what waits behind the operation of a key that has ended."""
        behind = self._behind[key]
        if behind:
            ensureDeferred(self._one_after_the_other(key, behind))
        else:
            del self._behind[key]
        return fields

    async def _one_after_the_other(self, key: Key, behind: deque[tuple[Run, Deferred[Any]]]) -> None:
        # A loop, not one calling the next: where all of them fail at once that would be too deep a recursion.
        while behind:
            run, answer = behind.popleft()
            try:
                result = await run()
            except Exception:
                answer.errback(Failure())
            else:
                answer.callback(result)
        del self._behind[key]

    def _operation(self, line: Line, key: Key) -> tuple[Run, Tell]:
        """Check everything, and give what starts the operation, and what tells its result.

        :raises BadInput: saying what is wrong.
        """
        coordinator, timeout_s = self._coordinator, self._timeout_s
        if line.op == "get":
            return lambda: coordinator.get(key, self._level, timeout_s), self._got
        if line.op == "put":
            value = checked_value(_bytes_of("value", line.value, line.value_b64), self._limits)
            expires_ms = line.expires_ms
            if expires_ms is None:
                ttl_s = seconds("ttl", line.ttl, self._limits.ttl_s_max) if line.ttl is not None else None
                expires_ms = expiry_after(self._now_ms(), ttl_s)
            elif not 0 < expires_ms <= EXPIRES_MS_MAX:
                raise BadParameter(
                    f"expires_ms is {expires_ms}", f"give milliseconds since 1970, up to {EXPIRES_MS_MAX}"
                )
            content_type = _content_type(line.content_type, self._limits) if line.content_type else OCTETS
            draft = Draft(value, content_type, expires_ms)
        elif line.op == "delete":
            draft = Draft(None)
        else:
            raise BadParameter(f"there is no op {line.op[:40]!r}", f"known here: {', '.join(OPS)}")
        if line.if_match is not None or line.if_none_match is not None:
            precondition = parse_precondition(_quoted(line.if_match), _quoted(line.if_none_match))
            decide = conditionally(precondition, draft)
            return (
                lambda: coordinator.change(key, decide, timeout_s, draft.size),
                lambda changed: self._changed(changed, precondition),
            )
        value, content_type, expires_ms = draft
        return lambda: coordinator.put(key, value, content_type, self._level, expires_ms, timeout_s), self._written

    def _got(self, done: Done) -> Answer:
        record = decode_record(done.record) if done.record else None
        if record is None or record.value is None:
            raise KeyAbsent("there is no such key")
        answer = {"status": 200, **self._shown("value", record.value), "etag": record.version.hex()}
        if record.expires_ms:
            answer["expires_ms"] = record.expires_ms
        if record.content_type and record.content_type != OCTETS:
            # As latin-1 every header is text, whatever its bytes.
            answer["content_type"] = record.content_type.decode("latin-1")
        return answer

    def _changed(self, changed: Changed, precondition: Precondition) -> Answer:
        if not changed.changed:
            raise precondition_failed(precondition, changed.record)
        assert changed.record is not None
        return _written(changed.record.version, changed.record.value is None)

    def _written(self, done: Done) -> Answer:
        return _written(record_version(done.record), is_tombstone(done.record))

    def _told(self, result: Any, shown: Answer, tell: Tell) -> Answer:
        """Give an operation's answer, whatever came of it."""
        try:
            if isinstance(result, Failure):
                result.raiseException()
            return shown | tell(result)
        except KvError as error:
            return self._problem(shown, error)
        except Exception:
            log_bug(Failure(), "a bulk operation", "")
            return {**shown, "status": 500}

    def _problem(self, shown: Answer, error: KvError) -> Answer:
        status = status_of(error)
        return {**shown, "status": status, "problem": problem_fields(error, status)}

    def _shown(self, name: str, data: bytes) -> Answer:
        if self._packed:
            return {name: data}
        try:
            return {name: data.decode()}
        except UnicodeDecodeError:
            return {f"{name}_b64": b64encode(data).decode()}


def _written(version: bytes, is_tombstone: bool) -> Answer:
    return {"status": 204} if is_tombstone else {"status": 204, "etag": version.hex()}


def _quoted(tag: str | None) -> str | None:
    """Take an ETag as a bulk answer shows it, without its quotes, too."""
    return f'"{tag}"' if tag is not None and tag != "*" and '"' not in tag else tag


def add_bulk(app: Klein, coordinator: Coordinator, now_ms: Callable[[], int], limits: Limits, default: Level) -> None:
    """Give a proxy's door the bulk call."""

    @app.route("/v1/bulk", methods=["POST"])
    @described(BULK)
    async def bulk_operations(request: Any) -> bytes:
        refuse_unknown(request, *BULK.known)
        packed = (request.getHeader(b"content-type") or b"").split(b";")[0].strip() == MSGPACK
        level, timeout_s = level_of(request, default), timeout_of(request, limits)
        bulk = Bulk(coordinator, now_ms, limits, level, timeout_s, packed)
        lines = list(bulk.lines(request.content.read()))
        request.setHeader(b"Content-Type", MSGPACK if packed else NDJSON)
        encode = msgspec.msgpack.encode if packed else msgspec.json.encode
        end = b"" if packed else b"\n"
        # Where the client goes, what was begun goes on, and what was not is not begun.
        async with Outflow(request) as out:
            if packed:
                await out.write(_array_head(len(lines)))
            for number, line in enumerate(lines, 1):
                if number % BEGUN_A_TURN == 0:
                    await deferLater(coordinator.clock, 0)
                while bulk.full:
                    await out.write(b"".join(encode(answer) + end for answer in await bulk.ready()))
                bulk.begin(line)
            while bulk.running:
                await out.write(b"".join(encode(answer) + end for answer in await bulk.ready()))
        return b""


def _array_head(count: int) -> bytes:
    """Give the head of a msgpack array, whose elements follow one by one (msgpack specification, array 32)."""
    return b"\xdd" + count.to_bytes(4, "big")
