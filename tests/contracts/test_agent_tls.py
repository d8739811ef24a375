"""The agent over TLS: real certificates, real sockets."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as real_reactor
from twisted.internet import ssl
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory

from tests.contracts.test_transports import LIMITS, LONG_S, Line, Server, answering, error_of, ok, post
from twisted_kv.errors import PeerSilent
from twisted_kv.peers.http import HttpTransport
from twisted_kv.tls import PUBLIC, ClientTls

reactor: Any = real_reactor

# Twisted's own servers still hand pyOpenSSL certificates of pyOpenSSL's kind.
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")


def pem_for(host: str) -> tuple[bytes, bytes]:
    """Make a certificate that is its own authority, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), secret


def certificate_for(host: str) -> ssl.PrivateCertificate:
    return ssl.PrivateCertificate.loadPEM(b"".join(pem_for(host)))


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


def transport_to(trusted: ssl.PrivateCertificate | None) -> HttpTransport:
    """Give a transport that trusts a certificate, beside those that everybody trusts."""
    tls = PUBLIC if trusted is None else ClientTls(ssl.trustRootFromCertificates([trusted]))
    return HttpTransport(reactor, LIMITS, tls=tls)


@pytest.mark.parametrize("known", [True, False], ids=["its certificate is trusted", "its certificate is not"])
@pytest_twisted.ensureDeferred
async def test_nodes_are_asked_over_tls_if_they_are_who_they_say(known: bool) -> None:
    certificate = certificate_for("localhost")
    server = TlsServer(answering(ok(b"x" * 50_000)), certificate)
    transport = transport_to(certificate if known else None)
    if known:
        for _ in range(3):
            assert (await post(transport, server.url, bytes(70_000))).body == b"x" * 50_000
        assert len(server.lines) == 1
        assert [len(request.partition(b"\r\n\r\n")[2]) for request in server.requests] == [70_000] * 3
    else:
        await error_of(post(transport, server.url), PeerSilent)
        assert server.requests == []
    await transport.close()
    await server.gone()
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_node_that_reads_no_more_does_not_keep_the_transport_open() -> None:
    def script(line: Line, request: bytes) -> None:
        line.transport.pauseProducing()  # type: ignore[union-attr]
        line.transport.write(ok(b"x"))  # type: ignore[union-attr]

    certificate = certificate_for("localhost")
    server = TlsServer(script, certificate)
    transport = transport_to(certificate)
    assert (await post(transport, server.url)).body == b"x"
    await transport.close().addTimeout(LONG_S, reactor)
    await server.stop()
