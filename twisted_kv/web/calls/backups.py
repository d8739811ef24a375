"""Backups."""

from __future__ import annotations

from typing import Annotated, TypedDict

import msgspec

from ... import errors
from ...backups import NAME
from ..openapi.described import Described
from ..openapi.shapes import noted
from ..parameters import Text
from .shared import BACKUPS, json_answer, json_body

NAME_PATTERN = f"^{NAME.pattern}$"


class BackupBody(msgspec.Struct):
    """What is to be backed up is everything; ``name`` is the time of day where none is given."""

    name: Annotated[str, noted("It cannot end with `.begun`.", pattern=f"^({NAME.pattern})?$")] = ""


class KeptBackup(TypedDict):
    """What one node keeps of a backup."""

    id: str
    folder: str
    keys: int
    bytes: int


class ShownBackup(TypedDict):
    """A backup; whole if a majority of each slot's owners keep theirs."""

    name: str
    made_ms: int
    epoch: int
    whole: bool
    bytes: int
    nodes: list[KeptBackup]
    missing: list[str]


class BackupList(TypedDict):
    """All of them, the newest last."""

    backups: list[ShownBackup]


class Saving(TypedDict):
    """A backup that has begun, and the task as which it goes on."""

    name: str
    task: str


class Removed(TypedDict):
    """The members that have deleted theirs."""

    removed_by: list[str]


BACKUP = Text(
    name="name",
    about="The backup's name.",
    place="path",
    required=True,
    pattern=NAME_PATTERN,
    example="before-upgrade",
)

LIST_BACKUPS = Described(
    group=BACKUPS,
    name="listBackups",
    title="List backups",
    answers={200: json_answer(BackupList, "What the members that answer keep.")},
    errors=(errors.BadParameter, errors.NoNodes, errors.WorkerSilent),
)

MAKE_BACKUP = Described(
    group=BACKUPS,
    name="makeBackup",
    title="Make a backup",
    about="Every member makes a checkpoint on its own disk. See docs/backups.md.",
    body=json_body(BackupBody, "What it is called.", {"name": "before-upgrade"}, required=False),
    answers={202: json_answer(Saving, "It has begun.")},
    errors=(
        errors.MalformedBody,
        errors.BadParameter,
        errors.NoNodes,
        errors.ChangeUnderWay,
        errors.BackupExists,
        errors.BackupFailed,
        errors.WorkerSilent,
    ),
)

REMOVE_BACKUP = Described(
    group=BACKUPS,
    name="removeBackup",
    title="Delete a backup",
    tail=BACKUP,
    answers={200: json_answer(Removed, "It is deleted.")},
    errors=(
        errors.BadParameter,
        errors.NoSuchBackup,
        errors.NoNodes,
        errors.BackupFailed,
        errors.WorkerSilent,
    ),
)
