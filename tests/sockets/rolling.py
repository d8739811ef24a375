"""Clients with kept connections and one retry each, for clusters whose processes are restarted one after the other."""

from __future__ import annotations

import http.client
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any

from tests.sockets.daemons import Daemon, call, wait_until

PATIENCE_S = 10.0
TRY_AGAIN = (429, 503)
"""Statuses that come with ``Retry-After``: whoever is answered so may ask again."""


class Unanswered(Exception):
    """A try had no answer, or one that says to try again."""


class Rolling:
    """Threads of clients, each of which goes to another proxy once where a request was not answered, and never twice.

    Each has keys of its own and knows what they hold, so what was done twice, or not at all, shows.

    :param ports: of the proxies' doors.
    """

    kind = ""

    def __init__(self, ports: Sequence[int], clients: int, random: Random) -> None:
        self._ports = ports
        self._clients = clients
        self._seed = random.random()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._counts = [0] * clients
        self.retries: Counter[str] = Counter()
        self.complaints: list[str] = []

    def __enter__(self) -> Rolling:
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(self._clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    @property
    def count(self) -> int:
        """How many requests were answered until now."""
        return sum(self._counts)

    def wait_for_more(self, requests: int, what: str) -> None:
        enough = self.count + requests
        wait_until(lambda: self.count >= enough or self.complaints, f"{requests} more requests {what}", 60.0)

    def _work(self, number: int) -> None:
        random = Random(f"{self._seed} {number}")
        lines = Lines(self._ports, random, self)
        try:
            deeds = self._deeds(number, random, lines)
            while not self._stopped.is_set():
                deeds()
                self._counts[number] += 1
        except Exception as error:
            self.complaints.append(f"{self.kind} client {number}: {type(error).__name__}: {error}")
        finally:
            lines.hang_up()

    def _deeds(self, number: int, random: Random, lines: Lines) -> Callable[[], None]:
        """Give what does one request after the other, and fails where an answer is wrong."""
        raise NotImplementedError

    def connect(self, port: int) -> Any:
        raise NotImplementedError


class Lines:
    """One client's connection, to one proxy at a time."""

    def __init__(self, ports: Sequence[int], random: Random, clients: Rolling) -> None:
        self._ports, self._random, self._clients = ports, random, clients
        self._port = random.choice(ports)
        self._connection: Any = None

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def ask(self, what: str, speak: Callable[[Any], Any]) -> Any:
        """Ask, and once more where that was not answered."""
        try:
            return self._try(speak)
        except (OSError, http.client.HTTPException, Unanswered) as error:
            self._clients.retries[f"{what}: {type(error).__name__} {error}"] += 1
            first = error
        self.hang_up()
        self._port = self._random.choice([port for port in self._ports if port != self._port])
        try:
            return self._try(speak)
        except (OSError, http.client.HTTPException, Unanswered) as error:
            raise AssertionError(f"{what} failed twice: {first!r}, then {error!r}") from None

    def _try(self, speak: Callable[[Any], Any]) -> Any:
        if self._connection is None:
            self._connection = self._clients.connect(self._port)
        return speak(self._connection)


class HttpClients(Rolling):
    """Clients that put, read, change on a condition and delete."""

    kind = "HTTP"

    def connect(self, port: int) -> Any:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)

    def _deeds(self, number: int, random: Random, lines: Lines) -> Callable[[], None]:
        held: dict[str, tuple[bytes, str]] = {}
        turn = 0

        def ask(method: str, key: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, str]:
            def speak(connection: http.client.HTTPConnection) -> tuple[int, bytes, str]:
                connection.request(method, f"/v1/kv/{key}", body, headers)
                answer = connection.getresponse()
                shown = answer.read()
                if answer.status in TRY_AGAIN:
                    raise Unanswered(f"{answer.status} {shown!r:.300}")
                return answer.status, shown, answer.headers.get("ETag", "")

            found: tuple[int, bytes, str] = lines.ask(f"{method} {key} {headers}", speak)
            return found

        def deed() -> None:
            nonlocal turn
            turn += 1
            key = f"client{number}-key{random.randrange(20)}"
            chance = random.random()
            if chance < 0.5:
                status, value, etag = ask("GET", key)
                shown = (value, etag) if status == 200 else None
                assert status in (200, 404), f"GET {key}: {status} {value!r}"
                assert shown == held.get(key), f"GET {key} shows {status} {value!r}, and not {held.get(key)}"
            elif chance < 0.55:
                status, value, _ = ask("DELETE", key)
                assert status == 204, f"DELETE {key}: {status} {value!r}"
                held.pop(key, None)
            else:
                fresh = f"{key} for the {turn}th time".encode()
                condition = {}
                if chance > 0.8:
                    condition = {"If-Match": held[key][1]} if key in held else {"If-None-Match": "*"}
                status, value, etag = ask("PUT", key, fresh, **condition)
                assert status == 204, f"PUT {key} {condition}: {status} {value!r}"
                held[key] = fresh, etag

        return deed


class RedisClients(Rolling):
    """Clients that count: what is done twice, or is not done, makes a gap."""

    kind = "Redis"

    def connect(self, port: int) -> Any:
        return Plain(port)

    def _deeds(self, number: int, random: Random, lines: Lines) -> Callable[[], None]:
        counts: Counter[str] = Counter()

        def deed() -> None:
            key = f"count{number}-{random.randrange(5)}"
            reply = lines.ask(f"INCR {key}", lambda line: line.ask(f"INCR {key}\r\n".encode()))
            counts[key] += 1
            assert reply == b":%d" % counts[key], f"INCR {key} gives {reply!r}, and not {counts[key]}"

        return deed


class Plain:
    """A connection to a Redis door, for commands that are answered in one line."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._lines = self._socket.makefile("rb")

    def ask(self, command: bytes) -> bytes:
        self._socket.sendall(command)
        line: bytes = self._lines.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError(f"the connection ended after {line!r}")
        if line.startswith((b"-TRYAGAIN", b"-LOADING", b"-CLUSTERDOWN", b"-NOREPLICAS")):
            raise Unanswered(line.decode())
        return line.removesuffix(b"\r\n")

    def close(self) -> None:
        with suppress(OSError):
            self._lines.close()
        self._socket.close()


def wait_settled(proxies: Sequence[Daemon], patience_s: float = 60.0) -> None:
    """Wait until every proxy finds every member up and with nothing to catch up on."""

    def is_settled(proxy: Daemon) -> bool:
        members = call("GET", f"{proxy.url}/v1/cluster").json()["members"]
        return all(member["state"] == "up" and not member["hints"] for member in members)

    for proxy in proxies:
        wait_until(lambda: is_settled(proxy), f"{proxy.url} to find every member up", patience_s)  # noqa: B023
