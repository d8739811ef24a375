"""Backups over HTTP: a node's for proxies, ``/node/v1/backup``, and a proxy's for operators, ``/v1/backups``."""

from __future__ import annotations

from typing import Any

from klein import Klein

from ..backups import Backups, checked_name
from ..bodies import parse_json
from ..saving import Backup, Saver
from ..wire.backups import backup_request_decoder
from ..wire.header import encode
from .answers import MSGPACK, answer, answer_json
from .calls.backups import LIST_BACKUPS, MAKE_BACKUP, REMOVE_BACKUP, BackupBody
from .node import decoded
from .openapi.described import described
from .parameters import name_in, refuse_unknown


def add_node_backups(app: Klein, backups: Backups) -> None:
    """Give a node's door the calls about its backups."""

    @app.route("/node/v1/backup", methods=["POST"])
    def ask(request: Any) -> bytes:
        told = backups.ask(decoded(backup_request_decoder.decode, request.content.read()))
        return answer(request, encode(told), MSGPACK)

    @app.route("/node/v1/backups", methods=["GET"])
    def kept(request: Any) -> bytes:
        return answer_json(request, backups.kept())

    @app.route("/node/v1/backups/", methods=["DELETE"])
    def remove(request: Any) -> bytes:
        backups.remove(name_in(request))
        request.setResponseCode(204)
        return b""


def add_backups(app: Klein, saver: Saver) -> None:
    """Give a proxy's door the calls about backups."""

    @app.route("/v1/backups", methods=["GET"])
    @described(LIST_BACKUPS)
    async def listed(request: Any) -> bytes:
        refuse_unknown(request)
        return answer_json(request, {"backups": [_told(backup) for backup in await saver.kept()]})

    @app.route("/v1/backups", methods=["POST"])
    @described(MAKE_BACKUP)
    async def save(request: Any) -> bytes:
        refuse_unknown(request)
        body = request.content.read()
        wanted = parse_json(body, BackupBody).name if body else ""
        name = await saver.save(checked_name(wanted) if wanted else "")
        request.setResponseCode(202)
        return answer_json(request, {"name": name, "task": f"backup-{name}"})

    @app.route("/v1/backups/", methods=["DELETE"])
    @described(REMOVE_BACKUP)
    async def remove(request: Any) -> bytes:
        refuse_unknown(request)
        return answer_json(request, {"removed_by": await saver.remove(checked_name(name_in(request)))})


def _told(backup: Backup) -> dict[str, Any]:
    kept = backup.kept
    return {
        "name": backup.name,
        "made_ms": min(one.made_ms for one in kept.values()),
        "epoch": max(one.epoch for one in kept.values()),
        "whole": backup.whole,
        "bytes": sum(one.file_bytes for one in kept.values()),
        "nodes": [
            {"id": node, "folder": one.folder, "keys": one.keys, "bytes": one.file_bytes} for node, one in kept.items()
        ],
        "missing": backup.missing,
    }
