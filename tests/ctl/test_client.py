"""Whatever goes wrong is told in three lines, with the status that it deserves; and what every command takes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.ctl.fakes import FakeProxy, kvctl, three_lines
from tests.sockets.daemons import free_port, token_file
from twisted_kv.ctl.client import place_of
from twisted_kv.ctl.main import COMMANDS, ELSEWHERE, main
from twisted_kv.ctl.trouble import BY_STATUS, NEXT, Exit, Trouble, of_problem
from twisted_kv.web.answers import STATUS

WITHOUT_PROXY = {"simulate", "completion", "manual", "config check"}
TOKEN = "read-only " + "r" * 40


def every_command() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)  # type: ignore[attr-defined]
        assert command is not None
        if isinstance(command, click.Group):
            found += [(f"{name} {inner}", one) for inner, one in command.commands.items()]
        else:
            found.append((name, command))
    return found


@pytest.mark.parametrize(("name", "command"), every_command(), ids=[name for name, _ in every_command()])
def test_every_command_takes_the_same_options_and_says_what_it_does(name: str, command: click.Command) -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    if name not in WITHOUT_PROXY:
        assert {"-o", "--output", "--server", "--token-file", "--timeout", "--tls-authority"} <= options
    assert (command.help or "").partition("\n")[0].endswith(".")


def test_help_names_every_command_without_importing_any() -> None:
    code = (
        "import sys\nfrom twisted_kv.ctl.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('twisted', 'rich', 'klein')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.rstrip().endswith("[]")
    assert [name for name in COMMANDS if f"\n  {name} " not in done.stdout] == []


@pytest.mark.parametrize("words", [("get", "k"), ("put", "k", "v"), ("del", "k"), ("ls",)])
def test_calls_for_keys_need_neither_twisted_nor_rich(proxy: FakeProxy, words: tuple[str, ...]) -> None:
    for method in ("GET", "PUT", "DELETE"):
        proxy.give(method, "/v1/kv/k", b"v")
    proxy.give("GET", "/v1/keys", b'"k"\n')
    code = (
        "import sys\nfrom twisted_kv.ctl.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: assert not end.code\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('twisted', 'klein', 'msgspec')])"
    )
    command = [sys.executable, "-c", code, *words, "--server", proxy.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.rstrip().endswith("[]"), done


def test_nobody_there_is_unreachable() -> None:
    done = kvctl("get", "k", "--server", f"127.0.0.1:{free_port()}")
    assert done.exit_code == Exit.UNREACHABLE
    what, why, then = three_lines(done.stderr)
    assert "nothing answers" in what
    assert "refused" in why
    assert "--server" in then


def test_somebody_silent_is_unreachable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = kvctl("get", "k", "--server", f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", 0.05)
    assert done.exit_code == Exit.UNREACHABLE
    assert "does not answer in time" in three_lines(done.stderr)[0]


def test_somebody_else_is_no_proxy(proxy: FakeProxy) -> None:
    proxy.give("GET", "/v1/cluster", b"<html>")
    done = kvctl("cluster", "status", "--server", proxy.url)
    assert done.exit_code == Exit.UNREACHABLE
    assert "is no kvproxy" in three_lines(done.stderr)[0]


@pytest.mark.parametrize(
    "server", ["ftp://host", "http://", "http://host:port", "http://host/path", "http://h?x=1", "["]
)
def test_a_server_that_is_none_is_refused(server: str) -> None:
    done = kvctl("get", "k", "--server", server)
    assert done.exit_code == Exit.USAGE
    assert "is no server" in three_lines(done.stderr)[0]


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("localhost:8090", "http://localhost:8090"),
        ("http://10.0.0.1", "http://10.0.0.1:80"),
        ("10.0.0.1", "http://10.0.0.1:8080"),
        ("https://kv.example/", "https://kv.example:443"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_a_server_may_be_typed_in_short(server: str, url: str) -> None:
    assert place_of(server).url == url


@pytest.mark.parametrize("words", [["nosuch"], ["get"], ["get", "k", "-o", "xml"], ["cluster", "weight", "n", "0"]])
def test_a_wrong_command_is_told_in_three_lines(words: list[str]) -> None:
    done = kvctl(*words)
    assert done.exit_code == Exit.USAGE
    assert "--help" in three_lines(done.stderr)[2]


@pytest.mark.parametrize("words", [[], ["cluster"], ["ring"], ["backup"], ["config"]])
def test_who_names_no_command_is_shown_those_that_there_are(words: list[str]) -> None:
    done = kvctl(*words)
    assert done.exit_code == Exit.USAGE
    assert done.stderr.startswith(f"Usage: {' '.join(['kvctl', *words])} ")
    assert "\nCommands:\n" in done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("status", "kvctl cluster status"),
        ("stauts", "kvctl cluster status"),
        ("set", "kvctl put"),
        ("bakcup", "kvctl backup"),
        ("help", "kvctl --help"),
    ],
)
def test_who_mistypes_a_command_is_told_which_may_be_meant(typed: str, meant: str) -> None:
    done = kvctl(typed)
    assert done.exit_code == Exit.USAGE
    assert three_lines(done.stderr)[0] == f"no such command {typed!r}. Did you mean {meant!r}?"


def test_what_is_guessed_is_there() -> None:
    for typed, meant in ELSEWHERE.items():
        assert typed not in COMMANDS
        assert kvctl(*meant.split(), *[] if meant.startswith("-") else ["--help"]).exit_code == Exit.OK, meant


def test_a_port_alone_is_no_node(proxy: FakeProxy) -> None:
    for words in (["add", "8084", "--yes"], ["plan", "--add", "8084"]):
        done = kvctl("cluster", *words, "--server", proxy.url)
        assert done.exit_code == Exit.USAGE
        assert three_lines(done.stderr)[0].endswith("http://localhost:8084")


def test_a_port_without_tls_is_named_as_one(proxy: FakeProxy) -> None:
    done = kvctl("get", "k", "--server", proxy.url.replace("http://", "https://"))
    assert done.exit_code == Exit.UNREACHABLE
    assert three_lines(done.stderr)[0].endswith("speaks no TLS")
    assert three_lines(done.stderr)[2] == f"name it as {proxy.url}"


def test_a_program_gets_errors_as_json(proxy: FakeProxy) -> None:
    problem = {"type": "key-absent", "title": "There is no such key", "detail": "there is no key 'k'"}
    proxy.give("POST", "/v1/bulk", {"key": "k", "status": 404, "problem": problem})
    done = kvctl("get", "k", "-o", "json", "--server", proxy.url)
    assert done.exit_code == Exit.NOT_FOUND
    found = json.loads(done.stderr)
    assert (found["error"], found["why"], found["exit_code"]) == ("there is no such key", "there is no key 'k'", 5)
    assert "kvctl ls" in found["next"]


def test_every_status_of_the_proxy_has_an_exit_code() -> None:
    codes = {error.slug: BY_STATUS.get(status, Exit.USAGE) for error, status in STATUS.items()}
    assert set(NEXT) <= set(codes)
    assert codes["quorum-unreached"] == codes["overloaded"] == codes["deadline-passed"] == Exit.QUORUM
    assert codes["key-absent"] == codes["no-such-member"] == Exit.NOT_FOUND
    assert codes["precondition-failed"] == codes["node-has-data"] == Exit.PRECONDITION
    assert codes["malformed-key"] == codes["token-missing"] == Exit.USAGE


def test_a_majority_that_was_not_reached_says_whom_and_whether_it_may_be_applied() -> None:
    problem = {
        "type": "quorum-unreached",
        "title": "Too few replicas answered",
        "detail": "1 of 3",
        "maybe_applied": True,
        "replicas": [{"node": "n-1", "error": "connection refused"}],
    }
    found = of_problem(503, problem)
    assert isinstance(found, Trouble)
    assert (found.code, found.what) == (Exit.QUORUM, "too few replicas answered")
    assert "may still take effect" in found.why
    assert "n-1: connection refused" in found.why


def test_a_token_is_shown_and_its_file_is_judged_as_a_daemon_does(proxy: FakeProxy, tmp_path: Path) -> None:
    proxy.give("GET", "/v1/kv/k", b"v")
    file = token_file(tmp_path / "tokens", TOKEN, "read-write " + "w" * 40)
    assert kvctl("get", "k", "--server", proxy.url, "--token-file", file).exit_code == 0
    assert proxy.asked[-1][2]["Authorization"] == "Bearer " + "w" * 40
    file.chmod(0o644)
    done = kvctl("get", "k", "--server", proxy.url, KV_TOKEN_FILE=str(file))
    assert done.exit_code == Exit.USAGE
    assert "chmod 600" in three_lines(done.stderr)[2]


def test_a_connection_that_was_closed_meanwhile_is_opened_again(proxy: FakeProxy) -> None:
    from twisted_kv.ctl.client import Client

    proxy.give("GET", "/v1/kv/k", b"v")
    client = Client(place_of(proxy.url))
    assert client.request("GET", "/v1/kv/k").body == b"v"
    assert client._connection is not None
    assert client._connection.sock is not None
    client._connection.sock.shutdown(socket.SHUT_RDWR)
    assert client.request("GET", "/v1/kv/k").body == b"v"
    client.close()


def test_a_time_that_was_named_is_told_to_the_proxy_and_one_that_was_not_is_not(proxy: FakeProxy) -> None:
    proxy.give("GET", "/v1/kv/k", b"v")
    kvctl("get", "k", "--server", proxy.url)
    kvctl("get", "k", "--server", proxy.url, "--timeout", 3)
    assert [asked[1] for asked in proxy.asked] == ["/v1/kv/k", "/v1/kv/k?timeout=3"]
