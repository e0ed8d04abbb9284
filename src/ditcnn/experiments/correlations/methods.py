"""What is compared on images that differ in correlation alone: each method, from training images to accuracy on test."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn

from ditcnn.analysis.moments import second_moments
from ditcnn.convert import add_quadratic
from ditcnn.experiments.engine.training import lr_factor, make_optimizer, set_lr
from ditcnn.models import CifarResNet, DitResNet, widths_of_equal_cost
from ditcnn.recipes import Recipe
from ditcnn.system.errors import Diverged

__all__ = ["NETS", "RULES", "Labelled", "Schedule", "build_net", "fit_moments", "train_net"]

Net = Literal["dit", "plain", "wide", "stem"]
NETS: tuple[Net, ...] = get_args(Net)
RULES = {"position": 0, "neighbourhood": 2}  # how far apart, in pixels, the products reach that a closed-form rule takes


@dataclass(frozen=True)
class Labelled:
    """Images, ``[N, C, H, W]``, and their classes, ``[N]``."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Schedule:
    """How every network is trained: SGD with momentum 0.9, weight decay 1e-4, a linear warm-up, then a cosine to zero."""

    steps: int
    batch_size: int = 64
    lr: float = 0.1
    term_lr_scale: float = 1.0

    def recipe(self) -> Recipe:
        """Return it as a recipe whose epochs are steps."""
        return Recipe(
            epochs=self.steps,
            batch_size=self.batch_size,
            lr=self.lr,
            term_lr_scale=self.term_lr_scale,
            schedule="cosine",
            milestones=(),
            warmup_epochs=self.steps / 10,
            warmup_factor=0.01,
        )


def build_net(name: Net, depth: int, size: int, classes: int) -> nn.Module:
    """Return a network for square images of three channels.

    ``dit``: the Dit-ResNet of that depth. ``plain``: its twin. ``wide``: the plain net of as many parameters as ``dit``.
    ``stem``: the plain net with a term beside its first convolution.
    """
    if name == "dit":
        return DitResNet(depth, classes, img_size=size)
    if name == "wide":
        return _wide(depth, size, classes)
    model = CifarResNet(depth, classes)
    if name == "stem":
        add_quadratic(model, ["conv1"])
    return model


def _wide(depth: int, size: int, classes: int) -> nn.Module:
    """Return the plain net of widths w, 2w, 4w whose parameters come nearest in number to the Dit-ResNet's."""

    def plain(widths: tuple[int, int, int]) -> nn.Module:
        return CifarResNet(depth, classes, widths=widths)

    rival = partial(DitResNet, depth, classes, img_size=size)
    return plain(widths_of_equal_cost(rival, "parameters", plain=plain, image_shape=(3, size, size), step=4))


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def train_net(
    name: Net,
    depth: int,
    train: Labelled,
    test: Labelled,
    schedule: Schedule,
    seed: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> dict[str, float]:
    """Train a network for a fixed number of steps; return its last accuracies, as fractions of 1, and its size.

    The seed gives the initial weights and the order of the images: the same for every network. Nothing is selected.

    Raises:
        Diverged: The last loss is not finite.
    """
    classes = int(train.labels.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_net(name, depth, train.images.shape[-1], classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = schedule.recipe()
    optimizer = make_optimizer(model, recipe)
    model.train()
    for step, chosen in enumerate(_order(len(train.labels), schedule, seed)):
        set_lr(optimizer, recipe.lr * lr_factor(recipe, step))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(train.images[chosen]), train.labels[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress((step + 1) / schedule.steps)
    if not loss.isfinite():
        raise Diverged(f"the loss of {name} became {loss.item()} within {schedule.steps} steps at rate {recipe.lr}.")
    return {"accuracy": _accuracy(model, test), "train_accuracy": _accuracy(model, train), "parameters": _parameters(model)}


def _order(count: int, schedule: Schedule, seed: int) -> Tensor:
    """Return which images each step takes, ``[steps, batch]``: one shuffled pass over all of them after the other."""
    generator = torch.Generator().manual_seed(seed)
    batch = min(schedule.batch_size, count)
    passes = -(-schedule.steps * batch // count)
    shuffled = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
    return shuffled[: schedule.steps * batch].view(schedule.steps, batch)


@torch.no_grad()
def _accuracy(model: nn.Module, data: Labelled) -> float:
    model.eval()
    parts = zip(data.images.split(500), data.labels.split(500), strict=True)
    return sum(int((model(images).argmax(dim=1) == labels).sum()) for images, labels in parts) / len(data.labels)


def fit_moments(reach: int, train: Labelled, test: Labelled) -> dict[str, float]:
    """Fit one pooled quadratic form a class in closed form; return accuracies as `train_net` does.

    Linear discriminant analysis, its covariance shrunk as Ledoit and Wolf do, of `ditcnn.analysis.moments.second_moments`.
    """
    rule = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    moments = {name: second_moments(data.images, reach).numpy() for name, data in (("train", train), ("test", test))}
    rule.fit(moments["train"], train.labels.numpy())
    return {
        "accuracy": float(rule.score(moments["test"], test.labels.numpy())),
        "train_accuracy": float(rule.score(moments["train"], train.labels.numpy())),
        "parameters": int(rule.coef_.size + rule.intercept_.size),
    }
