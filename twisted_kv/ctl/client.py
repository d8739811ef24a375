"""Calls to a proxy: HTTP over one kept connection, from the standard library, so that a command starts fast."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, RemoteDisconnected
from typing import Any, NamedTuple

from ..client import places
from ..client.places import Place
from ..errors import BadConfig
from .timed import Patience, TooLarge, pieces, timed
from .trouble import Exit, Trouble, of_problem

JSON = "application/json"
NDJSON = "application/x-ndjson"
MSGPACK = "application/msgpack"
CHANGE_TIMEOUT_S = 75.0
"""How long a call may take that changes the ring: a proxy waits a minute for those that are before it."""
ANSWER_BYTES_MAX = 256 << 20
"""The largest answer that is taken: four times the largest value that can be configured."""
STREAM_BYTES_MAX = 1 << 62
LINE_BYTES_MAX = 1 << 20
MORE_S = 1.0
"""How much longer a socket waits than the proxy was told to, so that it is the proxy who says what was missing."""


class Answer(NamedTuple):
    """A whole answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def problem(self) -> dict[str, Any]:
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def place_of(server: str) -> Place:
    """Read a server as it is typed: a URL, or host and port.

    :raises Trouble: if it is none.
    """
    try:
        return places.place_of(server)
    except BadConfig as error:
        raise Trouble(
            error.detail,
            "it is neither a URL like http://127.0.0.1:8080 nor a host and a port",
            "name one with --server URL, or KV_SERVER",
            Exit.USAGE,
        ) from None


class Client:
    """One kept connection to a proxy. It is one thread's; ``another`` gives one for another thread.

    :param timeout_s: how long any wait may take.
    :param told: whether the operator has named that time, so that the proxy is told it, too.
    """

    def __init__(self, place: Place, timeout_s: float = 10.0, told: bool = False) -> None:
        self.place = place
        self.timeout_s = timeout_s
        self.told = told
        self._connection: HTTPConnection | None = None
        self._patience = Patience()
        self._others: list[Client] = []

    def another(self) -> Client:
        """Give a client like this one, which ends with it."""
        other = Client(self.place, self.timeout_s, self.told)
        self._others.append(other)
        return other

    def end(self) -> None:
        """Close the connection, and those of all that were made of this one."""
        self.close()
        for other in self._others:
            other.end()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        again: bool = False,
        timeout_s: float | None = None,
        most: int | None = None,
    ) -> Answer:
        """Send a request and read the answer whole.

        :param again: whether it may be sent twice, should a kept connection turn out to be closed.
        :param most: the largest body that is taken, else ``ANSWER_BYTES_MAX``.
        :raises Trouble: if nobody answers.
        """
        response = self._send(method, path, body, headers or {}, again or method in ("GET", "HEAD"), timeout_s)
        with self._explained():
            content = b"".join(pieces(response, most or ANSWER_BYTES_MAX))
        if response.will_close:
            self.close()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)

    def checked(self, method: str, path: str, body: bytes | None = None, **how: Any) -> Answer:
        """The same, and an answer that is an error is trouble."""
        answer = self.request(method, path, body, **how)
        if answer.status >= 400:
            raise of_problem(answer.status, answer.problem())
        return answer

    def json(self, method: str, path: str, value: Any = None, **how: Any) -> Any:
        """Send a value as JSON, if any, and give what comes back; None for nothing."""
        body, headers = (None, {}) if value is None else (json.dumps(value).encode(), {"Content-Type": JSON})
        answer = self.checked(method, path, body, headers=headers, **how)
        return self.parsed(answer.body) if answer.body else None

    def lines(self, path: str) -> Iterator[bytes]:
        """Read an answer of lines as they come.

        :raises Trouble: if it is an error, or is cut off.
        """
        response = self._send("GET", path, None, {"Accept": NDJSON}, True, None)
        if response.status >= 400:
            with self._explained():
                body = b"".join(pieces(response, ANSWER_BYTES_MAX))
                raise of_problem(response.status, Answer(response.status, {}, body).problem())
        with self._explained():
            self._patience.stream = True
            begun = b""
            for piece in pieces(response, STREAM_BYTES_MAX):
                *lines, begun = (begun + piece).split(b"\n")
                yield from lines
                if len(begun) > LINE_BYTES_MAX:
                    raise TooLarge(f"a line has more than {LINE_BYTES_MAX:,} bytes")
            if begun:
                yield begun

    def parsed(self, body: bytes) -> Any:
        """Read an answer that is JSON.

        :raises Trouble: if it is none.
        """
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise Trouble(
                f"what answers at {self.place.url} is no kvproxy",
                "its answer is no JSON",
                "name the proxy with --server URL, or KV_SERVER",
                Exit.UNREACHABLE,
            ) from None

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        again: bool,
        timeout_s: float | None,
    ) -> HTTPResponse:
        for name, value in headers.items():
            if not _sendable(value):
                raise Trouble(
                    f"{name} cannot be {value!r}",
                    "a header holds one line of Latin letters",
                    "kvctl put --help",
                    Exit.USAGE,
                )
        if self.place.token is not None:
            headers = {**headers, "Authorization": f"Bearer {self.place.token}"}
        kept = self._connection is not None
        with self._explained():
            try:
                return self._exchange(method, path, body, headers, timeout_s)
            except (RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.close()
                if not (kept and again):
                    raise
                return self._exchange(method, path, body, headers, timeout_s)

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float | None
    ) -> HTTPResponse:
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        self._patience.begin((timeout_s or self.timeout_s) + MORE_S)
        connection.timeout = self._patience.timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        connection.request(method, path, body, dict(headers))
        return connection.getresponse()

    def _connect(self) -> HTTPConnection:
        connection = self._unconnected()
        connection.response_class = timed(self._patience)  # type: ignore[assignment]
        return connection

    def _unconnected(self) -> HTTPConnection:
        try:
            return places.connection_to(self.place)
        except BadConfig as error:
            raise Trouble(
                "the certificates cannot be used",
                error.detail,
                "give PEM files with --tls-authority and --tls-identity",
                Exit.USAGE,
            ) from None

    def _explained(self) -> _Explained:
        return _Explained(self.place, self.close)


