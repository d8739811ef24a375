"""Writes the golden files of the formats as they are today: ``python -m tests.golden.make``.

They are never written over. Each time a format grows, or gets another number, a further generation stands beside the
earlier ones, which have to be read for as long as a cluster may hold them: ``tests/laws/test_golden.py`` asks for one.
"""

from __future__ import annotations

import re
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.golden.samples import lines, write_node

HERE = Path(__file__).parent
LEFT_OUT = re.compile(r"LOG.*|LOCK|OPTIONS-.*").fullmatch
"""RocksDB's own diary: nobody reads it."""


def generations() -> list[int]:
    return sorted(int(path.stem.partition("-")[2]) for path in HERE.glob("bytes-*.txt"))


def bytes_file(generation: int) -> Path:
    return HERE / f"bytes-{generation}.txt"


def node_file(generation: int) -> Path:
    return HERE / f"node-{generation}.tar.xz"


def read_bytes(generation: int) -> dict[str, bytes]:
    rows = (row.rpartition(" = ") for row in bytes_file(generation).read_text(encoding="ascii").splitlines())
    return {name: bytes.fromhex(text) for name, _, text in rows}


def unpack_node(generation: int, folder: Path) -> None:
    with tarfile.open(node_file(generation)) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # which Python has from 3.11.4 on
        archive.extractall(folder)


def make(generation: int) -> None:
    bytes_file(generation).write_text("".join(f"{name} = {data.hex()}\n" for name, data in lines()), encoding="ascii")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "node")
        write_node(folder)
        with tarfile.open(node_file(generation), "w:xz") as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not LEFT_OUT(path.name):
                    member = archive.gettarinfo(path, str(path.relative_to(folder)))
                    member.uid = member.gid = 0
                    member.uname = member.gname = ""
                    with open(path, "rb") as file:
                        archive.addfile(member, file)


if __name__ == "__main__":
    known = generations()
    if known and read_bytes(known[-1]) == dict(lines()):
        sys.exit(f"generation {known[-1]} is what this code writes: nothing is to be made")
    make(known[-1] + 1 if known else 1)
