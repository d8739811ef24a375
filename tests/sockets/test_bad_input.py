"""What people and programs send by mistake, or on purpose: a 4xx that says what and why, and nothing stored."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sockets.daemons import Farm, call, farming, put, wait_until

MIB = 1 << 20
ASIDE = "aside"
"""Where the daemons put what is too large for memory."""


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    folder = tmp_path_factory.mktemp("farm")
    (folder / ASIDE).mkdir()
    with pytest.MonkeyPatch.context() as patch, farming(folder) as built:
        patch.setenv("TMPDIR", str(folder / ASIDE))
        built.cluster(3)
        assert put(built.proxies[0], "stays", "here", "?consistency=all").status == 200
        yield built


@pytest.fixture
def connection(farm: Farm) -> Iterator[http.client.HTTPConnection]:
    """One connection to the proxy, which must outlive the mistake, and a store that must hold nothing new after it."""
    opened = http.client.HTTPConnection("127.0.0.1", farm.proxies[0].port, timeout=10)
    yield opened
    opened.request("POST", "/GET", b'{"Key": "stays"}')
    assert opened.getresponse().read() == b'"here"'
    opened.close()
    # Every node counts for itself; the proxy's picture of them is half a second old.
    counts = [call("GET", f"{node.url}/node/v1/info").json()["keys"] for node in farm.nodes]
    assert counts == [1, 1, 1]


def problem(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None) -> tuple[int, Any]:
    connection.request(method, path, body)
    response = connection.getresponse()
    assert response.headers["Content-Type"] == "application/problem+json"
    fields = json.loads(response.read())
    assert fields["status"] == response.status
    assert fields["type"]
    assert fields["title"]
    assert fields["detail"]
    return response.status, fields


BODIES = {
    "not JSON": b"hello",
    "empty": b"",
    "cut": b'{"Key": "a", "Val',
    "not an object": b"[1, 2]",
    "a number as key": b'{"Key": 1, "Value": "v"}',
    "null as value": b'{"Key": "a", "Value": null}',
    "no value": b'{"Key": "a"}',
    "no key": b'{"Value": "v"}',
    "an empty key": b'{"Key": "", "Value": "v"}',
    "a lone surrogate in the key": rb'{"Key": "\ud800", "Value": "v"}',
    "a lone low surrogate in the value": rb'{"Key": "a", "Value": "\udc00"}',
    "bytes that are no UTF-8": b'{"Key": "\xff", "Value": "v"}',
    "100,000 nested brackets": b"[" * 100_000,
    "100,000 nested brackets in an unknown field": b'{"Key": "a", "z": %s%s}' % (b"[" * 100_000, b"]" * 100_000),
    "a million digits": b'{"Key": %s, "Value": "v"}' % (b"1" * 1_000_000),
    "not a number": b'{"Key": "a", "Value": NaN}',
    "something behind it": b'{"Key": "a", "Value": "v"} and more',
    "a key over the limit": json.dumps({"Key": "k" * 1025, "Value": "v"}).encode(),
    "a value over the limit": json.dumps({"Key": "a", "Value": "v" * (MIB + 1)}).encode(),
}


@pytest.mark.parametrize("what", BODIES)
def test_a_put_with_a_bad_body_is_refused_with_400(connection: http.client.HTTPConnection, what: str) -> None:
    status, fields = problem(connection, "PUT", "/PUT", BODIES[what])
    assert status == 400
    assert fields["hint"]


@pytest.mark.parametrize("what", ["not JSON", "empty", "no key", "100,000 nested brackets", "a key over the limit"])
def test_a_get_with_a_bad_body_is_refused_with_400(connection: http.client.HTTPConnection, what: str) -> None:
    assert problem(connection, "GET", "/GET", BODIES[what])[0] == 400


def test_a_level_that_does_not_exist_is_refused(connection: http.client.HTTPConnection) -> None:
    body = b'{"Key": "a", "Value": "v"}'
    status, fields = problem(connection, "PUT", "/PUT?consistency=most", body)
    assert (status, fields["type"]) == (400, "bad-parameter")
    assert problem(connection, "PUT", "/v1/kv/a?consistency=most", b"v")[0] == 400


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/PUT", "PUT"), ("DELETE", "/GET", "GET"), ("GET", "/AddServer", "POST"), ("POST", "/v1/kv/a", "PUT")],
)
def test_a_wrong_method_is_told_the_right_ones(
    connection: http.client.HTTPConnection, method: str, path: str, allowed: str
) -> None:
    connection.request(method, path)
    response = connection.getresponse()
    response.read()
    assert response.status == 405
    assert allowed in response.headers["Allow"]


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/key", "/put", "//PUT", "/PUT/"])
def test_a_path_that_is_none_is_404(connection: http.client.HTTPConnection, path: str) -> None:
    assert problem(connection, "PATCH" if path == "/PUT/" else "GET", path, None)[0] in (404, 405)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/kv/", b"v", 400),
        ("/v1/kv/" + "k" * 1025, b"v", 400),
        ("/v1/kv/%zz", b"v", 400),
        ("/v1/kv/a%", b"v", 400),
        ("/v1/kv/a", b"v" * (MIB + 1), 413),
        ("/v1/kv/a?ttl=soon", b"v", 400),
        ("/v1/kv/a?ttl=0", b"v", 400),
        ("/v1/kv/a?ttl=nan", b"v", 400),
        ("/v1/kv/a?timeout=-1", b"v", 400),
        ("/v1/kv/a?timeout=1e9", b"v", 400),
        ("/v1/kv/a?colour=red", b"v", 400),
    ],
)
def test_a_bad_key_value_or_parameter_is_refused(
    connection: http.client.HTTPConnection, path: str, body: bytes, status: int
) -> None:
    assert problem(connection, "PUT", path, body)[0] == status


def test_a_precondition_that_is_none_is_refused_rather_than_ignored(connection: http.client.HTTPConnection) -> None:
    connection.request("PUT", "/v1/kv/a", b"v", {"If-Match": "no-quotes"})
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["type"]) == (400, "bad-parameter")


NOBODY = "http://127.0.0.1:1"
SERVERS: dict[str, tuple[Any, int]] = {
    "nobody there": ({"url": NOBODY, "weight": 1}, 422),
    "the proxy itself": ({"url": "PROXY", "weight": 1}, 422),
    "a file": ({"url": "file:///etc/passwd", "weight": 1}, 400),
    "no URL": ({"url": "what?", "weight": 1}, 400),
    "a path": ({"url": f"{NOBODY}/path", "weight": 1}, 400),
    "a password": ({"url": "http://user:word@127.0.0.1:1", "weight": 1}, 400),
    "a password and no user": ({"url": "http://:word@127.0.0.1:1", "weight": 1}, 400),
    "a bad port": ({"url": "http://127.0.0.1:99999", "weight": 1}, 400),
    "a line break": ({"url": f"{NOBODY}\r\nX: y", "weight": 1}, 400),
    "a negative weight": ({"url": NOBODY, "weight": -1}, 400),
    "no weight at all": ({"url": NOBODY, "weight": 0}, 400),
    "a heavy weight": ({"url": NOBODY, "weight": 10**30}, 400),
    "a weight in words": ({"url": NOBODY, "weight": "one"}, 400),
    "a URL without end": ({"url": "http://" + "a" * 100_000, "weight": 1}, 400),
    "no url": ({"weight": 1}, 400),
    "a number": (7, 400),
}


@pytest.mark.parametrize("what", SERVERS)
def test_a_server_that_cannot_be_added_is_refused(
    connection: http.client.HTTPConnection, farm: Farm, what: str
) -> None:
    server, expected = SERVERS[what]
    body = json.dumps(server).replace("PROXY", farm.proxies[0].url).encode()
    status, fields = problem(connection, "POST", "/AddServer", body)
    assert status == expected
    assert fields["hint"]
    assert len(call("GET", f"{farm.proxies[0].url}/v1/cluster").json()["members"]) == 3


def raw(port: int, head: bytes, *parts: bytes) -> bytes:
    """Send bytes, part by part until the other side has had enough, and read what it says."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(head)
        try:
            for part in parts:
                line.sendall(part)
        except OSError:
            pass
        answer = b""
        try:
            while chunk := line.recv(65_536):
                answer += chunk
        except OSError:
            pass
        return answer


