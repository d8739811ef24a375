"""Somebody in a proxy's place who answers every request with given bytes, and closes."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@contextmanager
def answering(pieces: Iterable[bytes], pause_s: float = 0) -> Iterator[str]:
    """Give the URL. Whoever hangs up meanwhile is left alone."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads: list[Thread] = []
    ended = [False]

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += connection.recv(65_536)
            head, _, body = asked.partition(b"\r\n\r\n")
            for line in head.lower().splitlines():
                if line.startswith(b"content-length:"):
                    left = int(line.partition(b":")[2]) - len(body)
                    while left > 0:
                        left -= len(connection.recv(65_536))
            for piece in pieces:
                connection.sendall(piece)
                if ended[0]:
                    return
                time.sleep(pause_s)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threads.append(Thread(target=answer, args=(listening.accept()[0],)))
                threads[-1].start()

    accepting = Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        ended[0] = True
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for thread in (accepting, *threads):
            thread.join()
