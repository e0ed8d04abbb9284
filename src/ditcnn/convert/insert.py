"""The term in any model: put in, found, taken out."""

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import nn
from torch.nn.utils import parametrize

from ditcnn.layers import Norm, QuadraticForm, TermBeside, beside, beside_pixelwise, check_pixelwise_place, warn_of_parent
from ditcnn.system.errors import nearest

__all__ = ["Where", "add_quadratic", "quadratic_terms", "remove_quadratic"]

Where = str | Iterable[str] | Callable[[str, nn.Module], bool]
Model = TypeVar("Model", bound=nn.Module)


@runtime_checkable
class Host(Protocol):
    """A module that has a term beside something else, and can do without."""

    def remove_quadratic(self) -> None:
        """Become the plain module; without effect where there is no term."""


def add_quadratic(
    model: Model,
    where: Where,
    *,
    rank: int | None = None,
    norm: Norm | None = None,
    rate: float = 1.0,
    pixelwise: bool = False,
) -> Model:
    """Put the quadratic term of its input beside each named convolution, in place.

    The term starts at zero, so the model computes the same, to the bit, until it is trained; keys of parameters stay, and
    the term's own are ``NAME.quadratic.*``. `ditcnn.layers.TermBeside` says at which positions of a strided, dilated or
    padded convolution the term is taken. Add terms before wrapping the model (DDP, ``torch.compile``) and before building
    the optimiser; `ditcnn.parameter_groups` gives the terms their own rate.

    Args:
        model: Any model with ``nn.Conv2d`` or subclasses of it.
        where: Names of modules or globs as in ``fnmatch`` (``*`` matches dots too), or a function of (name, module) that
            is asked for each convolution.
        rank: R for the low-rank form V(Ux)^2, for wide layers; None for whole matrices, O C^2 parameters.
        norm: Norm in front of the term, as in `ditcnn.QuadraticForm2d`: ``"instance"``, ``"batch"`` or None.
        rate: Learning rate of the term as a multiple of the model's, for `ditcnn.parameter_groups`.
        pixelwise: Products of the pixels under the kernel's window, channel by channel, in place of products of the channels
            at a position; beside depthwise convolutions, without rank and norm. See `ditcnn.layers.PixelwiseForm2d`.

    Returns:
        The model itself.

    Raises:
        ValueError: A name or glob that fits no convolution, a convolution that has a term already or is parametrized, or a
            model that is wrapped. Nothing is changed then.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> [name for name, _ in quadratic_terms(add_quadratic(model, ["0"]))]
    ['0.quadratic']
    """
    _refuse_wrapped(model, "add the term to the model itself, then wrap it")
    chosen = _choose(model, where)
    for name, conv in chosen.items():
        _check_place(name, conv)
        _warn_of_ancestors(model, name)
    if norm == "spatial":
        raise ValueError("norm='spatial' has parameters for one size of map; here use 'instance', 'batch' or None.")
    if pixelwise:
        if rank is not None or norm not in (None, "none"):
            raise ValueError(f"the pixel-wise term has no rank and no norm; got rank={rank} and norm={norm!r}.")
        for conv in chosen.values():
            check_pixelwise_place(conv)
        for conv in chosen.values():
            beside_pixelwise(conv, rate=rate)
    else:
        for conv in chosen.values():
            beside(conv, rank=rank, norm=norm, rate=rate)
    return model


def remove_quadratic(model: Model) -> Model:
    """Take every term out of a model, in place: what is left computes what the model would with its terms at zero.

    A Dit-ResNet's block halves its convolution's part where it averages; this goes into the scale of its last norm, exactly.
    To save what is left, load its state dict into the plain model: timm still knows it by the name it was made with.

    Returns:
        The model itself, with the plain model's keys.

    Raises:
        ValueError: A term stands beside nothing, as a module of its own; its host was parametrized afterwards, or is of a
            class that is not this package's; or the model is wrapped. Nothing is changed then.
    """
    _refuse_wrapped(model, "take the terms out of the model itself")
    hosts: dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, Host)}
    hosted = {id(child) for host in hosts.values() for child in host.children()}
    for name, term in quadratic_terms(model):
        if id(term) not in hosted:
            raise ValueError(f"{name or 'the model'} is a form of its own and stands beside nothing that could be left.")
    for name, host in hosts.items():
        if parametrize.is_parametrized(host):
            raise ValueError(f"{name} is parametrized; remove the parametrization first.")
        if hasattr(host, "plain_class") and "plain_class" not in vars(type(host)):
            kind = type(host).__name__
            raise ValueError(
                f"{name} is a {kind}, a class derived from one with a term; the plain one would not do what it does."
            )
    for host in hosts.values():
        host.remove_quadratic()
    return model


