"""The quadratic term beside a convolution, whatever its stride, padding, dilation or groups."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame, Conv2dSameExport
from timm.layers.padding import get_same_padding
from torch import Tensor, nn
from torch.fx import Proxy

from ditcnn.layers.foreign import HasTerm, as_leaf, plain_or_blank
from ditcnn.layers.form import QuadraticForm, QuadraticForm2d
from ditcnn.layers.norm import Norm
from ditcnn.ops import saturate

__all__ = ["QuadraticConv2d", "TermBeside", "beside", "change_class", "pads_as_tensorflow"]


class TermBeside(HasTerm):
    r"""What turns a convolution's class into one with the term: :math:`y = \mathrm{conv}(x) + Q(x)`.

    Q is taken at the positions of x that the kernel's centre visits: for output (h, w) that is row
    :math:`h\,s + \lfloor d(k-1)/2 \rfloor - p`, and so for columns (stride s, dilation d, kernel size k, padding p before
    the first row). The centre of an even kernel lies between two positions; the first is taken. Where the centre stands on
    padding, x is what the convolution's padding mode puts there. Q sees all channels, whatever the convolution's groups; a
    norm in front of it sees the visited positions.
    """

    prefix = "Quadratic"  # of the names of classes that are made of this one
    quadratic: QuadraticForm
    plain_class: type[nn.Conv2d]

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution plus the term, in the convolution's dtype."""
        y: Tensor
        if isinstance(x, Proxy):
            y = as_leaf(self, x)
            return y
        y = super().forward(x)  # type: ignore[misc]
        return saturate(y + self.term(x, (y.shape[-2], y.shape[-1])), y.dtype)

    def term(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the term of the convolution's input on the convolution's map, whose size is (H, W)."""
        y: Tensor = self.quadratic(_at_centres(cast(nn.Conv2d, self), x, size))
        return y

    def reset_parameters(self) -> None:
        """Draw the convolution's parameters as its class does; set A to zero."""
        super().reset_parameters()  # type: ignore[misc]
        if hasattr(self, "quadratic"):  # absent while the convolution is being built
            self.quadratic.reset_parameters()

    def remove_quadratic(self) -> None:
        """Become the plain convolution again."""
        del self.quadratic
        self.__class__ = self.plain_class  # type: ignore[assignment]


class QuadraticConv2d(TermBeside, nn.Conv2d):
    """``nn.Conv2d`` with the quadratic term of its input beside its output, zero at the start.

    `TermBeside` says which positions the term is taken at. ``type(layer)(...)`` is a plain ``nn.Conv2d``, as those want it
    that build adapters by a layer's class.

    Args:
        in_channels, out_channels, kernel_size, kwargs: As in ``nn.Conv2d``.
        rank, norm, rate: As in `QuadraticForm2d`.

    Shapes:
        As ``nn.Conv2d``; the term's parameters are ``quadratic.*``.

    >>> QuadraticConv2d(3, 8, 3, stride=2, padding=1)(torch.zeros(1, 3, 9, 9)).shape
    torch.Size([1, 8, 5, 5])
    """

    plain_class = nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *args: Any,
        rank: int | None = None,
        norm: Norm | None = None,
        rate: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        self.quadratic = _term_for(self, rank, norm, rate)
        if type(self) is QuadraticConv2d:
            self.__class__ = _class_beside(TermBeside, nn.Conv2d)  # type: ignore[assignment]


def beside(conv: nn.Conv2d, *, rank: int | None = None, norm: Norm | None = None, rate: float = 1.0) -> None:
    """Put the term beside a convolution, in place: other references to it, its parameters and its hooks stay valid.

    The object's class changes, as with ``torch.nn.utils.parametrize``; a subclass of ``nn.Conv2d`` keeps its own forward.

    Args:
        conv: The convolution.
        rank, norm, rate: As in `QuadraticForm2d`.
    """
    term = _term_for(conv, rank, norm, rate)
    change_class(conv, TermBeside)
    conv.quadratic = term


def change_class(conv: nn.Conv2d, mixin: type[TermBeside]) -> None:
    """Give a convolution the class that has ``mixin`` over its own; it has no term yet."""
    conv.__class__ = _class_beside(mixin, type(conv))


_CLASSES: dict[tuple[type[TermBeside], type[nn.Conv2d]], type[nn.Conv2d]] = {}


def _class_beside(mixin: type[TermBeside], plain: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """Return the class with the term for a class of convolutions, always the same one."""
    if (mixin, plain) not in _CLASSES:
        bases = (QuadraticConv2d,) if (mixin, plain) == (TermBeside, nn.Conv2d) else (mixin, plain)
        members = {"plain_class": plain, "mixin": mixin, "__module__": __name__, "__reduce__": _reduce}
        members["__new__"] = plain_or_blank
        _CLASSES[mixin, plain] = type(f"{mixin.prefix}{plain.__name__}", bases, members)
    return _CLASSES[mixin, plain]


def _reduce(conv: Any) -> tuple[Any, ...]:
    """Tell pickle and deepcopy how to find a class that was made here and has no name to be found by."""
    return _blank, (conv.mixin, conv.plain_class), conv.__getstate__()


def _blank(mixin: type[TermBeside], plain: type[nn.Conv2d]) -> nn.Conv2d:
    """Return an empty object of the class, for pickle and deepcopy to fill."""
    cls = _class_beside(mixin, plain)
    return cls.__new__(cls)


def _term_for(conv: nn.Conv2d, rank: int | None, norm: Norm | None, rate: float) -> QuadraticForm2d:
    weight = conv.weight
    term = QuadraticForm2d(
        conv.in_channels, conv.out_channels, rank=rank, norm=norm, rate=rate, device=weight.device, dtype=weight.dtype
    )
    return term.train(conv.training)


def _at_centres(conv: nn.Conv2d, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return x, ``[..., H, W]``, at the positions that the kernel's centre visits, ``[..., *size]``."""
    starts = [_first_centre(conv, axis, x.shape[axis - 2]) for axis in (0, 1)]
    if not any(starts) and x.shape[-2:] == torch.Size(size) and all(stride == 1 for stride in conv.stride):
        return x  # the usual case; the gradient of a slice would be a copy
    ends = [start + stride * (n - 1) for start, stride, n in zip(starts, conv.stride, size, strict=True)]
    before = [max(0, -start) for start in starts]
    after = [max(0, end - (x.shape[axis - 2] - 1)) for axis, end in enumerate(ends)]
    if any(before) or any(after):
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x = F.pad(x, (before[1], after[1], before[0], after[0]), mode=mode)
    rows, columns = (
        slice(start + pad, end + pad + 1, stride)
        for start, end, pad, stride in zip(starts, ends, before, conv.stride, strict=True)
    )
    return x[..., rows, columns]


def _first_centre(conv: nn.Conv2d, axis: int, length: int) -> int:
    """Return the place of the kernel's centre for the first output: the row (axis 0) or the column (axis 1)."""
    reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
    return reach // 2 - _padding_before(conv, axis, length, reach)


def _padding_before(conv: nn.Conv2d, axis: int, length: int, reach: int) -> int:
    if pads_as_tensorflow(conv):
        same = get_same_padding(length, conv.kernel_size[axis], conv.stride[axis], conv.dilation[axis])
        return int(same) // 2
    if conv.padding == "same":
        return reach // 2
    if conv.padding == "valid":
        return 0
    return int(conv.padding[axis])


def pads_as_tensorflow(conv: nn.Conv2d) -> bool:
    """Say whether it is one of timm's convolutions that pad by the size of the map, as TensorFlow's do."""
    return isinstance(conv, Conv2dSame | Conv2dSameExport) or getattr(conv, "same_pad", False)
