r"""CifarNet: the small network of the CIFAR-10 speed records, and the same with a quadratic term.

A frozen 2x2 convolution whitens the patches of the images, each component with both signs. Then come three blocks of two
3x3 convolutions, the first of each followed by a max-pool, both by a batch norm with a bias and no scale, and GELU. The
largest value of each channel goes to a head whose logits are divided by 9. No padding in front, so that 32x32 images have
maps of 31, 15, 7 and 3 rows; images have at least 9. The 3x3 convolutions start as the identity on their input channels
(Dirac), the other filters as PyTorch draws them. Source: Keller Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU",
2024, and his `cifar10-airbench`; the widths are ours.

Dit-CifarNet has the term beside the first 3x3 convolution, :math:`\mathrm{conv}(x) + V(Ux)^2`, in front of the pool and
of the norm, without which products break runs off. It stands where the correlations of pixels are: with gelu(w) - gelu(-w) =
w, the 24 maps hold the whitened patch itself, so the term has all products of the 12 values of a patch, at unit scale, and
needs no norm in front. V = 0 at the start, where the network computes what the plain one does, to the bit.

========================  ============  =============  ======================
of 32x32 images           parameters    100 classes    multiply-adds an image
========================  ============  =============  ======================
cifarnet                  312,616       320,536        40.7 million
dit_cifarnet, rank 32     315,432       323,352        43.4 million
========================  ============  =============  ======================

768 parameters, the weights of the frozen convolution and of the norms, are not trained.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models import generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint_seq
from torch import Tensor, nn

from ditcnn.colours import CIFAR_MEAN
from ditcnn.convert import add_quadratic
from ditcnn.layers import Norm
from ditcnn.models.cifar_resnet import cifar_cfg
from ditcnn.models.pretrained import build

__all__ = ["CifarNet", "DitCifarNet", "whitening"]

WIDTHS = (64, 88, 88)
HEAD_SCALE = 1 / 9
WHITENED = 2  # rows and columns of a whitened patch
EPS = 5e-4  # added to the variances of patches, in units of the normalised images squared
CHUNK = 250  # images whose patches are in memory at a time


class Block(nn.Module):
    """gelu(norm2(conv2(h))), h = gelu(norm1(pool(conv1(x)))): half the height and width."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = _norm(out_channels)
        self.act1 = nn.GELU()
        self.conv2 = _conv(out_channels, out_channels)
        self.norm2 = _norm(out_channels)
        self.act2 = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        h = self.act1(self.norm1(self.pool(self.conv1(x))))
        y: Tensor = self.act2(self.norm2(self.conv2(h)))
        return y


