"""TLS, where it is configured: whom we trust and what we show to others, and an endpoint that asks for certificates.

Twisted's own ``ssl:`` endpoint shows a certificate and asks for none. ``mtls:`` asks for one that an authority in the
file ``clientCA`` has signed.

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
        clientCA: str = "",
        certKey: str = "",
        interface: str = "",
        backlog: str = "50",
    ) -> IStreamServerEndpoint:
        """See ``IStreamServerEndpointStringParser``.

        Without ``certKey`` the certificate stands beside its key. Behind it may stand those between it and its
        authority.

        :raises ValueError: if it names no ``clientCA``.
        """
        from twisted.internet.endpoints import SSL4ServerEndpoint
        from twisted.internet.ssl import CertificateOptions, trustRootFromCertificates

        if not clientCA:
            raise ValueError("mtls: asks for certificates; name those who sign them: clientCA=FILE")
        identity, chain = _identity(privateKey, certKey or privateKey)
        context = CertificateOptions(
            identity.privateKey.original,
            identity.original,
            trustRoot=trustRootFromCertificates(certificates(Path(clientCA))),
            extraCertChain=list(chain) or None,
        )
        endpoint: IStreamServerEndpoint = SSL4ServerEndpoint(reactor, int(port), context, int(backlog), interface)
        return endpoint


class ClientTls(NamedTuple):
    """What a daemon goes by when it calls another one's ``https`` URL.

    :param trust: whom it trusts; None for those whom the system trusts.
    :param identity: what it shows to who asks for a certificate, if anything.
    :param chain: the certificates between that and its authority.
    """

    trust: Any = None
    identity: Any = None
    chain: tuple[Any, ...] = ()


PUBLIC = ClientTls()
"""Trusts whom the system trusts, and shows nothing."""


def client_tls(authority: str | None, identity: str | None) -> ClientTls:
    """Read PEM files: one of authorities, and one with a certificate, its key, and those between it and its authority.

    :raises BadConfig: if they are none.
    """
    from twisted.internet.ssl import trustRootFromCertificates

    trust = trustRootFromCertificates(certificates(Path(authority))) if authority is not None else None
    if identity is None:
        return ClientTls(trust)
    return ClientTls(trust, *_identity(identity))


def _identity(*paths: str) -> tuple[Any, tuple[Any, ...]]:
    """Read a certificate and its key, and the certificates behind it. Errors as in ``client_tls``."""
    from twisted.internet.ssl import PrivateCertificate

    try:
        shown = PrivateCertificate.loadPEM(_texts(*paths))
    except Exception as error:
        raise _unusable(paths[0], "a certificate and its key", error) from None
    return shown, tuple(one.original for one in certificates(Path(paths[-1]))[1:])


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
