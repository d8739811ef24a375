"""Backups of real clusters: made under load, found whole, found damaged, refused where there can be none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sockets.daemons import Farm, call, farming, wait_until
from twisted_kv.ctl.restoring import Opened
from twisted_kv.ctl.trouble import Trouble
from twisted_kv.errors import Damaged
from twisted_kv.membership import decode_state
from twisted_kv.merging import Part, merged
from twisted_kv.names import NodeId, Slot
from twisted_kv.storage.checkpoints import DATA, MANIFEST, Checkpoint, check_files
from twisted_kv.versions import decode_record
from twisted_kv.views import View

KEYS = 3_000


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as farm:
        yield farm


def fill(farm: Farm, keys: int = KEYS) -> None:
    lines = [json.dumps({"op": "put", "key": f"k{number}", "value": f"v{number}"}) for number in range(keys)]
    lines += [json.dumps({"op": "delete", "key": f"k{number}"}) for number in range(0, keys, 10)]
    assert call("POST", f"{farm.proxies[0].url}/v1/bulk", "\n".join(lines).encode()).status == 200


def made(farm: Farm, name: str) -> Any:
    """Make a backup, wait until it is there, and give what is told of it."""
    url = farm.proxies[0].url
    begun = call("POST", f"{url}/v1/backups", json.dumps({"name": name}).encode())
    assert begun.status == 202, begun.body
    task = f"{url}/v1/tasks/{begun.json()['task']}"
    wait_until(lambda: call("GET", task).json()["state"] != "running", "the backup")
    assert call("GET", task).json()["state"] == "done", call("GET", task).body
    return next(one for one in call("GET", f"{url}/v1/backups").json()["backups"] if one["name"] == name)


def held(folders: list[Path], scratch: Path) -> dict[bytes, bytes]:
    """What the checkpoints in some folders come to."""
    contents = [check_files(folder) for folder in folders]
    opened = [Checkpoint(folder, scratch) for folder in folders]
    parts = {
        NodeId(one.member): Part(checkpoint.cells(Slot(0)), checkpoint.floors())
        for one, checkpoint in zip(contents, opened, strict=True)
    }
    try:
        view = View(decode_state(contents[0].state.encode()))
        return {bytes(key): decode_record(record).value or b"" for _, key, record in merged(view, parts)}
    finally:
        for checkpoint in opened:
            checkpoint.close()


def test_a_backup_holds_what_was_acknowledged_and_not_what_was_deleted(farm: Farm, tmp_path: Path) -> None:
    farm.cluster(3)
    fill(farm)
    told = made(farm, "first")
    assert told["whole"]
    assert told["missing"] == []
    assert len(told["nodes"]) == 3
    right = {b"k%d" % number: b"v%d" % number for number in range(KEYS) if number % 10}
    fill(farm, 50)  # what comes later is not in it
    call("PUT", f"{farm.proxies[0].url}/v1/kv/later", b"x")
    folders = [Path(node["folder"]) for node in told["nodes"]]
    assert held(folders, tmp_path) == right
    assert held(folders[1:], tmp_path) == right, "two of three are a majority"


def test_a_backup_is_made_while_one_member_is_down_and_not_while_two_are(farm: Farm, tmp_path: Path) -> None:
    farm.cluster(3)
    fill(farm)
    farm.nodes[2].kill()
    told = made(farm, "two")
    assert (len(told["nodes"]), len(told["missing"]), told["whole"]) == (2, 1, True)
    assert len(held([Path(node["folder"]) for node in told["nodes"]], tmp_path)) == KEYS * 9 // 10
    farm.nodes[1].kill()
    refused = call("POST", f"{farm.proxies[0].url}/v1/backups", b'{"name": "one"}')
    assert (refused.status, refused.json()["type"]) == (503, "backup-failed")
    assert "too few members" in refused.json()["detail"]


def test_a_file_that_was_changed_shortened_or_lost_is_named(farm: Farm) -> None:
    farm.cluster(3)
    fill(farm)
    folder = Path(made(farm, "first")["nodes"][0]["folder"])
    check_files(folder)
    table = max((folder / DATA).glob("*.sst"), key=lambda path: path.stat().st_size)
    whole = table.read_bytes()
    table.unlink()  # it is a hard link to the node's own
    for wrong in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1]):
        table.write_bytes(wrong)
        with pytest.raises(Damaged, match=table.name):
            check_files(folder)
    table.unlink()
    with pytest.raises(Damaged, match=table.name):
        check_files(folder)


def test_files_that_a_manifest_does_not_know_or_that_lie_elsewhere_are_named(farm: Farm) -> None:
    farm.cluster(3)
    fill(farm)
    folder = Path(made(farm, "first")["nodes"][0]["folder"])
    manifest = json.loads((folder / MANIFEST).read_text())
    table = next((folder / DATA).glob("*.sst")).name
    fewer = [file for file in manifest["files"] if file["name"] != table]
    more = [*manifest["files"], {"name": "../../../data/CURRENT", "bytes": 1, "sha256": ""}]
    for files, named in ((fewer, table), (more, "manifest.json is damaged")):
        (folder / MANIFEST).write_text(json.dumps({**manifest, "files": files}))
        with pytest.raises(Damaged, match=named):
            check_files(folder)


def test_a_backup_is_read_without_a_trace(farm: Farm, tmp_path: Path) -> None:
    farm.cluster(3)
    fill(farm)
    folders = [Path(node["folder"]) for node in made(farm, "first")["nodes"]]

    def traces() -> list[tuple[Path, int]]:
        return sorted((path, path.stat().st_mtime_ns) for folder in folders for path in folder.rglob("*"))

    before = traces()
    assert len(held(folders, tmp_path)) == KEYS * 9 // 10
    assert traces() == before


def test_names_twice_bad_and_unknown(farm: Farm) -> None:
    proxy = farm.cluster(3)
    assert made(farm, "a")["whole"]
    call("PUT", f"{proxy.url}/v1/kv/later", b"x")
    again = call("POST", f"{proxy.url}/v1/backups", b'{"name": "a"}')
    assert (again.status, again.json()["type"]) == (409, "backup-exists"), "what is there lacks what came later"
    for name in ("", ".", "..", "../x", "a/b", "a" * 64, "x.begun", "\u00fc", "a\n"):
        got = call("POST", f"{proxy.url}/v1/backups", json.dumps({"name": name or "/"}).encode())
        assert (got.status, got.json()["type"]) == (400, "bad-parameter"), name
    assert call("DELETE", f"{proxy.url}/v1/backups/b").status == 404
    wait_until(lambda: call("GET", f"{proxy.url}/v1/tasks/backup-a").json()["state"] == "done", "the backup")
    gone = call("DELETE", f"{proxy.url}/v1/backups/a")
    assert (gone.status, len(gone.json()["removed_by"])) == (200, 3)
    assert call("GET", f"{proxy.url}/v1/backups").json() == {"backups": []}


def test_an_older_part_of_a_member_that_was_away_is_no_part_of_a_newer_backup_of_that_name(
    farm: Farm, tmp_path: Path
) -> None:
    proxy = farm.cluster(3)
    made(farm, "a")
    farm.nodes[2].kill()
    gone = call("DELETE", f"{proxy.url}/v1/backups/a")
    assert len(gone.json()["removed_by"]) == 2
    call("PUT", f"{proxy.url}/v1/kv/later", b"x")
    newer = made(farm, "a")
    assert (newer["whole"], len(newer["missing"])) == (True, 1)
    farm.nodes[2].start()

    def told() -> list[tuple[int, bool]]:
        found = call("GET", f"{proxy.url}/v1/backups").json()["backups"]
        return [(len(one["nodes"]), one["whole"]) for one in found]

    wait_until(lambda: told() == [(1, False), (2, True)], "the older part to be told apart")
    folders = [Path(newer["nodes"][0]["folder"]), farm.nodes[2].home / "backups" / "a"]
    with pytest.raises(Trouble, match="not the parts of one backup"):
        Opened(folders)
    assert call("POST", f"{proxy.url}/v1/backups", b'{"name": "a"}').status == 409
    assert len(call("DELETE", f"{proxy.url}/v1/backups/a").json()["removed_by"]) == 3
    assert held([Path(node["folder"]) for node in made(farm, "a")["nodes"]], tmp_path) == {b"later": b"x"}


def test_nodes_whose_data_is_in_memory_have_none(farm: Farm) -> None:
    proxy = farm.cluster(3, "--engine", "memory")
    got = call("POST", f"{proxy.url}/v1/backups")
    assert (got.status, got.json()["type"]) == (503, "backup-failed")
    assert "in memory" in got.json()["detail"]


def test_what_was_being_made_when_a_node_ended_is_cleared_away(farm: Farm) -> None:
    farm.cluster(3)
    node = farm.nodes[0]
    half = node.home / "backups" / "half.begun" / DATA
    half.mkdir(parents=True)
    node.kill()
    node.start()
    assert not half.exists()
