"""Many runs of the simulation, on several cores, and what they come to."""

from __future__ import annotations

import gc
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from multiprocessing import get_context, resource_tracker
from multiprocessing.synchronize import Semaphore

from twisted.logger import globalLogBeginner

from .story import Settings, Story, Verdict

ENDINGS = {signal.SIGINT, signal.SIGTERM}


@dataclass
class Totals:
    """What many runs come to."""

    seeds: int = 0
    wire: int = 0
    """Seeds that simulated bytes."""
    cut_off: int = 0
    """Seeds in which everything had to succeed while one member was out of reach."""
    operations: int = 0
    unknown: int = 0
    events: int = 0
    simulated_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    sites: Counter[str] = field(default_factory=Counter)
    pairs: set[tuple[str, str]] = field(default_factory=set)
    """Which sites and faults came together in a run."""
    judged: Counter[str] = field(default_factory=Counter)
    """Keys by the test that judged them."""
    errors: Counter[str] = field(default_factory=Counter)
    failed: list[Verdict] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        self.seeds += 1
        self.wire += verdict.wire
        self.cut_off += verdict.cut_off
        self.operations += verdict.operations
        self.unknown += verdict.unknown
        self.events += verdict.events
        self.simulated_s += verdict.simulated_s
        self.faults += verdict.faults
        self.sites += verdict.sites
        self.pairs |= set(product(verdict.sites, verdict.faults))
        self.judged += verdict.judged
        self.errors += verdict.errors
        if verdict.trouble:
            self.failed.append(verdict)


def run(seed: int, settings: Settings) -> Verdict:
    """Make one run. Its history comes along only where something is wrong: it has to travel between processes."""
    verdict = Story(seed, settings).play()
    if not verdict.trouble:
        verdict.history.clear()
    return verdict


def runs(seeds: range, settings: Settings, jobs: int) -> Iterator[Verdict]:
    """Make a run for each seed, in any order."""
    if jobs == 1:
        quiet()
        yield from map(partial(run, settings=settings), seeds)
        return
    # Where it starts along with the first process, the helper unblocks these signals (Python 3.11).
    resource_tracker.ensure_running()
    context = get_context("spawn")
    ready = context.Semaphore(0)
    with ExitStack() as stack:
        with undisturbed():
            pool = stack.enter_context(context.Pool(jobs, work_for_another, (ready,)))
            for _ in range(jobs):
                ready.acquire()
        yield from pool.imap_unordered(partial(run, settings=settings), seeds, chunksize=4)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put off what tells this process to end: it would leave half made what is being made, each with a traceback.

    The processes that are made meanwhile are born deaf to it. To block it here is not enough, since another thread may
    be told in the place of this one.
    """
    told: list[int] = []
    before = {ending: signal.signal(ending, lambda number, _: told.append(number)) for ending in ENDINGS}
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
        for ending, handler in before.items():
            signal.signal(ending, handler)
        if told:
            signal.raise_signal(told[0])


def work_for_another(ready: Semaphore) -> None:
    """Be a process of a pool: the one that has it says when to end, by SIGTERM.

    :param ready: is told that the process is made.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
    quiet()
    ready.release()


def quiet() -> None:
    """Keep the daemons' logs off the terminal; each run looks for failures in them."""
    globalLogBeginner.beginLoggingTo([lambda event: None], redirectStandardIO=False)
    # Each run collects what it leaves. What was there before need not be looked through each time.
    gc.freeze()
