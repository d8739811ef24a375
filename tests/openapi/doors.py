"""The document of a proxy's door over rooms that are not there."""

from __future__ import annotations

import json
from typing import Any

from tests.sockets.test_tokens import proxy_app
from twisted_kv.limits import Limits
from twisted_kv.web.openapi.route import written_of


def document_of(limits: Limits | None = None, tokens: bool = False) -> Any:
    return json.loads(written_of(proxy_app(), limits or Limits(), tokens))
