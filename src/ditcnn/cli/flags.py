"""Names of fields as the command line writes them."""

import re

__all__ = ["flag", "with_flags"]


def flag(name: str) -> str:
    """Return the flag of a field: ``batch_size`` -> ``--batch-size``."""
    return "--" + name.replace("_", "-")


def with_flags(message: str) -> str:
    """Return a message in which the fields that stand in backticks are the command line's flags.

    >>> with_flags("`batch_size` must be above 0; got -1.")
    '--batch-size must be above 0; got -1.'
    """
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda match: flag(match[1]), message)
