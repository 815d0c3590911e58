"""Several processes on one job, as torchrun or srun start them: which one this is, and where they wait for each other.

Small things pass between them by gloo, which needs no GPU: the list of inputs, what the first one decided, "I am here" (what
training adds to that is in `distributed.py`). A process that ends early closes its connections, and whoever waits for it is told
so at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar, cast

from coinseg.errors import AGAIN, UserError

T = TypeVar("T")
JOINING, SHARE = timedelta(minutes=30), timedelta(days=14)
"""How long to wait for all to be there, and for the longest share to be done."""


def cores() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class RankInfo:
    """Which process this is.

    Args:
        rank: 0 to count - 1 over all nodes.
        count: how many there are.
        local: the number on this node, by which it takes its GPU.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that gathers, reports and prints."""
        return self.rank == 0

    def share(self, items: T) -> T:
        """Every `count`-th item of a list, an array or a tensor; the shares of all processes are all items, each once."""
        return cast(Any, items)[self.rank :: self.count]


def rank_info(environ: Mapping[str, str] = os.environ) -> RankInfo:
    """The place that torchrun (RANK, WORLD_SIZE, LOCAL_RANK) or srun says; the only one where neither does.

    Raises:
        UserError: what they say is no place.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not set(names) <= environ.keys():
        # Only srun sets this one; in a batch script without srun there is one process, whatever SLURM_NTASKS says.
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        if not set(names) <= environ.keys() or environ["SLURM_STEP_NUM_TASKS"] == "1":
            return RankInfo()
        if "SLURM_NTASKS_PER_NODE" not in environ:
            raise UserError(
                "srun was told the number of tasks and not of each node", "--ntasks-per-node", "give it to sbatch or srun"
            )
    try:
        rank, count, local = (int(environ[name]) for name in names)
    except ValueError:
        rank, count, local = -1, 0, 0
    if not 0 <= rank < count or local < 0:
        said = ", ".join(f"{name} {environ[name]}" for name in names)
        raise UserError(f"the environment has {said}", "the place of one process among several", "start with torchrun or srun")
    return RankInfo(rank, count, local)


class ProcessGroup:
    """Where the processes of one job meet; with one process nothing waits.

    What only the first one does may take days: the others wait for it before anything is handed round.
    """

    def __init__(self, here: RankInfo) -> None:
        self.here = here

    def broadcast(self, value: T) -> T:
        """The value the first process has; all come here."""
        if self.here.count == 1:
            return value
        from torch import distributed

        self.barrier()
        said: list[Any] = [value]
        with told():
            distributed.broadcast_object_list(said, src=0)
        return said[0]

    def on_main(self, make: Callable[[], T]) -> T:
        """What the first process makes; all come here, and it alone makes it."""
        return self.broadcast(make() if self.here.is_main else cast(T, None))

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes, by rank; all come here and all get them."""
        if self.here.count == 1:
            return [value]
        from torch import distributed

        self.barrier()
        said: list[Any] = [None] * self.here.count
        with told():
            distributed.all_gather_object(said, value)
        return said

    def barrier(self) -> None:
        """Go on when all are here."""
        if self.here.count > 1:
            from torch import distributed

            with told():
                distributed.monitored_barrier(timeout=SHARE)


_current = ProcessGroup(RankInfo())


def current() -> ProcessGroup:
    """The meeting this process is in (see `meeting`); that of one process outside of any."""
    return _current


@contextmanager
def process_group(here: RankInfo) -> Iterator[ProcessGroup]:
    """Connect the processes of one job.

    Raises:
        UserError: also later, while waiting: one of them did not come or ended early.
    """
    global _current
    if here.count == 1:
        yield ProcessGroup(here)
        return
    from torch import distributed

    if "RANK" not in os.environ:  # srun: the first node of the job, and a port made of its number
        from lightning_fabric.plugins.environments import SLURMEnvironment

        slurm = SLURMEnvironment()
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
    with told():
        distributed.init_process_group("gloo", rank=here.rank, world_size=here.count, timeout=JOINING)
    _current = ProcessGroup(here)
    try:
        yield _current
    finally:
        _current = ProcessGroup(RankInfo())
        distributed.destroy_process_group()


@contextmanager
def told() -> Iterator[None]:
    """A lost connection, in one line."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"another process of this job cannot be reached or ended early ({str(error).splitlines()[0][:200]})",
            "all of them",
            "see what it said, then give the same command again: what is done is skipped",
        ) from error


@contextmanager
def workers(count: int, option: str) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes on this machine. What they do must be whole or not done at all, as everything here.

    Ctrl-C in a terminal reaches them too: they finish what they are at and leave the rest; and they do not outlive this process.

    Args:
        count: how many.
        option: of the command line that says so.

    Raises:
        UserError: one of them died.
    """
    pool = ProcessPoolExecutor(count, get_context("spawn"), _begin_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {count} processes was killed or died", "all of them, and memory for them", f"lower {option}, then {AGAIN}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)
