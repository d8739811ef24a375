"""What is asked of nodes seldom: who they are, to join, to adopt an epoch, to copy and to drop slots."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter, lt
from typing import Any, TypeVar

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from ..errors import (
    Damaged,
    ForeignNode,
    KvError,
    NodeHasData,
    NotANode,
    OtherEpoch,
    PeerRefused,
    PeerSilent,
    PeerUnreachable,
)
from ..limits import Limits
from ..membership import Seat, State, encode_state
from ..register import AGAIN, Op, Reply, is_possible
from ..ring import onward, slot_of
from ..versions import UNDRAWN, Ballot, is_held
from ..wire.backups import BackupReply, BackupRequest, KeptBackups, backup_reply_decoder
from ..wire.batches import Batch, BatchReply, batch_reply_decoder
from ..wire.header import FORMAT, UNDECODED, Header, encode, formats
from ..wire.joining import Announcement, Info, Join
from ..wire.moving import DropRequest, PullReply, PullRequest, Source, pull_reply_decoder
from ..wire.pages import (
    DuePage,
    DueRequest,
    KeysPage,
    KeysRequest,
    Page,
    PageRequest,
    Row,
    SlotKeysPage,
    SlotKeysRequest,
    due_page_decoder,
    keys_page_decoder,
    page_decoder,
    slot_keys_page_decoder,
)
from ..wire.upkeep import (
    Digests,
    DigestsRequest,
    HintsPage,
    HintsRequest,
    Marks,
    MarksRequest,
    PurgeReply,
    PurgeRequest,
    VerifyRequest,
    digests_decoder,
    hints_page_decoder,
    marks_decoder,
    purge_reply_decoder,
    verify_reply_decoder,
)
from .peer import DETAIL_CHARS_MAX, IMPOSSIBLE, Answer, Transport, denied
from .queue import MSGPACK

JSON = "application/json"

NOT_ONWARD = "the node does not come on with what it is asked for"
STANDING_MAX = 10_000
"""Orders for one slot that do not finish it: that would be five million cells."""
SLOT_ROWS_MAX = 1 << 20
"""Keys in one slot: a cluster that had so many everywhere would hold 69 billion."""

P = TypeVar("P", Page, KeysPage, SlotKeysPage, DuePage, Digests, PullReply, PurgeReply, HintsPage, Marks)

_PAGE_ERRORS: dict[str, type[KvError]] = {kind.slug: kind for kind in (Damaged, OtherEpoch)}


class Control:
    """Control calls to any node, by URL or by seat. Every one has a deadline and typed errors."""

    def __init__(self, transport: Transport, limits: Limits) -> None:
        self._transport = transport
        self._limits = limits

    async def info(self, url: str, timeout_s: float | None = None) -> Info:
        """Ask who answers at a URL.

        :raises NotANode: if whoever answers, if anybody, is no kvnode.
        """
        hint = "start one there with: twistd kvnode --port PORT"
        try:
            answer = await self._request("GET", url, "info", b"", JSON, timeout_s)
        except KvError as error:
            raise NotANode(f"{url} does not answer as a kvnode: {error.detail}", error.hint or hint) from None
        try:
            info = msgspec.json.decode(answer.body, type=Info)
        except UNDECODED:
            info = None
        if answer.code in (401, 403):
            raise NotANode(f"at {url} {denied(answer)}", "name the nodes' token file with --node-token-file")
        if info is None or answer.code != 200 or info.role != "kvnode":
            raise NotANode(f"what answers at {url} is no kvnode (status {answer.code})", hint)
        if not info.reads(FORMAT):
            spoken = formats(info.oldest_format or info.format, info.format)
            raise NotANode(
                f"the node at {url} speaks format {spoken}, this proxy {FORMAT}",
                "upgrade the one with the lower number: nodes first, then proxies (docs/upgrading.md)",
            )
        return info

    async def join(self, url: str, cluster: str, member: str) -> Info:
        """Give a node its identity.

        :raises ForeignNode: if it is a member elsewhere.
        :raises NodeHasData: if it holds data without being a member.
        :raises PeerSilent: if it does not say what it is now.
        """
        answer = await self._request("POST", url, "join", msgspec.json.encode(Join(cluster, member)), JSON)
        if answer.code == 200:
            try:
                return msgspec.json.decode(answer.body, type=Info)
            except UNDECODED:
                raise PeerSilent("status 200 without a readable answer") from None
        problem = _problem(answer)
        kinds: dict[str, type[KvError]] = {kind.slug: kind for kind in (ForeignNode, NodeHasData)}
        raise kinds.get(problem.get("type", ""), PeerRefused)(
            problem.get("detail", f"status {answer.code}"), problem.get("hint", "")
        )

    async def announce(self, seat: Seat, state: State) -> None:
        """Show a node the epoch of a state and the state itself.

        :raises PeerRefused: if it is somebody else, forgot what it held, or knows a newer epoch.
        """
        await self._order(seat, "epoch", encode(Announcement(self.header(seat, state), encode_state(state))))

    async def drop(self, clock: IReactorTime, seat: Seat, state: State, ranges: Sequence[tuple[int, int]]) -> None:
        """Make a node forget slots, a part at each order. After each it is left in peace for as long as that took.

        :raises PeerRefused: as in ``announce``.
        """

        async def drop(left: list[tuple[int, int]]) -> int | None:
            return (await self._order(seat, "drop", encode(DropRequest(self.header(seat, state), left)))).next

        await _in_parts(clock, ranges, drop)

    async def verify(self, clock: IReactorTime, seat: Seat, state: State, ranges: Sequence[tuple[int, int]]) -> int:
        """Have a node read what it holds of slots; give in how many something cannot be read. It has its rests as in
        ``drop``; errors as in ``keys``."""
        damaged = 0

        async def verify(left: list[tuple[int, int]]) -> int | None:
            nonlocal damaged
            request = VerifyRequest(self.header(seat, state), left)
            reply = await self._page(seat.url, "verify", request, verify_reply_decoder)
            damaged += reply.damaged
            next_slot: int | None = reply.next
            return next_slot

        await _in_parts(clock, ranges, verify)
        return damaged

    async def page(
        self, seat: Seat, state: State, ranges: Sequence[tuple[int, int]], after: tuple[int, bytes] | None
    ) -> Page:
        """Read one page of a node's accepted records.

        :raises PeerRefused: as in ``announce``.
        :raises Damaged: if the node cannot read part of the range.
        """
        return await self.page_of(seat.url, PageRequest(self.header(seat, state), list(ranges), after))

    async def page_of(self, url: str, request: PageRequest) -> Page:
        """Read a page as ``page`` does; for a node, which knows no seats."""
        page = await self._page(url, "slots", request, page_decoder)
        if not page.whole:
            raise PeerSilent("the page is not whole")
        _must_go_on(_places_in(request, page), request.after or (-1, b""), page.after)
        if not request.bare and not all(is_held(Ballot(row.ballot), row.record) for row in page.rows):
            raise PeerSilent("the page holds what no owner can hold")
        return page

    async def digests(self, url: str, request: DigestsRequest) -> Digests:
        """Ask a node for the digests of slots. Errors as in ``keys``."""
        found = await self._page(url, "digests", request, digests_decoder)
        slots = (*found.digests, *found.graves, *(row.slot for row in found.floors))
        if slots and not request.ranges[0][0] <= min(slots) <= max(slots) <= request.ranges[-1][1]:
            raise PeerSilent("digests came of slots that were not asked for")
        if any(max(row.promised, row.accepted) >= UNDRAWN for row in found.floors):
            raise PeerSilent("a floor came that nobody can have taken")
        return found

    async def purge(
        self, seat: Seat, state: State, floor: bytes, slots: Sequence[tuple[int, int]], final: bool
    ) -> list[int]:
        """Make a node take a floor, or forget what lies below it; give the slots of which it did. Errors as in
        ``keys``."""
        request = PurgeRequest(self.header(seat, state), floor, list(slots), final)
        done = {*(await self._page(seat.url, "purge", request, purge_reply_decoder)).slots}
        # A slot that is said twice would count for two owners.
        return [slot for slot, _ in slots if slot in done]

    async def hints(
        self,
        seat: Seat,
        state: State,
        owner: str,
        after: bytes,
        limit: int,
        done: Sequence[tuple[bytes, bytes]] = (),
    ) -> HintsPage:
        """Read one page of the hints that a node keeps for an owner, after it has forgotten some. Errors as in
        ``keys``."""
        request = HintsRequest(self.header(seat, state), owner, after, limit, list(done))
        page = await self._page(seat.url, "hints", request, hints_page_decoder)
        _must_go_on([row.key for row in page.rows], after, None)
        if not all(is_held(Ballot(row.ballot), row.record) for row in page.rows):
            raise PeerSilent("the page holds what no owner can hold")
        return page

    async def marks(self, seat: Seat, state: State, done: Sequence[int] = ()) -> list[int]:
        """Ask which slots a node wants repaired, after taking marks back. Errors as in ``keys``."""
        request = MarksRequest(self.header(seat, state), list(done))
        return (await self._page(seat.url, "marks", request, marks_decoder)).slots

    async def renew(self, seat: Seat, state: State) -> None:
        """Make a node verify all that it has, and forget it if some of it cannot be read. Errors as in ``announce``."""
        await self._order(seat, "renew", encode(MarksRequest(self.header(seat, state))))

    async def back_up(self, seat: Seat, state: State, name: str, run: str, begin: bool) -> BackupReply:
        """Have a node keep a backup, or ask how far it is with it. Errors as in ``keys``."""
        request = BackupRequest(self.header(seat, state), name, encode_state(state) if begin else b"", begin, run)
        return await self._page(seat.url, "backup", request, backup_reply_decoder)

    async def kept_backups(self, url: str) -> KeptBackups:
        """Ask which backups a node keeps.

        :raises PeerSilent: if it does not say.
        """
        answer = await self._request("GET", url, "backups", b"", JSON)
        try:
            return msgspec.json.decode(answer.body, type=KeptBackups)
        except UNDECODED:
            raise PeerSilent(f"status {answer.code} without a readable answer") from None

    async def remove_backup(self, url: str, name: str) -> None:
        """Make a node delete a backup.

        :raises PeerRefused: with what it says, if it does not.
        """
        answer = await self._request("DELETE", url, f"backups/{name}", b"", JSON)
        if answer.code != 204:
            raise PeerRefused(_problem(answer).get("detail", f"status {answer.code}"))

    async def ballots(self, seat: Seat, state: State, slot: int) -> list[Row]:
        """Read all of a slot, without the records. Errors as in ``page``."""
        rows: list[Row] = []
        after: tuple[int, bytes] | None = None
        while len(rows) <= SLOT_ROWS_MAX:
            request = PageRequest(self.header(seat, state), [(slot, slot)], after, bare=True)
            page = await self.page_of(seat.url, request)
            rows += page.rows
            after = page.after
            if after is None:
                return rows
        raise PeerSilent(f"slot {slot} is said to hold more than {SLOT_ROWS_MAX} keys")

    async def pull(
        self, seat: Seat, state: State, ranges: Sequence[tuple[int, int]], first: int, sources: list[Seat], needed: int
    ) -> PullReply:
        """Make a node copy a part of the ranges from others. Errors as in ``keys``."""
        named = [Source(source.url, source.id, source.incarnation) for source in sources]
        request = PullRequest(self.header(seat, state), list(ranges), first, named, needed)
        reply = await self._page(seat.url, "pull", request, pull_reply_decoder)
        if reply.next is not None and reply.next <= first:
            raise PeerSilent(NOT_ONWARD)
        if not all(_is_in(ranges, slot_of(key)) for key in reply.disputed):
            raise PeerSilent("keys are said to be disputed that were not to be copied")
        return reply

    async def keys(self, seat: Seat, state: State, prefix: bytes, after: bytes, limit: int) -> KeysPage:
        """Read one page of a node's key index.

        :raises OtherEpoch: if the node knows a newer epoch, or data is being moved in this one.
        :raises PeerRefused: as in ``announce``.
        :raises Damaged: as in ``page``.
        """
        request = KeysRequest(self.header(seat, state), prefix, after, limit)
        page = await self._page(seat.url, "keys", request, keys_page_decoder)
        _must_go_on([row.key for row in page.rows], after, None)
        if (page.more and not page.rows) or not all(row.key.startswith(prefix) for row in page.rows):
            raise PeerSilent("the page holds other keys than were asked for")
        return page

    async def slot_keys(self, seat: Seat, state: State, first: int, limit: int) -> SlotKeysPage:
        """Read the keys of some of a node's slots. Errors as in ``keys``."""
        request = SlotKeysRequest(self.header(seat, state), first, limit)
        page = await self._page(seat.url, "slotkeys", request, slot_keys_page_decoder)
        _must_go_on([(slot_of(row.key), row.key) for row in page.rows], (first, b""), None)
        if page.next is not None and page.next <= first:
            raise PeerSilent(NOT_ONWARD)
        return page

    async def due(
        self, seat: Seat, state: State, until_ms: int, after: tuple[int, bytes] | None, limit: int
    ) -> DuePage:
        """Read one page of a node's values that have expired. Errors as in ``keys``."""
        request = DueRequest(self.header(seat, state), until_ms, after, limit)
        page = await self._page(seat.url, "due", request, due_page_decoder)
        _must_go_on(page.rows, after or (-1, b""), None)
        if page.more and not page.rows:
            raise PeerSilent(NOT_ONWARD)
        return page

    async def _page(self, url: str, path: str, request: Any, decoder: msgspec.msgpack.Decoder[P]) -> P:
        answer = await self._request("POST", url, path, encode(request), MSGPACK)
        if answer.code != 200:
            problem = _problem(answer)
            raise _PAGE_ERRORS.get(problem.get("type", ""), PeerRefused)(problem.get("detail", f"status {answer.code}"))
        try:
            return decoder.decode(answer.body)
        except UNDECODED:
            raise PeerSilent("the page could not be read") from None

    async def ask(self, seat: Seat, state: State, ops: list[Op]) -> list[Reply]:
        """Put questions of the register to a node, as the mover: it is served while the epoch is closed.

        :raises PeerRefused: as in ``announce``.
        """
        replies: dict[int, Reply] = {}
        left = list(range(len(ops)))
        while left:
            batch = Batch(self.header(seat, state), [ops[place] for place in left], copying=True)
            reply = await self._order(seat, "batch", encode(batch))
            if len(reply.replies) != len(left) or all(answer.abstains == AGAIN.abstains for answer in reply.replies):
                raise PeerSilent(f"{len(reply.replies)} answers to {len(left)} questions")
            if not all(is_possible(ops[place].verb, one) for place, one in zip(left, reply.replies, strict=True)):
                raise PeerSilent(IMPOSSIBLE)
            replies |= zip(left, reply.replies, strict=True)
            left = [place for place in left if replies[place].abstains == AGAIN.abstains]
        return [replies[place] for place in range(len(ops))]

    @staticmethod
    def header(seat: Seat, state: State) -> Header:
        """Say whom a message means, and what its sender believes."""
        return Header(FORMAT, state.cluster_id, seat.id, seat.incarnation, state.epoch, state.open)

    async def _order(self, seat: Seat, path: str, body: bytes) -> BatchReply:
        answer = await self._request("POST", seat.url, path, body, MSGPACK)
        if answer.code in (401, 403) and not answer.resent:
            raise PeerUnreachable(denied(answer))
        try:
            reply = batch_reply_decoder.decode(answer.body)
        except UNDECODED:
            raise PeerSilent(f"status {answer.code} without a readable answer") from None
        if reply.refusal:
            raise PeerRefused(reply.detail)
        return reply

    async def _request(
        self, method: str, url: str, path: str, body: bytes, content_type: str, timeout_s: float | None = None
    ) -> Answer:
        return await self._transport.request(
            method,
            f"{url}/node/v1/{path}",
            body,
            content_type=content_type,
            timeout_s=timeout_s or self._limits.control_timeout_s,
        )


