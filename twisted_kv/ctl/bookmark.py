"""How far something is that may be interrupted: a small file beside the large one, which the same command finds."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from .trouble import Exit, Trouble

EVERY_S = 1.0
"""How often it is written. What was done since is done again, which is harmless."""


EXPORT = "export"


def bookmark_path(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name}.{kind}-resume")


class Bookmark:
    """One such file.

    :param kind: what is under way; a bookmark of something else is refused.
    :param of: what must be the same, or going on would mix two things up.
    """

    def __init__(self, path: Path, kind: str, of: dict[str, Any]) -> None:
        self.file = path
        self._path = bookmark_path(path, kind)
        self._of = of
        self._written_s = time.monotonic()
        self.trouble = ""
        """Why it cannot be kept how far it is, as beside a file on a read-only disk; empty if it can."""

    def found(self, **shape: type | tuple[type, ...]) -> dict[str, Any] | None:
        """Give how far it was, None if it was not begun.

        :param shape: what must be there, and of which types.
        :raises Trouble: if it was begun with something else.
        """
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            of, at = dict(kept["of"]), {name: kept["at"][name] for name in shape}
            for name, types in shape.items():
                if not isinstance(at[name], types) or (types is int and at[name] < 0):
                    raise ValueError(f"{name} is {at[name]!r}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            why = error.strerror if isinstance(error, OSError) else f"it is none that this command wrote: {error}"
            raise Trouble(f"{self._path} cannot be read", str(why), "--fresh begins anew", Exit.USAGE) from None
        differing = [name for name in self._of if of.get(name) != self._of[name]]
        if differing:
            name = differing[0]
            raise Trouble(
                f"it was begun with another {name.replace('_', ' ')}",
                f"{self._path} says {of.get(name)!r}, and now it is {self._of[name]!r}",
                "go on as it was begun, or begin anew with --fresh",
                Exit.USAGE,
            )
        return at

    def due(self) -> bool:
        return time.monotonic() - self._written_s >= EVERY_S

    def write(self, **at: Any) -> None:
        """Keep how far it is, so that a half-written file is never found. What is under way does not depend on it."""
        self._written_s = time.monotonic()
        fresh = self._path.with_name(f"{self._path.name}.new")
        try:
            with open(fresh, "w", encoding="utf-8") as stream:
                stream.write(json.dumps({"of": self._of, "at": at}))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(fresh, self._path)
            self.trouble = ""
        except OSError as error:
            self.trouble = f"{self._path} cannot be written: {error.strerror}"

    def goes_on(self) -> str:
        """Say whether the same command goes on from here."""
        if self.trouble:
            return f"the same command does not go on from there, since {self.trouble}"
        return "the same command goes on from there"

    def remove(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    @property
    def path(self) -> Path:
        return self._path
