r"""The CIFAR ResNet (He et al., 2016) and Dit-ResNet (Liu et al., NeurIPS 2024): depths 20, 32, 56 and 110.

A 3x3 stem with 16 channels, then three stages of (depth-2)/6 basic blocks with 16, 32 and 64 channels. Shortcuts across a
change of shape are a 1x1 convolution with batch normalisation. The last map is averaged to 2x2 and flattened, so the head
sees 256 features; the plain networks have the same head and differ by the quadratic term alone, 33,280 parameters.
Weights start as PyTorch's layers draw them, as in the published code.

Dit-ResNet has one term, in the first block of the second stage:

.. math:: \mathrm{relu}\bigl((\mathrm{bn}_2(\mathrm{conv}_2(h)) + Q(\mathrm{norm}(h)))/2 + \mathrm{shortcut}(x)\bigr),
          \qquad h = \mathrm{relu}(\mathrm{bn}_1(\mathrm{conv}_1(x)))

The mean halves the convolution's part: at Q = 0 this is not the plain network. With the sum in its place it is.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from timm.models import generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint_seq
from torch import Tensor, nn

from ditcnn.colours import CIFAR_MEAN, CIFAR_STD
from ditcnn.layers import Norm, QuadraticForm2d
from ditcnn.models.pretrained import build

__all__ = ["CifarResNet", "DitResNet", "cifar_cfg", "create_cifar"]

Combine = Literal["mean", "sum"]
ConvFactory = Callable[[int, int, int, int, int], nn.Module]  # of in_channels, out_channels, kernel_size, stride, padding
WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """relu(bn2(conv2(h)) + shortcut(x)), h = relu(bn1(conv1(x))); a term of h is averaged with bn2(conv2(h)) or added."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, conv: ConvFactory) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = conv(out_channels, out_channels, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.quadratic: QuadraticForm2d | None = None
        self.combine: Combine = "mean"
        self.act2 = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        h = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(h))
        if self.quadratic is not None:
            y = y + self.quadratic(h)
            if self.combine == "mean":
                y = y / 2
        out: Tensor = self.act2(y + self.downsample(x))
        return out

    @torch.no_grad()
    def remove_quadratic(self) -> None:
        """Become the plain block that computes what this one does with its term at zero; halving is exact."""
        if self.quadratic is not None and self.combine == "mean":
            self.bn2.weight.div_(2)
            self.bn2.bias.div_(2)
        self.quadratic = None


