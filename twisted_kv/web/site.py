"""What every door shares: bounded request bodies, keys as raw bytes, and errors as problem documents."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from typing import Any

from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request, Site
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from ..errors import BodyTooLarge, KvError, MalformedBody, NoSuchRoute, WrongMethod
from ..limits import Limits
from .answers import PROBLEM, answer_bug, answer_problem, problem_body

ORIGINAL_PATHS = frozenset((b"/PUT", b"/GET", b"/AddServer"))
KV_PREFIX = b"/v1/kv/"
KV_ROUTE = "/v1/kv/-"
"""The route that the key calls have in klein: their keys are raw bytes, which no router is shown."""

log = Logger()


class BoundedRequest(Request):
    """A request whose body stays in memory and under a bound.

    twisted.web itself has no bound and puts large bodies into temporary files. A body over the bound is answered with
    413 at once, and the connection is closed; what still arrives is read for a moment and thrown away, since closing
    on unread bytes would reset the connection and destroy the answer on its way.
    """

    _refused = False

    def parseCookies(self) -> None:
        """There are none here."""

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        self._room = self.channel.site.bytes_max
        if length is not None and length > self._room:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        if self._refused:
            return
        self._room -= len(data)
        if self._room < 0:
            self._refuse()
        else:
            self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if not self._refused:
            super().requestReceived(command, path, version)

    def _refuse(self) -> None:
        self._refused = True
        site: KvSite = self.channel.site
        self.content = BytesIO()
        # Otherwise the channel would still send "100 Continue" behind the refusal.
        self.requestHeaders.removeHeader(b"expect")
        error = BodyTooLarge(f"the body is larger than {site.bytes_max} bytes", "send less in one request")
        body = problem_body(error, 413)
        transport = self.channel.transport
        transport.write(
            b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
            % (PROBLEM, len(body), body)
        )
        if hasattr(transport, "loseWriteConnection"):
            transport.loseWriteConnection()
        site.reactor.callLater(site.linger_s, transport.abortConnection)


class KvSite(Site):
    """A site with bounded bodies, without an access log (a line for each request would cost more than the request)."""

    def __init__(self, reactor: IReactorTime, app: Klein, limits: Limits, bytes_max: int) -> None:
        super().__init__(Door(app), requestFactory=BoundedRequest, parsePOSTFormSubmission=False, reactor=reactor)
        self.bytes_max = bytes_max
        self.linger_s = limits.linger_s

    def log(self, request: Any) -> None:
        pass


class Door(KleinResource):
    """Klein's resource with its routing remembered, and one fixed path for all keys.

    A route without variables is found by one look-up instead of by werkzeug's matching; whatever is not found so goes
    klein's own way. Of a key the router is shown nothing: klein would decode the path and werkzeug merge its slashes,
    so that two keys became one.
    """

    def __init__(self, app: Klein) -> None:
        super().__init__(app)
        self._endpoints = {
            (method.encode(), rule.rule.encode()): rule.endpoint
            for rule in app.url_map.iter_rules()
            if not rule.arguments
            for method in rule.methods or ()
        }

    def render(self, request: Any) -> Any:
        path = request.path
        if path.startswith(KV_PREFIX):
            path = KV_ROUTE.encode()
            request.postpath = path[1:].split(b"/")
        endpoint = self._endpoints.get((request.method, path))
        if endpoint is None:
            return super().render(request)
        try:
            result = self._app.execute_endpoint(endpoint, request)
        except Exception:
            result = answer_failure(request, Failure())
        if isinstance(result, Deferred):
            result.addErrback(partial(answer_failure, request)).addCallback(partial(write, request)).addErrback(bug)
        else:
            write(request, result)
        return NOT_DONE_YET


def write(request: Any, body: bytes) -> None:
    """Send an answer, unless the client has gone; what it asked for was done all the same."""
    if request.channel is not None:
        request.write(body)
        request.finish()


def bug(failure: Failure) -> None:
    log.failure("an answer could not be sent", failure)


def answer_failure(request: Any, failure: Failure) -> bytes:
    """Answer with a problem document: what the error says, or for a bug a plain 500 with the failure in the log."""
    if failure.check(KvError):
        return answer_problem(request, failure.value, request.path in ORIGINAL_PATHS)
    log.failure("a request failed: {method} {path}", failure, method=request.method, path=request.path)
    return answer_bug(request)


class App(Klein):
    """Klein tells its routes apart by their functions' names, and lets a later one silently replace an earlier one."""

    def route(self, url: str, *args: Any, **kw: Any) -> Any:
        add = super().route(url, *args, **kw)

        def checked(function: Any) -> Any:
            assert function.__name__ not in self.endpoints, f"two routes are called {function.__name__}"
            return add(function)

        return checked


def new_app() -> Klein:
    """An app without routes whose every error is answered as a problem document."""
    app = App()
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False

    @app.handle_errors(HTTPException)
    def unroutable(request: Any, failure: Failure) -> bytes:
        error = failure.value
        path = request.path.decode("ascii", "backslashreplace")[:200]
        if isinstance(error, MethodNotAllowed):
            methods = ", ".join(sorted(error.valid_methods or ()))
            request.setHeader(b"Allow", methods.encode())
            return answer_problem(request, WrongMethod(f"{path} takes {methods}", "use one of these methods"))
        if isinstance(error, NotFound):
            return answer_problem(request, NoSuchRoute(f"there is nothing at {path}", "the README lists the calls"))
        return answer_problem(request, MalformedBody(f"the request cannot be served: {error}"))

    @app.handle_errors(Exception)
    def failed(request: Any, failure: Failure) -> bytes:
        return answer_failure(request, failure)

    return app
