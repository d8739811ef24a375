"""Prints the digest of each seed's story, and of all of them: to be compared between machines and versions of Python.

python -m tests.simulation.digests FIRST LAST
"""

from __future__ import annotations

import sys
from hashlib import blake2b

from twisted_kv.simulation.campaign import quiet
from twisted_kv.simulation.story import Story


def main(first: int, last: int) -> None:
    """Play seeds FIRST to LAST - 1."""
    quiet()
    whole = blake2b(digest_size=16)
    for seed in range(first, last):
        digest = Story(seed).play().digest
        whole.update(digest.encode())
        sys.stdout.write(f"{seed} {digest}\n")
    sys.stdout.write(f"all {whole.hexdigest()}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
