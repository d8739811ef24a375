"""The node's own interface for proxies, ``/node/v1/``: small JSON to get acquainted, msgpack to work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from klein import Klein
from twisted.internet.defer import Deferred

from ..errors import MalformedBody
from ..metrics import CONTENT_TYPE, NodeMetrics
from ..replica import Replica
from ..wire import (
    BatchReply,
    Join,
    announcement_decoder,
    batch_decoder,
    drop_request_decoder,
    due_request_decoder,
    encode,
    keys_request_decoder,
    page_request_decoder,
    parse_json,
)
from .answers import answer, answer_json
from .health import add_liveness, answer_health

MSGPACK = b"application/msgpack"


def decoded(decode: Callable[[bytes], Any], request: Any) -> Any:
    """:raises MalformedBody: if the body is none of that shape."""
    try:
        return decode(request.content.read())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBody(f"the body is not the msgpack that belongs here: {error}") from None


def add_node(app: Klein, replica: Replica, metrics: NodeMetrics) -> None:
    """Give a node's door its own interface."""

    def answer_reply(request: Any, reply: BatchReply) -> bytes:
        if reply.refusal:
            request.setResponseCode(409)
            metrics.refusals.labels(reply.refusal).inc()
        return answer(request, encode(reply), MSGPACK)

    def answer_page(request: Any, page: Any) -> bytes:
        return answer(request, encode(page), MSGPACK)

    @app.route("/node/v1/batch", methods=["POST"])
    def batch(request: Any) -> Deferred[bytes]:
        asked = decoded(batch_decoder.decode, request)
        metrics.batch_ops.observe(len(asked.ops))
        return replica.serve(asked).addCallback(partial(answer_reply, request))

    @app.route("/node/v1/info", methods=["GET"])
    def info(request: Any) -> bytes:
        return answer_json(request, replica.info())

    @app.route("/node/v1/join", methods=["POST"])
    def join(request: Any) -> Deferred[bytes]:
        return replica.join(parse_json(request.content.read(), Join)).addCallback(partial(answer_json, request))

    @app.route("/node/v1/epoch", methods=["POST"])
    def epoch(request: Any) -> Deferred[bytes]:
        announced = replica.announce(decoded(announcement_decoder.decode, request))
        return announced.addCallback(partial(answer_reply, request))

    @app.route("/node/v1/slots", methods=["POST"])
    def slots(request: Any) -> Deferred[bytes]:
        page = replica.page(decoded(page_request_decoder.decode, request))
        return page.addCallback(partial(answer_page, request))

    @app.route("/node/v1/keys", methods=["POST"])
    def keys(request: Any) -> Deferred[bytes]:
        page = replica.keys(decoded(keys_request_decoder.decode, request))
        return page.addCallback(partial(answer_page, request))

    @app.route("/node/v1/due", methods=["POST"])
    def due(request: Any) -> Deferred[bytes]:
        page = replica.due(decoded(due_request_decoder.decode, request))
        return page.addCallback(partial(answer_page, request))

    @app.route("/node/v1/drop", methods=["POST"])
    def drop(request: Any) -> Deferred[bytes]:
        dropped = replica.drop(decoded(drop_request_decoder.decode, request))
        return dropped.addCallback(partial(answer_reply, request))

    @app.route("/health/ready", methods=["GET"])
    def ready(request: Any) -> bytes:
        return answer_health(request, [])

    add_liveness(app)

    @app.route("/metrics", methods=["GET"])
    def counted(request: Any) -> bytes:
        return answer(request, metrics.render(), CONTENT_TYPE)
