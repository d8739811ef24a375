"""What clients send: requests that are fine, and such that are spoilt somewhere."""

from __future__ import annotations

import random


def put(key: str, value: str, *fields: bytes, host: bytes = b"Host: localhost:8080") -> bytes:
    body = b'{"Key": "%s", "Value": "%s"}' % (key.encode(), value.encode())
    lines = [b"PUT /PUT HTTP/1.1", host, b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(target: bytes, *fields: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b"%s %s %s" % (method, target, version), b"Host: localhost", *fields]) + b"\r\n\r\n"


def kv_put(key: bytes, body: bytes, *fields: bytes, length: bytes | None = None) -> bytes:
    said = b"%d" % len(body) if length is None else length
    return get(b"/v1/kv/" + key, b"Content-Length: " + said, *fields, method=b"PUT") + body


def node_call(name: bytes, body: bytes) -> bytes:
    return get(b"/node/v1/" + name, b"Content-Length: %d" % len(body), method=b"POST") + body


def chunked(target: bytes, *chunks: bytes, method: bytes = b"PUT", fields: tuple[bytes, ...] = ()) -> bytes:
    return get(target, b"Transfer-Encoding: chunked", *fields, method=method) + b"".join(chunks)


FINE: dict[str, bytes] = {
    "a put": put("a", "1"),
    "a put and a get": put("a", "1") + get(b"/GET?Key=a"),
    "a get of nothing": get(b"/GET?Key=nothing"),
    "a get with a body": get(b"/GET", b"Content-Length: 12") + b'{"Key": "a"}',
    "a post for a get": get(b"/GET", b"Content-Length: 12", method=b"POST") + b'{"Key": "a"}',
    "the query method": get(b"/GET", b"Content-Length: 12", method=b"QUERY") + b'{"Key": "a"}',
    "keep-alive, said": put("a", "1", b"Connection: keep-alive") + get(b"/GET?Key=a", b"Connection: Keep-Alive"),
    "close, said": put("a", "1", b"Connection: close") + get(b"/GET?Key=a"),
    "close in a list": get(b"/GET?Key=a", b"Connection: keep-alive, close") + get(b"/GET?Key=a"),
    "a key with escapes": kv_put(b"a%2Fb%00%FF", b"v") + get(b"/v1/kv/a%2Fb%00%FF"),
    "a key with slashes and dots": kv_put(b"a//../b/./c", b"v") + get(b"/v1/kv/a//../b/./c"),
    "a content type": kv_put(b"a", b"v", b"Content-Type: text/x; a=b") + get(b"/v1/kv/a"),
    "head": kv_put(b"a", b"value") + get(b"/v1/kv/a", method=b"HEAD") + get(b"/v1/kv/a"),
    "head of nothing": get(b"/v1/kv/a", method=b"HEAD") + get(b"/v1/kv/b"),
    "delete": kv_put(b"a", b"value") + get(b"/v1/kv/a", method=b"DELETE") + get(b"/v1/kv/a"),
    "not modified": kv_put(b"a", b"v") + get(b"/v1/kv/a", b'If-None-Match: "0"') + get(b"/v1/kv/a", b"If-Match: *"),
    "unchanged": kv_put(b"a", b"v") + get(b"/v1/kv/a", b"If-None-Match: *"),
    "an empty value": kv_put(b"a", b"") + get(b"/v1/kv/a"),
    "a parameter given twice": get(b"/GET?Key=a&consistency=one&consistency=all"),
    "an unknown parameter": get(b"/v1/kv/a?x=1"),
    "a bad level": put("a", "1").replace(b"/PUT HTTP", b"/PUT?consistency=most HTTP"),
    "no json": get(b"/PUT", b"Content-Length: 3", method=b"PUT") + b"abc",
    "a wrong method": get(b"/PUT", method=b"GET") + get(b"/PUT", method=b"PATCH"),
    "an unknown method": get(b"/PUT", method=b"FROBNICATE") + get(b"/GET?Key=a", method=b"get"),
    "no such route": get(b"/nowhere"),
    "klein's route first": get(b"/slow") + put("a", "1") + get(b"/GET?Key=a"),
    "klein's route last": put("a", "1") + get(b"/GET?Key=a") + get(b"/slow") + get(b"/GET?Key=a"),
    "the absolute form": get(b"http://localhost/GET?Key=a"),
    "http/1.0": get(b"/GET?Key=a", version=b"HTTP/1.0") + get(b"/GET?Key=a"),
    "http/1.0 without a host": b"GET /GET?Key=a HTTP/1.0\r\n\r\n",
    "http/1.0, keep-alive": get(b"/GET?Key=a", b"Connection: keep-alive", version=b"HTTP/1.0"),
    "an empty line before": b"\r\n" + put("a", "1") + b"\r\n" + get(b"/GET?Key=a"),
    "a node's calls": get(b"/node/v1/info") + node_call(b"echo", b"12") + get(b"/node/v1/echo", method=b"PUT"),
    "the link, not asked for": get(b"/node/v1/link") + node_call(b"link", b"12") + get(b"/GET?Key=a"),
    "chunks": chunked(b"/v1/kv/a", b"3\r\nabc\r\n", b"2;x=y\r\nde\r\n", b"0\r\n\r\n") + get(b"/v1/kv/a"),
    "chunks with a trailer": chunked(b"/v1/kv/a", b"3\r\nabc\r\n0\r\nX: y\r\n\r\n") + get(b"/v1/kv/a"),
    "expect": kv_put(b"a", b"v", b"Expect: 100-continue") + get(b"/v1/kv/a"),
    "curl's upgrade": get(
        b"/GET?Key=a", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA"
    ),
    "a websocket": get(b"/GET?Key=a", b"Connection: Upgrade", b"Upgrade: websocket"),
    "an origin": put("a", "1", b"Origin: http://elsewhere"),
    "our own origin": put("a", "1", b"Origin: http://localhost:8080"),
    "many requests": b"".join(put("a", str(n)) + get(b"/GET?Key=a") for n in range(200)),
    "an ipv6 host": put("a", "1", host=b"Host: [::1]:8080"),
    "an empty host": put("a", "1", host=b"Host:"),
    "folded spaces around a value": put("a", "1", b"X:  \t y \t"),
    "a value of obs-text": put("a", "1", b"X: \xff\xe9"),
    "a content type of obs-text": kv_put(b"a", b"v", b"Content-Type: \xe9") + get(b"/v1/kv/a"),
    "a post nobody takes": get(b"/GET?Key=a", b"Content-Length: 0", method=b"DELETE"),
    "the star": get(b"*", method=b"OPTIONS"),
}


def spoilt(seed: int) -> bytes:
    """Requests that are fine, and then spoilt somewhere."""
    rng = random.Random(seed)
    data = bytearray(b"".join(rng.choice(list(FINE.values())) for _ in range(rng.randrange(1, 4)))[:3_000])
    for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
        place = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[place] = rng.choice(b'\0\t\n\r :;,"%+-/0189AZaz\x7f\x80\xff')
        elif kind == 1:
            del data[place : place + rng.choice([1, 1, 2, 10])]
        elif kind == 2:
            data[place:place] = rng.choice([b"\r\n", b"\n", b"\r", b" ", b"\0", b"0\r\n", b"Host: x\r\n", b"a" * 50])
        else:
            other = rng.randrange(len(data))
            data[place:place] = data[other : other + rng.randrange(1, 40)]
    return bytes(data)
