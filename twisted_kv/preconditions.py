"""``If-Match`` and ``If-None-Match`` (RFC 9110, section 13), where a record's version is its strong ETag."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from .errors import BadParameter
from .versions import Record

_ENTITY_TAG = r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"'
_TAG = re.compile(rf"{_ENTITY_TAG}[ \t]*(?:,|$)")
_BETWEEN = re.compile(r"[ \t,]*")
"""Empty elements of a list are passed over (RFC 9110, section 5.6.1.2)."""
_ANY = "*"

TAGS = rf"^(\*|[ \t,]*({_ENTITY_TAG}[ \t]*(,[ \t,]*|$))*)$"
"""What either header may say, as one pattern, for those who describe it."""


class Verdict(Enum):
    MET = "met"
    FAILED = "failed"
    UNCHANGED = "unchanged"
    """The client has this version already, which a read answers with 304."""


def etag_of(record: Record) -> str:
    return f'"{record.version.hex()}"'


@dataclass(frozen=True, slots=True)
class Precondition:
    """What has to hold for a request to be done. None where the header is absent, ``{"*"}`` for any value at all."""

    match: frozenset[str] | None = None
    none_match: frozenset[str] | None = None

    def __bool__(self) -> bool:
        return self.match is not None or self.none_match is not None

    def judge(self, held: Record | None) -> Verdict:
        """Judge what a key holds: a key without a value, and a tombstone, match no ETag and no ``*``."""
        tags = {held.version.hex(), _ANY} if held is not None and held.value is not None else set()
        if self.match is not None and tags.isdisjoint(self.match):
            return Verdict.FAILED
        if self.none_match is not None and not tags.isdisjoint(self.none_match):
            return Verdict.UNCHANGED
        return Verdict.MET


def parse_precondition(if_match: str | None, if_none_match: str | None) -> Precondition:
    """Read both headers, their lines joined by commas.

    :raises BadParameter: if one is no list of ETags.
    """
    # If-Match compares strongly, so a weak tag matches nothing; If-None-Match compares weakly (section 8.8.3.2).
    return Precondition(_tags("If-Match", if_match, weak=False), _tags("If-None-Match", if_none_match, weak=True))


def _tags(name: str, given: str | None, weak: bool) -> frozenset[str] | None:
    if given is None:
        return None
    if given.strip() == _ANY:
        return frozenset({_ANY})
    tags, at = set(), _end_of_gap(given, 0)
    while at < len(given):
        found = _TAG.match(given, at)
        if found is None:
            raise BadParameter(f"{name} is no list of ETags", 'give * or "ETAG", quoted, as an answer showed it')
        # Quoted, an asterisk is a tag like any other, and no version is written so.
        if found[2] != _ANY and (weak or found[1] is None):
            tags.add(found[2])
        at = _end_of_gap(given, found.end())
    return frozenset(tags)


def _end_of_gap(given: str, at: int) -> int:
    gap = _BETWEEN.match(given, at)
    assert gap is not None, "it matches nothing, too"
    return gap.end()
