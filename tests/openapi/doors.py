"""A proxy's door over rooms that are not there, and its document."""

from __future__ import annotations

import json
from typing import Any

from twisted_kv.limits import Limits
from twisted_kv.metrics import ProxyMetrics
from twisted_kv.quorum import Level
from twisted_kv.rooms import Rooms
from twisted_kv.web.openapi.route import written_of
from twisted_kv.web.site import App

NOT_THERE: Any = None


def proxy_app(limits: Limits | None = None) -> App:
    rooms = Rooms.__new__(Rooms)
    for name in ("coordinator", "roster", "listing", "mover", "mender", "saver", "explainer", "_now_ms"):
        setattr(rooms, name, NOT_THERE)
    rooms.metrics = ProxyMetrics()
    return rooms.app(limits or Limits(), Level.STRONG)


def document_of(limits: Limits | None = None, tokens: bool = False) -> Any:
    limits = limits or Limits()
    return json.loads(written_of(proxy_app(limits), limits, tokens))