def quadratic_terms(model: nn.Module) -> Iterator[tuple[str, QuadraticForm]]:
    """Yield (name, module) of each quadratic term, as ``model.named_modules()`` does."""
    for name, module in model.named_modules():
        if isinstance(module, QuadraticForm):
            yield name, module


def _choose(model: nn.Module, where: Where) -> dict[str, nn.Conv2d]:
    """Return the convolutions that ``where`` names, in the model's order."""
    named = model.named_modules(remove_duplicate=False)  # a shared convolution answers to each of its names
    convs = {name: module for name, module in named if isinstance(module, nn.Conv2d)}
    if callable(where):
        chosen = _each_once({name: conv for name, conv in convs.items() if where(name, conv)})
        if not chosen:
            raise ValueError(f"where() is true for none of the model's {len(convs)} convolutions.")
        return chosen
    patterns = [where] if isinstance(where, str) else list(where)
    if not patterns:
        raise ValueError("where names no place; ditcnn.candidate_places(model, example) lists them.")
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in convs):
            raise ValueError(_no_such_place(model, pattern, convs))
    return _each_once({name: conv for name, conv in convs.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)})


def _each_once(convs: dict[str, nn.Conv2d]) -> dict[str, nn.Conv2d]:
    """Return each convolution under the first of its names."""
    first = {id(conv): name for name, conv in reversed(convs.items())}
    return {name: conv for name, conv in convs.items() if first[id(conv)] == name}


def _no_such_place(model: nn.Module, pattern: str, convs: Iterable[str]) -> str:
    module = dict(model.named_modules()).get(pattern)
    if module is not None:
        inside = [name for name in convs if name.startswith(f"{pattern}.")][:3]
        within = f" Inside it are {', '.join(inside)}." if inside else ""
        return f"{pattern} is a {type(module).__name__}; the term goes beside an nn.Conv2d.{within}"
    return (
        f"no convolution is called {pattern}.{nearest(pattern, convs)} ditcnn.candidate_places(model, example) lists them."
    )


def _check_place(name: str, conv: nn.Conv2d) -> None:
    if isinstance(conv, TermBeside):
        raise ValueError(f"{name} has a quadratic term already; take it out first with ditcnn.remove_quadratic.")
    if parametrize.is_parametrized(conv):
        raise ValueError(f"{name} is parametrized; add the term first, or remove the parametrization.")
    if isinstance(conv, nn.LazyConv2d):
        raise ValueError(f"{name} does not know its channels yet; run the model once before adding the term.")


# Wrappers around a model, and those that may also stand around a part of it: these synchronise the parameters they know.
_WRAPPERS = {"DataParallel", "OptimizedModule", "ScriptModule"}
_SYNCHRONISERS = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule", "DDP"}  # DDP: composable replicate


def _refuse_wrapped(model: nn.Module, advice: str) -> None:
    for name, module in model.named_modules():
        classes = {cls.__name__ for cls in type(module).__mro__}
        found = classes & (_SYNCHRONISERS if name else _SYNCHRONISERS | _WRAPPERS)
        if found:
            raise ValueError(f"{name or 'the model'} is wrapped in {', '.join(sorted(found))}; {advice}.")


def _warn_of_ancestors(model: nn.Module, name: str) -> None:
    parts = name.split(".")
    for n in reversed(range(len(parts))):  # the nearest first: it may have the convolution fused alone
        if warn_of_parent(model.get_submodule(".".join(parts[:n])), ".".join(parts[n:]), stacklevel=4):
            return
