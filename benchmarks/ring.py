"""What the ring costs and how even it is. Run from the project's folder: ``python -m benchmarks.ring``."""

from __future__ import annotations

import random
import statistics
import timeit
import uuid
from collections import Counter

from twisted_kv.names import NodeId, Slot
from twisted_kv.ring import FNV_IS_COMPILED, SLOTS, Member, Ring, overlaid, slot_of

LOOKUPS = 200_000
KEYS = 200_000
DRAWS = 25


def nodes(count: int) -> list[Member]:
    return [Member(NodeId(f"n-{number}")) for number in range(count)]


def print_times() -> None:
    three, thousand = nodes(3), nodes(1_000)
    in_zones = [Member(member.id, 1, f"zone-{number % 2}") for number, member in enumerate(thousand)]
    ring, grown = Ring(thousand), Ring(nodes(1_001))
    print(f"FNV-1a: {'compiled' if FNV_IS_COMPILED else 'pure Python'}; best of 5\n")
    print("| what | time |\n|---|---|")
    for what, work in (
        ("build, 3 nodes", lambda: Ring(three)),
        ("build, 1,000 nodes", lambda: Ring(thousand)),
        ("build, 1,000 nodes in 2 zones", lambda: Ring(in_zones)),
        ("what changes hands, 1,000 to 1,001 nodes", lambda: list(overlaid(ring, grown))),
    ):
        print(f"| {what} | {min(timeit.repeat(work, number=1, repeat=5)) * 1e3:.0f} ms |")
    for key in (b"k12345", str(uuid.UUID(int=1 << 127)).encode()):
        # As text, since a function around the call would cost a fifth of what is measured.
        best_s = min(timeit.repeat("owners(key)", number=LOOKUPS, globals={"owners": ring.owners, "key": key}))
        print(f"| owners of a key of {len(key)} bytes | {best_s / LOOKUPS * 1e9:.0f} ns |")


def fullest(ring: Ring, keys: Counter[Slot]) -> float:
    """Give the fullest node's copies of keys, as a multiple of the mean."""
    copies: Counter[NodeId] = Counter()
    for slot, count in keys.items():
        for node in ring.table[slot]:
            copies[node] += count
    return max(copies.values()) * len(ring.members) / copies.total()


def print_balance() -> None:
    rng = random.Random(1)
    by_slot = dict.fromkeys(map(Slot, range(SLOTS)), 1)
    short = Counter(slot_of(b"k%d" % number) for number in range(KEYS))
    uuids = Counter(slot_of(str(uuid.UUID(int=rng.getrandbits(128), version=4)).encode()) for _ in range(KEYS))

    print(f"\nThe fullest node, 1.00 being the mean ({KEYS:,} keys; {DRAWS} draws of random ids)\n")
    print("| nodes | replicas | k0, k1, ... | UUIDs | slots | slots, random ids: median | worst |")
    print("|---|---|---|---|---|---|---|")
    for count, replicas in ((3, 1), (3, 3), (10, 1), (10, 3), (100, 1), (100, 3), (1_000, 3)):
        ring = Ring(nodes(count), replicas)
        figures = [fullest(ring, keys) for keys in (short, uuids, Counter(by_slot))]
        drawn = []
        for _ in range(DRAWS if count < 1_000 else 3):
            members = [Member(NodeId(f"{rng.getrandbits(64):016x}")) for _ in range(count)]
            drawn.append(max(Ring(members, replicas).owned_share().values()) * count)
        figures += [statistics.median(drawn), max(drawn)]
        print(f"| {count:,} | {replicas} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")


if __name__ == "__main__":
    print_times()
    print_balance()
