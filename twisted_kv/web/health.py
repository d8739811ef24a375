"""Whether a daemon is well."""

from __future__ import annotations

from typing import Any

from klein import Klein

from .answers import answer_json
from .calls.health import LIVE
from .openapi.described import described


def add_liveness(app: Klein) -> None:
    """``/health/live`` answers while the process turns at all."""

    @app.route("/health/live", methods=["GET"])
    @described(LIVE)
    def live(request: Any) -> bytes:
        return answer_health(request, [])


def answer_health(request: Any, troubles: list[str]) -> bytes:
    if troubles:
        request.setResponseCode(503)
    return answer_json(request, {"status": "not ready" if troubles else "ok", "troubles": troubles})
