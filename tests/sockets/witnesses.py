"""Clients that do all sorts of things to the same keys, and note when they asked for what and what they were told."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

from twisted_kv.simulation.linearizability import Event, Fate, Kind

PATIENCE_S = 2.5
TIMEOUTS = ("?timeout=0.5", "?timeout=1.5", "")
"""Some are answered that it took too long, others give up before: by default an operation has 5 s."""
PAUSE_S = 0.05
"""After a broken connection, so that proxies that are down are not asked a thousand times a second."""
MOVES = 0.02
"""The part of operations after which a client goes to another proxy. Where it is not answered, it always does."""

_whole_etag = re.compile(r'"([0-9a-f]+)"').fullmatch


class Told(NamedTuple):
    """One answer, and the times between which it was asked for and had; status 0 stands for none."""

    called: float
    returned: float
    status: int = 0
    body: bytes = b""
    etag: str | None = None


class Refused(NamedTuple):
    """A conditional change that was not done, since the key held something else: the version, None for no value."""

    key: str
    told: Told
    etag: str | None


class Witness:
    """One client, who asks for one thing after the other, of one proxy until it does not answer.

    :param ports: where the proxies are reached.
    """

    def __init__(self, name: str, ports: Sequence[int], keys: Sequence[str], random: Random) -> None:
        self.name = name
        self.events: list[Event] = []
        self.refused: list[Refused] = []
        self.values: dict[str, bytes] = {}
        """The value of each version that was shown."""
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.complaints: list[str] = []
        """Answers that there should not be."""
        self._ports = ports
        self._keys = keys
        self._random = random
        self._connections: dict[int, http.client.HTTPConnection] = {}
        self._written = 0

    def work(self, stopped: threading.Event) -> None:
        """Go on until stopped."""
        deeds = (self.get, self.put, self.delete, self.change)
        port = self._random.choice(self._ports)
        try:
            while not stopped.is_set():
                (deed,) = self._random.choices(deeds, (30, 25, 10, 35))
                told = deed(self._random.choice(self._keys), port)
                if told.status == 0:
                    stopped.wait(PAUSE_S)
                if told.status == 0 or self._random.random() < MOVES:
                    port = self._random.choice([other for other in self._ports if other != port])
        finally:
            self.close()

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def get(self, key: str, port: int) -> Told:
        told = self._ask(port, "GET", key)
        if told.status == 200:
            self._note("get", "done", key, Kind.READ, told.body, told)
        elif told.status == 404:
            self._note("get", "done", key, Kind.READ, None, told)
        else:
            self._judge_failure("get", told)
        return told

    def put(self, key: str, port: int) -> Told:
        value = self._fresh_value(key)
        return self._write("put", key, Kind.PUT, value, self._ask(port, "PUT", key, value))

    def delete(self, key: str, port: int) -> Told:
        return self._write("delete", key, Kind.DELETE, None, self._ask(port, "DELETE", key))

    def change(self, key: str, port: int) -> Told:
        """Read, and then put or delete on the condition that what was read is still there."""
        seen = self.get(key, port)
        if seen.status == 404:
            value = self._fresh_value(key)
            told = self._ask(port, "PUT", key, value, {"If-None-Match": "*"})
            return self._write("create", key, Kind.SWAP, value, told)
        if seen.status != 200 or seen.etag is None:
            return seen
        condition = {"If-Match": f'"{seen.etag}"'}
        if self._random.random() < 0.2:
            told = self._ask(port, "DELETE", key, None, condition)
            return self._write("change", key, Kind.SWAP, None, told, seen.body)
        value = self._fresh_value(key)
        return self._write("change", key, Kind.SWAP, value, self._ask(port, "PUT", key, value, condition), seen.body)

    def _fresh_value(self, key: str) -> bytes:
        self._written += 1
        return f"{self.name}'s value {self._written} of {key}".encode()

    def _write(
        self, deed: str, key: str, kind: Kind, value: bytes | None, told: Told, base: bytes | None = None
    ) -> Told:
        if told.status == 204:
            self._note(deed, "done", key, kind, value, told, Fate.DONE, base)
            if told.etag is not None and value is not None:
                self.values[told.etag] = value
        elif told.status == 412 and kind is Kind.SWAP:
            self.outcomes[deed, "refused"] += 1
            self.refused.append(Refused(key, told, json.loads(told.body).get("etag")))
        elif self._judge_failure(deed, told) is Fate.UNKNOWN:
            self._note(deed, "unknown", key, kind, value, told, Fate.UNKNOWN, base)
        return told

    def _judge_failure(self, deed: str, told: Told) -> Fate:
        """Say whether a write that was not answered with success may have its effect."""
        if told.status == 0:
            if deed == "get":
                self.outcomes[deed, "dropped"] += 1
            return Fate.UNKNOWN
        maybe = json.loads(told.body).get("maybe_applied") if told.status in (503, 504) else None
        if told.status not in (429, 503, 504) or (told.status != 429 and maybe is None and deed != "get"):
            self.complaints.append(f"{self.name}, {deed}: {told}")
        if deed != "get" and told.status != 429 and maybe is not False:
            return Fate.UNKNOWN
        self.outcomes[deed, "dropped"] += 1
        return Fate.DROPPED

    def _note(
        self,
        deed: str,
        outcome: str,
        key: str,
        kind: Kind,
        value: bytes | None,
        told: Told,
        fate: Fate = Fate.DONE,
        base: bytes | None = None,
    ) -> None:
        self.outcomes[deed, outcome] += 1
        returned = told.returned if fate is Fate.DONE else None
        self.events.append(Event(self.name, kind, key.encode(), value, told.called, returned, fate, base))
        if told.etag is not None and kind is Kind.READ and value is not None:
            self.values[told.etag] = value

    def _ask(
        self, port: int, method: str, key: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Told:
        called = time.monotonic()
        connection = self._connections.get(port)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            self._connections[port] = connection
        try:
            connection.request(method, f"/v1/kv/{key}{self._random.choice(TIMEOUTS)}", body, headers or {})
            answer = connection.getresponse()
            shown = answer.read()
            if answer.status != 204 and answer.getheader("Content-Length") != str(len(shown)):
                # To this client the end of the stream ends the heads as well, and then whatever was read is the body.
                raise http.client.IncompleteRead(shown)
        except (OSError, http.client.HTTPException):
            connection.close()
            del self._connections[port]
            return Told(called, time.monotonic())
        etag = _whole_etag(answer.getheader("ETag") or "")
        return Told(called, time.monotonic(), answer.status, shown, etag[1] if etag else None)


def history(witnesses: Iterable[Witness]) -> list[Event]:
    """Put together what all of them saw, with times in seconds since the first call.

    A change that was refused is a read of what it found instead. Where that is a version that nobody was shown, nobody
    can say which value it is, and it is left out.
    """
    every = list(witnesses)
    values: dict[str | None, bytes | None] = {None: None}
    for witness in every:
        values.update(witness.values)
    events = [event for witness in every for event in witness.events]
    for witness in every:
        events += [
            Event(witness.name, Kind.READ, key.encode(), values[etag], told.called, told.returned)
            for key, told, etag in witness.refused
            if etag in values
        ]
    origin = min(event.called for event in events)
    return [
        replace(event, called=event.called - origin, returned=event.returned and event.returned - origin)
        for event in events
    ]
