"""Puts and ranges of one key on etcd's gRPC door, from clients that share a channel, as gRPC means it.

``python -m benchmarks.etcd_grpc PORT PUT|GET KEYS BYTES CLIENTS SECONDS``. Debian packages no stubs, so the two
messages are put together by hand (rpc.proto of etcd 3.4: PutRequest has the key as field 1 and the value as field 2,
RangeRequest the key as field 1).
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time

from .closed_loop import KEY, Tally, calls_until, quiet
from .servers import CALL_TIMEOUT_S, HOST

try:
    import grpc
except ImportError:
    sys.exit("grpcio is missing, which calls etcd: pip install -e '.[bench]'")

METHODS = {"PUT": "/etcdserverpb.KV/Put", "GET": "/etcdserverpb.KV/Range"}


def field(number: int, content: bytes) -> bytes:
    """Encode one field of bytes (protobuf's encoding, wire type 2)."""
    length, coded = len(content), bytearray([number << 3 | 2])
    while length > 0x7F:
        coded.append(length & 0x7F | 0x80)
        length >>= 7
    coded.append(length)
    return bytes(coded) + content


async def measure(port: int, method: str, keys: int, value_bytes: int, clients: int, seconds: float) -> Tally:
    value = field(2, b"v" * value_bytes) if method == "PUT" else b""
    requests = [field(1, (KEY % number).encode()) + value for number in range(keys)]
    least = 0 if method == "PUT" else value_bytes
    following = itertools.cycle(requests).__next__
    tally = Tally()
    async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
        await asyncio.wait_for(channel.channel_ready(), CALL_TIMEOUT_S)
        ask = channel.unary_unary(METHODS[method])  # without serialisers bytes pass as they are

        async def call() -> None:
            # A range that finds nothing is a good answer to etcd, and a wrong one here.
            if len(await ask(following(), timeout=CALL_TIMEOUT_S)) < least:
                raise SystemExit("etcd holds no value for a key that was read")

        quiet()
        tally.began_s = time.monotonic()
        until_s = tally.began_s + seconds
        await asyncio.gather(*(calls_until(until_s, call, tally) for _ in range(clients)))
        tally.ended_s = time.monotonic()
    return tally


if __name__ == "__main__":
    port, method, keys, value_bytes, clients, seconds = sys.argv[1:]
    done = measure(int(port), method, int(keys), int(value_bytes), int(clients), float(seconds))
    print(asyncio.run(done).as_wrk())
