"""What a library's error means for a run."""

import torch
import torch.distributed as dist
from torch._dynamo.exc import TorchDynamoException

from ditcnn.system.errors import RunFailed

__all__ = ["explained", "lost_contact", "out_of_memory"]


def lost_contact(error: RuntimeError) -> bool:
    """Say whether an operation failed because another process is gone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def out_of_memory(error: Exception) -> bool:
    """Say whether a device or the machine has too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def explained(error: RuntimeError) -> Exception:
    """Return the failure that an error amounts to, and what to do; or the error itself, where it is the code's fault."""
    first = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, TorchDynamoException):
        return RunFailed(f"torch.compile failed: {first} Run without `compile`.")
    if out_of_memory(error):
        return RunFailed(f"out of memory: {first} Lower `batch_size`; `global_batch` is kept by accumulation.")
    if lost_contact(error):
        return RunFailed(f"the processes of torchrun lost contact: {first}")
    return error
