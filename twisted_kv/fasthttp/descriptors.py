"""File descriptors, of which a process has so many: clients are not to take those that its own files and calls need.

A connection that cannot be accepted is a nuisance; a log that cannot be opened is the end of a node. So clients get
what is left beyond a reserve, and where that is short, who asks nothing goes.
"""

from __future__ import annotations

import resource
from typing import Any

from twisted.protocols.policies import ProtocolWrapper

from ..limits import Limits


def lacking(transport: Any, limits: Limits) -> float:
    """Say how much of the reserve is taken, now that a connection was made: 0 if nothing is, 1 if all is.

    The kernel gives the lowest number that is free (POSIX, open()), so its own number says how many are taken. What the
    process may have is asked each time: it may be changed while it runs (prlimit(1)).
    """
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    try:
        number = transport.getHandle().fileno()
    except Exception:
        return 0.0  # it stands on none
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return 0.0
    spare = max(1, min(limits.descriptors_spare, most // 2))
    return max(0.0, (number + 1 - (most - spare)) / spare)
