"""Names for things that look alike, so that the type checker keeps them apart."""

from typing import NewType

Key = NewType("Key", bytes)
"""A client's key: 1 to ``Limits.key_bytes_max`` raw bytes."""

Slot = NewType("Slot", int)
"""One of 65,536 equal parts of the ring: the top 16 bits of a key's position."""

NodeId = NewType("NodeId", str)
"""A member's identity, drawn when it joins; its ring tokens come from it, its URL does not."""

ClusterId = NewType("ClusterId", str)
"""The identity of a cluster, drawn when its first proxy starts."""

Incarnation = NewType("Incarnation", str)
"""One life of a node's memory. A node that forgot anything draws another one."""

Epoch = NewType("Epoch", int)
"""The number of a cluster configuration; it only grows, and answers of two epochs are never counted together."""
