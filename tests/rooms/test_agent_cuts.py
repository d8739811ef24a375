"""Where a network cuts an answer into pieces says nothing about the answer."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from twisted.web.client import ResponseDone

from tests.rooms.test_agent import LIMITS, Scene

Cuts = list[float]


class Outcome(NamedTuple):
    """What came of a request: an answer that was whole, or the kind of failure."""

    failure: str
    code: int = 0
    headers: tuple[tuple[bytes, tuple[bytes, ...]], ...] = ()
    body: bytes = b""


def pieces(data: bytes, cuts: Cuts) -> list[bytes]:
    """Cut bytes at some places, given as parts of their length."""
    places = sorted({round(cut * len(data)) for cut in cuts} - {0, len(data)})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]


def outcome(parts: list[bytes], method: bytes, late: bool) -> Outcome:
    """Let an answer come in pieces, and then its connection end.

    :param late: its body is read only when all has come.
    """
    scene = Scene()
    asked, wire = scene.ask(method, read=not late), scene.net.accept()
    for part in parts:
        if not wire.end:
            wire.says(part)
    wire.goes()
    assert scene.agent.closeCachedConnections().called, "nothing is left open"
    assert scene.clock.getDelayedCalls() == []
    if asked.failure is not None:
        return Outcome(type(asked.failure.value).__name__)
    if late:
        asked.response.deliverBody(asked.body)
    reason = asked.body.reason
    assert reason is not None
    if not reason.check(ResponseDone):
        return Outcome(type(reason.value).__name__)
    headers = sorted((name, tuple(values)) for name, values in asked.response.headers.getAllRawHeaders())
    return Outcome("", asked.response.code, tuple(headers), asked.body.data)


def chunked(body: bytes, cuts: Cuts) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in pieces(body, cuts)) + b"0\r\n\r\n"


BYTES = st.binary(max_size=60) | st.sampled_from([b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"0\r\n\r\n"])
CUTS = st.lists(st.floats(0, 1), max_size=8) | st.just([at / 400 for at in range(400)])
INTERIM = st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n"])


@given(
    st.sampled_from([200, 201, 204, 304, 404, 503]),
    st.sampled_from([b"GET", b"HEAD"]),
    INTERIM,
    st.lists(st.sampled_from([b"", b"v", b"a b", b"\xff"]), max_size=2),
    BYTES,
    st.none() | CUTS,
    CUTS,
    st.booleans(),
)
def test_a_well_formed_answer_is_read_as_it_was_meant(
    code: int,
    method: bytes,
    interim: bytes,
    values: list[bytes],
    body: bytes,
    chunks: Cuts | None,
    cuts: Cuts,
    late: bool,
) -> None:
    if chunks is None:
        said, sent = (b"Content-Length", b"%d" % len(body)), body
    else:
        said, sent = (b"Transfer-Encoding", b"chunked"), chunked(body, chunks)
    fields = b"".join(b"X-V: %b\r\n" % value for value in values) + b"%b: %b\r\n" % said
    if code in (204, 304) or method == b"HEAD":
        body = sent = b""
    data = interim + b"HTTP/1.1 %d Some Phrase\r\n" % code + fields + b"\r\n" + sent
    headers = {said[0]: (said[1],)} | ({b"X-V": tuple(values)} if values else {})
    meant = Outcome("", code, tuple(sorted(headers.items())), body)
    assert outcome(pieces(data, cuts), method, late) == meant


PARTS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 204 OK\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n",
        b"HTTP/1.1 2",
        b"HTTP",
        b"Content-Length: 3\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: x\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: x\r\n",
        b"X:" + b" " * (LIMITS.answer_head_bytes_max // 2) + b"y\r\n",
        b"X: y\r\n" * LIMITS.answer_fields_max,
        b" folded\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b"\r\n\r\n",
        b"abc",
        b"3\r\nabc\r\n",
        b"3;x=y\r\nabc\r\n",
        b"0\r\n\r\n",
        b"0\r\nX: y\r\n\r\n",
        b"fffffffffffffffff\r\n",
        b"\x00",
    ]
)


@given(
    st.lists(PARTS | st.binary(max_size=4), max_size=8).map(b"".join),
    st.sampled_from([b"GET", b"HEAD"]),
    CUTS,
    st.booleans(),
)
def test_whatever_is_said_means_the_same_in_one_piece_and_in_many(
    said: bytes, method: bytes, cuts: Cuts, late: bool
) -> None:
    whole = [said] if said else []
    assert outcome(pieces(said, cuts), method, late) == outcome(whole, method, late=False)


@given(st.binary(min_size=1, max_size=60), st.none() | CUTS, st.floats(0, 1, exclude_max=True), CUTS)
def test_an_answer_that_lacks_its_end_is_never_taken_for_a_whole_one(
    body: bytes, chunks: Cuts | None, end: float, cuts: Cuts
) -> None:
    if chunks is None:
        data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    else:
        data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, chunks)
    data = data[: int(end * len(data))]
    failure = "ResponseFailed" if data else "ResponseNeverReceived"
    assert outcome(pieces(data, cuts), b"GET", late=False) == Outcome(failure)
