"""The map of the rooms in ``twisted_kv/__init__.py`` holds: imports go down only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "twisted_kv"

FLOORS: list[set[str]] = [
    {
        "names",
        "errors",
        "limits",
        "versions",
        "digest",
        "register",
        "conversation",
        "preconditions",
        "proposing",
        "writing",
        "conditional",
        "reading",
        "refilling",
        "floors",
        "ring",
        "quorum",
        "membership",
        "views",
        "planning",
        "seating",
        "liveness",
        "wire",
        "bodies",
        "tokens",
        "tracing",
        "timeline",
        "networks",
        "terminals",
    },
    {"storage", "metrics", "counted", "buggify", "tls", "logs"},
    {
        "replica",
        "answering",
        "holding",
        "upkeep",
        "hinting",
        "scrubbing",
        "leading",
        "identity",
        "commit",
        "backups",
        "merging",
        "peers",
        "fasthttp",
        "state",
        "periodic",
        "pulse",
        "slow",
        "accounts",
        "preferring",
        "throttle",
        "verifying",
        "together",
        "aside",
        "awaiting",
        "deadlines",
    },
    {
        "operation",
        "chain",
        "sharing",
        "turns",
        "crowd",
        "bundles",
        "coordinator",
        "sweeper",
        "listing",
        "explaining",
        "roster",
        "probing",
        "mover",
        "filling",
        "settling",
        "pulling",
        "courier",
        "mender",
        "purging",
        "saving",
    },
    {"web", "resp"},
    {
        "config",
        "options",
        "pidfile",
        "process",
        "token_files",
        "interfaces",
        "notify",
        "node",
        "rooms",
        "proxy",
        "workers",
        "children",
        "cluster",
        "embedding",
    },
    {"simulation", "client"},
    {"ctl"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

IMPURE = {"twisted", "klein", "treq", "time", "random", "os", "socket", "threading", "pathlib", "datetime", "uuid"}
"""What floor 0 must not know: I/O, the clock, randomness."""

REAL_WORLD = {"time", "uuid", "secrets"}
"""What nobody but ``process`` and ``ctl`` may reach for, and the client for programs that have no reactor."""

SIBLINGS_THAT_MAY_MEET = {
    ("bundles", "crowd"),
    ("bundles", "operation"),
    ("crowd", "operation"),
    ("coordinator", "bundles"),
    ("coordinator", "chain"),
    ("coordinator", "operation"),
    ("coordinator", "sharing"),
    ("coordinator", "turns"),
    ("chain", "operation"),
    ("sharing", "operation"),
    ("turns", "operation"),
    ("turns", "sharing"),
    ("mover", "filling"),
    ("filling", "settling"),
    ("roster", "probing"),
    ("mender", "purging"),
}
"""Rooms of floor 3 never import one another; these are parts of a room with a file of their own."""


def rooms() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> set[tuple[str, str]]:
    """The modules that a file imports, as (kind, name): ``own`` rooms, or ``foreign`` packages."""
    depth = len(path.relative_to(PACKAGE).parts) - 1
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {("foreign", alias.name.split(".")[0]) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                found.add(("foreign", (node.module or "").split(".")[0]))
            elif node.level == depth + 1:
                names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
                found |= {("own", name) for name in names if name != "__version__"}
    return found


def test_every_room_is_on_the_map() -> None:
    assert {room_of(path) for path in rooms()} - {"__init__"} == set(FLOOR)


@pytest.mark.parametrize("path", rooms(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert imports(path) == set()
        return
    for kind, name in imports(path):
        if kind != "own" or name == room:
            continue
        assert FLOOR[name] <= FLOOR[room], f"{room} (floor {FLOOR[room]}) imports {name} (floor {FLOOR[name]})"
        if FLOOR[room] == FLOOR[name] == 3:
            assert (room, name) in SIBLINGS_THAT_MAY_MEET, f"{room} imports its neighbour {name}"


@pytest.mark.parametrize("path", rooms(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_reaches_for_the_real_world(path: Path) -> None:
    room = room_of(path)
    foreign = {name for kind, name in imports(path) if kind == "foreign"}
    if room in FLOORS[0]:
        assert not foreign & IMPURE, f"floor 0 knows {foreign & IMPURE}"
    if room not in ("process", "ctl", "__init__") and path != PACKAGE / "client" / "blocking.py":
        assert not foreign & REAL_WORLD, f"{room} reaches for {foreign & REAL_WORLD}"
        text = path.read_text()
        assert "import reactor" not in text, f"{room} reaches for the global reactor"
        # The simulation draws everything from the one generator of its world, and calls it by that name.
        assert room == "simulation" or "random." not in text.replace("_random.", "").replace("random.getrandbits", "")


def test_the_map_in_the_package_names_every_room() -> None:
    text = (PACKAGE / "__init__.py").read_text()
    assert [room for room in FLOOR if f"``{room}``" not in text] == []
