"""Connections to allowed networks only: a name is looked up once, each address is judged, and that one is called.

Whoever looked it up once to judge it and once more to connect could be told two different addresses (DNS rebinding).
Numbers in other bases, and addresses mapped into IPv6, are what the resolver makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from ..networks import Networks


class AddressDenied(ConnectError):
    """No address of a host is in an allowed network. Nothing was sent, not even to connect."""

    MESSAGE = __doc__

    def __str__(self) -> str:
        return str(self.args[0])


@implementer(IResolutionReceiver)
class _Judge:
    """Hands on the addresses that may be called, and keeps the others."""

    def __init__(self, receiver: Any, networks: Networks, denied: list[str]) -> None:
        self._receiver = receiver
        self._networks = networks
        self._denied = denied

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """See ``IResolutionReceiver``."""
        self._receiver.resolutionBegan(resolutionInProgress)

    def addressResolved(self, address: IAddress) -> None:
        """See ``IResolutionReceiver``."""
        host = getattr(address, "host", "")
        if self._networks.admit(host):
            self._receiver.addressResolved(address)
        else:
            self._denied.append(host)

    def resolutionComplete(self) -> None:
        """See ``IResolutionReceiver``."""
        self._receiver.resolutionComplete()


@implementer(IReactorPluggableNameResolver, IHostnameResolver)
class _Judged:
    """Stands for the reactor, and for its resolver, where one endpoint connects."""

    def __init__(self, reactor: Any, networks: Networks) -> None:
        self._reactor = reactor
        self._networks = networks
        self.denied: list[str] = []
        self.nameResolver = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """See ``IReactorPluggableNameResolver``."""
        raise NotImplementedError("the reactor's own is used")

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """See ``IHostnameResolver``."""
        judge = _Judge(resolutionReceiver, self._networks, self.denied)
        resolution: IHostResolution = self._reactor.nameResolver.resolveHostName(
            judge, hostName, portNumber, addressTypes, transportSemantics
        )
        return resolution


@implementer(IStreamClientEndpoint)
class AllowedEndpoint:
    """Connects if an address is in an allowed network.

    :param endpoint_on: makes the endpoint, given what stands for the reactor.
    """

    def __init__(self, reactor: Any, networks: Networks, endpoint_on: Callable[[Any], IStreamClientEndpoint]) -> None:
        self._networks = networks
        self._judged = _Judged(reactor, networks)
        self._endpoint = endpoint_on(self._judged)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``; fails with ``AddressDenied`` if there is no address that may be called."""
        self._judged.denied.clear()
        connecting: Deferred[IProtocol] = self._endpoint.connect(protocolFactory)
        return connecting.addErrback(self._explained)

    def _explained(self, failure: Failure) -> Failure:
        denied = self._judged.denied
        if not denied or failure.check(DNSLookupError) is None:
            return failure
        why = f"{denied[0]} is in none of the networks that may be called: {self._networks}"
        return Failure(AddressDenied(string=why))
