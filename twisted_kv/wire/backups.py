"""Orders for backups, and which there are."""

from __future__ import annotations

import msgspec

from ..register import Sentence
from .header import Count, Header, Label


class BackupRequest(msgspec.Struct, array_like=True):
    """Asks a node to keep a backup of this name, or how far it is with it: the same question twice is harmless.

    ``state`` is the state document of the sender's epoch. Without ``begin`` nothing is begun. ``run`` is what the parts
    of one backup have in common, and no other backup has, be it of the same name; empty from who does not know it.
    """

    header: Header
    name: str
    state: bytes = b""
    begin: bool = True
    run: str = ""


class BackupReply(msgspec.Struct, array_like=True):
    """How far a node is with a backup: bytes read and written down of how many; ``folder`` is on the node's machine.

    ``trouble`` says why it failed.
    """

    format: int
    done: Count
    total: Count
    finished: bool
    folder: Sentence = ""
    trouble: Sentence = ""


class Kept(msgspec.Struct):
    """One backup that a node keeps, as JSON at ``/node/v1/backups``."""

    name: Label
    made_ms: Count
    epoch: Count
    keys: Count
    bytes: Count
    file_bytes: Count
    folder: Sentence
    run: Label = ""


class KeptBackups(msgspec.Struct):
    """All of them, by name."""

    backups: list[Kept]


backup_request_decoder = msgspec.msgpack.Decoder(BackupRequest)
backup_reply_decoder = msgspec.msgpack.Decoder(BackupReply)
