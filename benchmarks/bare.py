"""What the bare servers share: one dict, the original's two calls on it, and a reactor with nothing else to do.

They are ceilings: what a door in Python can answer when nothing is kept, replicated or agreed on. So they get what ours
get, a fast JSON decoder and a garbage collector that looks seldom; a ceiling without them would flatter ours.
"""

from __future__ import annotations

import sys

import msgspec
from twisted.internet import reactor
from twisted.internet.protocol import Factory

from twisted_kv.process import Leash, spare_the_collector
from twisted_kv.web.original import GetBody, PutBody

from .servers import HOST

values: dict[str, str] = {}

_put_body = msgspec.json.Decoder(PutBody).decode
_get_body = msgspec.json.Decoder(GetBody).decode
_json = msgspec.json.Encoder().encode


def put(body: bytes) -> None:
    found = _put_body(body)
    values[found.Key] = found.Value


def get(body: bytes) -> bytes | None:
    """Give a value as JSON, None where there is none."""
    value = values.get(_get_body(body).Key)
    return None if value is None else _json(value)


def serve(factory: Factory) -> None:
    """Serve on the port that the command line names, until the benchmark that started this ends."""
    if "--leash" in sys.argv:
        Leash.put_on(reactor)
    reactor.listenTCP(int(sys.argv[1]), factory, backlog=1024, interface=HOST)
    reactor.callWhenRunning(spare_the_collector)
    reactor.run()
