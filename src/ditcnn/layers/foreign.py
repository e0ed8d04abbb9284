"""What other people's code does with a layer by its class or its weights, where a term beside them would be lost.

A layer with a term is an ``nn.Conv2d`` or an ``nn.Linear`` to everybody, and some take it for no more: they multiply by its
weights and pass over its forward, fold a norm into them, or build a plain layer in its place. What can be made right is; the
rest is an error or a warning at the moment when it is done, as far as it can be seen. ``docs/any-model.md`` has the list.
"""

import functools
import inspect
import re
import sys
import warnings
from typing import Any
from weakref import WeakSet

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

__all__ = ["HasTerm", "as_leaf", "plain_or_blank", "warn_of_parent"]

# Methods that make one convolution of several, from their weights.
FUSERS = ("fuse", "reparameterize", "switch_to_deploy", "convert_to_deploy")
# Methods that may read a child's weights without being in its place: they set it up, or are FUSERS.
_ASIDE = re.compile(r"init|reset|load|set_|repr|fuse|repar|deploy|merge")
# peft's tuners that add to a layer's output, and in merging to its weights what makes the same: right with a term (tested).
ADDITIVE_TUNERS = ("adalora", "c3a", "delora", "fourierft", "loha", "lokr", "lora", "randlora", "vblora", "vera", "waveft")
_MAGNITUDES: WeakSet[nn.Module] = WeakSet()  # where LoRA layers around one with a term keep what DoRA scales by


class HasTerm:
    """A layer with weights of its own and a term beside them."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and "quadratic" in self.__dict__.get("_modules", ()):
            _refuse_fusing(sys._getframe(1).f_code.co_name)
        super().__setattr__(name, value)


def plain_or_blank(cls: type[Any], *args: Any, **kwargs: Any) -> Any:
    """Make ``type(layer)(...)`` a plain layer: ``__new__`` of a class with ``plain_class``.

    Adapters such as LoRA build their own small layers by the class of the one they stand beside, and want no term in them.
    Without arguments it gives an empty object of the class, for copies to fill.
    """
    return cls.plain_class(*args, **kwargs) if args or kwargs else object.__new__(cls)


def as_leaf(module: nn.Module, x: Any) -> Any:
    """Return the call of a module in a graph that ``torch.fx`` is tracing: one node, as sizes decide what is inside."""
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x,), {})


def warn_of_parent(parent: nn.Module, name: str, stacklevel: int = 2) -> bool:
    """Warn, where the code of a module is such that a term of its descendant ``name`` would be lost; say whether it is.

    Raises:
        ValueError: It is lost for certain, as in ``nn.MultiheadAttention``.
    """
    if isinstance(parent, nn.MultiheadAttention) and name == "out_proj":
        raise ValueError(
            "nn.MultiheadAttention multiplies by the weights of out_proj itself, so a quadratic term there would do "
            "nothing; put it elsewhere, as in the layers behind the attention."
        )
    advice = _advice(parent, name)
    if advice:
        warnings.warn(advice, stacklevel=stacklevel + 1)
    return bool(advice)


def _advice(parent: nn.Module, name: str) -> str:
    kind, family = type(parent).__name__, type(parent).__module__.split(".")
    if family[:2] == ["peft", "tuners"]:
        right = ", ".join(ADDITIVE_TUNERS)
        known = family[2] in ADDITIVE_TUNERS
        return "" if known else f"peft's {family[2]} may lose or misscale the quadratic term of {name}; right are {right}."
    if reader := _reader(type(parent), name):  # type: ignore[arg-type]
        return f"{kind}.{reader}() multiplies by the weights of {name} itself and passes over its quadratic term."
    for method in FUSERS:
        if hasattr(parent, method):
            return (
                f"{kind}.{method}() would fuse convolutions and drop the term beside {name}; call neither it nor "
                "timm.utils.reparameterize_model."
            )
    return ""


@functools.cache
def _reader(parent: type, name: str) -> str | None:
    """Return the method of a class of modules that reads the weights of its child ``name``, by its source; or None.

    torch's encoder layer does so on its fast path, which a layer with a hook is kept from (`ditcnn.QuadraticLinear`).
    """
    if issubclass(parent, nn.TransformerEncoderLayer):
        return None
    read = re.compile(rf"self\.{re.escape(name)}\.weight\b(?!\.(dtype|device|shape|size|requires_grad))")
    for method, function in inspect.getmembers(parent, inspect.isfunction):
        if (function.__module__ or "").startswith("torch.nn.modules.module") or _ASIDE.search(method):
            continue
        try:
            source = inspect.getsource(function)
        except (OSError, TypeError):
            continue
        if read.search(source):
            return method
    return None


def _refuse_fusing(caller: str) -> None:
    if "fuse" in caller:
        raise ValueError(
            f"{caller}() folds a norm into the weights of a layer and leaves the quadratic term beside them as it is; keep "
            "the two apart, or take the term out with ditcnn.remove_quadratic."
        )


def _on_registration(parent: nn.Module, name: str, child: nn.Module | None) -> None:
    """Look at a module that gets a child: the child's term may be lost there, or that of the one whose place it takes."""
    if isinstance(child, HasTerm):
        warn_of_parent(parent, name, stacklevel=3)
    if name == "lora_magnitude_vector" and child is not None and isinstance(parent._modules.get("base_layer"), HasTerm):
        _MAGNITUDES.add(child)
    if parent in _MAGNITUDES:
        warnings.warn(
            "peft's DoRA scales the quadratic term too until it is merged: take LoRA, or do not merge.", stacklevel=3
        )
    before = parent._modules.get(name) if isinstance(parent._modules, dict) else None  # TorchScript's are none
    if child is None or before is None or not (isinstance(before, HasTerm) or any(hasattr(before, f) for f in FUSERS)):
        return
    if _terms(child) < _terms(before):
        warnings.warn(
            f"a {type(child).__name__} takes the place of {name}, a {type(before).__name__}, whose quadratic term is lost "
            "with it; where that is meant, call ditcnn.remove_quadratic first.",
            stacklevel=3,
        )


def _terms(module: nn.Module) -> int:
    return sum(isinstance(m, HasTerm) for m in module.modules())


register_module_module_registration_hook(_on_registration)
