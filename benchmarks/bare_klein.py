"""A bare klein server with the original's two calls, to measure ours against: ``python -m benchmarks.bare_klein PORT``.

One dict in one process, klein and the standard json module, as anybody would write it. It replicates nothing.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from klein import Klein
from twisted.internet import reactor

from twisted_kv.process import Leash

from .bare_web import QuietSite

app = Klein()
values: dict[str, str] = {}


@app.route("/PUT", methods=["PUT"])
def put(request: Any) -> bytes:
    body = json.load(request.content)
    values[body["Key"]] = body["Value"]
    return b""


@app.route("/GET", methods=["GET"])
def get(request: Any) -> bytes:
    key = json.load(request.content)["Key"]
    if key not in values:
        request.setResponseCode(404)
        return b""
    request.setHeader(b"Content-Type", b"application/json")
    return json.dumps(values[key]).encode()


if __name__ == "__main__":
    if "--leash" in sys.argv:
        Leash.put_on(reactor)  # it ends with the benchmark that started it
    reactor.listenTCP(int(sys.argv[1]), QuietSite(app.resource()), interface="127.0.0.1")
    reactor.run()
