"""Batch norms over the parts of a batch that several processes have: as torch's SyncBatchNorm, on CPUs too."""

import torch
import torch.distributed.nn.functional as shared
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["share_batch_norms"]


def share_batch_norms(model: nn.Module) -> None:
    """Make the batch norms of a model normalise over all processes' images while it trains; its keys stay.

    Each one's mean and variance are those of the whole batch, and so are the gradients that go through them.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            kind = type(module)
            module.__class__ = type(f"Shared{kind.__name__}", (_Shared, kind), {})


class _Shared(_BatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[N, C, ...]``; timm's norms with an activation behind them do it as they do."""
        if not self.training:
            return super().forward(x)
        dims = [0, *range(2, x.ndim)]
        values = x.float()
        double = torch.float64 if x.device.type != "mps" else torch.float32
        count = torch.full((1,), values.numel() / values.shape[1], dtype=double, device=x.device)
        sums = torch.cat([values.sum(dims, dtype=double), values.square().sum(dims, dtype=double), count])
        total = shared.all_reduce(sums)
        mean, square = (total[:-1] / total[-1]).chunk(2)
        variance = (square - mean.square()).float()
        mean = mean.float()
        with torch.no_grad():
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            assert self.running_mean is not None
            assert self.running_var is not None
            self.running_mean.lerp_(mean.detach(), rate)
            self.running_var.lerp_(variance.detach() * float(total[-1] / (total[-1] - 1)), rate)
        shape = [1, -1, *[1] * (x.ndim - 2)]
        out = (values - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        out = out.to(x.dtype)
        for name in ("drop", "act"):  # of timm's BatchNormAct2d
            if (then := getattr(self, name, None)) is not None:
                out = then(out)
        return out  # type: ignore[no-any-return]
