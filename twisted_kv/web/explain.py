"""``/v1/explain/{key}``: all that is known about a key on every owner."""

from __future__ import annotations

from typing import Any

from klein import Klein

from ..explaining import Explainer
from ..limits import Limits
from .answers import answer_json
from .calls.explain import EXPLAIN_KEY
from .openapi.described import described
from .parameters import refuse_unknown, timeout_of
from .site import EXPLAIN_PREFIX, EXPLAIN_ROUTE
from .v1 import key_of


def add_explain(app: Klein, explainer: Explainer, limits: Limits) -> None:
    """Give a proxy's door the call that explains a key."""

    @app.route(EXPLAIN_ROUTE.decode(), methods=["GET"])
    @described(EXPLAIN_KEY)
    async def explain(request: Any) -> bytes:
        refuse_unknown(request, *EXPLAIN_KEY.known)
        key = key_of(request, limits, EXPLAIN_PREFIX)
        return answer_json(request, await explainer.explain(key, timeout_of(request, limits)))
