"""What docs/client.md shows runs as it is written, and prints what it says; only the ports are exchanged."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

from tests.sockets.daemons import Farm, farming
from twisted_kv.client import __all__ as public

TREE = Path(__file__).parents[2]
PAGE = (TREE / "docs" / "client.md").read_text(encoding="utf-8")
README = re.findall(r"```python\n(.*?)```", (TREE / "README.md").read_text(encoding="utf-8"), re.DOTALL)
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CALLS = ("get", "put", "delete", "cas", "increment", "bulk", "scan")

WHOLE, BLOCKING, DEFERRED = "whole programs", "with BlockingClient", "with Client"
HEADS = {
    BLOCKING: "from twisted_kv.client import BlockingClient\nkv = BlockingClient(['http://localhost:8080'])\n",
    DEFERRED: "from twisted.internet.task import react\nfrom twisted_kv.client import Client\n\n"
    "async def main(reactor):\n    kv = Client(reactor, ['http://localhost:8080'])\n",
}
ENDS = {BLOCKING: "kv.close()\n", DEFERRED: "    await kv.close()\n\nreact(main)\n"}


def blocks_of(style: str) -> list[str]:
    if style == WHOLE:
        return BLOCKS[:2]
    return [
        block for block in BLOCKS[2:] if (re.search(r"\b(await|async)\b", block) is not None) == (style == DEFERRED)
    ]


def programs(style: str) -> list[str]:
    """The blocks of a style as programs; those after the first two work on the same keys and are one."""
    blocks = blocks_of(style)
    if style == WHOLE:
        return blocks
    inner = "\n".join(blocks)
    return [HEADS[style] + (indent(inner, "    ") if style == DEFERRED else inner) + ENDS[style]]


@pytest.mark.parametrize("style", [BLOCKING, DEFERRED])
def test_the_page_shows_every_call(style: str) -> None:
    shown = "\n".join(blocks_of(style))
    assert [name for name in CALLS if f"kv.{name}(" not in shown] == []


def test_the_page_names_all_that_is_public() -> None:
    assert [name for name in public if f"`{name}" not in PAGE and f"{name}(" not in PAGE] == []


def test_what_is_shown_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    with farming(tmp_path) as farm:
        farm.cluster(3, "--engine", "memory")
        farm.proxy()
        for style in (WHOLE, BLOCKING, DEFERRED):
            for program in programs(style):
                run(farm, program)
        (example,) = README
        assert run_in(farm, example) == ["Python 3 1"]


def run(farm: Farm, program: str) -> None:
    shown = [
        said for line in re.findall(r"print\(.*\)  # (.*)$", program, re.MULTILINE) for said in line.split(" ... ")
    ]
    assert run_in(farm, program) == shown, program


def run_in(farm: Farm, program: str) -> list[str]:
    """Run a program in a process of its own, and give the lines that it prints."""
    first, second = (str(proxy.port) for proxy in farm.proxies)
    command = [sys.executable, "-W", "error", "-c", program.replace("8080", first).replace("8090", second)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), program
    return done.stdout.splitlines()
