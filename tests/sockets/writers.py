"""Clients that write through a proxy and note what was acknowledged; and the reading of it afterwards."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from tests.sockets.daemons import PATIENCE_S, Daemon

READERS = 4
WRITERS = 8


def value_of(key: str, turn: int) -> bytes:
    """Give a value that names its key, so that one served under another key shows."""
    return f"{key} for the {turn}th time".encode()


class Writers:
    """Threads of clients, each with a connection and keys of its own, which it writes again and again, in turns.

    A client ends when its connection breaks, or when it is stopped.

    :param keys: how many keys each client has.
    """

    def __init__(self, proxy: Daemon, clients: int, keys: int) -> None:
        self._port = proxy.port
        self._keys = keys
        self._stopped = threading.Event()
        self.acknowledged: dict[str, int] = {}
        """The newest turn of each key whose write was answered with success."""
        self.tried: dict[str, int] = {}
        """The newest turn of each key that was sent."""
        self.refused: list[int] = []
        """The statuses of all other answers."""
        self._counts = [0] * clients
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    @property
    def count(self) -> int:
        """How many writes were acknowledged until now."""
        return sum(self._counts)

    def stop(self) -> None:
        self._stopped.set()
        self.wait()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()

    def _write(self, client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        turn = 0
        try:
            while True:
                turn += 1
                for number in range(self._keys):
                    if self._stopped.is_set():
                        return
                    key = f"client{client}-key{number}"
                    self.tried[key] = turn
                    connection.request("PUT", f"/v1/kv/{key}", value_of(key, turn))
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status == 204:
                        self.acknowledged[key] = turn
                        self._counts[client] += 1
                    else:
                        self.refused.append(answer.status)
        except (OSError, http.client.HTTPException):
            pass  # what was not answered was not acknowledged
        finally:
            connection.close()

    def lost(self, proxy: Daemon) -> list[str]:
        """Read every acknowledged key; describe each that holds neither what was acknowledged nor anything later."""

        def is_kept(key: str, value: bytes) -> bool:
            turns = range(self.acknowledged[key], self.tried[key] + 1)
            return value in [value_of(key, turn) for turn in turns]

        return wrong(proxy, self.acknowledged, is_kept)


def write(proxy: Daemon, keys: list[str], turn: int = 1) -> None:
    """Write each key once; all of it must be acknowledged."""

    def put(part: list[str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE_S)
        for key in part:
            connection.request("PUT", f"/v1/kv/{key}", value_of(key, turn))
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 204, f"{key}: {answer.status} {body!r}"
        connection.close()

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(put, [keys[first::WRITERS] for first in range(WRITERS)]))


def wrong(proxy: Daemon, keys: Iterable[str], is_right: Callable[[str, bytes], bool], query: str = "") -> list[str]:
    """Read keys through a proxy, and describe every answer that is not 200 with a right value."""

    def read(part: list[str]) -> list[str]:
        found = []
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE_S)
        for key in part:
            connection.request("GET", f"/v1/kv/{key}{query}")
            answer = connection.getresponse()
            value = answer.read()
            if answer.status != 200 or not is_right(key, value):
                found.append(f"{key}: {answer.status} {value[:200]!r}")
        connection.close()
        return found

    every = list(keys)
    with ThreadPoolExecutor(READERS) as pool:
        parts = pool.map(read, [every[first::READERS] for first in range(READERS)])
    return [description for part in parts for description in part]
