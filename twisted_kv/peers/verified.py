"""Connections over TLS to one host, whose certificate has to be signed by whom we trust and to carry that host's name.

Twisted's own check (26.10) lets a certificate pass that has no name, or one that cannot be read: for these
service_identity raises an error of another kind, which is logged and forgotten.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

from OpenSSL.SSL import VERIFY_FAIL_IF_NO_PEER_CERT, VERIFY_PEER, Error
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import optionsForClientTLS, platformTrust
from twisted.python.failure import Failure
from zope.interface import implementer

from ..tls import ClientTls

FAULTS = {
    10: "has expired",
    9: "is not valid yet",
    18: "is signed by itself alone",
    19: "is signed by an authority that is not trusted",
    20: "is signed by an authority that is not trusted",
    21: "is signed by an authority that is not trusted",
}
"""What is wrong with a certificate, by OpenSSL's number (x509_vfy.h)."""


class CertificateRefused(Exception):
    """Whoever answered is not the host that was called, or nobody we trust says so. Nothing was sent to him."""


@implementer(IOpenSSLClientConnectionCreator)
class Verified:
    """Makes connections to a host, a name or an address (RFC 9525, section 6)."""

    def __init__(self, host: str, tls: ClientTls) -> None:
        self._host = host
        more = {"extraCertChain": list(tls.chain)} if tls.chain else {}
        self._options: Any = optionsForClientTLS(
            host, tls.trust or platformTrust(), tls.identity, extraCertificateOptions=more
        )
        self._name = (IPAddress_ID if isIPAddress(host) or isIPv6Address(host) else DNS_ID)(host)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> Any:
        """See ``IOpenSSLClientConnectionCreator``."""
        connection = self._options.clientConnectionForTLS(tlsProtocol)
        protocol = ref(tlsProtocol)

        def verified(_: object, certificate: Any, fault: int, depth: int, trusted: int) -> bool:
            try:
                self._verify(certificate, fault, depth, trusted)
            except CertificateRefused:
                made_for = protocol()
                if made_for is not None:
                    made_for.failVerification(Failure())
                return False
            return True

        connection.set_verify(VERIFY_PEER | VERIFY_FAIL_IF_NO_PEER_CERT, verified)
        return connection

    def _verify(self, certificate: Any, fault: int, depth: int, trusted: int) -> None:
        if not trusted:
            whose = "its certificate" if depth == 0 else "a certificate above its own"
            raise CertificateRefused(f"{whose} {FAULTS.get(fault, f'is not accepted (fault {fault} of OpenSSL)')}")
        if depth == 0:
            try:
                verify_service_identity(extract_patterns(certificate), [self._name], [])
            except Exception:
                raise CertificateRefused(f"its certificate is not made out to {self._host}") from None


def refusal_in(failure: Failure) -> str:
    """Give the reason for which a certificate was refused, if it is among those for which a request failed."""
    for reason in getattr(failure.value, "reasons", ()):
        if reason.check(CertificateRefused):
            return str(reason.value)
    return ""


def tls_fault_in(failure: Failure) -> str:
    """Give what OpenSSL says of a connection, if that is among the reasons for which a request failed."""
    for reason in getattr(failure.value, "reasons", ()):
        if reason.check(Error):
            faults = [str(part[-1]) for part in (reason.value.args[0] if reason.value.args else ()) if part]
            return ", ".join(faults) or "TLS failed"
    return ""
