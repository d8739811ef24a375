"""A11: a sync fails on one node of three while clients write: it ends, nothing is lost, and it comes back to vote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.sockets.copies import wait_up
from tests.sockets.daemons import Farm, farming, wait_until
from tests.sockets.steady import Steady
from tests.sockets.tracing import traced

pytestmark = pytest.mark.system

CLIENTS, KEYS_EACH = 4, 50
PATIENCE_S = 60.0


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        yield built


@pytest.mark.parametrize("first", [1, 50])
def test_a_node_of_three_whose_sync_fails_ends_is_verified_at_its_next_start_and_votes_again(
    farm: Farm, first: int
) -> None:
    proxy = farm.cluster(3)
    node, other, third = farm.nodes
    life = node.info()["incarnation"]
    failing = f"inject=fdatasync,fsync:error=EIO:when={first}+"
    with Steady([proxy], CLIENTS, KEYS_EACH, Random(first)) as steady:
        steady.wait_for_more(500, "before the disk fails")
        with traced(node, farm.folder / "trace", "-e", "trace=fdatasync,fsync", "-e", failing):
            wait_until(lambda: node.ended() is not None, "the node to end", PATIENCE_S)
        assert node.ended() == 1
        # The log's own sync met it first, or one of a file that RocksDB was writing out, which is told otherwise.
        assert "the disk has failed, the node ends: " in node.log()
        assert (node.home / "suspect").exists()
        steady.wait_for_more(500, "without the node")
        node.start()
        assert not (node.home / "suspect").exists(), "all of its data was verified"
        assert node.info()["incarnation"] == life, "what it had synced it still has"
        wait_up(proxy, 3, PATIENCE_S)
        other.kill()
        steady.wait_for_more(500, "that need its vote")
        other.start()
    wait_up(proxy, 3, PATIENCE_S)
    assert steady.wrong(proxy) == []
    steady.wait_alike(proxy, (node, other, third), PATIENCE_S)
    assert "Traceback" not in node.log()