class CifarNet(nn.Module):
    """The plain network.

    `prepare_on_images` computes the whitening; before it, the first convolution has PyTorch's random filters.

    Args:
        num_classes: Outputs of the head; 0 leaves the pooled features.
        in_chans: Channels of the images, of which the whitening makes eight maps each.
        global_pool: timm's name of a pool, or ``""`` for the map itself.
        drop_rate: Dropout before the head.
        widths: Channels of the three blocks.

    Shapes:
        ``[N, in_chans, H, W]`` -> ``[N, num_classes]``.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "max",
        drop_rate: float = 0.0,
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        super().__init__()
        if len(widths) != 3 or not all(isinstance(width, int) and width > 0 for width in widths):
            raise ValueError(f"widths must be three numbers of channels, as {WIDTHS}; got {tuple(widths)}.")
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.grad_checkpointing = False
        maps = 2 * in_chans * WHITENED**2
        self.whiten = nn.Conv2d(in_chans, maps, WHITENED)
        self.whiten.weight.requires_grad = False
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        self.act = nn.GELU()
        self.block1 = Block(maps, widths[0])
        self.block2 = Block(widths[0], widths[1])
        self.block3 = Block(widths[1], widths[2])
        self.num_features = widths[2]
        self.feature_info = [dict(num_chs=maps, reduction=1, module="act")] + [
            dict(num_chs=width, reduction=2**i, module=f"block{i}") for i, width in enumerate(widths, start=1)
        ]
        self.reset_classifier(num_classes, global_pool)

    @torch.no_grad()
    def prepare_on_images(self, images: Tensor) -> None:
        """Whiten the patches of images from now on; without effect on a network that has trained.

        Args:
            images: Training images as the network sees them, normalised, ``[N, in_chans, H, W]``.
        """
        if int(self.block1.norm1.num_batches_tracked or 0):
            return
        filters, offsets = whitening(images)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))
        self.whiten.bias.copy_(torch.cat([offsets, -offsets]))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map, ``[N, 88, 3, 3]`` for 32x32 images."""
        x = self.act(self.whiten(x))
        for block in self._blocks():
            x = self._run(block, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of a last map, or with ``pre_logits`` the pooled features."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = nn.functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits or not self.num_classes else self.head(x) * HEAD_SCALE

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the last map and the maps of the whitening and blocks named by ``indices``, as timm's models do."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW'; got {output_fmt!r}.")
        take, last = feature_take_indices(4, indices)
        x = self.act(self.whiten(x))
        intermediates = [x] if 0 in take else []
        for i, block in enumerate(self._blocks()[:last] if stop_early else self._blocks(), start=1):
            x = self._run(block, x)
            if i in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the blocks that ``indices`` does not need, as timm's models do; return the indices taken."""
        take, last = feature_take_indices(4, indices)
        for i in range(last + 1, 4):
            setattr(self, f"block{i}", nn.Identity())
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one for ``num_classes`` (0: none)."""
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        if num_classes and self.global_pool.is_identity():
            raise ValueError("global_pool='' leaves a map, which the head cannot read; use num_classes=0 with it.")
        self.num_classes = num_classes
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.head: nn.Module = nn.Linear(self.head_hidden_size, num_classes, bias=False) if num_classes else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the patterns that timm's layer-wise decay groups parameters by."""
        return dict(stem=r"^whiten", blocks=r"^block(\d+)" if coarse else r"^block(\d+)\.(?:conv|norm)(\d+)")

    def _blocks(self) -> list[nn.Module]:
        return [self.block1, self.block2, self.block3]

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        recompute = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        y: Tensor = checkpoint_seq([block], x) if recompute else block(x)
        return y


class DitCifarNet(CifarNet):
    """`CifarNet` with quadratic terms beside some of its convolutions, zero at the start.

    Drawn from the same seed, every other parameter starts as in the plain network.

    Args:
        args, kwargs: As in `CifarNet`.
        quadratic_at: Where: names of convolutions or globs, as in `ditcnn.add_quadratic`: ``whiten``, ``block1.conv1`` to
            ``block3.conv2``.
        quadratic_rank: R of the terms V(Ux)^2; 0 for whole matrices A, O C^2 parameters each (timm passes on no None).
        quadratic_norm: The norm before a term: ``"instance"``, ``"batch"`` or ``"none"``.
    """

    def __init__(
        self,
        *args: Any,
        quadratic_at: str | Sequence[str] = "block1.conv1",
        quadratic_rank: int = 32,
        quadratic_norm: Norm = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        add_quadratic(self, quadratic_at, rank=quadratic_rank or None, norm=quadratic_norm)


def whitening(images: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the filters that whiten the 2x2 patches of images, and the offsets that take their mean off.

    With mean :math:`\mu` and covariance :math:`\Sigma = \sum_k \lambda_k e_k e_k^\top` of the patches, filter k is
    :math:`e_k^\top / \sqrt{\lambda_k + 0.0005}` and its offset takes off what it gives for :math:`\mu`. So whitened patches
    have mean 0 and covariance 1, less where a variance is small. Filters stand in the order of falling variance; the largest
    entry of each is positive. In float64: a function of the images alone, to rounding.

    Args:
        images: ``[N, C, H, W]``, H and W at least 2.

    Returns:
        Filters ``[4 C, C, 2, 2]`` and offsets ``[4 C]``, float64.
    """
    size = images.shape[1] * WHITENED**2
    first, second, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64), 0
    for chunk in images.cpu().split(CHUNK):
        patches = chunk.double().unfold(2, WHITENED, 1).unfold(3, WHITENED, 1)  # [N, C, rows, columns, 2, 2]
        flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, size)
        first, second, count = first + flat.sum(0), second + flat.T @ flat, count + len(flat)
    mean = first / count
    variances, vectors = torch.linalg.eigh(second / count - torch.outer(mean, mean))
    vectors = vectors.T.flip(0)
    largest = vectors.abs().argmax(1, keepdim=True)
    filters = vectors * vectors.gather(1, largest).sign() / (variances.flip(0).clamp(min=0) + EPS).sqrt()[:, None]
    return filters.reshape(size, -1, WHITENED, WHITENED), -filters @ mean


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:in_channels])
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.4)  # runs of few steps: statistics must follow soon
    norm.weight.requires_grad = False
    return norm


def _cfg() -> Any:
    std = (0.2470, 0.2435, 0.2616)  # of all pixels, where CIFAR_STD is the mean over images of each one's own
    return cifar_cfg() | dict(mean=CIFAR_MEAN, std=std, first_conv="whiten", classifier="head", pool_size=(3, 3))


default_cfgs = generate_default_cfgs({"cifarnet": _cfg(), "dit_cifarnet": _cfg()})


def _create(model_cls: type[CifarNet], variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    features = dict(out_indices=(0, 1, 2, 3), flatten_sequential=False)  # timm writes into it
    return build(model_cls, variant, pretrained, feature_cfg=features, **kwargs)


@register_model
def cifarnet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CifarNet for 32x32 images."""
    return _create(CifarNet, "cifarnet", pretrained, **kwargs)


@register_model
def dit_cifarnet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CifarNet with the quadratic term."""
    return _create(DitCifarNet, "dit_cifarnet", pretrained, **kwargs)