def _problem(answer: Answer) -> dict[str, str]:
    try:
        fields = msgspec.json.decode(answer.body, type=dict[str, object])
    except UNDECODED:
        return {}
    return {name: value[:DETAIL_CHARS_MAX] for name, value in fields.items() if isinstance(value, str)}


def _places_in(request: PageRequest, page: Page) -> list[tuple[int, bytes]]:
    """Give the places of a page's rows.

    :raises PeerSilent: if one of them was not asked for.
    """
    places = [(slot_of(row.key), row.key) for row in page.rows]
    if not all(_is_in(request.ranges, slot) for slot in {slot for slot, _ in places}):
        raise PeerSilent("the page holds keys of slots that were not asked for")
    return places


def _is_in(ranges: Sequence[tuple[int, int]], slot: int) -> bool:
    """Whether a slot is in one of some ascending ranges."""
    at = bisect_right(ranges, slot, key=itemgetter(0)) - 1
    return at >= 0 and slot <= ranges[at][1]


def _must_go_on(rows: Sequence[Any], after: Any, next_after: Any) -> None:
    """See that a page's rows ascend from behind a place, and that what is asked for next lies behind it, too.

    Who merges pages that do not, or asks for one after the other, may never come to an end.

    :raises PeerSilent: if they do not.
    """
    ascends = all(map(lt, rows, rows[1:])) and (not rows or after < rows[0])
    goes_on = next_after is None or (rows[-1] <= next_after if rows else after < next_after)
    if not ascends or not goes_on:
        raise PeerSilent(NOT_ONWARD)


async def _in_parts(
    clock: IReactorTime,
    ranges: Sequence[tuple[int, int]],
    order: Callable[[list[tuple[int, int]]], Awaitable[int | None]],
) -> None:
    """Give orders about slots until none is left, with a rest after each for as long as it took.

    :param order: is given the slots that are left, and gives the one to go on at, None at the end. It may be the same
        one again.
    :raises PeerSilent: if it goes back, or does not come on.
    """
    left, standing = list(ranges), 0
    while left:
        began_s = clock.seconds()
        after = await order(left)
        if after is not None:
            standing = standing + 1 if after == left[0][0] else 0
            if after < left[0][0] or standing > STANDING_MAX:
                raise PeerSilent(NOT_ONWARD)
        left = onward(left, after) if after is not None else []
        if left:
            await deferLater(clock, clock.seconds() - began_s)
