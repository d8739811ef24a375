"""Everything that ``make bench`` measures, one part after the other: ``python -m benchmarks.bench``.

``--long`` adds what takes its time: five million keys, and ten minutes at full load.
"""

from __future__ import annotations

import argparse
import sys
import time
from types import ModuleType
from typing import Any

from . import compare, flat, growth, grpc_call, overload, redis_door, workers
from .parts import shared_options, stop_in_order
from .peers import PACKAGES, need

PARTS: tuple[ModuleType, ...] = (compare, redis_door, grpc_call, workers, overload, growth)
LONG = (flat,)
LONG_KEYS = [1_000, 100_000, 5_000_000]


def options_of(part: Any, given: argparse.Namespace) -> argparse.Namespace:
    """A part's own defaults, and what was given for all."""
    parser = argparse.ArgumentParser()
    part.add_options(parser)
    options = parser.parse_args([])
    options.__dict__.update({"out": given.out, "rounds": given.rounds, "seconds": given.seconds})
    if part is growth and given.long:
        options.keys = LONG_KEYS
    return options


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    shared_options(parser)
    parser.add_argument("--long", action="store_true", help="five million keys and ten minutes at full load, too")
    given = parser.parse_args()
    stop_in_order()
    need(*PACKAGES)  # better now than after ten minutes
    parts = [*PARTS, *(LONG if given.long else ())]
    planned = [(part, options_of(part, given)) for part in parts]
    minutes = {part.NAME: part.planned_s(options) / 60 for part, options in planned}
    each = ", ".join(f"{name} {length:.0f}" for name, length in minutes.items())
    print(f"about {sum(minutes.values()):.0f} minutes: {each}; results go to {given.out}", flush=True)
    failed = []
    for part, options in planned:
        print(f"\n## {part.NAME}\n\n{(part.__doc__ or '').split(chr(10) * 2)[0]}\n", flush=True)
        began = time.monotonic()
        try:
            part.run(options)
        except SystemExit as error:
            if str(error) == "stopped by SIGTERM":
                raise
            # The others are worth their time all the same; what failed is said at the end, and by the status.
            print(f"{part.NAME} FAILED: {error}", file=sys.stderr, flush=True)
            failed.append(part.NAME)
        print(f"\n{part.NAME} took {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    print(f"\npictures (PNG and SVG) and figures (JSON) are in {given.out}")


if __name__ == "__main__":
    main()
