"""The sockets of one port, watched together: for the reactor all of them are one reader.

Twisted's reactor spends on the way from a socket that is ready to its protocol a good part of what a small request
takes in all: each event is a look-up of its logger, a logging context of its own, and six calls. Here one loop goes
through what the kernel says is ready (epoll(7), which nests).
"""

from __future__ import annotations

import select
from typing import Any

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.tcp import Port
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

AT_ONCE = 32
"""How many are read before the reactor has its turn. Then batches leave for the nodes, which work on them while the
next ones are read: where 64 clients were read in one go, the nodes waited for the proxy and the proxy for the nodes."""

ACCEPTED_AT_ONCE = 32
"""Connections that a port accepts before the reactor has its turn, in which those are closed that were hung up on.
Twisted would take twenty more each time, and go through all the descriptors that were to be spared."""


def watching(reactor: Any) -> Any:
    """Give what a port is to be opened with: readers of its own, or the reactor itself where there is no epoll."""
    return Readers(reactor) if hasattr(select, "epoll") and IReactorFDSet.providedBy(reactor) else reactor


class _Door(Port):
    """A port that takes in no crowd at once."""

    def doRead(self) -> None:
        self.numberAccepts = min(self.numberAccepts, ACCEPTED_AT_ONCE)
        super().doRead()


@implementer(IReadDescriptor)
class Readers:
    """Stands for the reactor where a port is opened, and watches that and its connections. Their writers, timers and
    all else are the reactor's own: whatever is not here is passed on to it.

    It is a reader of the reactor's as long as there is somebody to watch.
    """

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._epoll = select.epoll()
        self._readers: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Port:
        """See ``IReactorTCP``."""
        door = _Door(port, factory, backlog, interface, self)
        door.startListening()
        return door

    # What those who are watched ask of a reactor (``IReactorFDSet``).

    def addReader(self, reader: Any) -> None:
        fd = reader.fileno()
        if self._readers.get(fd) is reader:
            return
        self._epoll.register(fd, select.EPOLLIN)
        if not self._readers:
            self._reactor.addReader(self)
        self._readers[fd] = reader

    def removeReader(self, reader: Any) -> None:
        fd = reader.fileno()
        if self._readers.get(fd) is not reader:
            return
        del self._readers[fd]
        self._epoll.unregister(fd)
        if not self._readers:
            self._reactor.removeReader(self)

    # What the reactor asks of a reader.

    def fileno(self) -> int:
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        return "-"

    def doRead(self) -> None:
        """Let everybody read who can."""
        readers = self._readers
        for fd, _ in self._epoll.poll(0, AT_ONCE):
            reader = readers.get(fd)
            if reader is None:
                continue  # who was read just before has ended it
            try:
                why = reader.doRead()
            except Exception as error:
                self._log.failure("a connection could not be read")
                why = error
            if why is not None:
                self._lose(reader, why)

    def _lose(self, reader: Any, why: Exception) -> None:
        self.removeReader(reader)
        if why is CONNECTION_DONE:
            reader.readConnectionLost(Failure(why))
        else:
            self._reactor.removeWriter(reader)
            reader.connectionLost(Failure(why))

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has stopped."""
        readers, self._readers = list(self._readers.values()), {}
        for reader in readers:
            reader.connectionLost(reason)
        self._epoll.close()
