"""Whether derivatives are being taken by rules that the op does not have: forward mode, and functorch's transforms."""

from typing import NoReturn

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack, is_legacy_batchedtensor
from torch.autograd import forward_ad

__all__ = ["brings_many", "op_has_no_rule", "refuse_transform"]

# The op has a rule for vmap, and torch makes one for functionalize. Grad and Jvp need what a custom op cannot have.
_WITH_RULE = (TransformType.Vmap, TransformType.Functionalize)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def op_has_no_rule() -> bool:
    """Say whether a forward-mode level or a transform as ``torch.func.grad`` is active, where the op would be wrong.

    A dual number that enters a custom op comes out without its tangent, and with no error; and functorch's grad cannot look
    into one. Plain operations have all rules.

    A constant to dynamo, which sets the levels while it traces and guards on them.
    """
    if forward_ad._current_level >= 0:
        return True
    levels = get_interpreter_stack()
    return levels is not None and any(level.key() not in _WITH_RULE for level in levels)


def brings_many(grad: Tensor) -> bool:
    """Say whether a gradient is many at once in the manner of ``is_grads_batched``, an older vmap without rules for ops."""
    many: bool = is_legacy_batchedtensor(grad)
    return many


def refuse_transform(backend: str) -> NoReturn:
    """Raise ``RuntimeError``: a backend was asked for by name where only plain operations are right."""
    raise RuntimeError(
        f"backend={backend!r} has no rule for forward-mode derivatives, torch.func's transforms (vmap apart) and "
        "is_grads_batched; leave backend='auto', which takes plain operations there, or name 'reference'."
    )
