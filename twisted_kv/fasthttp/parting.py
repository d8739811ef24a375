"""The end of a connection that a stopping daemon closes, and of all of them.

A client whose connection ends without an answer must be able to take it that nothing was done. So what was begun is
answered, whatever comes later is not begun, and an answer on its way is not destroyed by the end itself: to close a
socket with unread bytes in it would reset the connection, and the peer's kernel would throw away what it has not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOProtocol

LOOK_S = 0.02


def end_writing(transport: Any) -> None:
    """Say that nothing more comes; what still arrives is read, and is for its protocol to throw away.

    TLS hands what it does not know to the socket, which would close under the last answer.
    """
    if hasattr(transport, "loseWriteConnection") and not isinstance(transport, TLSMemoryBIOProtocol):
        transport.loseWriteConnection()
    else:
        transport.loseConnection()


class Parting(Protocol):
    """A port that listens no longer, and the connections that it has."""

    @property
    def crowd(self) -> int:
        """How many connections there are."""

    @property
    def busy(self) -> bool:
        """Whether somebody was not answered yet, or has not read all of it."""

    def part(self) -> None:
        """Have each answer be the last of its connection from now on."""

    def part_with_idle(self) -> None:
        """End the connections on which nothing is asked."""


async def part_with_all(
    clock: IReactorTime, doors: Sequence[Parting], under_way: Callable[[], int], grace_s: float, patience_s: float
) -> None:
    """Let what runs end.

    :param under_way: counts the operations that run, whoever waits for them.
    :param grace_s: how long idle connections stay, to be told with an answer that it is their last: who hears that
        does not ask in vain.
    :param patience_s: how long is waited at the most.
    """

    def busy() -> bool:
        return bool(under_way()) or any(door.busy for door in doors)

    async def wait(while_: Callable[[], bool], until_s: float) -> None:
        while while_() and clock.seconds() < until_s:
            await deferLater(clock, LOOK_S)

    began_s = clock.seconds()
    for door in doors:
        door.part()
    await wait(lambda: busy() or any(door.crowd for door in doors), began_s + grace_s)
    for door in doors:
        door.part_with_idle()
    await wait(busy, began_s + patience_s)
