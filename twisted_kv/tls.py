"""TLS, where it is configured: whom we trust and what we show to others, and an endpoint that asks for certificates.

Twisted's own ``ssl:`` endpoint shows a certificate and asks for none. ``mtls:`` takes the same words, and ``clientCA``:
a file of the authorities of which one has to have signed what a client shows.

Whoever parses an endpoint imports this module, as a plugin: OpenSSL is imported where it is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.plugin import IPlugin
from zope.interface import implementer

from .errors import BadConfig


@implementer(IPlugin, IStreamServerEndpointStringParser)
class MutualTls:
    """``mtls:PORT:privateKey=FILE:certKey=FILE:clientCA=FILE[:interface=ADDRESS][:backlog=NUMBER]``."""

    prefix = "mtls"

    def parseStreamServer(
        self,
        reactor: Any,
        port: str,
        privateKey: str,
        clientCA: str,
        certKey: str = "",
        interface: str = "",
        backlog: str = "50",
    ) -> IStreamServerEndpoint:
        """See ``IStreamServerEndpointStringParser``. Without ``certKey`` the certificate stands beside its key."""
        from twisted.internet.endpoints import SSL4ServerEndpoint
        from twisted.internet.ssl import PrivateCertificate

        shown = PrivateCertificate.loadPEM(_texts(privateKey, certKey or privateKey))
        context = shown.options(*certificates(Path(clientCA)))
        endpoint: IStreamServerEndpoint = SSL4ServerEndpoint(reactor, int(port), context, int(backlog), interface)
        return endpoint


class ClientTls(NamedTuple):
    """What a daemon goes by when it calls another one's ``https`` URL.

    :param trust: whom it trusts; None for those whom the system trusts.
    :param identity: what it shows to who asks for a certificate, if anything.
    """

    trust: Any = None
    identity: Any = None


PUBLIC = ClientTls()
"""Trusts whom the system trusts, and shows nothing."""


def client_tls(authority: str | None, identity: str | None) -> ClientTls:
    """Read PEM files: one of authorities, and one with a certificate and its key.

    :raises BadConfig: if they are none.
    """
    from twisted.internet.ssl import PrivateCertificate, trustRootFromCertificates

    trust = trustRootFromCertificates(certificates(Path(authority))) if authority is not None else None
    shown = None
    if identity is not None:
        try:
            shown = PrivateCertificate.loadPEM(_texts(identity))
        except Exception as error:
            raise _unusable(identity, "a certificate and its key", error) from None
    return ClientTls(trust, shown)


def certificates(path: Path) -> list[Any]:
    """Read all certificates of a PEM file. Errors as in ``client_tls``."""
    from twisted.internet.ssl import Certificate

    end = b"-----END CERTIFICATE-----"
    try:
        found = [Certificate.loadPEM(part + end) for part in path.read_bytes().split(end)[:-1]]
    except Exception as error:
        raise _unusable(str(path), "certificates", error) from None
    if not found:
        raise _unusable(str(path), "certificates", "there is none in it")
    return found


def _texts(*paths: str) -> bytes:
    return b"\n".join(Path(path).read_bytes() for path in dict.fromkeys(paths))


def _unusable(path: str, what: str, why: object) -> BadConfig:
    return BadConfig(
        f"{path} cannot be used for {what}: {why or 'it is no PEM'}", "give a PEM file; see docs/security.md"
    )
