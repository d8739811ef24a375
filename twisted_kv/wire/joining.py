"""Who a node is, whose it becomes, and the epoch that it is shown."""

from __future__ import annotations

import msgspec

from .header import Count, Header, Label, Name


class Announcement(msgspec.Struct, array_like=True):
    """Shows a node an epoch and the state document that belongs to it."""

    header: Header
    state: bytes


class Info(msgspec.Struct):
    """Who a node is, as JSON at ``/node/v1/info``. ``cluster`` and ``member`` are empty until it has joined one."""

    role: Label
    format: Count
    cluster: Label
    member: Label
    incarnation: Label
    epoch: Count
    engine: Label
    keys: Count
    bytes: Count
    now_ms: Count
    version: Label
    hints: dict[Label, Count] = {}
    """Hints by the member they are for."""
    marks: Count = 0
    """Slots that are to be repaired."""
    spoiled: bool = False
    """Whether part of its data cannot be read at all, so that it has to be renewed."""
    uptime_s: float | None = None
    """How long it has been serving; None of a node that does not say, as those of before did not."""
    free_bytes: Count | None = None
    """The room that is left on its disk; None as well for an engine without one."""
    sync: Label = ""
    """When what it answers gets to its disk: ``always`` before, at an ``interval``, or ``never``; empty if unsaid."""
    oldest_format: Count = 0
    """The oldest format that it reads, ``format`` being the newest; 0 of builds that read that one alone."""

    def reads(self, form: int) -> bool:
        """Say whether it understands messages of a format."""
        return (self.oldest_format or self.format) <= form <= self.format

    @property
    def forgetful(self) -> bool:
        """Whether a restart empties the node, so that nothing can be hoped for from its return."""
        return self.engine == "memory"


class Join(msgspec.Struct):
    """Gives a node its identity, as JSON to ``/node/v1/join``."""

    cluster: Name
    member: Name


announcement_decoder = msgspec.msgpack.Decoder(Announcement)
