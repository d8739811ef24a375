"""File descriptors, of which a process has so many: clients are not to take those that its own files and calls need.

A connection that cannot be accepted is a nuisance; a log that cannot be opened is the end of a node. So clients get
what is left beyond a reserve, and where that is short, who asks nothing goes.
"""

from __future__ import annotations

import resource
from typing import Any

from twisted.protocols.policies import ProtocolWrapper

from ..limits import Limits


def few_left(transport: Any, limits: Limits) -> bool:
    """Say whether a connection that was just made stands on a descriptor that clients are not to take.

    The kernel gives the lowest number that is free (POSIX, open()), so its own number says how many are taken. What the
    process may have is asked each time: it may be changed while it runs (prlimit(1)).
    """
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    try:
        number = transport.getHandle().fileno()
    except Exception:
        return False  # it stands on none
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return bool(most != resource.RLIM_INFINITY and number >= most - min(limits.descriptors_spare, most // 2))
