"""The processes of one job that torchrun or srun started: the rank of this one, and broadcast, gather and barrier among all.

Small objects pass between them by gloo, which needs no GPU; sums for training are in `distributed`.
"""

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
"""How long to wait for all processes to start, and for the longest share of the work."""


def cores() -> int:
    """Return the number of CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class RankInfo:
    """The rank (0 to count - 1) of this process among `count`, and its local rank on this node, the number of its GPU."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process gathers, reports and prints."""
        return self.rank == 0

    def share(self, items: T) -> T:
        """Return the part of this process of a list, an array or a tensor: every `count`-th item, from `rank` on."""
        return cast(Any, items)[self.rank :: self.count]


def rank_info(environ: Mapping[str, str] = os.environ) -> RankInfo:
    """Return the rank from the variables of torchrun or srun (`UserError` where they make none); one process without them."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not set(names) <= environ.keys():
        # Only srun sets SLURM_STEP_NUM_TASKS; a batch script without srun is one process, whatever SLURM_NTASKS is.
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        if not set(names) <= environ.keys() or environ["SLURM_STEP_NUM_TASKS"] == "1":
            return RankInfo()
        if "SLURM_NTASKS_PER_NODE" not in environ:
            got = "srun was told the number of tasks and not of each node"
            raise UserError(got, "--ntasks-per-node", "give it to sbatch or srun")
    try:
        rank, count, local = (int(environ[name]) for name in names)
    except ValueError:
        rank, count, local = -1, 0, 0
    if not 0 <= rank < count or local < 0:
        given = ", ".join(f"{name} {environ[name]}" for name in names)
        raise UserError(f"the environment has {given}", "the place of one process among several", "start with torchrun or srun")
    return RankInfo(rank, count, local)


class ProcessGroup:
    """The processes of one job; every method is collective: all processes call it, and with one process it does nothing.

    Each exchange begins with a barrier of a long timeout, because work of the main process alone may take days.
    """

    def __init__(self, here: RankInfo) -> None:
        self.here = here

    def broadcast(self, value: T) -> T:
        """Return the value of the main process."""
        return self._exchanged("broadcast_object_list", [value], 0)[0]

    def on_main(self, make: Callable[[], T]) -> T:
        """Call `make` in the main process only, and return its result in all."""
        return self.broadcast(make() if self.here.is_main else cast(T, None))

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        return self._exchanged("all_gather_object", [value] * self.here.count, value)

    def _exchanged(self, collective: str, values: list[T], argument: Any) -> list[T]:
        """Fill in values by a collective function of torch.distributed."""
        if self.here.count > 1:
            from torch import distributed

            self.barrier()
            with one_line_errors():
                getattr(distributed, collective)(values, argument)
        return values

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.here.count > 1:
            from torch import distributed

            with one_line_errors():
                distributed.monitored_barrier(timeout=SHARE)


_current = ProcessGroup(RankInfo())


def current() -> ProcessGroup:
    """Return the group of the surrounding `process_group`, or a group of this process alone."""
    return _current


@contextmanager
def process_group(here: RankInfo) -> Iterator[ProcessGroup]:
    """Connect the processes of one job; `UserError` where one did not start or ended early, also later, while waiting."""
    global _current
    if here.count == 1:
        yield ProcessGroup(here)
        return
    from torch import distributed

    if "RANK" not in os.environ:  # srun: the first node of the job, and a port made of its number
        from lightning_fabric.plugins.environments import SLURMEnvironment

        slurm = SLURMEnvironment()
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
    with one_line_errors():
        distributed.init_process_group("gloo", rank=here.rank, world_size=here.count, timeout=JOINING)
    _current = ProcessGroup(here)
    try:
        yield _current
    finally:
        _current = ProcessGroup(RankInfo())
        distributed.destroy_process_group()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a lost connection to a `UserError`."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        got = f"another process of this job cannot be reached or ended early ({str(error).splitlines()[0][:200]})"
        do = f"see what it said, then {AGAIN}: what is done is skipped"
        raise UserError(got, "all of them", do) from error


@contextmanager
def workers(count: int, option: str) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes, which finish their task on Ctrl-C; where one dies, `UserError` says to lower the option."""
    pool = ProcessPoolExecutor(count, get_context("spawn"), _begin_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        got = f"one of {count} processes was killed or died"
        raise UserError(got, "all of them, and memory for them", f"lower {option}, then {AGAIN}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)
