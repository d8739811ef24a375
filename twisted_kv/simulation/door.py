"""A node's door without HTTP: what its routes do with a request's path and body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from ..errors import BadInput, KvError
from ..peers.peer import Answer
from ..pulling import Puller
from ..replica import Replica
from ..wire.batches import batch_decoder
from ..wire.header import encode
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


def answered(
    replica: Replica,
    puller: Puller,
    path: str,
    body: bytes,
    lives: Callable[[], bool],
    bug: Callable[[Failure], None],
    malformed: Callable[[Failure], object] = lambda failure: None,
) -> Deferred[Answer]:
    """Answer a request below ``/node/v1/``.

    :param lives: says whether the process that was asked still runs; if not, nothing is answered any more.
    :param bug: told of a failure that is no expected trouble.
    :param malformed: told of a request that the node could not read, which no proxy of ours should send.
    """
    work: dict[str, Callable[[], Any]] = {
        "info": replica.info,
        "join": lambda: replica.join(msgspec.json.decode(body, type=Join)),
        "slots": lambda: replica.page(page_request_decoder.decode(body)),
        "digests": lambda: replica.digests(digests_request_decoder.decode(body)),
        "pull": lambda: puller.pull(pull_request_decoder.decode(body)),
        "purge": lambda: replica.purge(purge_request_decoder.decode(body)),
        "verify": lambda: replica.verify(verify_request_decoder.decode(body)),
        "hints": lambda: replica.hints(hints_request_decoder.decode(body)),
        "marks": lambda: replica.marks(marks_request_decoder.decode(body)),
        "renew": lambda: replica.renew(marks_request_decoder.decode(body)),
        "keys": lambda: replica.keys(keys_request_decoder.decode(body)),
        "slotkeys": lambda: replica.slot_keys(slot_keys_request_decoder.decode(body)),
        "due": lambda: replica.due(due_request_decoder.decode(body)),
        "batch": lambda: replica.serve(batch_decoder.decode(body)),
        "epoch": lambda: replica.announce(announcement_decoder.decode(body)),
        "drop": lambda: replica.drop(drop_request_decoder.decode(body)),
    }
    done: Deferred[Answer] = Deferred()

    def answer(result: Any) -> None:
        if not lives():
            return
        if isinstance(result, Failure):
            error = result.trap(KvError) and result.value
            if isinstance(error, BadInput):
                malformed(result)
            problem = {"type": error.slug, "detail": error.detail, "hint": error.hint}
            done.callback(Answer(409, msgspec.json.encode(problem)))
        elif path in ("info", "join"):
            done.callback(Answer(200, msgspec.json.encode(result)))
        else:
            done.callback(Answer(409 if getattr(result, "refusal", "") else 200, encode(result)))

    maybeDeferred(work[path]).addBoth(answer).addErrback(bug)
    return done