class CifarResNet(nn.Module):
    """The plain ResNet for small images.

    Args:
        depth: 6n + 2, layers with weights.
        num_classes: Outputs of the head; 0 leaves the 256 pooled features.
        in_chans: Channels of the images.
        global_pool: ``"avg"``, the mean over quarters of the map (2x2), or ``""``, the map itself.
        drop_rate: Dropout before the head.
        widths: Channels of the three stages; the stem has the first's.

    Shapes:
        ``[N, in_chans, H, W]`` -> ``[N, num_classes]``.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        super().__init__()
        if len(widths) != 3 or not all(isinstance(width, int) and width > 0 for width in widths):
            raise ValueError(f"widths must be three numbers of channels, as {WIDTHS}; got {tuple(widths)}.")
        if depth % 6 != 2 or depth < 8:
            raise ValueError(f"depth must be 6n + 2 with n >= 1 (20, 32, 56, 110, ...); got {depth}.")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act1 = nn.ReLU(inplace=True)

        blocks = (depth - 2) // 6
        self.layer1 = self._make_stage(widths[0], widths[0], 1, blocks)
        self.layer2 = self._make_stage(widths[0], widths[1], 2, blocks)
        self.layer3 = self._make_stage(widths[1], widths[2], 2, blocks)

        self.num_features = widths[2]
        self.head_hidden_size = 4 * widths[2]
        self.feature_info = [dict(num_chs=widths[0], reduction=1, module="act1")] + [
            dict(num_chs=width, reduction=2**i, module=f"layer{i + 1}") for i, width in enumerate(widths)
        ]
        self.reset_classifier(num_classes, global_pool)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map, ``[N, 64, H/4, W/4]``."""
        x = self.act1(self.bn1(self.conv1(x)))
        for stage in self._stages():
            x = self._run(stage, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of a last map, or with ``pre_logits`` the pooled features, ``[N, 256]``."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = nn.functional.dropout(x, self.drop_rate, self.training)
        if pre_logits:
            return x
        logits: Tensor = self.fc(x)
        return logits

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the last map and the maps of the stem and stages named by ``indices``, as timm's models do."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW'; got {output_fmt!r}.")
        take, last = feature_take_indices(4, indices)
        x = self.act1(self.bn1(self.conv1(x)))
        intermediates = [x] if 0 in take else []
        for i, stage in enumerate(self._stages()[:last] if stop_early else self._stages(), start=1):
            x = self._run(stage, x)
            if i in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages that ``indices`` does not need, as timm's models do; return the indices taken."""
        take, last = feature_take_indices(4, indices)
        for i in range(last + 1, 4):
            setattr(self, f"layer{i}", nn.Sequential())
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one for ``num_classes`` (0: none)."""
        if global_pool is not None:
            if global_pool not in ("avg", ""):
                raise ValueError(f"global_pool must be 'avg' or ''; got {global_pool!r}.")
            self.global_pool: nn.Module = (
                nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(1)) if global_pool else nn.Identity()
            )
        if num_classes and isinstance(self.global_pool, nn.Identity):
            raise ValueError("global_pool='' leaves a map, which the head cannot read; use num_classes=0 with it.")
        self.num_classes = num_classes
        self.fc: nn.Module = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the patterns that timm's layer-wise decay groups parameters by."""
        return dict(stem=r"^conv1|^bn1", blocks=r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)")

    def block_conv(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> nn.Module:
        """Return a convolution of the blocks; what other networks of this shape have in its place, they put here."""
        return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)

    def _make_stage(self, in_channels: int, out_channels: int, stride: int, blocks: int) -> nn.Sequential:
        rest = (BasicBlock(out_channels, out_channels, 1, self.block_conv) for _ in range(blocks - 1))
        return nn.Sequential(BasicBlock(in_channels, out_channels, stride, self.block_conv), *rest)

    def _stages(self) -> list[nn.Sequential]:
        return [self.layer1, self.layer2, self.layer3]

    def _run(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        recompute = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        y: Tensor = checkpoint_seq(stage, x) if recompute else stage(x)
        return y


class DitResNet(CifarResNet):
    """`CifarResNet` with the quadratic term in the first block of one stage, the second as published.

    Drawn from the same seed, every other parameter starts as in the plain network.

    Args:
        depth, num_classes, in_chans, global_pool, drop_rate, widths: As in `CifarResNet`.
        img_size: Size of the images, H = W or (H, W); only ``quadratic_norm="spatial"`` depends on it.
        quadratic_norm: The norm before the term, see `ditcnn.QuadraticForm2d`.
        quadratic_combine: ``"mean"`` of term and convolution, as published, or their ``"sum"``, with which a plain network's
            weights give the plain network's outputs to the bit.
        spatial_transpose: Replay the published term's swap of height and width.
        quadratic_stage: The stage whose first block has the term, 1, 2 or 3.
    """

    def __init__(
        self,
        depth: int,
        *args: Any,
        img_size: int | Sequence[int] = 32,
        quadratic_norm: Norm = "spatial",
        quadratic_combine: Combine = "mean",
        spatial_transpose: bool = False,
        quadratic_stage: int = 2,
        **kwargs: Any,
    ) -> None:
        if quadratic_stage not in (1, 2, 3):
            raise ValueError(f"quadratic_stage must be 1, 2 or 3; got {quadratic_stage!r}.")
        if quadratic_combine not in get_args(Combine):
            raise ValueError(f"quadratic_combine must be 'mean' or 'sum'; got {quadratic_combine!r}.")
        super().__init__(depth, *args, **kwargs)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        block: Any = self._stages()[quadratic_stage - 1][0]
        block.combine = quadratic_combine
        channels, reduction = block.conv2.out_channels, 2 ** (quadratic_stage - 1)
        block.quadratic = QuadraticForm2d(
            channels,
            channels,
            norm=quadratic_norm,
            map_size=(-(-height // reduction), -(-width // reduction)),
            spatial_transpose=spatial_transpose,
        )


def cifar_cfg(**kwargs: Any) -> Any:
    """Return timm's config of a network for 32x32 images."""
    return dict(
        url="",
        num_classes=10,
        input_size=(3, 32, 32),
        pool_size=(8, 8),
        crop_pct=1.0,
        interpolation="bicubic",
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
        first_conv="conv1",
        classifier="fc",
        **kwargs,
    )


DEPTHS = (20, 32, 56, 110)
default_cfgs = generate_default_cfgs(
    {f"resnet{depth}": cifar_cfg() for depth in DEPTHS}
    # timm passes img_size to models of a fixed size: the published norm has parameters for each position.
    | {f"dit_resnet{depth}": cifar_cfg(fixed_input_size=True) for depth in DEPTHS}
)


def create_cifar(model_cls: type[CifarResNet], variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    """Return a network of this family by timm's way of building."""
    features = dict(out_indices=(0, 1, 2, 3), flatten_sequential=False)
    return build(model_cls, variant, pretrained, feature_cfg=features, **kwargs)


def _register(variant: str, model_cls: type[CifarResNet], depth: int) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return create_cifar(model_cls, variant, pretrained, depth=depth, **kwargs)

    entry.__name__ = entry.__qualname__ = variant
    entry.__doc__ = f"{'Dit-ResNet' if model_cls is DitResNet else 'ResNet'}-{depth} for 32x32 images."
    globals()[variant] = register_model(entry)


for _depth in DEPTHS:
    _register(f"resnet{_depth}", CifarResNet, _depth)
    _register(f"dit_resnet{_depth}", DitResNet, _depth)
