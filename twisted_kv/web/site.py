"""What every door shares: bounded request bodies, keys as raw bytes, and errors as problem documents."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from io import BytesIO
from typing import Any, TypeAlias

from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request, Site

from ..errors import BodyTooLarge, ForeignOrigin, KvError, NoSuchRoute, Overloaded, WrongMethod
from ..fasthttp.descriptors import lacking
from ..fasthttp.gate import SAFE_METHODS, Gate
from ..fasthttp.heads import Head, Remembered
from ..fasthttp.intake import Intake
from ..fasthttp.lane import Guest, Lane
from ..fasthttp.overdue import Overdue, Watched
from ..fasthttp.request import Stamp
from ..limits import Limits
from ..slow import Sparing
from ..tokens import Ticket
from ..tracing import Ids
from .answers import answer_bug, answer_problem, log_bug, status_of
from .channel import StrictChannel
from .following import trace_in

ORIGINAL_PATHS = frozenset((b"/PUT", b"/GET", b"/AddServer"))
KV_PREFIX = b"/v1/kv/"
KV_ROUTE = b"/v1/kv/-"
"""The route that the key calls have in klein: their keys are raw bytes, which no router is shown."""
EXPLAIN_PREFIX = b"/v1/explain/"
EXPLAIN_ROUTE = b"/v1/explain/-"
"""The same for what tells about a key."""
UI_PREFIX = b"/ui/"
"""A folder with others in it: the dashboard's files."""

RESERVE_FOR_HTTP = 0.5
"""The part of the reserve that clients may have for as long as all of them are busy."""
SHORT_S = 60.0
"""How often it is said that descriptors are short."""

log = Logger()


class BoundedRequest(Request):
    """A request whose body stays in memory and under a bound.

    twisted.web itself has no bound and puts large bodies into temporary files. A body over the bound is answered with
    413 at once, and the connection is closed.
    """

    _refused = False

    @property
    def traced(self) -> bool:
        """See ``LaneRequest``."""
        headers = self.requestHeaders
        return bool(headers.hasHeader(b"x-request-id") or headers.hasHeader(b"traceparent"))

    taken = 0
    """How much of the body has come."""

    def parseCookies(self) -> None:
        """There are none here."""

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        if length is not None and length > self.channel.site.bytes_max:
            self._refuse_size()

    def handleContentChunk(self, data: bytes) -> None:
        if self._refused:
            return
        site: KvSite = self.channel.site
        if self.taken + len(data) > site.bytes_max:
            self._refuse_size()
            return
        try:
            site.intake.take(len(data))
        except Overloaded as error:
            self._refuse(error)
            return
        self.taken += len(data)
        self.content.write(data)

    def write(self, data: bytes) -> None:
        if not self.startedWriting and self.channel is not None and self.channel.site.parting:
            self.setHeader(b"connection", b"close")
        super().write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._refused:
            return
        if path[:1] != b"/" and path.lower().startswith((b"http://", b"https://")):
            # The absolute form, which a server must accept (RFC 9112, section 3.2.2); there is one authority here.
            path = b"/" + path.split(b"/", 3)[3] if path.count(b"/") > 2 else b"/"
        super().requestReceived(command, path, version)

    def _refuse_size(self) -> None:
        bytes_max = self.channel.site.bytes_max
        self._refuse(BodyTooLarge(f"the body is larger than {bytes_max} bytes", "send less in one request"))

    def give_back(self) -> None:
        """Say that the body takes no memory any more."""
        self.channel.site.intake.give_back(self.taken)
        self.taken = 0

    def _refuse(self, error: KvError) -> None:
        self._refused = True
        self.content = BytesIO()
        # Otherwise the channel would still send "100 Continue" behind the refusal.
        self.requestHeaders.removeHeader(b"expect")
        self.channel.refuse(error)


Link: TypeAlias = Callable[[Head, Intake, Ticket | None], Guest | None]
"""Gives who speaks the link, if a request asks to switch to it (see ``lane.Door.link_guest``)."""

View: TypeAlias = Callable[[Any], "bytes | Deferred[bytes] | Coroutine[Any, Any, bytes]"]
"""A route's function: given the request, it gives the answer's body, now or later."""