def temporary_files(farm: Farm) -> list[Path]:
    return list((farm.folder / ASIDE).iterdir())


def test_a_body_without_end_is_cut_off_with_413_and_leaves_no_temporary_file(
    connection: http.client.HTTPConnection, farm: Farm
) -> None:
    chunk = b"100000\r\n" + b"x" * MIB + b"\r\n"
    head = b"PUT /PUT HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = raw(farm.proxies[0].port, head, *[chunk] * 64)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body-too-large" in answer
    assert temporary_files(farm) == []


def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(
    connection: http.client.HTTPConnection, farm: Farm
) -> None:
    head = b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n"
    answer = raw(farm.proxies[0].port, head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer


@pytest.mark.parametrize("body", [b"", b"\x93", b"\x00" * 100, b"\x91\xc0", b"\xdd\xff\xff\xff\xff"])
def test_a_batch_that_is_none_is_refused_by_a_node(
    connection: http.client.HTTPConnection, farm: Farm, body: bytes
) -> None:
    for path in ("batch", "epoch", "slots", "drop"):
        got = call("POST", f"{farm.nodes[0].url}/node/v1/{path}", body)
        assert (got.status, got.json()["type"]) == (400, "malformed-body")


def test_a_zone_without_end_is_refused(connection: http.client.HTTPConnection) -> None:
    for zone in ("z" * 65, "a\nb", "\x00"):
        body = json.dumps({"url": NOBODY, "weight": 1, "zone": zone}).encode()
        assert problem(connection, "POST", "/v1/cluster/nodes", body)[0] == 400


def test_a_call_that_another_sites_page_sends_is_refused(connection: http.client.HTTPConnection, farm: Farm) -> None:
    proxy = farm.proxies[0]
    for origin in ("https://evil.example", "null", f"http://localhost:{proxy.port + 1}"):
        for method, path in (("PUT", "/PUT"), ("POST", "/AddServer"), ("DELETE", "/v1/kv/stays"), ("PUT", "/v1/kv/a")):
            got = call(method, f"{proxy.url}{path}", b'{"Key": "a", "Value": "v"}', Origin=origin)
            assert (got.status, got.json()["type"]) == (403, "foreign-origin")
    assert call("PUT", f"{proxy.url}/v1/kv/stays", b"here", Origin=proxy.url).status == 204


@pytest.mark.parametrize(("method", "path"), [("GET", "/GET?Key=stays"), ("PUT", "/PUT"), ("GET", "/metrics")])
def test_a_page_whose_own_name_leads_here_is_refused(
    connection: http.client.HTTPConnection, farm: Farm, method: str, path: str
) -> None:
    for daemon in (farm.proxies[0], farm.nodes[0]):
        page = f"evil.example:{daemon.port}"
        got = call(method, f"{daemon.url}{path}", b"v", Host=page, Origin=f"http://{page}")
        assert (got.status, got.json()["type"]) == (421, "foreign-host")
        assert "--hosts" in got.json()["hint"]


HOSTS = [b"", b"a" * 300, b".".join([b"a" * 70] * 2), "ü..a".encode(), b"\xff\xfe", b"a b", b"[::1"]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("path", [b"/nothing", b"/GET?Key=stays", b"/%FF", b"/v1/kv/stays"])
def test_a_host_or_path_of_odd_bytes_is_no_fault_of_the_daemons(
    connection: http.client.HTTPConnection, farm: Farm, host: bytes, path: bytes
) -> None:
    for daemon in (farm.proxies[0], farm.nodes[0]):
        answer = raw(daemon.port, b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (path, host))
        assert answer[9:12] in (b"200", b"400", b"404", b"421")
        assert b"text/html" not in answer
    assert "Traceback" not in farm.proxies[0].log() + farm.nodes[0].log()


def test_the_absolute_form_of_a_target_is_served(connection: http.client.HTTPConnection, farm: Farm) -> None:
    answer = raw(
        farm.proxies[0].port,
        b"GET http://anything.example:1/GET?Key=stays HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    assert answer.endswith(b'"here"')


def test_a_parameter_given_twice_is_refused(connection: http.client.HTTPConnection) -> None:
    assert problem(connection, "GET", "/GET?Key=stays&consistency=one&consistency=all", None)[0] == 400


def test_a_state_file_that_is_gone_or_garbage_is_said_and_data_is_served(
    connection: http.client.HTTPConnection, farm: Farm
) -> None:
    proxy, state = farm.proxies[0], farm.folder / "state.json"
    kept = state.read_bytes()
    body = json.dumps({"url": farm.nodes[0].url, "weight": 2}).encode()
    try:
        for damage in (b"garbage", None):
            state.unlink() if damage is None else state.write_bytes(damage)
            got = call("POST", f"{proxy.url}/AddServer", body)
            assert (got.status, got.json()["type"]) == (503, "state-unusable")
            wait_until(lambda: call("GET", f"{proxy.url}/health/ready").status == 503, "the proxy to say so")
            assert call("GET", f"{proxy.url}/v1/kv/stays").body == b"here"
    finally:
        state.write_bytes(kept)
    wait_until(lambda: call("GET", f"{proxy.url}/health/ready").status == 200, "the proxy to be well again")
    assert "Traceback" not in proxy.log()
