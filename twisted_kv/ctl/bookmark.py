"""How far something is that may be interrupted: a small file beside the large one, which the same command finds."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import Any

from .trouble import Exit, Trouble

SHAPES: dict[str, dict[str, tuple[type, ...]]] = {
    "export": {"cursor": (str, NoneType), "bytes": (int,), "records": (int,)},
    "import": {"bytes": (int,), "line": (int,)},
    "restore": {"slot": (int,), "key": (str,), "stored": (int,), "expired": (int,)},
}
"""What is kept of how far something is, by what is under way. Numbers count from 0."""

EVERY_S = 1.0
"""How often it is written. What was done since is done again, which is harmless."""


EXPORT = "export"


def bookmark_path(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name}.{kind}-resume")


class Bookmark:
    """One such file.

    :param kind: what is under way, one of ``SHAPES``; a bookmark of something else is refused.
    :param of: what must be the same, or going on would mix two things up.
    """

    def __init__(self, path: Path, kind: str, of: dict[str, Any]) -> None:
        self._shape = SHAPES[kind]
        self.file = path
        self.path = bookmark_path(path, kind)
        self._of = of
        self._written_s = time.monotonic()
        self.trouble = ""
        """Why it cannot be kept how far it is, as beside a file on a read-only disk; empty if it can."""

    def found(self) -> dict[str, Any] | None:
        """Give how far it was, None if it was not begun.

        :raises Trouble: if it was begun with something else, or what is kept cannot be read.
        """
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            of, at = kept["of"], kept["at"]
            if not isinstance(of, dict) or not self._is_shaped(at):
                raise ValueError("it does not say how far it was")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) else f"it is none that this command wrote: {error}"
            raise Trouble(f"{self.path} cannot be read", str(why), "--fresh begins anew", Exit.USAGE) from None
        differing = [name for name in self._of if of.get(name) != self._of[name]]
        if differing:
            name = differing[0]
            raise Trouble(
                f"it was begun with another {name.replace('_', ' ')}",
                f"{self.path} says {of.get(name)!r}, and now it is {self._of[name]!r}",
                "go on as it was begun, or begin anew with --fresh",
                Exit.USAGE,
            )
        return at

    def _is_shaped(self, at: Any) -> bool:
        if not isinstance(at, dict):
            return False
        right = all(name in at and type(at[name]) in types for name, types in self._shape.items())
        return right and all(0 <= at[name] < 1 << 63 for name, types in self._shape.items() if int in types)

    def due(self) -> bool:
        return time.monotonic() - self._written_s >= EVERY_S

    def write(self, **at: Any) -> None:
        """Keep how far it is, so that a half-written file is never found. What is under way does not depend on it."""
        self._written_s = time.monotonic()
        fresh = self.path.with_name(f"{self.path.name}.new")
        try:
            with open(fresh, "w", encoding="utf-8") as stream:
                stream.write(json.dumps({"of": self._of, "at": at}))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(fresh, self.path)
            self.trouble = ""
        except OSError as error:
            self.trouble = f"{self.path} cannot be written: {error.strerror}"

    def goes_on(self) -> str:
        """Say whether the same command goes on from here."""
        if self.trouble:
            return f"the same command does not go on from there, since {self.trouble}"
        return "the same command goes on from there"

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
