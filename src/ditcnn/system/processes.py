"""The processes of one job, as torchrun starts them: who is first, what they agree on, gradients in common."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ditcnn.system.batch_norm import running_statistics, share_batch_norms, unshare_batch_norms
from ditcnn.system.errors import InputError, RunFailed, ToldElsewhere
from ditcnn.system.failures import explained
from ditcnn.system.launch import launched

__all__ = ["Processes"]

Result = TypeVar("Result")

# A dead process ends its connections at once, which the others notice; this is for one that hangs. The slowest thing
# that one process does alone is writing a checkpoint.
PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Processes:
    """The processes that train together; without torchrun, this one alone.

    Only the first one, of rank 0, writes files and talks; each decision that files or clocks bear on is made there and
    broadcast, so that all processes take the same path.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launcher: int | None = None
    """Process id of torchrun, where it started this process."""
    restarts: int = 0
    """How often torchrun has restarted the processes of this machine after a failure."""
    max_restarts: int = 0
    """How often it would at most."""
    met_before: bool = False
    """Whether the program that calls has its processes meet, and part, itself."""

    @classmethod
    def join(cls) -> "Processes":
        """Meet the other processes that torchrun has started; return at once where it has not."""
        if not launched():
            return cls()
        rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        met = dist.is_initialized()
        if size > 1 and not met:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            store, _, _ = next(dist.rendezvous("env://", timeout=PATIENCE))
            fresh = _unwritten(store, rank, size)
            dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=PATIENCE)
        restarts, most = (int(os.environ.get(f"TORCHELASTIC_{name}", 0)) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
        return cls(rank, size, local_rank, os.getppid(), restarts, most, met)

    def leave(self) -> None:
        """Part from the other processes, when all of them do."""
        if self.size > 1 and not self.met_before:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    @property
    def abandoned(self) -> bool:
        """Whether the process that started this one has gone: nobody would pass on its signals."""
        return self.launcher is not None and os.getppid() != self.launcher

    def own_device(self, device: torch.device) -> torch.device:
        """Return this process's device of the kind.

        Raises:
            InputError: There are more processes on this machine than GPUs.
        """
        if device.type != "cuda" or self.launcher is None:
            return device
        if self.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"torchrun's --nproc_per_node must be at most the number of GPUs, {torch.cuda.device_count()}; "
                f"got {os.environ['LOCAL_WORLD_SIZE']}. For the CPU: `device` cpu."
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def on_first(self, work: Callable[[], Result]) -> Result:
        """Do ``work`` in the first process while the others wait; return what it returned there, in all of them.

        Raises:
            InputError, RunFailed, OSError: What ``work`` raised, in the first process.
            ToldElsewhere: The same, in the others.
            SystemExit: The same, in all: help was asked for and is printed.
        """
        if self.size == 1:
            return work()
        outcome: list[object] = [None, None]
        failure = None
        if self.first:
            try:
                outcome[0] = work()
            except (Exception, SystemExit) as error:  # the others must learn of it, whatever it is
                failure = error
                known = isinstance(error, InputError | RunFailed | OSError | SystemExit)
                outcome[1] = error if known else RunFailed(str(error))
        dist.broadcast_object_list(outcome, src=0)
        if failure is not None:
            raise failure
        if isinstance(outcome[1], SystemExit):
            raise outcome[1]
        if isinstance(outcome[1], Exception):
            raise ToldElsewhere(outcome[1])
        return outcome[0]  # type: ignore[return-value]

    def on_all(self, work: Callable[[], Result]) -> Result:
        """Do ``work`` in each process; where it fails in any, all end, and the first of those that failed tells why.

        Raises:
            InputError, RunFailed, OSError: What ``work`` raised here.
            ToldElsewhere: Another process tells it.
        """
        failure: Exception | None = None
        try:
            result = work()
        except RuntimeError as error:
            failure = explained(error)
        except Exception as error:  # the others must learn of it, whatever it is
            failure = error
        self.end_if_any(self.gather(failure is not None)[:, 0], failure)
        return result

    def end_if_any(self, failed: Tensor, failure: Exception | None) -> None:
        """End all processes where any has failed; the first of those that failed tells why.

        Args:
            failed: Whether each process has failed ``[processes]``, as they have gathered it.
            failure: Why this one has.

        Raises:
            InputError, RunFailed, OSError: ``failure``, in the first process that failed.
            ToldElsewhere: In the others.
        """
        if not failed.any():
            return
        if failure is None:
            raise ToldElsewhere(InputError("another process failed."))
        if self.rank == int(failed.nonzero()[0]) or isinstance(failure, ToldElsewhere):
            raise failure
        raise ToldElsewhere(failure)

    def any_restarted(self) -> bool:
        """Say whether torchrun has restarted the processes, on any machine: each counts its own failures only."""
        return bool(self.gather(self.restarts).any())

    def agreed(self, error: Exception) -> Exception:
        """Return what to raise for an error that all processes have come to: only the first one tells it."""
        return error if self.first else ToldElsewhere(error)

    def gather(self, *values: float) -> Tensor:
        """Return each process's values, float64 ``[processes, values]``, the same in all of them."""
        mine = torch.tensor(values, dtype=torch.float64)
        rows = [torch.empty_like(mine) for _ in range(self.size)]
        if self.size == 1:
            return mine[None]
        dist.all_gather(rows, mine)
        return torch.stack(rows)

    def wrap(self, model: nn.Module, unused: bool = False) -> nn.Module:
        """Return the model with its gradients averaged over the processes.

        Args:
            model: The model.
            unused: Some of its parameters have no part in its output.
        """
        if self.size == 1:
            return model
        return DistributedDataParallel(model, forward_sync_buffers=False, find_unused_parameters=unused)

    @contextmanager
    def normalising_together(self, model: nn.Module, shared: bool) -> Iterator[None]:
        """Have the model's batch norms normalise over all processes' images meanwhile, where these share each batch."""
        if self.size == 1 or not shared:
            yield
            return
        try:
            share_batch_norms(model)
            yield
        finally:
            unshare_batch_norms(model)

    @staticmethod
    def accumulating(wrapped: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Return the context of a forward and backward pass: gradients are averaged in the last one of a step."""
        if last or not isinstance(wrapped, DistributedDataParallel):
            return nullcontext()
        return wrapped.no_sync()

    def running_statistics(self, model: nn.Module, shared: bool) -> AbstractContextManager[None]:
        """Return the context of a step, after which the running statistics of batch norms are those of one process.

        So the first process's checkpoint is the state of all.
        """
        return nullcontext() if self.size == 1 or shared else running_statistics(model, self.rank, self.size)


def _unwritten(store: dist.Store, rank: int, size: int) -> dist.Store:
    """Return a part of torchrun's store that only the processes of this attempt know, each of which calls this.

    torchrun keeps its store when it restarts processes, and in it are the addresses of those that are dead. Its count of
    restarts does not tell attempts apart, as it is not the same on all machines. So each process draws a word; the first one
    collects them until all have found their own in its list, which no earlier list can hold.
    """
    word = uuid.uuid4().hex
    others = range(1, size)
    if rank > 0:
        store.set(f"ditcnn/word/{rank}", word)
    while True:
        if rank == 0:
            store.set("ditcnn/words", " ".join([word, *(store.get(f"ditcnn/word/{r}").decode() for r in others)]))
            if all(store.check([f"ditcnn/{word}/{r}"]) for r in others):
                return dist.PrefixStore(word, store)
        else:
            first, *words = store.get("ditcnn/words").decode().split()
            if word in words:
                store.set(f"ditcnn/{first}/{rank}", "met")
                return dist.PrefixStore(first, store)
        time.sleep(0.02)