class KvSite(Site):
    """One port's connections: bodies are bounded, and the slow are cut off.

    There is no access log: a line for each request would cost more than the request.

    :param bytes_max: the largest body.
    :param lane: whether the lane stands in front of klein.
    :param link: gives who speaks the link, where there is one behind this port.
    :param gate: who may ask what.
    :param ids: draws them for requests that fail and have none.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        app: App,
        limits: Limits,
        bytes_max: int,
        lane: bool = True,
        link: Link = lambda head, intake, ticket: None,
        gate: Gate | None = None,
        ids: Ids | None = None,
    ) -> None:
        super().__init__(
            Door(app, Faults(reactor, limits, ids or Ids(0))),
            requestFactory=BoundedRequest,
            parsePOSTFormSubmission=False,
            reactor=reactor,
        )
        self.clock = reactor
        self.limits = limits
        self.bytes_max = bytes_max
        self.gate = gate or Gate()
        self.intake = Intake(limits.intake_bytes_max)
        self.remembered = Remembered(limits.head_fields_max)
        self.stamp = Stamp(reactor)
        self.overdue = Overdue(reactor)
        self._short_s: float | None = None
        """When it was last said that descriptors are short."""
        self.shed = 0
        """Connections that were closed, or not let in, since descriptors were short."""
        self.parting = False
        """See ``lane.Door``."""
        self.render = self.resource.render
        """See ``lane.Door``."""
        self._link = link
        self._lane = lane

    def acceptableProtocols(self) -> list[bytes]:
        """Say what is spoken over TLS (RFC 7301): whatever else is installed here, no HTTP/2."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: Any) -> Any:
        return Lane(self) if self._lane else self._channel(watched=True)

    def web_guest(self) -> StrictChannel:
        """Give twisted.web's connection, for a lane that hands its own over."""
        return self._channel(watched=False)

    def link_guest(self, head: Head, ticket: Ticket | None) -> Guest | None:
        """See ``lane.Door``."""
        return self._link(head, self.intake, ticket)

    def _channel(self, watched: bool) -> StrictChannel:
        return StrictChannel(self, self.clock, self.limits, watched)

    def hang_up(self) -> None:
        """Close the connections that are open still: whoever keeps one would go on speaking to what is behind here."""
        self.overdue.hang_up()

    def make_room(self, newcomer: Watched, transport: Any) -> None:
        """See ``lane.Door``."""
        taken = lacking(transport, self.limits)
        if not taken:
            return
        now_s = self.clock.seconds()
        if self._short_s is None or now_s - self._short_s > SHORT_S:
            log.warn("file descriptors are short: idle connections are closed (raise the limit, see ulimit -n)")
            self._short_s = now_s
        closed = self.overdue.hang_up_on_idlest()
        if not closed and taken > RESERVE_FOR_HTTP:
            newcomer.hang_up()
            closed = 1
        self.shed += closed

    # The end: see ``fasthttp.parting``.

    @property
    def crowd(self) -> int:
        return len(self.overdue)

    @property
    def busy(self) -> bool:
        return self.overdue.busy

    def part(self) -> None:
        self.parting = True
        self.stamp.part()

    def part_with_idle(self) -> None:
        self.overdue.part_with_idle()

    def log(self, request: Any) -> None:
        pass


class Door(KleinResource):
    """Klein's resource, with its routing remembered: every route is a fixed path, or a folder, found by a look-up.

    Klein itself would ask werkzeug, which takes as long as all the rest, and show it the path decoded and its slashes
    merged: two keys would become one. Of a key it is shown nothing.
    """

    def __init__(self, app: App, faults: Faults) -> None:
        super().__init__(app)
        self._faults = faults
        self._views: dict[tuple[bytes, bytes], View] = {}
        self._methods: dict[bytes, set[str]] = {}
        for rule in app.url_map.iter_rules():
            assert not rule.arguments, "the look-up knows no variables"
            path, methods = rule.rule.encode(), rule.methods or set()
            self._views |= {(method.encode(), path): app.views[rule.endpoint] for method in methods}
            self._methods.setdefault(path, set()).update(methods)

    def render(self, request: Any) -> Any:
        path = KV_ROUTE if request.path.startswith(KV_PREFIX) else request.path
        path = EXPLAIN_ROUTE if path.startswith(EXPLAIN_PREFIX) else path
        view = self._views.get((request.method, path))
        if view is None and path not in self._methods:
            # A route whose path ends with a slash stands for what follows it, too: its function looks at that itself.
            # The root stands for itself alone.
            folder = UI_PREFIX if path.startswith(UI_PREFIX) else path[: path.rfind(b"/") + 1]
            path = folder if folder in self._methods and folder != b"/" else path
            view = self._views.get((request.method, path))
        try:
            if view is None:
                raise self._unroutable(request, path)
            if request.method not in SAFE_METHODS:
                refuse_foreign_origin(request)
            result = view(request)
        except Exception:
            result = answer_failure(request, Failure(), self._faults)
        if isinstance(result, bytes):
            write(result, request)
        else:
            done = result if isinstance(result, Deferred) else ensureDeferred(result)
            done.addCallbacks(write, write_failure, callbackArgs=(request,), errbackArgs=(request, self._faults))
        return NOT_DONE_YET

    def _unroutable(self, request: Any, path: bytes) -> KvError:
        shown = request.path.decode("ascii", "backslashreplace")[:200]
        if path not in self._methods:
            hint = "/openapi.json lists the calls" if b"/openapi.json" in self._methods else "clients ask a proxy"
            return NoSuchRoute(f"there is nothing at {shown}", hint)
        methods = ", ".join(sorted(self._methods[path]))
        request.setHeader(b"Allow", methods.encode())
        return WrongMethod(f"{shown} takes {methods}", "use one of these methods")


