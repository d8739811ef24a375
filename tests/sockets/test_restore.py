"""A cluster is backed up, wiped, and restored onto more nodes: by ``kvctl``, and equal by a full compare."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sockets.daemons import Daemon, Farm, call, farming, wait_until

KEYS = int(os.environ.get("KV_BACKUP_KEYS", "20000"))
KVCTL = [sys.executable, "-c", "from twisted_kv.ctl.main import main; main()"]
PATIENCE_S = 60 + KEYS / 1_000


def kvctl(proxy: Daemon, *words: str, code: int = 0) -> Any:
    """Run a command, see how it ends, and give what it prints as JSON; of one that fails what it says."""
    done = subprocess.run(
        [*KVCTL, *words, "--server", proxy.url, "-o", "json"], capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == code, done.stderr.decode()
    return json.loads(done.stderr if code else done.stdout)


def lines_of(number: int) -> bytes:
    """Records of all kinds: text and bytes, large and empty, with expiries and content types."""
    record: dict[str, Any] = {"key": f"k{number}", "value": f"value {number} " * (1 + number % 9)}
    if number % 7 == 0:
        record = {"key_b64": "/w" + f"{number:06}", "value_b64": "AP/+"}
    if number % 11 == 0:
        record["expires_ms"] = 4_000_000_000_000 + 100_000 * number
    if number % 13 == 0:
        record["content_type"] = "text/plain"
    if number % 1_000 == 0:
        record = {"key": f"k{number}", "value": ""}
    return json.dumps(record).encode() + b"\n"


def exported(proxy: Daemon, path: Path) -> dict[str, bytes]:
    """All that a cluster holds, by its keys; expiries not to the millisecond, since puts tell what is left of them."""
    kvctl(proxy, "export", str(path))
    found = {}
    for line in path.read_bytes().splitlines():
        record = json.loads(line)
        if "expires_ms" in record:
            record["expires_ms"] = round(record["expires_ms"] / 100_000)
        found[record.get("key", record.get("key_b64"))] = json.dumps(record, sort_keys=True).encode()
    return found


def saved(proxy: Daemon, to: Path) -> list[Path]:
    """Have a backup made, and copy its parts away."""
    made = kvctl(proxy, "backup", "create", "all")
    assert made["whole"]
    copies = []
    for node in made["nodes"]:
        copies.append(to / node["id"])
        shutil.copytree(node["folder"], copies[-1])
    return copies


@pytest.mark.timeout(600 + KEYS / 200)
def test_a_cluster_that_was_wiped_comes_back_on_more_nodes(tmp_path: Path) -> None:
    source = tmp_path / "source.ndjson"
    with open(source, "wb") as stream:
        stream.writelines(map(lines_of, range(KEYS)))
    (tmp_path / "old").mkdir()
    with farming(tmp_path / "old") as farm:
        proxy = farm.cluster(3)
        told = kvctl(proxy, "import", str(source), "--yes")
        assert told["records"] == KEYS
        for number in range(1, KEYS, 1_000):
            call("DELETE", f"{proxy.url}/v1/kv/k{number}")
        before = exported(proxy, tmp_path / "before.ndjson")
        folders = saved(proxy, tmp_path / "backup")
        identity = call("GET", f"{proxy.url}/v1/cluster").json()["cluster_id"]
    shutil.rmtree(tmp_path / "old")
    (tmp_path / "new").mkdir()
    with farming(tmp_path / "new") as farm:
        proxy = farm.cluster(5)
        assert kvctl(proxy, "backup", "verify", str(tmp_path / "backup"))["records"] == len(before)
        told = kvctl(proxy, "backup", "restore", str(tmp_path / "backup"), "--yes")
        assert told["records"] == len(before)
        assert told["cluster_id"] != identity
        assert exported(proxy, tmp_path / "after.ndjson") == before
        again = kvctl(proxy, "backup", "restore", str(tmp_path / "backup"), "--yes", code=6)
        assert again["error"] == "the cluster is not empty"
        lost = kvctl(proxy, "backup", "restore", str(folders[0]), "--yes", "--into-existing", code=2)
        assert lost["error"] == "these folders are too few"


def test_a_restore_that_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    source = tmp_path / "source.ndjson"
    with open(source, "wb") as stream:
        stream.writelines(map(lines_of, range(40_000)))
    with farming(tmp_path) as farm:
        proxy = farm.cluster(3)
        kvctl(proxy, "import", str(source), "--yes")
        before = exported(proxy, tmp_path / "before.ndjson")
        saved(proxy, tmp_path / "backup")
    (tmp_path / "new").mkdir()
    with farming(tmp_path / "new") as farm:
        proxy = farm.cluster(3, "--engine", "memory")
        words = [*KVCTL, "backup", "restore", str(tmp_path / "backup"), "--yes", "--server", proxy.url]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_until(lambda: stored(farm) > 0, "some records to be stored")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1].decode()
        assert (process.returncode, "goes on from there" in said) == (130, True), said
        assert stored(farm) < len(before)
        assert kvctl(proxy, "backup", "restore", str(tmp_path / "backup"), "--yes")["records"] == len(before)
        assert exported(proxy, tmp_path / "after.ndjson") == before


def stored(farm: Farm) -> int:
    return max(int(node.info()["keys"]) for node in farm.nodes)


def test_a_backup_whose_file_was_changed_is_not_restored(tmp_path: Path) -> None:
    with farming(tmp_path) as farm:
        proxy = farm.cluster(3)
        call("PUT", f"{proxy.url}/v1/kv/a", b"v")
        folder = saved(proxy, tmp_path / "backup")[0]
        table = next((folder / "data").glob("*.sst"))
        table.write_bytes(table.read_bytes()[:-1])
        for command in ("verify", "restore"):
            found = kvctl(proxy, "backup", command, str(tmp_path / "backup"), code=1)
            assert found["error"] == "the backup is not whole"
            assert table.name in found["why"]
        listed = kvctl(proxy, "backup", "list")["backups"]
        assert [one["name"] for one in listed] == ["all"]
        assert len(kvctl(proxy, "backup", "remove", "all", "--yes")["removed_by"]) == 3
        again = kvctl(proxy, "backup", "remove", "all", "--yes", code=5)
        assert again["next"].endswith("kvctl backup list shows those that are there")
