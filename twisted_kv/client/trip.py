"""One call's way: to whom it goes, how long each attempt may take, when it goes on to the next proxy, when it gives up.

Nothing here waits or sends. A call is a generator: it yields what is to be done next, and is sent what came of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from random import Random
from typing import NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote

from ..errors import KvError
from .judging import Fate, Told, Verdict
from .places import Place
from .trouble import MaybeApplied, NobodyAnswers
from .values import Value

T = TypeVar("T")

SERVER_S_MAX = 60.0
"""The longest that a proxy lets a client wait."""
MORE_S = 1.0
"""How much earlier than we a proxy gives up, so that it is the proxy who says what was missing; of a short time, a
fifth."""
CONNECT_S_MAX = 2.0
"""How long a connection may take to be opened. A machine that is gone does not even refuse."""
PAUSE_S, PAUSE_S_MAX = 0.02, 2.0
"""The first pause after all proxies have failed, and the longest."""
LEFT_S_MIN = 0.002
"""With less time than this left, nothing is begun."""


class Request(NamedTuple):
    """One HTTP request. ``path`` is as it is sent, its parameters apart.

    :param timed: whether the proxy is told how long it may take.
    """

    method: str
    path: str
    parameters: Mapping[str, str | bytes] = {}
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    timed: bool = True

    @property
    def target(self) -> str:
        """The path with its parameters, as it is sent."""
        if not self.parameters:
            return self.path
        given = "&".join(f"{name}={quote(value, safe='')}" for name, value in self.parameters.items())
        return f"{self.path}?{given}"


class Send(NamedTuple):
    """Have a request sent, and wait for its answer."""

    place: Place
    request: Request
    wait_s: float
    connect_s: float


class Pause(NamedTuple):
    """Wait."""

    seconds: float


Steps: TypeAlias = Generator[Send | Pause, Told | None, T]


class Route:
    """The proxies, in the order in which they are asked: the one that answered last goes on being asked."""

    def __init__(self, places: Sequence[Place], draws: Random) -> None:
        self.places = draws.sample(places, len(places))  # so that many clients spread over all

    def __len__(self) -> int:
        return len(self.places)

    def failed(self, place: Place) -> None:
        """Ask others first from now on. Whoever asked it as well has said so before."""
        places = self.places  # looked at once: another thread may turn to others meanwhile
        if places[0] is place:
            self.places = [*places[1:], place]


class Bounds(NamedTuple):
    """How long things may take, in seconds.

    ``attempt_s`` is for one attempt of what may be asked again, so that time is left for another proxy.
    """

    timeout_s: float = 10.0
    attempt_s: float = 4.0


class Home(NamedTuple):
    """What all calls of a client share."""

    route: Route
    now_s: Callable[[], float]
    draws: Random
    bounds: Bounds


class Trip:
    """What one call has been through so far."""

    def __init__(self, home: Home, timeout_s: float | None) -> None:
        self._home = home
        timeout_s = home.bounds.timeout_s if timeout_s is None else timeout_s
        if not timeout_s > 0:
            raise ValueError(f"the time-out is {timeout_s!r} seconds, and has to be more than 0")
        self._until_s = home.now_s() + timeout_s
        self._pause_s = PAUSE_S
        self._place: Place | None = None
        self._failed: list[Place] = []
        """Who has failed since the last pause."""
        self._hopeless = 0
        """How many of them will fail in the next moment, too."""
        self._wait_s = 0.0
        """How long proxies asked to be left alone since then."""
        self._error: KvError | None = None
        self.tried: list[str] = []
        self.in_doubt = False
        """Whether any attempt may have had, or still have, an effect that is not known."""
        self.etags: set[str] = set()
        """The versions of such attempts, as far as they are known."""

    @property
    def left_s(self) -> float:
        return self._until_s - self._home.now_s()

    def send(self, request: Request, again: bool) -> Steps[Told]:
        """Make one attempt.

        :param again: whether another one may follow if this one's outcome is unknown: then it does not get all of
            the time.
        """
        left_s = max(self.left_s, LEFT_S_MIN)
        wait_s = min(left_s, self._home.bounds.attempt_s) if again else left_s
        told_s = min(wait_s - min(MORE_S, wait_s / 5), SERVER_S_MAX)
        if request.timed:
            request = request._replace(parameters={**request.parameters, "timeout": f"{told_s:.6f}"})
        # Other calls may have turned to others meanwhile: each asks everybody before it pauses.
        self._place = next(place for place in self._home.route.places if place not in self._failed)
        told = yield Send(self._place, request, wait_s, min(wait_s, CONNECT_S_MAX))
        assert told is not None
        return told

    def note(self, verdict: Verdict) -> None:
        """Keep what an attempt came to that was no success."""
        assert self._place is not None
        # Part of it is what somebody has answered, and whoever writes it into a log wants one line.
        why = "".join(letter if letter.isprintable() else " " for letter in verdict.why).strip()
        self.tried.append(f"{self._place.url}: {why}")
        self._error = verdict.error
        self._wait_s = max(self._wait_s, verdict.wait_s)
        self._hopeless += verdict.hopeless
        if verdict.fate is Fate.UNKNOWN:
            self.in_doubt = True
            if verdict.etag is not None:
                self.etags.add(verdict.etag)

    def go_on(self) -> Steps[bool]:
        """Turn to the next proxy, after a pause once all have failed. False if there is no time for that."""
        assert self._place is not None
        route = self._home.route
        route.failed(self._place)
        if self._place not in self._failed:  # it is, where there was no time for a pause, and it is tried once more
            self._failed.append(self._place)
        if len(self._failed) == len(route):
            if self._hopeless == len(route):
                return False
            pause_s = max(self._pause_s * self._home.draws.uniform(0.5, 1.0), self._wait_s)
            if pause_s + LEFT_S_MIN > self.left_s:
                return False
            yield Pause(pause_s)
            self._failed, self._hopeless, self._wait_s = [], 0, 0.0
            self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)
        return self.left_s > LEFT_S_MIN

    def breathe(self) -> Steps[bool]:
        """Give way to others who change the same key. False if there is no time for that."""
        pause_s = self._home.draws.uniform(0.0, self._pause_s)
        self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)
        if pause_s + LEFT_S_MIN > self.left_s:
            return False
        yield Pause(pause_s)
        return True

    def gave_up(self) -> KvError:
        """Give the error of a call that reads, or that certainly changed nothing."""
        if self._error is not None:
            return self._error
        return NobodyAnswers(
            f"{len(self.tried)} attempts brought no answer; the last one: {self.tried[-1]}",
            "look whether the proxies run, and are reached at these addresses",
            tried=self.tried,
        )

    def doubt(self, held: Value | None = None, looked: bool = False) -> MaybeApplied:
        """Give the error of a change of which nobody knows whether it happened."""
        return MaybeApplied(
            f"a change was sent, and its outcome is not known; the last attempt: {self.tried[-1]}",
            etags=self.etags,
            tried=self.tried,
            held=held,
            looked=looked,
        )
