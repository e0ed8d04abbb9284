"""Full-batch gradient descent of many small classifiers at once, one for each seed: a loop over seeds takes hours."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import stack_module_state

from ditcnn.layers import QuadraticLinear

__all__ = ["FORWARDS", "Parameters", "descend", "mlp", "mlp_forward", "neuron", "neuron_forward", "stack"]

Parameters = dict[str, Tensor]  # of S classifiers, [S, ...], under the names of one module's state


def neuron(features: int, seed: int) -> nn.Module:
    """Return one quadratic neuron, its weights drawn with ``seed``."""
    torch.manual_seed(seed)
    return QuadraticLinear(features, 1)


def mlp(features: int, hidden: int, seed: int) -> nn.Module:
    """Return features-ReLU(hidden)-1, its weights drawn with ``seed``."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def stack(modules: Sequence[nn.Module]) -> Parameters:
    """Return the parameters of modules of one shape, stacked."""
    parameters, _ = stack_module_state(list(modules))
    return {name: value.detach().clone() for name, value in parameters.items()}


def neuron_forward(p: Parameters, x: Tensor) -> Tensor:
    """Return the outputs of S quadratic neurons on points of their own: ``[S, N, C]`` -> ``[S, N]``."""
    form = (torch.bmm(x, p["quadratic.weight"].squeeze(1)) * x).sum(-1)
    return form + torch.bmm(x, p["weight"].mT).squeeze(-1) + p["bias"]


def mlp_forward(p: Parameters, x: Tensor) -> Tensor:
    """Return the outputs of S perceptrons on points of their own: ``[S, N, C]`` -> ``[S, N]``."""
    hidden = torch.baddbmm(p["0.bias"][:, None], x, p["0.weight"].mT).relu()
    return torch.bmm(hidden, p["2.weight"].mT).squeeze(-1) + p["2.bias"]


FORWARDS: dict[str, Callable[[Parameters, Tensor], Tensor]] = {"neuron": neuron_forward, "mlp": mlp_forward}


def descend(
    forward: Callable[[Parameters, Tensor], Tensor],
    start: Parameters,
    x: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    lr: float,
    at: Callable[[int, Parameters], None] = lambda epoch, parameters: None,
) -> Parameters:
    """Return the parameters after gradient descent on the mean logistic loss of each classifier.

    Equal to S runs of `torch.optim.SGD` on all points at once: the sum of the S losses has each one's gradient.

    Args:
        forward: Outputs of S classifiers.
        start: Their parameters; they are not changed.
        x: Points, ``[S, N, C]``.
        labels: 0 or 1, ``[S, N]``, floating.
        epochs: Steps.
        lr: Learning rate.
        at: Called before the first step and after each, with the number of steps done.
    """
    names = list(start)
    values = [start[name].clone().requires_grad_() for name in names]
    at(0, dict(zip(names, values, strict=True)))
    for epoch in range(1, epochs + 1):
        logits = forward(dict(zip(names, values, strict=True)), x)
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1).sum()
        gradients = torch.autograd.grad(loss, values)
        with torch.no_grad():
            torch._foreach_add_(values, gradients, alpha=-lr)
        at(epoch, dict(zip(names, values, strict=True)))
    return {name: value.detach() for name, value in zip(names, values, strict=True)}
