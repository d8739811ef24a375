"""As much of etcd as its store needs, in memory: revisions, transactions, leases and watches."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReactorTime

from twisted_kv.errors import StateUnusable


@dataclass
class Row:
    value: str
    created: int
    changed: int
    lease: str = ""


@dataclass
class Stream:
    key: str
    line: Callable[[dict[str, Any]], None]
    ended: Callable[[], None]


class FakeEtcd:
    """See ``gateway.Gateway``. ``tests/sockets/test_etcd.py`` holds a real one to what is assumed here."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._revision = 1
        self._rows: dict[str, Row] = {}
        self._leases: dict[str, float] = {}
        self._ttls: dict[str, float] = {}
        self._streams: list[Stream] = []
        self.gone = False
        self.loses_answers = False
        """Whether calls are carried out and nobody hears of it."""

    async def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.gone:
            raise StateUnusable("no etcd could be asked")
        self._expire()
        answer: dict[str, Any] = getattr(self, path.removeprefix("kv/").replace("/", "_"))(body)
        if self.loses_answers and body.get("compare"):
            raise StateUnusable("etcd does not answer")
        return answer

    def stream(
        self, path: str, body: dict[str, Any], line: Callable[[dict[str, Any]], None], ended: Callable[[], None]
    ) -> Callable[[], None]:
        request = body["create_request"]
        stream = Stream(request["key"], line, ended)
        if self.gone:
            self._clock.callLater(0, ended)
            return lambda: None
        self._streams.append(stream)
        row = self._rows.get(stream.key)
        if row is not None and "start_revision" in request and row.changed >= int(request["start_revision"]):
            line(self._event(stream.key))
        return lambda: self._streams.remove(stream) if stream in self._streams else None

    def cut_streams(self, silently: bool = False) -> None:
        """End all streams, or with ``silently`` let them be without anybody hearing of it."""
        streams, self._streams = self._streams, []
        for stream in streams:
            if not silently:
                stream.ended()

    def range(self, body: dict[str, Any]) -> dict[str, Any]:
        row = self._rows.get(body["key"])
        return {"header": {"revision": str(self._revision)}} | ({"kvs": [self._kv(body["key"])]} if row else {})

    def txn(self, body: dict[str, Any]) -> dict[str, Any]:
        succeeded = all(self._holds(compare) for compare in body["compare"])
        responses = []
        for operation in body.get("success" if succeeded else "failure", []):
            if "request_put" in operation:
                self._put(**operation["request_put"])
                responses.append({"response_put": {}})
            else:
                responses.append({"response_range": self.range(operation["request_range"])})
        return ({"succeeded": True} if succeeded else {}) | {"responses": responses}

    def lease_grant(self, body: dict[str, Any]) -> dict[str, Any]:
        name = str(len(self._ttls) + 1)
        self._ttls[name] = float(body["TTL"])
        self._leases[name] = self._clock.seconds() + self._ttls[name]
        return {"ID": name, "TTL": body["TTL"]}

    def lease_keepalive(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["ID"]
        if name not in self._leases:
            return {"result": {"ID": name}}
        self._leases[name] = self._clock.seconds() + self._ttls[name]
        return {"result": {"ID": name, "TTL": str(int(self._ttls[name]))}}

    def lease_revoke(self, body: dict[str, Any]) -> dict[str, Any]:
        self._leases.pop(body["ID"], None)
        self._expire()
        return {}

    def _expire(self) -> None:
        now_s = self._clock.seconds()
        self._leases = {name: until_s for name, until_s in self._leases.items() if until_s > now_s}
        for key in [key for key, row in self._rows.items() if row.lease and row.lease not in self._leases]:
            del self._rows[key]
            self._revision += 1

    def _holds(self, compare: dict[str, Any]) -> bool:
        row = self._rows.get(compare["key"])
        if compare["target"] == "CREATE":
            return (row.created if row else 0) == int(compare["create_revision"])
        return (row.changed if row else 0) == int(compare["mod_revision"])

    def _put(self, key: str, value: str, lease: str = "") -> None:
        self._revision += 1
        row = self._rows.get(key)
        self._rows[key] = Row(value, row.created if row else self._revision, self._revision, lease)
        for stream in [stream for stream in self._streams if stream.key == key]:
            stream.line(self._event(key))

    def _kv(self, key: str) -> dict[str, Any]:
        row = self._rows[key]
        assert b64decode(row.value), "the gateway leaves an empty value out"
        return {
            "key": key, "value": row.value, "create_revision": str(row.created), "mod_revision": str(row.changed)
        }  # fmt: skip

    def _event(self, key: str) -> dict[str, Any]:
        return {"result": {"events": [{"kv": self._kv(key)}]}}
