"""Batch norms of several processes that train as one: with the statistics that one process would have.

Where processes share a batch, each norm's mean and variance are those of the whole of it (`share_batch_norms`): as torch's
SyncBatchNorm, on CPUs too. Where each has micro-batches of its own, these are normalised one by one, and the running
statistics alone are in common (`running_statistics`).
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as shared
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ditcnn.system.errors import InputError

__all__ = ["refuse_other_norms", "running_statistics", "share_batch_norms", "unshare_batch_norms"]

_KNOWN = (_BatchNorm.forward, BatchNormAct2d.forward)


def share_batch_norms(model: nn.Module) -> None:
    """Make the batch norms of a model normalise over all processes' images while it trains; its keys stay.

    Each one's mean and variance are those of the whole batch, and so are the gradients that go through them.

    Raises:
        InputError: As `refuse_other_norms`.
    """
    refuse_other_norms(model)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and type(module).forward in _KNOWN:
            module.__class__ = _shared(type(module))  # type: ignore[arg-type]


def refuse_other_norms(model: nn.Module) -> None:
    """Raise `InputError` if a batch norm has a forward pass of its own, which cannot be shared."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and type(module).forward not in (
            *_KNOWN,
            _Shared.forward,
            nn.SyncBatchNorm.forward,
        ):
            raise InputError(
                f"{type(module).__name__} is a batch norm with a forward pass of its own, which processes cannot share; "
                "with `global_batch` each has batches of its own."
            )


def unshare_batch_norms(model: nn.Module) -> None:
    """Undo `share_batch_norms`: the model can be pickled again, and train without other processes."""
    for module in model.modules():
        if isinstance(module, _Shared):
            module.__class__ = type(module).__bases__[1]


@functools.cache
def _shared(kind: type[_BatchNorm]) -> type["_Shared"]:
    return type(f"Shared{kind.__name__}", (_Shared, kind), {})


class _Shared(_BatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[N, C, ...]``; timm's norms with an activation behind them do it as they do."""
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        values = x if x.dtype == torch.float64 else x.float()
        mean, variance, count = _moments(values)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                rate = 1 / self.num_batches_tracked.to(values.dtype) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean), rate)
                self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var), rate)
        shape = [1, -1, *[1] * (x.ndim - 2)]
        out = (values - mean.to(values).view(shape)) * torch.rsqrt(variance.to(values) + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        out = out.to(x.dtype)
        for name in ("drop", "act"):  # of timm's BatchNormAct2d
            if (then := getattr(self, name, None)) is not None:
                out = then(out)
        return out


def _moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance ``[C]`` over all processes' values ``[N, C, ...]``, and their number a channel; float64."""
    variance, mean = (part.double() for part in torch.var_mean(values, [0, *range(2, values.ndim)], correction=0))
    count = torch.full((1,), values.numel() / values.shape[1], dtype=torch.float64, device=values.device)
    total = shared.all_reduce(torch.cat([count * mean, count * (variance + mean.square()), count]))
    mean, square = (total[:-1] / total[-1]).chunk(2)
    return mean, square - mean.square(), total[-1]


@contextmanager
def running_statistics(model: nn.Module, rank: int, size: int) -> Iterator[None]:
    r"""Train on micro-batches meanwhile, as many in each process; then the running statistics are those of one process.

    One process sets :math:`r \leftarrow (1-m) r + m s_k` for each micro-batch's statistics s, which after K of them is
    :math:`(1-m)^K r + \sum_k m (1-m)^{K-1-k} s_k`. Process p of P has the micro-batches p, p+P, ... From zero on, and with
    the momentum :math:`m' = 1-(1-m)^P`, its norms sum up just these terms, but for a factor :math:`m (1-m)^{P-1-p} / m'`.
    """
    norms = [n for n in model.modules() if isinstance(n, _BatchNorm) and n.training and n.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    before = [[buffer.clone() for buffer in _statistics(norm)] for norm in norms]
    try:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = None if momentum is None else 1 - (1 - momentum) ** size
            for buffer in _statistics(norm):
                buffer.zero_()
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    if not norms:
        return
    sums = torch.cat([_share(norm, rank, size) for norm in norms])
    dist.all_reduce(sums)
    for norm, old, new in zip(norms, before, sums.split([2 * norm.num_features + 1 for norm in norms]), strict=True):
        *added, count = new.split([norm.num_features, norm.num_features, 1])
        tracked = old[2] + count
        if norm.momentum is None:  # the mean of all micro-batches so far
            kept, taken = old[2] / tracked, count / tracked
        else:
            kept, taken = (1 - norm.momentum) ** count, torch.ones_like(count)
        values = [kept * a + taken * b for a, b in zip(old, added, strict=False)]
        for buffer, value in zip(_statistics(norm), [*values, tracked[0]], strict=True):
            buffer.copy_(value)


def _share(norm: _BatchNorm, rank: int, size: int) -> Tensor:
    """Return what a process adds to a norm's statistics: mean and variance ``[C]`` each, and its number of micro-batches."""
    mean, variance, tracked = (buffer.double() for buffer in _statistics(norm))
    factor = 1 / size
    if m := norm.momentum:
        factor = m * (1 - m) ** (size - 1 - rank) / (1 - (1 - m) ** size)
    return torch.cat([factor * mean, factor * variance, tracked[None]])


def _statistics(norm: _BatchNorm) -> list[Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    return [norm.running_mean, norm.running_var, norm.num_batches_tracked]
