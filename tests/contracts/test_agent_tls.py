"""The agent over TLS: real certificates, real sockets."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as real_reactor
from twisted.internet import ssl
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory

from tests.authority import DAY, Authority
from tests.contracts.test_transports import LIMITS, LONG_S, Line, Server, answering, error_of, ok, post
from twisted_kv.errors import PeerSilent, PeerUnreachable
from twisted_kv.peers.http import HttpTransport
from twisted_kv.tls import PUBLIC, ClientTls

reactor: Any = real_reactor

# Twisted's own servers still hand pyOpenSSL certificates of pyOpenSSL's kind.
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")


AUTHORITY = Authority()


def certificate_for(*hosts: str, by: Authority = AUTHORITY, lives: datetime.timedelta = DAY) -> ssl.PrivateCertificate:
    return ssl.PrivateCertificate.loadPEM(b"".join(by.sign("node", *hosts, lives=lives)))


class TlsServer(Server):
    """The scripted server, behind TLS."""

    def __init__(self, script: Any, certificate: ssl.PrivateCertificate) -> None:
        super().__init__(script)
        self.plain = self.port
        factory = Factory()
        factory.noisy = False
        factory.protocol = lambda: Line(self)  # type: ignore[assignment]
        self.port = reactor.listenSSL(0, factory, certificate.options(), interface="127.0.0.1")
        self.url = f"https://localhost:{self.port.getHost().port}"

    async def stop(self) -> None:
        await maybeDeferred(self.plain.stopListening)
        await super().stop()


def transport_that_trusts(authority: Authority | None) -> HttpTransport:
    """Give a transport that trusts one authority, or those that everybody trusts."""
    tls = PUBLIC
    if authority is not None:
        tls = ClientTls(ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(authority.certificate)]))
    return HttpTransport(reactor, LIMITS, tls=tls)


@pytest.mark.parametrize("known", [True, False], ids=["its certificate is trusted", "its certificate is not"])
@pytest_twisted.ensureDeferred
async def test_nodes_are_asked_over_tls_if_they_are_who_they_say(known: bool) -> None:
    certificate = certificate_for("localhost")
    server = TlsServer(answering(ok(b"x" * 50_000)), certificate)
    transport = transport_that_trusts(AUTHORITY if known else None)
    if known:
        for _ in range(3):
            assert (await post(transport, server.url, bytes(70_000))).body == b"x" * 50_000
        assert len(server.lines) == 1
        assert [len(request.partition(b"\r\n\r\n")[2]) for request in server.requests] == [70_000] * 3
    else:
        error = await error_of(post(transport, server.url), PeerUnreachable)
        assert "is signed by an authority that is not trusted" in error.detail
        assert "--tls-authority" in error.hint
        assert server.requests == []
    await transport.close()
    await server.gone()
    await server.stop()


STRANGERS = {
    "another host": (["elsewhere.example"], "localhost"),
    "nobody": ([], "localhost"),
    "a wildcard for a whole level": (["*.localhost"], "localhost"),
    "a wildcard for everybody": (["*"], "localhost"),
    "an odd wildcard, and the host": (["l*lhost", "a.*.b"], "localhost"),
    "an address said to be a name": (["127.0.0.1"], "127.0.0.1"),
    "another address": (["ip:127.0.0.2"], "127.0.0.1"),
    "a name, where the address is called": (["localhost"], "127.0.0.1"),
}


@pytest.mark.parametrize(("hosts", "called"), STRANGERS.values(), ids=STRANGERS)
@pytest_twisted.ensureDeferred
async def test_who_is_not_called_like_the_host_is_told_nothing(hosts: list[str], called: str) -> None:
    server = TlsServer(answering(ok(b"x")), certificate_for(*hosts))
    transport = transport_that_trusts(AUTHORITY)
    error = await error_of(post(transport, server.url.replace("localhost", called)), PeerUnreachable)
    assert f"its certificate is not made out to {called}" in error.detail
    assert server.requests == []
    await transport.close()
    await server.gone()
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_an_address_may_be_called_that_is_in_the_certificate() -> None:
    server = TlsServer(answering(ok(b"x")), certificate_for("ip:127.0.0.1", "localhost"))
    transport = transport_that_trusts(AUTHORITY)
    for host in ("127.0.0.1", "localhost"):
        assert (await post(transport, server.url.replace("localhost", host))).body == b"x"
    await transport.close()
    await server.gone()
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_has_expired_is_said_to_have() -> None:
    server = TlsServer(answering(ok(b"x")), certificate_for("localhost", lives=-DAY))
    transport = transport_that_trusts(AUTHORITY)
    error = await error_of(post(transport, server.url), PeerUnreachable)
    assert "its certificate has expired" in error.detail
    await transport.close()
    await server.gone()
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_server_that_speaks_no_tls_is_said_to_be_called_wrongly() -> None:
    class Blunt(Line):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(ok(b"what?", status=b"400 Bad Request"))  # type: ignore[union-attr]

    server = Server(answering(ok(b"x")), Blunt)
    transport = transport_that_trusts(AUTHORITY)
    error = await error_of(post(transport, server.url.replace("http:", "https:")), PeerSilent)
    assert "wrong version number" in error.detail
    assert "http or https" in error.hint
    await transport.close()
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_node_that_reads_no_more_does_not_keep_the_transport_open() -> None:
    def script(line: Line, request: bytes) -> None:
        line.transport.pauseProducing()  # type: ignore[union-attr]
        line.transport.write(ok(b"x"))  # type: ignore[union-attr]

    certificate = certificate_for("localhost")
    server = TlsServer(script, certificate)
    transport = transport_that_trusts(AUTHORITY)
    assert (await post(transport, server.url)).body == b"x"
    await transport.close().addTimeout(LONG_S, reactor)
    await server.stop()
