"""What torchrun tells a process in its environment."""

import os

__all__ = ["launched", "rank"]


def launched() -> bool:
    """Say whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Return the number of this process among those that torchrun started; 0 without it."""
    return int(os.environ["RANK"]) if launched() else 0
