"""Clients that write on whatever dies, and know what was acknowledged."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Sequence
from random import Random

from tests.sockets.copies import alike, get_all
from tests.sockets.daemons import Daemon, wait_until

PAUSE_S = 0.05
"""After a broken connection, so that proxies that are down are not asked a thousand times a second."""
PATIENCE_S = 10.0


class Steady:
    """Threads of clients, each with keys of its own, which it writes again and again through any of the proxies.

    It may be started again after it was stopped, and goes on with what it knows then.

    :param keys: how many keys each client has.
    """

    def __init__(self, proxies: Sequence[Daemon], clients: int, keys: int, random: Random) -> None:
        self._ports = [proxy.port for proxy in proxies]
        self._clients, self._keys = clients, keys
        self._seed = random.random()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failed: list[Exception] = []
        self.acknowledged: dict[str, int] = {}
        """The newest turn of each key whose write was answered with success, or that was read."""
        self.tried: dict[str, int] = {}
        """The newest turn of each key that was sent."""
        self.refused: list[tuple[int, bytes]] = []
        """All answers that were none of success."""

    def __enter__(self) -> Steady:
        self._stopped.clear()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(self._clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        assert self._failed == []

    @property
    def count(self) -> int:
        """How many turns were acknowledged, of all keys together."""
        return sum(dict(self.acknowledged).values())

    def wait_for_more(self, writes: int, what: str) -> None:
        """Wait until so many more were acknowledged."""
        enough = self.count + writes
        wait_until(lambda: self.count >= enough, f"{writes} more writes {what}", 60.0)

    def _work(self, client: int) -> None:
        random = Random(f"{self._seed} {client}")
        port, connection = 0, None
        try:
            while not self._stopped.is_set():
                if connection is None:
                    port = random.choice(self._ports)
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
                key = f"client{client}-key{random.randrange(self._keys)}"
                turn = self.tried[key] = self.tried.get(key, 0) + 1
                try:
                    connection.request("PUT", f"/v1/kv/{key}", value_of(key, turn))
                    answer = connection.getresponse()
                    body = answer.read()
                except (OSError, http.client.HTTPException):
                    connection.close()
                    connection = None
                    self._stopped.wait(PAUSE_S)
                    continue
                if answer.status == 204:
                    self.acknowledged[key] = turn
                else:
                    self.refused.append((answer.status, body))
        except Exception as error:
            self._failed.append(error)
        finally:
            if connection is not None:
                connection.close()

    def wrong(self, proxy: Daemon) -> list[str]:
        """Read every key while nobody writes, and describe each that is not what it should be.

        A key holds what was acknowledged or read last, or what was sent after that: a write of unknown outcome may
        take effect at any time, also between two reads, but never again be undone once it was read.
        """
        return [
            f"{key}: {status} {value!r}, turn {self.acknowledged[key]} of {self.tried[key]} was acknowledged or read"
            for key, status, value in get_all(proxy, sorted(self.acknowledged))
            if status != 200 or not self._is_kept(key, value)
        ]

    def _is_kept(self, key: str, value: bytes | None) -> bool:
        for turn in range(self.acknowledged[key], self.tried[key] + 1):
            if value == value_of(key, turn):
                self.acknowledged[key] = turn
                return True
        return False

    def wait_alike(self, proxy: Daemon, nodes: Sequence[Daemon], patience_s: float) -> None:
        """Wait until the nodes hold what a read shows of every key, which may still change as ``wrong`` says."""
        keys = sorted(self.tried)

        def holds() -> bool:
            assert self.wrong(proxy) == []
            return alike(nodes, shown(proxy, keys))

        wait_until(holds, "all owners to hold every key", patience_s)

    def last_read(self) -> dict[str, bytes]:
        """Give the value of each key as it was read last; only right after all of them were read."""
        return {key: value_of(key, turn) for key, turn in self.acknowledged.items()}


def value_of(key: str, turn: int) -> bytes:
    return f"{key} for the {turn}th time".encode()


def shown(proxy: Daemon, keys: Sequence[str]) -> dict[str, bytes]:
    """Read keys; each has to be there."""
    found = {}
    for key, status, value in get_all(proxy, keys):
        assert status == 200, f"{key}: {status}"
        assert value is not None
        found[key] = value
    return found


def in_time(random: Random, longest_s: float, stopped: threading.Event, deed: Callable[[], None]) -> threading.Thread:
    """Do something at a random moment, or not at all if that is called off before."""

    def work() -> None:
        if not stopped.wait(random.uniform(0.0, longest_s)):
            deed()

    thread = threading.Thread(target=work)
    thread.start()
    return thread
