"""The cluster's state in a file: for one proxy, or for several on one machine that share it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import StateUnusable
from ..limits import Limits
from ..membership import State, decode_state, encode_state

LOCK_RETRY_S = 0.02


class FileStore:
    """See ``store.StateStore``. A new document is written beside the old one, synced, and renamed over it.

    The lock is a file of its own, since the document itself is replaced. It is tried, not waited for: a proxy that was
    stopped while it held the lock must not stop this one's reactor.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, path: Path, limits: Limits) -> None:
        self._clock = clock
        self._path = path
        self._limits = limits
        self._driver: int | None = None

    def read(self) -> Deferred[State | None]:
        try:
            return succeed(self._load())
        except StateUnusable:
            return fail(Failure())

    def update(self, step: Callable[[State | None], State]) -> Deferred[State]:
        done: Deferred[State] = Deferred()
        self._try_update(step, done, self._clock.seconds() + self._limits.control_timeout_s)
        return done

    def watch(self, seen: Callable[[State], None]) -> Callable[[], None]:
        return _Watch(self._clock, self._limits, self._path, self._load, seen).stop

    def lead(self) -> Deferred[bool]:
        if self._driver is None:
            try:
                self._driver = self._lock("driver")
            except OSError as error:
                return fail(Failure(self._unusable(error)))
        return succeed(self._driver is not None)

    def resign(self) -> None:
        if self._driver is not None:
            os.close(self._driver)
            self._driver = None

    def _load(self) -> State | None:
        try:
            return decode_state(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from None

    def _try_update(self, step: Callable[[State | None], State], done: Deferred[State], until: float) -> None:
        try:
            lock = self._lock("lock")
            if lock is None:
                if self._clock.seconds() < until:
                    self._clock.callLater(LOCK_RETRY_S, self._try_update, step, done, until)
                    return
                raise StateUnusable(
                    f"another process holds the lock of {self._path}", "look for a proxy that hangs or was stopped"
                )
            try:
                old = self._load()
                new = step(old)
                if new is not old:
                    self._replace(encode_state(new))
            finally:
                os.close(lock)
        except OSError as error:
            done.errback(Failure(self._unusable(error)))
        except Exception:
            done.errback(Failure())
        else:
            done.callback(new)

    def _lock(self, kind: str) -> int | None:
        """Take a lock that ends with this process; None if another one has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{self._path}.{kind}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise
        return lock

    def _replace(self, data: bytes) -> None:
        fresh = Path(f"{self._path}.new")
        with open(fresh, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _unusable(self, error: OSError) -> StateUnusable:
        return StateUnusable(
            f"the state file {self._path} cannot be used: {error.strerror}", "check its folder's owner and free space"
        )


class _Watch:
    """Looks at the file again and again. A round that fails is logged once, and the next one tries again."""

    def __init__(
        self,
        clock: IReactorTime,
        limits: Limits,
        path: Path,
        load: Callable[[], State | None],
        seen: Callable[[State], None],
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._path = path
        self._load = load
        self._seen = seen
        self._mark: tuple[int, int, int] | None = None
        self._complained = False
        self._call = clock.callLater(0, self._look)

    def stop(self) -> None:
        if self._call.active():
            self._call.cancel()

    def _look(self) -> None:
        self._call = self._clock.callLater(self._limits.state_poll_interval_s, self._look)
        try:
            found = os.stat(self._path)
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            if mark == self._mark:
                return
            state = self._load()
            self._mark = mark
            self._complained = False
        except FileNotFoundError:
            return
        except (OSError, StateUnusable) as error:
            if not self._complained:
                FileStore.log.error("the state file cannot be read: {error}", error=error)
            self._complained = True
            return
        if state is not None:
            try:
                self._seen(state)
            except Exception:
                FileStore.log.failure("a new cluster state was not taken up")
