"""Every bound and time-out, with its unit and its reason, in one frozen place."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one daemon. Units are the last word of a name."""

    key_bytes_max: int = 1024
    """A key is held in memory by every index; longer ones belong into the value."""

    value_bytes_max: int = 1 * MIB
    """A value is held in memory once for each replica while it is written."""

    content_type_bytes_max: int = 255
    """RFC 6838 section 4.2 bounds a type and a subtype by 127 characters each."""

    body_bytes_max: int = 8 * MIB
    """The largest request body at the doors. A value of control characters grows sixfold as JSON."""

    batch_ops_max: int = 512
    """Operations in one batch: about 2 ms of a node's time, so that a batch never holds up the others for long."""

    batch_bytes_max: int = 4 * MIB
    """Bytes in one batch, unless a single operation is larger."""

    reply_bytes_max: int = 8 * MIB
    """Bytes of records in the answer to one batch, unless a single record is larger: 512 reads of the largest values
    would take 512 MiB, several times over. What does not fit is asked again."""

    node_body_bytes_max: int = 72 * MIB
    """The largest body that a node reads: a batch with one value of the largest configurable size (64 MiB)."""

    batches_in_flight_max: int = 1
    """For each node and lane. While they are under way the next batch grows: that is what makes batches big. To a node
    with a disk what a second one brings would wait for the next sync in any case. Where nodes are milliseconds away two
    or three spare a newcomer part of the way that an earlier batch has still to go."""

    queue_ops_max: int = 20_000
    """Operations waiting for one node and lane. Beyond it that replica counts as unreachable for the newcomer; a bundle
    that was let in may be filled yet."""

    queue_bytes_max: int = 64 * MIB
    """Bytes waiting for one node and lane, for the same reason."""

    resp_clients_max: int = 10_000
    """Connections of Redis clients to one proxy: as many as Redis allows."""

    resp_token_s_max: float = 10.0
    """How long a Redis client may be there without a token, where one is asked for: strangers would fill the door."""

    resp_pipeline_max: int = 1_000
    """Commands of one Redis client that are under way. What it has sent beyond that waits, and then in its socket."""

    resp_keys_max: int = 100_000
    """Keys in one reply to KEYS: a second's work, and ten megabytes."""

    resp_command_bytes_max: int = 64 * MIB
    """All words of one command together: MSET takes many values."""

    resp_output_bytes_max: int = 64 * MIB
    """Replies that are kept for one Redis client, since it does not read or one before them is still to come. Beyond it
    the client is cut off."""

    resp_outputs_bytes_max: int = 256 * MIB
    """The same for all Redis clients of a proxy together. Beyond it those that do not read are cut off."""

    operations_max: int = 10_000
    """Client operations under way in one proxy. Beyond it a client is told 429 at once instead of waiting in vain."""

    operation_bytes_max: int = 256 * MIB
    """Bytes of values under way in one proxy: what its memory may grow by."""

    operation_timeout_s: float = 5.0
    """How long a client's operation may take. Longer than a node's restart, shorter than a client's patience."""

    operation_timeout_s_max: float = 60.0
    """How long a client may ask an operation to wait: an operation holds memory meanwhile."""

    ttl_s_max: float = 100 * 365 * 86_400.0
    """A century: what is meant to live longer does not expire."""

    batch_timeout_s: float = 4.0
    """How long one batch may take, body included. Shorter than an operation, so that its answer names the silent."""

    slow_read_s: float = 0.1
    """The longest that a read waits for its first choice before it asks the other owners; it asks them earlier where
    the first choice used to be faster, and later where too many reads have asked twice."""

    hedge_s_min: float = 0.002
    """The least of that: waiting for less than a turn of a busy reactor would double every read."""

    slow_node_s_min: float = 0.05
    """A node whose answers come sooner is not called slow, however fast the others are."""

    pace_answers_max: int = 256
    """Answers by which a node's pace is known: half a second's on a busy proxy, and sorted in 10 us."""

    pace_s_max: float = 10.0
    """How long they count. A slow node is asked last, so it is by forgetting that it gets another chance."""

    standing_s: float = 0.1
    """How long what is known of the nodes' paces is used before it is looked at again: each read asks for it."""

    chain_step_s: float = 1.0
    """The longest that a level-one read waits for one owner before it asks the next, within the operation's own
    time."""

    link_questions_max: int = 16
    """Batches under way on one link of a node, which then reads no more: a proxy has four, and those it gave up."""

    link_head_bytes_max: int = 4 * KIB
    """The answer to a request for a link; a node's has 80 bytes."""

    link_pause_s: float = 1.0
    """How long nobody tries to open a link to a node after that has failed: as soon as a restarted node is noticed."""

    link_pause_s_max: float = 30.0
    """The longest such pause. It doubles where a node is there and has no link, which seldom changes."""

    link_idle_s: float = 300.0
    """How long a link is kept on which nobody asks anything: its node may have left. The next batch opens it again."""

    connect_attempt_s: float = 0.02
    """How long one address of a node is tried alone before the next one is tried beside it (RFC 8305, section 5)."""

    connections_max: int = 32
    """Connections to one node, made for whoever asks: four batches, sixteen slots under repair, copies, probes and
    streams at the same time. Beyond it requests wait for one another instead of for the node."""

    connection_idle_s: float = 30.0
    """How long an unused connection to a node is kept: shorter than ``idle_s_max``, so that one that the node has
    closed just now is the exception."""

    answer_head_bytes_max: int = 16 * KIB
    """The head of an answer, and what may stand between two pieces of its body: a node's has 200 bytes."""

    answer_fields_max: int = 100
    """Header fields of an answer; a node's has five."""

    control_timeout_s: float = 5.0
    """How long a probe, a handshake or an announcement may take."""

    probe_interval_s: float = 0.5
    """How often each member is asked who it is: half of the time in which a restarted node should be noticed."""

    probe_timeout_s: float = 1.5
    """How long a probe may take: a silent node must not keep the others from being asked again."""

    drive_interval_s: float = 0.5
    """How often a proxy looks whether a change waits that it could drive now."""

    state_poll_interval_s: float = 0.25
    """How often the state file is looked at. The promise is that a change is seen within a second."""

    suspect_after_failures: int = 3
    """Failures in a row after which a node is avoided until it answers a probe."""

    relapse_s: float = 60.0
    """A node that is avoided again within this time of coming back is flapping: it has to answer for a while then."""

    trial_s_max: float = 4.0
    """The longest such while. It begins with ``probe_interval_s`` and doubles; a node that is well again should be
    used again within a few seconds."""

    change_patience_s: float = 60.0
    """How long a call waits for the change that it asked for. The change goes on when the call has given up."""

    kick_pause_s: float = 0.1
    """Least time between two rounds of probes that a refusing node asks for: it refuses every batch."""

    zone_chars_max: int = 64
    """A zone is a name, and goes with the state into every announcement."""

    change_retry_s_max: float = 30.0
    """Longest pause before a change that failed is tried again; the first pause is a thirtieth of it."""

    page_records_max: int = 256
    """Records in one page of a slot copy: some 5 ms of a node's time, so that clients hardly wait for it."""

    page_bytes_max: int = 4 * MIB
    """Bytes in one page of a slot copy, unless a single record is larger."""

    hints_max: int = 100_000
    """Hints that a node keeps for others. Beyond it slots are marked for repair: no write is refused for a hint."""

    hints_bytes_max: int = 32 * MIB
    """Bytes of their keys, for the same reason."""

    hints_age_s_max: float = 3 * 3600.0
    """How old a hint may become. What was away for longer is compared slot by slot, which is cheaper by then."""

    hints_tidy_interval_s: float = 60.0
    """How often hints are looked at for their age."""

    hints_page_max: int = 256
    """Hints that are replayed at a time."""

    courier_interval_s: float = 1.0
    """How often a proxy looks whether hints wait; it also does as soon as a node is back."""

    repair_interval_s: float = 10.0
    """How often owners are compared: a fraction of a second's work where they agree."""

    repair_slots_max: int = 2_048
    """Slots whose digests are compared at a time: about 4 ms of a proxy's time where all of them hold something."""

    repair_slots_at_once: int = 16
    """Slots whose owners repair makes alike at a time."""

    repair_at_once: int = 64
    """Keys that repair makes alike at a time, so that clients have the rest of the nodes' time."""

    repair_keys_max: int = 20_000
    """Keys that one round of repair looks at; the next round goes on."""

    purge_grace_s: float = 60.0
    """How old a tombstone becomes at the least; infinite: none is purged. Younger floors would refuse writes of proxies
    whose clocks are late."""

    purge_slots_max: int = 256
    """Slots that are purged at a time."""

    scrub_period_s: float = 7 * 86_400.0
    """How long it takes a node to read all of its data once, to find what its disk has spoiled."""

    scrub_interval_s: float = 1.0
    """How often a node reads a part of it."""

    pull_slots_max: int = 16_384
    """Slots that a node which copies compares at a time, where they hold little."""

    pull_slots_min: int = 64
    """Slots that it begins with: a cluster of five million keys has as many as fit into an order."""

    pull_records_max: int = 8_192
    """Records after which a node that copies reports to who drives the change: a fraction of a second's work."""

    pull_s_max: float = 1.0
    """How long it copies before it reports in any case. Well below ``control_timeout_s``."""

    pulls_at_once: int = 4
    """Nodes that copy at the same time in one change."""

    pull_passes_max: int = 3
    """How often slots are looked at again before a change may end: by then only what clients write just now differs."""

    settled_at_once: int = 256
    """Disputed keys that are proposed again in one round."""

    rebalance_bytes_per_s: int = 64 * MIB
    """How fast one change moves data, at most; it slows down by itself while clients wait longer because of it."""

    change_answer_s: float = 5.0
    """How long a call that changes the ring waits for the data to have moved; it goes on as a task."""

    keys_page_max: int = 1_000
    """Keys in one page of a listing: about 10 ms of a node's time."""

    sweep_interval_s: float = 5.0
    """How often expired values that nobody reads are looked for."""

    sweep_at_once: int = 64
    """Expired values that a sweep replaces at a time, so that clients have the rest of the nodes' time."""

    verify_cells_max: int = 500
    """Cells that a node reads at one order to see that they can be read: a few ms of its time, then it has a rest."""

    drop_cells_max: int = 500
    """Cells that a node forgets at one order: a few ms of its time. Then it is left in peace for as long."""

    stall_retry_s: float = 0.01
    """How soon a write is tried again that the disk had no room for in its queue."""

    disk_free_bytes_min: int = 64 * MIB
    """Room left on a node's disk below which it takes no more writes: twice what is written out at a time."""

    disk_check_interval_s: float = 1.0
    """How often that is looked at."""

    sync_interval_s: float = 1.0
    """How often data is synced in the mode ``interval``: what a power cut can take."""

    backoff_s: float = 0.01
    """Mean pause before the second attempt at a contended key; it doubles with each further one."""

    backoff_s_max: float = 0.5
    """Longest mean pause between two attempts."""

    backoff_open_s_max: float = 0.04
    """The same for a change that may have taken effect, where rounds are slow: a record remembers sixteen changes."""

    relay_margin_s: float = 30.0
    """How much longer than ``change_patience_s`` and ``change_answer_s`` a proxy's worker waits for the first one: that
    one asks a node and writes to the state store before and after, each within ``control_timeout_s``."""

    relay_bytes_max: int = 64 * MIB
    """The largest answer that a worker takes from another one: the metrics of 64 workers and a hundred nodes."""

    worker_metrics_timeout_s: float = 1.0
    """How long a worker's metrics are waited for; it is left out then, since whoever collects them waits some ten."""

    worker_ready_timeout_s: float = 1.0
    """How long a worker waits for what the first one says of its health: many of those who ask wait no longer."""

    slow_operation_s: float = 0.5
    """How long an operation or a batch may take before a line in the log says where its time went. It is five times as
    long as a read waits before it asks other owners."""

    slow_lines_max: int = 20
    """Such lines in ``slow_lines_s``; those beyond are counted."""

    slow_lines_s: float = 10.0
    """A slow disk makes thousands of operations slow at once: a few lines a second tell as much."""

    pulse_interval_s: float = 0.1
    """How often it is measured how late the reactor is: a stall of a second shows, and a call costs 10 us."""

    clock_ahead_s_max: float = 60.0
    """A proxy further ahead of most nodes than this says so in /health/ready. Safety does not depend on it."""

    head_bytes_max: int = 16 * KIB
    """The first line and the fields of a request: a key of 1024 bytes takes three times that, escaped."""

    head_fields_max: int = 100
    """Fields of one request; browsers send some twenty."""

    intake_bytes_max: int = 256 * MIB
    """Bytes of bodies that are on their way into one port. Who sends more is refused with 429: a thousand clients may
    send a mebibyte each at the same time."""

    pipelined_bytes_max: int = 64 * KIB
    """What is read ahead of requests that wait for the answers to those before them."""

    head_s_max: float = 5.0
    """How long a request's head may take from its first byte: it fits into a few packets."""

    body_s_max: float = 30.0
    """How long a body may take, and beside that as long as what has come takes at ``body_bytes_per_s_min``."""

    body_bytes_per_s_min: int = 64 * KIB
    """The slowest link that a large body, or a large answer, may go by."""

    stalled_s_max: float = 30.0
    """How long an answer may lie here until it was read whole, beside what it takes at ``body_bytes_per_s_min``: it
    holds memory meanwhile."""

    idle_s_max: float = 60.0
    """How long a connection without a request is kept."""

    viewers_max: int = 64
    """Streams of events at one process of a proxy: each is a connection, and a few kilobytes to write every second."""

    events_interval_s: float = 1.0
    """How often those who watch are told how things are: people see no faster, and all of them share one look."""

    events_heartbeat_s: float = 5.0
    """How long a look may take before those who watch are told that they are not forgotten."""

    descriptors_spare: int = 400
    """File descriptors that clients do not get, half of all at the most: RocksDB has up to 256 files open, and calls to
    others need some. Where no more are left, connections on which nothing is asked are closed, the idlest first."""

    stop_notice_s: float = 0.1
    """How long a stopping proxy goes on listening, and says at ``/health/ready`` that it stops: what a balancer in
    front of several proxies takes to notice. Without a balancer nobody asks there."""

    linger_s: float = 2.0
    """How long a refused upload is still read, so that its sender sees the refusal and not a reset connection; and how
    long a link that is closed waits for its last answers to be read."""

    def body_s(self, came_bytes: int) -> float:
        """Say how long a body may take of which so much has come."""
        return self.body_s_max + came_bytes / self.body_bytes_per_s_min

    def unread_s(self, written_bytes: int) -> float:
        """Say how long a client may take to read so many bytes."""
        return self.stalled_s_max + written_bytes / self.body_bytes_per_s_min
