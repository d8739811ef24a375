"""What may be asked for a member: its URL, weight and zone."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from .errors import BadParameter
from .limits import Limits
from .membership import WEIGHT_MAX
from .terminals import OBEYED

URL_CHARS_MAX = 300
"""A host name has at most 253 characters (RFC 1035, section 2.3.4)."""

_PORT = "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_ADDRESS = r"\[(::1|([0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}|([0-9A-Fa-f]{1,4}:){1,6}:[0-9A-Fa-f]{1,4})\]"
URL_PATTERN = rf"^https?://([A-Za-z0-9.-]+|{_ADDRESS})(:{_PORT})?/?$"
"""How a URL is given, for those who describe it. Other spellings of an IPv6 address are taken as well, blanks around it
and upper case in the scheme forgiven."""

_PLACE = re.compile(r"(\[[^][]*\]|[^][:]*)(:[0-9]+)?")
"""A host and perhaps a port: what urlsplit finds beside them it leaves out without a word."""

ZONE_PATTERN = f"^[^{OBEYED}]*$"
"""A zone holds nothing that a terminal obeys."""


def checked_url(url: str) -> str:
    """Bring a node's URL into its one form, ``http://host:port``.

    :raises BadParameter: unless it is an http or https URL of a host and nothing more.
    """
    hint = "give it as http://HOST:PORT"
    if len(url) > URL_CHARS_MAX:
        raise BadParameter(f"the URL has {len(url)} characters", hint)
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise BadParameter(f"{url[:200]!r} is no URL: {error}", hint) from None
    if parts.scheme not in ("http", "https"):
        raise BadParameter(f"{url[:200]!r} is no http or https URL", hint)
    alone = _PLACE.fullmatch(parts.netloc) and not (parts.path.strip("/") or parts.query or parts.fragment)
    if not parts.hostname or not alone or "@" in parts.netloc:
        raise BadParameter(f"{url[:200]!r} must name a host and a port, and nothing more", hint)
    if not all(char.isascii() and (char.isalnum() or char in ".-:") for char in parts.hostname):
        raise BadParameter(f"the host in {url[:200]!r} is no host name or address", hint)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def checked_weight(weight: int) -> int:
    """:raises BadParameter: unless it is a whole number from 1 to ``WEIGHT_MAX``."""
    if not 1 <= weight <= WEIGHT_MAX:
        raise BadParameter(f"weight is {weight}", f"give a whole number from 1 to {WEIGHT_MAX}")
    return weight


def checked_zone(zone: str | None, limits: Limits) -> str | None:
    """:raises BadParameter: unless it is a printable name that is not too long."""
    if zone is not None and not (len(zone) <= limits.zone_chars_max and re.fullmatch(ZONE_PATTERN, zone)):
        raise BadParameter(
            f"the zone has {len(zone)} characters, or one that cannot be printed",
            f"give a name of at most {limits.zone_chars_max} printable characters",
        )
    return zone
