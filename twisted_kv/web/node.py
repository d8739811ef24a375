"""The node's own interface for proxies, ``/node/v1/``: small JSON to get acquainted, msgpack to work."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from klein import Klein
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..bodies import parse_json
from ..errors import KvError, MalformedBody
from ..fasthttp.heads import Head
from ..fasthttp.intake import Intake
from ..fasthttp.linked import Linked
from ..fasthttp.upgrade import asks_for_link
from ..holding import HARDLY_ANY_ROOM
from ..limits import Limits
from ..metrics import CONTENT_TYPE, NodeMetrics
from ..pulling import Puller
from ..replica import Replica
from ..slow import Sparing, named
from ..tokens import Ticket
from ..wire.batches import Batch, BatchReply, batch_decoder
from ..wire.header import UNDECODED, encode
from ..wire.joining import Join, announcement_decoder
from ..wire.moving import drop_request_decoder, pull_request_decoder
from ..wire.pages import due_request_decoder, keys_request_decoder, page_request_decoder, slot_keys_request_decoder
from ..wire.upkeep import (
    digests_request_decoder,
    hints_request_decoder,
    marks_request_decoder,
    purge_request_decoder,
    verify_request_decoder,
)
from .answers import MSGPACK, answer, answer_json, problem_body, status_of
from .health import add_liveness, answer_health
from .site import Link


def decoded(decode: Callable[[bytes], Any], body: bytes) -> Any:
    """:raises MalformedBody: if the body is none of that shape."""
    try:
        return decode(body)
    except UNDECODED as error:
        raise MalformedBody(f"the body is not the msgpack that belongs here: {error}") from None


class Batches:
    """Answers batches, by whichever way they come."""

    log = Logger()

    def __init__(self, replica: Replica, metrics: NodeMetrics) -> None:
        self._replica = replica
        self._metrics = metrics

    @cached_property
    def _slow(self) -> Sparing:
        return Sparing(self._replica.clock, self._replica.limits)

    @cached_property
    def _refused(self) -> Sparing:
        return Sparing(self._replica.clock, self._replica.limits)

    @cached_property
    def _given_up(self) -> Sparing:
        return Sparing(self._replica.clock, self._replica.limits)

    def serve(self, body: bytes) -> Deferred[BatchReply]:
        """:raises MalformedBody: if the body is no batch. Other errors as in ``Replica.serve``."""
        batch: Batch = decoded(batch_decoder.decode, body)
        size = len(batch.ops) + sum(len(bundle.keys) for bundle in batch.bundles)
        self._metrics.batch_ops.observe(size)
        return self._replica.serve(batch).addCallback(self._served, batch, size, self._replica.clock.seconds())

    def _served(self, reply: BatchReply, batch: Batch, size: int, since_s: float) -> BatchReply:
        """Write down what took long, and what was refused that somebody may ask about."""
        seconds = self._replica.clock.seconds() - since_s
        if seconds >= self._replica.limits.slow_operation_s:
            self._metrics.slow.inc()
            if self._slow.admits():
                self.log.warn(
                    "slow: a batch of {operations} operations waited {seconds} s for the disk{requests}{more}",
                    operations=size,
                    seconds=round(seconds, 4),
                    **named(batch.traces.values()),
                    **self._slow.kept_back(),
                )
        if reply.refusal and batch.traces and self._refused.admits():
            self.log.warn(
                "refused a batch of {operations} operations: {reason}, {detail}{requests}{more}",
                operations=size,
                reason=reply.refusal,
                detail=reply.detail,
                **named(batch.traces.values()),
                **self._refused.kept_back(),
            )
        return reply

    def status(self, reply: BatchReply) -> int:
        """Give the status of an answer, and count it if it is a refusal."""
        if not reply.refusal:
            return 200
        self._metrics.refusals.labels(reply.refusal).inc()
        return 409

    def by_link(self, body: bytes) -> Deferred[tuple[int, bytes]]:
        """Answer as the route does, without the head. See ``fasthttp.linked.Serve``."""
        return maybeDeferred(self.serve, body).addCallbacks(self._encoded, self._problem)

    def link(self, limits: Limits) -> Link:
        """Give what takes over the connections of proxies that ask for the link (see ``web.site``)."""

        def linked(head: Head, intake: Intake, ticket: Ticket | None) -> Linked | None:
            return Linked(self.by_link, limits, intake, ticket, self._given_up) if asks_for_link(head) else None

        return linked

    def _encoded(self, reply: BatchReply) -> tuple[int, bytes]:
        return self.status(reply), encode(reply)

    def _problem(self, failure: Failure) -> tuple[int, bytes]:
        failure.trap(KvError)
        status = status_of(failure.value)
        return status, problem_body(failure.value, status)


def add_node(app: Klein, replica: Replica, puller: Puller, metrics: NodeMetrics) -> None:
    """Give a node's door its own interface."""
    batches = Batches(replica, metrics)

    def answer_reply(request: Any, reply: BatchReply) -> bytes:
        request.setResponseCode(batches.status(reply))
        return answer(request, encode(reply), MSGPACK)

    def answer_page(request: Any, page: Any) -> bytes:
        return answer(request, encode(page), MSGPACK)

    def asked(request: Any, decoder: Any, work: Callable[[Any], Deferred[Any]], encoded: Any) -> Deferred[bytes]:
        return work(decoded(decoder.decode, request.content.read())).addCallback(partial(encoded, request))

    @app.route("/node/v1/batch", methods=["POST"])
    def batch(request: Any) -> Deferred[bytes]:
        return batches.serve(request.content.read()).addCallback(partial(answer_reply, request))

    @app.route("/node/v1/info", methods=["GET"])
    def info(request: Any) -> bytes:
        return answer_json(request, replica.info())

    @app.route("/node/v1/join", methods=["POST"])
    def join(request: Any) -> Deferred[bytes]:
        return replica.join(parse_json(request.content.read(), Join)).addCallback(partial(answer_json, request))

    @app.route("/node/v1/epoch", methods=["POST"])
    def epoch(request: Any) -> Deferred[bytes]:
        return asked(request, announcement_decoder, replica.announce, answer_reply)

    @app.route("/node/v1/slots", methods=["POST"])
    def slots(request: Any) -> Deferred[bytes]:
        return asked(request, page_request_decoder, replica.page, answer_page)

    @app.route("/node/v1/digests", methods=["POST"])
    def digests(request: Any) -> Deferred[bytes]:
        return asked(request, digests_request_decoder, replica.digests, answer_page)

    @app.route("/node/v1/pull", methods=["POST"])
    def pull(request: Any) -> Deferred[bytes]:
        return asked(request, pull_request_decoder, puller.pull, answer_page)

    @app.route("/node/v1/purge", methods=["POST"])
    def purge(request: Any) -> Deferred[bytes]:
        return asked(request, purge_request_decoder, replica.purge, answer_page)

    @app.route("/node/v1/verify", methods=["POST"])
    def verify(request: Any) -> Deferred[bytes]:
        return asked(request, verify_request_decoder, replica.verify, answer_page)

    @app.route("/node/v1/hints", methods=["POST"])
    def hints(request: Any) -> Deferred[bytes]:
        return asked(request, hints_request_decoder, replica.hints, answer_page)

    @app.route("/node/v1/marks", methods=["POST"])
    def marks(request: Any) -> Deferred[bytes]:
        return asked(request, marks_request_decoder, replica.marks, answer_page)

    @app.route("/node/v1/renew", methods=["POST"])
    def renew(request: Any) -> Deferred[bytes]:
        return asked(request, marks_request_decoder, replica.renew, answer_reply)

    @app.route("/node/v1/keys", methods=["POST"])
    def keys(request: Any) -> Deferred[bytes]:
        return asked(request, keys_request_decoder, replica.keys, answer_page)

    @app.route("/node/v1/slotkeys", methods=["POST"])
    def slot_keys(request: Any) -> Deferred[bytes]:
        return asked(request, slot_keys_request_decoder, replica.slot_keys, answer_page)

    @app.route("/node/v1/due", methods=["POST"])
    def due(request: Any) -> Deferred[bytes]:
        return asked(request, due_request_decoder, replica.due, answer_page)

    @app.route("/node/v1/drop", methods=["POST"])
    def drop(request: Any) -> Deferred[bytes]:
        return asked(request, drop_request_decoder, replica.drop, answer_reply)

    @app.route("/health/ready", methods=["GET"])
    def ready(request: Any) -> bytes:
        return answer_health(request, [HARDLY_ANY_ROOM] if replica.full else [])

    add_liveness(app)

    @app.route("/metrics", methods=["GET"])
    def counted(request: Any) -> bytes:
        return answer(request, metrics.render(), CONTENT_TYPE)
