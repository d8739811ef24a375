"""The cluster's state in etcd: for proxies on several machines."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Coroutine, Sequence
from itertools import count
from typing import Any, NamedTuple, TypeVar

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ..errors import StateUnusable
from ..limits import Limits
from ..membership import State, decode_state, encode_state
from .gateway import HINT, Gateway, text

T = TypeVar("T")

LEASE_S = 6
"""How long a driver that has vanished still counts as one."""

LOOK_S = 2.0
"""How often a watcher looks for itself: a stream that has fallen silent says nothing of it."""

RETRY_S = 0.3
"""How soon a watch that has ended begins again."""


class Found(NamedTuple):
    """What etcd holds: the document, None if there is none, the revision that it came with, and who wrote it.

    Two proxies may take the same step at once, and write the same bytes; only one of them may believe that it did it.
    """

    document: bytes | None
    revision: int
    writing: bytes = b""


class _Row(msgspec.Struct, frozen=True):
    """A key as etcd shows it. It writes numbers as text, and leaves out what is empty."""

    mod_revision: int
    value: str = ""


class _Range(msgspec.Struct, frozen=True):
    kvs: list[_Row] = []


class _Response(msgspec.Struct, frozen=True):
    response_range: _Range = _Range()


class _Transaction(msgspec.Struct, frozen=True):
    responses: list[_Response] = []
    succeeded: bool = False

    @property
    def found(self) -> Found:
        """What the last two of its operations have shown: the document, and who wrote it."""
        shown = [response.response_range.kvs for response in self.responses[-2:]]
        if len(shown) < 2:
            raise StateUnusable("etcd has not answered all of a transaction", HINT)
        return _newest(*shown)


class _Granted(msgspec.Struct, frozen=True):
    ID: str


class _Kept(msgspec.Struct, frozen=True):
    TTL: int = 0


class _KeptAlive(msgspec.Struct, frozen=True):
    result: _Kept = _Kept()


class _Event(msgspec.Struct, frozen=True):
    kv: _Row
    type: str = "PUT"


class _Watched(msgspec.Struct, frozen=True):
    events: list[_Event] = []
    canceled: bool = False


class _Line(msgspec.Struct, frozen=True):
    result: _Watched = _Watched()
    error: Any = None


def _read(answer: dict[str, Any], shape: type[T]) -> T:
    """:raises StateUnusable: if an answer is none of that shape."""
    try:
        return msgspec.convert(answer, shape, strict=False)
    except msgspec.ValidationError as error:
        raise StateUnusable(f"etcd answers what cannot be read: {error}", HINT) from None


class EtcdStore:
    """See ``store.StateStore``. One key holds the document, one names the write that it is from; a third one, with a
    lease, says who drives.

    :param name: of this process, and of no other that ever was.
    :param prefix: what the keys begin with, so that one etcd may serve several clusters.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, gateway: Gateway, prefix: str, name: str, limits: Limits) -> None:
        self._clock = clock
        self._gateway = gateway
        self._name = name
        self._writes = count(1)
        self._limits = limits
        self._document = text(f"{prefix}/state".encode())
        self._writer = text(f"{prefix}/writer".encode())
        self._driver = text(f"{prefix}/driver".encode())
        self._lease: _Lease | None = None

    def read(self) -> Deferred[State | None]:
        return ensureDeferred(self._read())

    def update(self, step: Callable[[State | None], State]) -> Deferred[State]:
        return ensureDeferred(self._update(step))

    def watch(self, seen: Callable[[State], None]) -> Callable[[], None]:
        return _Watch(self._clock, self._gateway, self._document, self._found, seen).stop

    def lead(self) -> Deferred[bool]:
        return ensureDeferred(self._lead())

    def resign(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.end()

    @property
    def _look(self) -> list[dict[str, Any]]:
        return [{"request_range": {"key": key}} for key in (self._document, self._writer)]

    async def _found(self) -> Found:
        answer = await self._gateway.call("kv/txn", {"compare": [], "success": self._look})
        return _read(answer, _Transaction).found

    async def _read(self) -> State | None:
        document = (await self._found()).document
        return decode_state(document) if document is not None else None

    async def _update(self, step: Callable[[State | None], State]) -> State:
        until_s = self._clock.seconds() + self._limits.control_timeout_s
        found = await self._found()
        while True:
            old = decode_state(found.document) if found.document is not None else None
            new = step(old)
            if new is old:
                return new
            writing = f"{self._name}/{next(self._writes)}".encode()
            try:
                found = await self._replaced(found.revision, encode_state(new), writing)
            except StateUnusable:
                # It may have been done, and only its answer lost.
                found = await self._found()
                if found.writing != writing:
                    raise
            if found.writing == writing:
                return new
            if self._clock.seconds() >= until_s:
                raise StateUnusable("other proxies change the state all the time", "try again in a moment")

    async def _replaced(self, revision: int, document: bytes, writing: bytes) -> Found:
        """Put a document in the place of the one of a revision (0 for none), and say what is there then."""
        unchanged = {"target": "MOD", "result": "EQUAL", "key": self._document, "mod_revision": str(revision)}
        puts = [
            {"request_put": {"key": key, "value": text(value)}}
            for key, value in ((self._document, document), (self._writer, writing))
        ]
        request = {"compare": [unchanged], "success": [*puts, *self._look], "failure": self._look}
        answer = await self._gateway.call("kv/txn", request)
        return _read(answer, _Transaction).found

    async def _lead(self) -> bool:
        if self._lease is not None and self._lease.holds:
            return True
        self.resign()
        granted = _read(await self._gateway.call("lease/grant", {"TTL": str(LEASE_S)}), _Granted)
        lease = _Lease(self._clock, self._gateway, granted.ID)
        nobody = {"target": "CREATE", "result": "EQUAL", "key": self._driver, "create_revision": "0"}
        put = {"request_put": {"key": self._driver, "value": text(self._name.encode()), "lease": granted.ID}}
        try:
            answer = await self._gateway.call("kv/txn", {"compare": [nobody], "success": [put]})
            leads = _read(answer, _Transaction).succeeded
        except StateUnusable:
            lease.end()
            raise
        if not leads:
            lease.end()
            return False
        self._lease = lease
        return True


def _newest(rows: Sequence[_Row], writers: Sequence[_Row] = ()) -> Found:
    """:raises StateUnusable: if what etcd holds is none of ours."""
    if not rows:
        return Found(None, 0)
    try:
        writing = b64decode(writers[0].value) if writers else b""
        return Found(b64decode(rows[0].value), rows[0].mod_revision, writing)
    except ValueError as error:
        raise StateUnusable(f"what etcd shows of the state is no base64: {error}", HINT) from None


class _Lease:
    """A lease that is kept until it is given back. It saves double work and makes nothing safe: epochs do that."""

    log = Logger()

    def __init__(self, clock: IReactorTime, gateway: Gateway, lease_id: str) -> None:
        self._clock = clock
        self._gateway = gateway
        self._id = lease_id
        self._until_s = clock.seconds() + LEASE_S
        self._call: IDelayedCall = clock.callLater(LEASE_S / 3, self._keep)

    @property
    def holds(self) -> bool:
        return self._clock.seconds() < self._until_s

    def _keep(self) -> None:
        self._call = self._clock.callLater(LEASE_S / 3, self._keep)
        ensureDeferred(self._kept(self._clock.seconds())).addErrback(
            lambda failure: self.log.warn("the lease is not kept: {error}", error=failure.getErrorMessage())
        )

    async def _kept(self, asked_s: float) -> None:
        answer = await self._gateway.call("lease/keepalive", {"ID": self._id})
        if _read(answer, _KeptAlive).result.TTL > 0:
            self._until_s = asked_s + LEASE_S

    def end(self) -> None:
        self._until_s = float("-inf")
        if self._call.active():
            self._call.cancel()
        # If this is lost the lease ends by itself.
        ensureDeferred(self._gateway.call("lease/revoke", {"ID": self._id})).addErrback(
            lambda failure: failure.trap(StateUnusable)
        )


class _Watch:
    """Shows each newer document: by a stream while there is one, and by looking now and then all the same."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        gateway: Gateway,
        key: str,
        load: Callable[[], Coroutine[Any, Any, Found]],
        seen: Callable[[State], None],
    ) -> None:
        self._clock = clock
        self._gateway = gateway
        self._key = key
        self._load = load
        self._seen = seen
        self._shown = 0
        self._stopped = False
        self._complained = False
        self._end_stream: Callable[[], None] | None = None
        self._call: IDelayedCall = clock.callLater(0, self._look)

    def stop(self) -> None:
        self._stopped = True
        if self._call.active():
            self._call.cancel()
        if self._end_stream is not None:
            self._end_stream()
            self._end_stream = None

    def _look(self) -> None:
        self._call = self._clock.callLater(LOOK_S, self._look)
        ensureDeferred(self._looked()).addErrback(
            lambda failure: self.log.failure("a look at the state failed", failure)
        )

    async def _looked(self) -> None:
        try:
            found = await self._load()
        except StateUnusable as error:
            if not self._complained:
                self.log.error("the state in etcd cannot be read: {error}", error=error.detail)
            self._complained = True
            return
        self._complained = False
        self._show(found)
        if self._end_stream is None and not self._stopped:
            request = {"key": self._key, "start_revision": str(self._shown + 1)} if self._shown else {"key": self._key}
            self._end_stream = self._gateway.stream("watch", {"create_request": request}, self._line, self._ended)

    def _line(self, message: dict[str, Any]) -> None:
        try:
            line = _read(message, _Line)
            for event in line.result.events:
                if event.type == "PUT":
                    self._show(_newest([event.kv]))
        except StateUnusable as error:
            self.log.error("a watch of the state cannot be read: {error}", error=error.detail)
            return  # a look shows the newest
        if line.error is not None or line.result.canceled:
            # Where the revisions that it missed are gone, etcd ends a watch; a look shows the newest.
            end, self._end_stream = self._end_stream, None
            if end is not None:
                end()
            self._again()

    def _ended(self) -> None:
        self._end_stream = None
        self._again()

    def _again(self) -> None:
        if not self._stopped and self._call.active():
            self._call.reset(RETRY_S)

    def _show(self, found: Found) -> None:
        if self._stopped or found.document is None or found.revision <= self._shown:
            return
        self._shown = found.revision
        try:
            self._seen(decode_state(found.document))
        except StateUnusable as error:
            self.log.error("{error}", error=error.detail)
        except Exception:
            self.log.failure("a new cluster state was not taken up")
