"""Tokens: what a file of them says, and what each allows."""

from __future__ import annotations

import pytest

from twisted_kv.errors import BadConfig, ForeignHost, TokenMissing, TokenTooWeak
from twisted_kv.fasthttp.gate import HOSTS_MET_MAX, Gate
from twisted_kv.fasthttp.heads import Head, read_head
from twisted_kv.tokens import TOKENS_MAX, Access, Keyring, Ticket, Tokens, digest_of, parse_tokens

WRITES, READS = "w" * 32, "r" * 32
FILE = f"# ours\n\nread-only {READS}\n  read-write\t{WRITES}  \n"


def allows(tokens: Tokens, token: str) -> Access | None:
    return tokens.access(digest_of(token.encode()))


def head(*fields: str, method: str = "GET") -> Head:
    return named("localhost", *fields, method=method)


def named(host: str, *fields: str, method: str = "GET") -> Head:
    return read_head("\r\n".join((f"{method} / HTTP/1.1", f"Host: {host}", *fields, "", "")).encode(), 100)


def test_a_file_says_what_each_token_allows() -> None:
    tokens = parse_tokens(FILE, "file")

    assert (allows(tokens, READS), allows(tokens, WRITES)) == (Access.READ_ONLY, Access.READ_WRITE)
    assert allows(tokens, "x" * 32) is None
    assert tokens.shown == WRITES


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no token"),
        ("# nothing\n", "holds no token"),
        (f"read-write {WRITES}\nwrite-only {READS}", "line 2"),
        ("read-write short", "line 1"),
        (WRITES, "line 1"),
        (f"read-write {WRITES} more", "line 1"),
        (f"read-write {WRITES}\nread-only {WRITES}", "line 2"),
        ("\n".join(f"read-write {number:032}" for number in range(TOKENS_MAX + 1)), "holds 17"),
    ],
)
def test_what_is_no_file_of_tokens_is_refused_by_its_line(text: str, why: str) -> None:
    with pytest.raises(BadConfig) as refused:
        parse_tokens(text, "file")

    assert why in refused.value.detail
    assert not any(secret in refused.value.detail + refused.value.hint for secret in (WRITES, READS, "short"))


def test_a_gate_without_tokens_stands_open() -> None:
    assert Gate(Keyring()).judge(b"PUT", b"/PUT", head(method="PUT")) is None


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (f"Authorization: {WRITES}",),
        (f"Authorization: Basic {WRITES}",),
        ("Authorization: Bearer",),
        (f"Authorization: Bearer {WRITES[1:]}",),
        (f"Authorization: Bearer {WRITES} {WRITES}",),
        (f"Authorization: Bearer {WRITES}", f"Authorization: Bearer {WRITES}"),
    ],
)
def test_who_shows_no_known_token_is_kept_out(fields: tuple[str, ...]) -> None:
    with pytest.raises(TokenMissing):
        Gate(Keyring(parse_tokens(FILE, "file"))).judge(b"GET", b"/GET", head(*fields))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER  "])
def test_a_token_lets_in(scheme: str) -> None:
    gate = Gate(Keyring(parse_tokens(FILE, "file")))

    ticket = gate.judge(b"PUT", b"/PUT", head(f"Authorization: {scheme} {WRITES}"))

    assert ticket is not None
    assert ticket.access is Access.READ_WRITE


@pytest.mark.parametrize(
    ("method", "path", "may"),
    [
        (b"GET", b"/v1/kv/a", True),
        (b"HEAD", b"/v1/kv/a", True),
        (b"POST", b"/GET", True),
        (b"QUERY", b"/GET", True),
        (b"POST", b"/v1/cluster/plan", True),
        (b"PUT", b"/PUT", False),
        (b"DELETE", b"/v1/kv/a", False),
        (b"POST", b"/v1/bulk", False),
        (b"POST", b"/AddServer", False),
        (b"POST", b"/node/v1/batch", False),
        (b"GET", b"/node/v1/link", False),
        (b"WHATEVER", b"/GET", False),
    ],
)
def test_a_read_only_token_only_reads(method: bytes, path: bytes, may: bool) -> None:
    gate, asked = Gate(Keyring(parse_tokens(FILE, "file"))), head(f"Authorization: Bearer {READS}")

    if may:
        assert gate.judge(method, path, asked) is not None
    else:
        with pytest.raises(TokenTooWeak):
            gate.judge(method, path, asked)


def test_a_ticket_holds_as_long_as_its_token() -> None:
    keyring = Keyring(parse_tokens(FILE, "file"))
    ticket = Ticket(keyring, WRITES.encode())
    assert ticket.holds()

    keyring.tokens = parse_tokens(f"read-write {'n' * 32}\nread-only {WRITES}", "file")
    assert ticket.holds()
    assert ticket.access is Access.READ_ONLY

    keyring.tokens = parse_tokens(f"read-write {'n' * 32}", "file")
    assert not ticket.holds()


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8080", "a.localhost", "localhost.", "127.0.0.1", "10.1.2.3:80", "[::1]:8080", "[::1]", ""],
)
def test_a_gate_without_tokens_answers_names_that_lead_nowhere_else(host: str) -> None:
    assert Gate().judge(b"GET", b"/", named(host)) is None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.a.b", "1"])
def test_a_page_whose_own_name_leads_here_is_refused(host: str) -> None:
    gate = Gate(names=["kv.example"])
    for _ in range(2):
        with pytest.raises(ForeignHost) as refused:
            gate.judge(b"GET", b"/", named(host))
    assert "--hosts" in refused.value.hint
    assert gate.judge(b"GET", b"/", named("KV.example.:80")) is None


def test_where_a_token_is_asked_for_any_name_will_do() -> None:
    gate = Gate(Keyring(parse_tokens(FILE, "file")))
    assert gate.judge(b"GET", b"/", named("kv.example", f"Authorization: Bearer {READS}")) is not None


def test_the_hosts_that_a_gate_remembers_are_bounded() -> None:
    gate = Gate()
    for number in range(3 * HOSTS_MET_MAX):
        gate.judge(b"GET", b"/", named(f"{number}.localhost"))
    assert len(gate._met) <= HOSTS_MET_MAX
