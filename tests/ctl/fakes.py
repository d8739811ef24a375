"""A proxy's place that answers what a test gives it, and ``kvctl`` run as in a shell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, TypeAlias

from click.testing import CliRunner, Result
from twisted.internet.defer import DeferredList, ensureDeferred

from tests.cluster.town import Town
from twisted_kv.ctl.main import main
from twisted_kv.quorum import Level
from twisted_kv.web.cluster import ClusterDoor

Reply: TypeAlias = "tuple[int, Any]"


class FakeProxy:
    """Answers by method and path, without its parameters; what was asked is kept."""

    def __init__(self) -> None:
        self.replies: dict[tuple[str, str], Reply | Callable[[bytes], Reply]] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.asked.append((self.command, self.path, dict(self.headers.items()), body))
                reply = proxy.replies.get((self.command, self.path.partition("?")[0]))
                status, value = reply(body) if callable(reply) else reply or (404, {"title": "Nothing is here"})
                sent = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            do_GET = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def give(self, method: str, path: str, value: Any, status: int = 200) -> None:
        self.replies[method, path] = (status, value)


@contextmanager
def fake_proxy() -> Iterator[FakeProxy]:
    proxy = FakeProxy()
    thread = Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        thread.join()
        proxy.server.server_close()


def simulated_members(folder: Path, count: int) -> Any:
    """Give what a real proxy's room says of so many simulated members."""
    town = Town(1, folder)
    houses = town.build(count)
    roster = town.proxies[0].roster
    town.wait(DeferredList([ensureDeferred(roster.add(house.url, 1)) for house in houses]), 600)
    town.run(3)
    described = ClusterDoor(roster, town.proxies[0].mover, town.limits, Level.STRONG).describe()
    town.close()
    return described


def kvctl(*arguments: object, columns: int = 80, **env: str) -> Result:
    """Run a command in this process. What it prints is cut as a terminal of so many columns would."""
    given = {"COLUMNS": str(columns), "KV_SERVER": "", "KV_TOKEN_FILE": "", **env}
    return CliRunner(env=given).invoke(main, [str(one) for one in arguments], prog_name="kvctl")


def three_lines(text: str) -> list[str]:
    """Give an error's three lines without their heads."""
    lines = text.rstrip("\n").splitlines()[-3:]
    assert [line[:7] for line in lines] == ["error: ", "why:   ", "next:  "], text
    return [line[7:] for line in lines]
