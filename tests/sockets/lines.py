"""Lines between processes that a test can disturb: forwarders of TCP, with faults for each caller and direction.

A member has one address in the cluster's state, the same for all proxies, so there is one forwarder in front of each
callee and not one for each link. It still knows the links apart: the kernel's tables (``/proc/net/tcp`` and
``/proc/PID/fd``) say which process a connection comes from, and with that, which faults its bytes meet.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
CHUNK_BYTES = 65_536


class Fault(Enum):
    """What becomes of bytes on their way, as TCP knows it: late, cut off or never, but no gap and no other order."""

    NONE = "none"
    DELAY = "delay"
    HOLD = "hold"
    """Nothing arrives while it lasts, and all of it afterwards, from those who have given up and gone as well."""
    HOLE = "black hole"
    """Swallowed, and so is everything that follows on the connection, its end included."""
    RESET = "reset"
    CUT = "half close"
    """Half of a chunk and then the end; the other direction goes on."""
    CRUMBS = "one-byte chunks"


@dataclass(frozen=True)
class Weather:
    """What the bytes of one direction meet at present."""

    fault: Fault = Fault.NONE
    delay_s: float = 0.0


FAIR = Weather()


class Lines:
    """Forwarders in a thread of their own. ``close`` ends the thread and every connection."""

    def __init__(self) -> None:
        self.struck: Counter[Fault] = Counter()
        """How many chunks each fault has met."""
        self._weather: dict[tuple[str, str], Weather] = {}
        self._changed = asyncio.Event()
        """Set at the next change of the weather; after it another one takes its place."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._bugs: list[BaseException] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lines")
        self._thread.start()

    def lead(self, callee: str, port: int, callers: Callable[[], Mapping[int, str]]) -> int:
        """Open a line to a port, and give the port to call instead.

        :param callers: gives the name of each process id that may call now; others are hung up on.
        """
        listener = socket.create_server((HOST, 0), backlog=128)
        listener.setblocking(False)
        self._loop.call_soon_threadsafe(self._start, self._listen(listener, callee, port, callers))
        return int(listener.getsockname()[1])

    def set(self, source: str, sink: str, weather: Weather) -> None:
        """Say what bytes from one to the other meet from now on, on connections that are open too."""
        self._apply({(source, sink): weather})

    def heal(self) -> None:
        """Let everything through from now on."""
        self._apply(dict.fromkeys(self._weather, FAIR))

    def _apply(self, weather: Mapping[tuple[str, str], Weather]) -> None:
        async def apply() -> None:
            self._weather.update(weather)
            self._changed.set()
            self._changed = asyncio.Event()

        asyncio.run_coroutine_threadsafe(apply(), self._loop).result()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._bugs:
            raise BaseExceptionGroup("the lines themselves have failed", self._bugs)

    async def _end(self) -> None:
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(set(self._tasks))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, OSError):
            self._bugs.append(error)

    async def _listen(
        self, listener: socket.socket, callee: str, port: int, callers: Callable[[], Mapping[int, str]]
    ) -> None:
        with listener:
            while True:
                near, (_, calling) = await self._loop.sock_accept(listener)
                caller = owner(calling, listener.getsockname()[1], callers())
                if caller is None:
                    near.close()
                else:
                    self._start(self._connect(near, caller, callee, port))

    async def _connect(self, near: socket.socket, caller: str, callee: str, port: int) -> None:
        far = socket.socket()
        far.setblocking(False)
        directions: list[asyncio.Task[None]] = []
        try:
            await self._loop.sock_connect(far, (HOST, port))
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            directions.append(self._start(self._carry(near, far, (caller, callee))))
            directions.append(self._start(self._carry(far, near, (callee, caller))))
            await asyncio.gather(*directions)
        except OSError:
            for end in (near, far):
                # Whatever still lies in it, it closes with RST.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            for direction in directions:
                direction.cancel()
            # Nobody may wait for a socket that is closed: the loop would take another one with its number for it.
            await asyncio.gather(*directions, return_exceptions=True)
            near.close()
            far.close()

    async def _carry(self, source: socket.socket, sink: socket.socket, way: tuple[str, str]) -> None:
        """Carry one direction of a connection to its end."""
        goes_on = True
        while data := await self._loop.sock_recv(source, CHUNK_BYTES):
            if goes_on:
                goes_on = await self._pass(data, sink, way)
        if goes_on and await self._pass(b"", sink, way):
            sink.shutdown(socket.SHUT_WR)

    async def _pass(self, data: bytes, sink: socket.socket, way: tuple[str, str]) -> bool:
        """Let one chunk meet the present fault; say whether anything may follow it."""
        weather = self._weather.get(way, FAIR)
        fault = weather.fault
        if fault is not Fault.NONE:
            self.struck[fault] += 1
        if fault is Fault.RESET:
            raise ConnectionResetError("as the test has it")
        if fault is Fault.HOLE:
            return False
        if fault is Fault.CUT:
            await self._loop.sock_sendall(sink, data[: len(data) // 2])
            sink.shutdown(socket.SHUT_WR)
            return False
        if fault is Fault.DELAY:
            await asyncio.sleep(weather.delay_s)
        while self._weather.get(way, FAIR).fault is Fault.HOLD:
            await self._changed.wait()
        step = 1 if fault is Fault.CRUMBS else CHUNK_BYTES
        for first in range(0, len(data), step):
            await self._loop.sock_sendall(sink, data[first : first + step])
            await asyncio.sleep(0)
        return True


def owner(port: int, remote: int, processes: Mapping[int, str]) -> str | None:
    """Name the process whose connection goes from one local port to another, None if it is none of these.

    See proc_pid_net(5) for the table, whose addresses are in the machine's byte order.
    """
    host = f"{struct.unpack('=I', socket.inet_aton(HOST))[0]:08X}"
    ends = [f"{host}:{port:04X}", f"{host}:{remote:04X}"]
    rows = (row.split() for row in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines())
    inode = next((row[9] for row in rows if row[1:3] == ends), None)
    return next((name for pid, name in processes.items() if f"socket:[{inode}]" in open_files(pid)), None)


def open_files(pid: int) -> set[str]:
    """What a process has open, as the kernel writes it; nothing if it has ended."""
    found = set()
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                found.add(os.readlink(entry.path))
            except OSError:
                pass  # closed meanwhile
    except OSError:
        pass
    return found