def _sendable(value: str) -> bool:
    try:
        return not set(b"\0\r\n").intersection(value.encode("latin-1"))
    except UnicodeEncodeError:
        return False


class _Explained:
    """Turns what a socket says into trouble."""

    def __init__(self, place: Place, close: Callable[[], None]) -> None:
        self._place = place
        self._close = close

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, (Trouble, GeneratorExit)):
            return
        self._close()
        if isinstance(error, (OSError, HTTPException)):
            raise self._trouble(error) from None

    def _trouble(self, error: Exception) -> Trouble:
        url = self._place.url
        then = "start a cluster (make run, or twistd kvcluster), or name a proxy with --server URL or KV_SERVER"
        if isinstance(error, TimeoutError):
            return Trouble(f"{url} does not answer in time", "the time of --timeout is over", then, Exit.UNREACHABLE)
        if type(error).__name__ == "SSLCertVerificationError":
            why = getattr(error, "verify_message", str(error))
            then = "name who signed its certificate with --tls-authority FILE"
            return Trouble(f"the certificate of {url} is not trusted", why, then, Exit.UNREACHABLE)
        why = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        if getattr(error, "reason", None) == "WRONG_VERSION_NUMBER":
            then = f"name it as http://{url.removeprefix('https://')}"
            return Trouble(f"the port of {url} speaks no TLS", why, then, Exit.UNREACHABLE)
        if isinstance(error, HTTPException):
            then = "name a proxy's HTTP port with --server URL or KV_SERVER; if it speaks TLS, as https://"
            return Trouble(f"the connection to {url} broke off", why, then, Exit.UNREACHABLE)
        return Trouble(f"nothing answers at {url}", why, then, Exit.UNREACHABLE)
