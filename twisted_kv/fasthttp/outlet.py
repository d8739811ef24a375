"""Bytes that leave at once.

By itself Twisted keeps what is written until the reactor's next turn: it asks the kernel whether there is room, hears
that there is, writes, and asks no more. For an answer of one packet that is two system calls and one turn for nothing.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.tcp import Connection


class Outlet:
    """Writes to one transport. What does not leave at once is the transport's, which then sends all that follows.

    Only with TCP's own transports (``twisted.internet.tcp.Connection``) is the socket theirs alone. With others
    everything goes the usual way: what stands for a transport and passes on what it does not know, as TLS does, would
    send in the clear.
    """

    __slots__ = ("_send_now", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.drained()

    def write(self, data: bytes) -> None:
        """Write, as ``ITransport.write`` does."""
        if self._send_now is not None:
            try:
                sent = self._send_now(data)
            except OSError:
                sent = 0  # there is no room, or the connection is lost: the transport finds out in its own way
            if sent == len(data):
                return
            self._send_now = None
            data = data[sent:]
        self._transport.write(data)

    def drained(self) -> None:
        """Hear that the transport has nothing left to send."""
        transport = self._transport
        self._send_now = transport.getHandle().send if isinstance(transport, Connection) and not transport.TLS else None
