"""The original Go program's calls, as its users know them: ``/PUT``, ``/GET`` and ``/AddServer``.

Names are taken in any case and unknown fields ignored; the content type is not looked at, since curl's ``-d`` says
``application/x-www-form-urlencoded`` whatever it sends.
"""

from __future__ import annotations

from typing import Any

import msgspec
from klein import Klein
from twisted.internet.defer import Deferred

from ..bodies import checked_key, checked_value, parse_json
from ..coordinator import Coordinator
from ..errors import KeyAbsent, MalformedBody, NotText
from ..limits import Limits
from ..names import Key
from ..operation import Done
from ..quorum import Level
from ..replica import Replica
from ..roster import Roster
from ..versions import record_value
from ..wire.header import UNDECODED
from .answers import JSON, answer, answer_empty
from .calls.original import ADD_SERVER, GET, PUT, GetBody, PutBody, ServerBody
from .following import followed_of, show_id, show_way
from .openapi.described import described
from .parameters import level_of

_put_body = msgspec.json.Decoder(PutBody).decode
_get_body = msgspec.json.Decoder(GetBody).decode


def _any_case(data: bytes, shape: type[Any]) -> Any:
    """Read a body whose names may be in any case: ``key`` as well as ``Key``.

    :raises MalformedBody: saying what was wrong and where.
    """
    fields = parse_json(data, dict[str, msgspec.Raw])
    names = {name.lower(): name for name in shape.__struct_fields__}
    known = {names[name.lower()]: value for name, value in fields.items() if name.lower() in names}
    return parse_json(msgspec.json.encode(known), shape)


def put_body(data: bytes, limits: Limits) -> tuple[Key, bytes]:
    """Read ``{"Key", "Value"}``.

    :raises BadInput: of the kind that fits.
    """
    try:
        body = _put_body(data)
    except UNDECODED:
        body = _any_case(data, PutBody)
    return checked_key(body.Key.encode(), limits), checked_value(body.Value.encode(), limits)


def get_key(request: Any, limits: Limits) -> Key:
    """Read ``{"Key"}`` from the body, or ``?Key=`` where a client cannot send a body with GET.

    :raises BadInput: of the kind that fits.
    """
    data = request.content.read()
    given = _key_in(request.args, limits) if request.args else None
    if not data:
        if given is None:
            raise MalformedBody("no key was given", 'send {"Key": "..."} as the body, or ?Key=')
        return given
    try:
        body = _get_body(data)
    except UNDECODED:
        body = _any_case(data, GetBody)
    return checked_key(body.Key.encode(), limits)


def _key_in(args: dict[bytes, list[bytes]], limits: Limits) -> Key | None:
    for name in (b"Key", b"key", b"KEY"):
        if name in args:
            return checked_key(args[name][0], limits)
    return None


def answer_value(request: Any, record: bytes, key: Key) -> bytes:
    """Answer with a value as a JSON string.

    :raises KeyAbsent: if there is none.
    :raises NotText: if it is no text.
    """
    value = record_value(record) if record else None
    if value is None:
        raise KeyAbsent(f"there is no key {key.decode('utf-8', 'backslashreplace')[:200]!r}")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise NotText("the value is not UTF-8 text, which JSON needs", "read it with GET /v1/kv/KEY") from None
    return answer(request, msgspec.json.encode(text), JSON)


def add_original_proxy(app: Klein, coordinator: Coordinator, roster: Roster, limits: Limits, default: Level) -> None:
    """Give a proxy's door the original's three calls."""

    @app.route("/PUT", methods=["PUT"])
    @described(PUT)
    def original_put(request: Any) -> Deferred[bytes]:
        key, value = put_body(request.content.read(), limits)
        followed, level = followed_of(request), level_of(request, default)
        done = coordinator.put(key, value, b"text/plain; charset=utf-8", level, followed=followed)
        if followed is not None:
            done.addBoth(show_way, request, followed)
        return done.addCallback(put_done, request)

    def put_done(done: Done, request: Any) -> bytes:
        if done.request_id:
            show_id(request, done.request_id)
        return answer_empty(request)

    @app.route("/GET", methods=["GET", "POST", "QUERY"])
    @described(GET)
    def original_get(request: Any) -> Deferred[bytes]:
        key = get_key(request, limits)
        followed = followed_of(request)
        done = coordinator.get(key, level_of(request, default), followed=followed)
        if followed is not None:
            done.addBoth(show_way, request, followed)
        return done.addCallback(got, request, key)

    def got(done: Done, request: Any, key: Key) -> bytes:
        if done.request_id:
            show_id(request, done.request_id)
        return answer_value(request, done.record, key)

    @app.route("/AddServer", methods=["POST"])
    @described(ADD_SERVER)
    async def add_server(request: Any) -> bytes:
        body = _any_case(request.content.read(), ServerBody)
        await roster.add(body.url, body.weight)
        return answer_empty(request)


def add_original_node(app: Klein, replica: Replica, limits: Limits) -> None:
    """Give a node's door the original's calls, for the one replica that it holds."""

    @app.route("/PUT", methods=["PUT"])
    def original_put(request: Any) -> Deferred[bytes]:
        written = replica.write_local(*put_body(request.content.read(), limits))
        return written.addCallback(lambda _: answer_empty(request))

    @app.route("/GET", methods=["GET", "POST", "QUERY"])
    def original_get(request: Any) -> Deferred[bytes]:
        key = get_key(request, limits)
        return replica.read_local(key).addCallback(lambda record: answer_value(request, record, key))
