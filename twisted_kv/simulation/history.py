"""What clients of the simulation saw: the history that is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.python.failure import Failure

from ..conditional import Draft
from ..errors import KvError, Unreached
from ..sharing import Changed
from ..versions import Record, Version
from .cluster import Cluster
from .linearizability import Event, Fate, Kind

EXPIRY_CLIENT, SOMEBODY = "expiry", "somebody"
"""Who has made what was not seen to be made by a client: the clock; whoever a tombstone of unknown origin is from."""

GONE = b"\0gone "
"""What begins the name of a tombstone in a history; its version follows. No client writes such a value."""

EXPIRING = b"e"
"""What begins the keys whose values expire. Who finds one expired puts a tombstone that nobody can foretell, so there
all tombstones count as one: absent."""


CLOCK_S = 0.001
"""How exact wall clocks are: they count in milliseconds."""


def number_in(value: bytes | None) -> int:
    """Read how far a counter has come."""
    return 0 if value is None or value.startswith(GONE) else int(value.split(b" ")[0])


class Effects(Protocol):
    """An operation whose events are known only at the end."""

    key: bytes
    called: float

    def events(self) -> list[Event]:
        """Give the events that it comes to."""

    def never(self) -> set[tuple[bytes, bytes]]:
        """Name what was tried and certainly never took effect, so that nobody may see it."""


class Attempt:
    """A conditional change on its way. Each time that it is decided on it writes something else.

    :param accepts: says of what the key holds whether the change is to be done.
    """

    def __init__(
        self, history: History, name: str, key: bytes, accepts: Callable[[bytes | None], bool], counts: bool
    ) -> None:
        self._history = history
        self._name = name
        self.key = key
        self._accepts = accepts
        self._counts = counts
        self.called = history.now_s
        self._returned: float | None = None
        self._tried: dict[bytes, bytes | None] = {}
        self.result: Changed | Failure | None = None
        """What its client was told; None if it went before that."""

    def decide(self, held: Record | None) -> Draft | None:
        base = self._history.shown(self.key, held)
        if not self._accepts(base):
            return None
        number = number_in(base) + 1 if self._counts else 0
        value = b"%d %b/%d" % (number, self._name.encode(), len(self._tried))
        self._tried[value] = base
        return Draft(value)

    def told(self, result: Changed | Failure | None) -> None:
        self.result, self._returned = result, self._history.now_s

    def events(self) -> list[Event]:
        """Give the events that it comes to: what took effect, or what it saw, or all that may have taken effect.

        To be asked at the end: a change whose client has gone may go on trying.
        """
        name, key, called, returned, result = self._name, self.key, self.called, self._returned, self.result
        if not isinstance(result, Changed):
            fate = Fate.UNKNOWN if result is None or in_doubt(result) else Fate.DROPPED
            return [
                Event(name, Kind.SWAP, key, value, called, returned, fate, base) for value, base in self._tried.items()
            ]
        value = self._history.shown(key, result.record)
        if not result.changed:
            return [Event(name, Kind.READ, key, value, called, returned)]
        assert value is not None
        return [Event(name, Kind.SWAP, key, value, called, returned, base=self._tried[value])]

    def never(self) -> set[tuple[bytes, bytes]]:
        """See ``Effects``."""
        if not isinstance(self.result, Changed):
            return set()
        kept = self.result.record.value if self.result.changed and self.result.record is not None else None
        return {(self.key, value) for value in self._tried if value != kept}


class History:
    """What all clients saw.

    :param names_tombstones: whether clients are shown the versions of tombstones; else all of them are one: absent.
    """

    def __init__(self, cluster: Cluster, names_tombstones: bool = True) -> None:
        self._cluster = cluster
        self.names_tombstones = names_tombstones
        self.events: list[Event] = []
        self.attempts: list[Effects] = []
        self.loose: list[tuple[bytes, bytes, float]] = []
        """What reads at level ``one`` answered, and when: key, value, time."""
        self.keys: set[bytes] = set()
        self.seen: dict[bytes, list[bytes | None]] = {}
        self.errors: dict[str, int] = {}
        self.counted: dict[bytes, int] = {}
        """How often a counter was counted up for certain."""
        self.versions: dict[tuple[bytes, bytes], dict[Version, None]] = {}
        """Under which versions each value was shown; the keys of a dict, since they keep their order."""
        self.expires: dict[tuple[bytes, bytes | None], float] = {}
        """When each value that lives for a while expires by right clocks: key and value, time."""
        self.clocks_agree = True
        """Whether no wall clock goes wrong in this run."""
        self.changed: set[bytes] = set()
        """Keys of conditional changes. Of what a round of several changes shows, only the last was ever stored."""
        self.settled: dict[bytes, Version] = {}
        """The newest version of each key that was acknowledged by, or read from, a majority."""

    @property
    def now_s(self) -> float:
        return self._cluster.world.now_s

    @property
    def spoiled(self) -> Mapping[bytes, float]:
        """Keys of which an owner could not read a record, and since when first."""
        return self._cluster.spoiled

    @property
    def operations(self) -> int:
        """How many operations of clients there is something to check of."""
        return sum(event.client not in (EXPIRY_CLIENT, SOMEBODY) for event in self.events) + len(self.loose)

    def shown(self, key: bytes, record: Record | None) -> bytes | None:
        """Name what a key holds: a value, a tombstone, or None if it was never written."""
        if record is None:
            return None
        if record.value is None and self.names_tombstones and not key.startswith(EXPIRING):
            return GONE + record.version.hex().encode()
        return record.value

    def saw(self, key: bytes, record: Record | None, settled: bool) -> bytes | None:
        """Take note of what a client was shown, and give the name that it has in the history.

        :param settled: whether a majority holds it, or something newer.
        """
        value = self.shown(key, record)
        known = self.seen.setdefault(key, [])
        known.append(value)
        del known[:-4]
        if record is not None:
            if record.value is not None:
                self.versions.setdefault((key, record.value), {})[record.version] = None
            if settled and record.version > self.settled.get(key, b""):
                self.settled[key] = record.version
        return value

    def saw_loosely(self, key: bytes, value: bytes | None) -> None:
        """Take note of what a read at level ``one`` was shown: it may lie on one owner only, and never be chosen."""
        if value is not None:
            self.loose.append((key, value, self.now_s))

    def failed(self, failure: Failure) -> None:
        failure.trap(KvError)
        slug = failure.value.slug
        self.errors[slug] = self.errors.get(slug, 0) + 1


def in_doubt(failure: Failure) -> bool:
    error = failure.value
    return not isinstance(error, KvError) or (isinstance(error, Unreached) and bool(error.maybe_applied))