def refuse_foreign_origin(request: Any) -> None:
    """Refuse a call that changes something and that another site's page has made a browser send (RFC 6454).

    :raises ForeignOrigin: unless the request has no Origin, or our own.
    """
    origin = request.getHeader(b"origin")
    if origin is not None and origin.partition(b"://")[2] != (request.getHeader(b"host") or b""):
        raise ForeignOrigin(
            "the request's Origin is not this server", "call from a program, or from a page that this server serves"
        )


def write(body: bytes, request: Any) -> None:
    """Send an answer, unless the client has gone; what it asked for was done all the same."""
    channel = request.channel
    if channel is None:
        return
    try:
        request.write(body)
        request.finish()
    except Exception:
        log.failure("an answer could not be sent")
        channel.transport.abortConnection()


class Faults:
    """Writes down what one port could not answer, and what that is called. There is a line where an operation has none
    of its own, and not for each: while a cluster is ill every request is one of them, and clients ask again.
    """

    def __init__(self, clock: IReactorTime, limits: Limits, ids: Ids) -> None:
        self._ids = ids
        self._spares = Sparing(clock, limits)

    def note(self, request: Any, error: KvError, request_id: str) -> str:
        """:param request_id: what its client calls it, if it does."""
        request_id = request_id or self._ids.draw()
        if self._spares.admits():
            log.warn(
                "{call} failed: {error}, {detail} (request {request_id}{more})",
                call=_call(request),
                error=error.slug,
                detail=error.detail,
                request_id=request_id,
                **self._spares.kept_back(),
            )
        return request_id

    def note_bug(self, request: Any, failure: Failure, request_id: str) -> str:
        """Do the same for what is none of our errors: each has its line, with a traceback."""
        request_id = request_id or self._ids.draw()
        log_bug(failure, _call(request), request_id)
        return request_id


def write_failure(failure: Failure, request: Any, faults: Faults) -> None:
    write(answer_failure(request, failure, faults), request)


def answer_failure(request: Any, failure: Failure, faults: Faults) -> bytes:
    """Answer with a problem document: what the error says, or for a bug a plain 500 with the failure in the log."""
    trace = trace_in(request)
    request_id = trace.request_id if trace is not None else ""
    error = failure.value
    if not isinstance(error, KvError):
        return answer_bug(request, faults.note_bug(request, failure, request_id))
    original = request.path in ORIGINAL_PATHS
    if error.request_id:
        request_id = request_id or error.request_id
    elif status_of(error, original) >= 500:
        request_id = faults.note(request, error, request_id)
    return answer_problem(request, error, original, request_id)


def _call(request: Any) -> str:
    """Name a call in the log. A key is none of the log's business."""
    path = request.path[:200]
    for prefix in (KV_PREFIX, EXPLAIN_PREFIX):
        if path.startswith(prefix):
            path = prefix + b"..."
    return f"{request.method.decode('ascii', 'backslashreplace')} {path.decode('ascii', 'backslashreplace')}"


class App(Klein):
    """Klein tells its routes apart by their functions' names, and lets a later one silently replace an earlier one.

    ``views`` are the functions themselves, by those names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[str, View] = {}

    def route(self, url: str, *args: Any, **kw: Any) -> Any:
        add = super().route(url, *args, **kw)

        def checked(function: Any) -> Any:
            assert function.__name__ not in self.endpoints, f"two routes are called {function.__name__}"
            self.views[function.__name__] = function
            return add(function)

        return checked
