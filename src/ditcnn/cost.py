"""What a model costs: parameters, multiplications, memory of a training step, and the terms' part in each."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ditcnn.convert import remove_quadratic
from ditcnn.layers import PixelwiseForm2d, QuadraticForm, QuadraticLinear, TermBeside
from ditcnn.ops import form_macs

__all__ = ["IMAGENET_EPOCHS", "IMAGENET_IMAGES", "Cost", "cost_of", "terms_and_twin", "thop_counters"]

IMAGENET_EPOCHS, IMAGENET_IMAGES = 300, 1_281_167  # the paper's training run on ImageNet-1K


@dataclass(frozen=True)
class Cost:
    """Costs of a model in float32, computed from its shapes.

    Attributes:
        parameters: Trained numbers.
        macs: Multiplications with an addition, a forward pass of one image; convolutions, matrix products and attention. A
            quadratic term counts O C^2 a position, as the paper counts.
        macs_executed: The same with A's symmetry used, as ditcnn computes: O C(C+1)/2 a position.
        weights_mib, gradients_mib: Parameters and their gradients.
        optimizer_mib: The two averages that AdamW keeps; SGD with momentum keeps half of it.
        activations_mib: What autograd keeps of a batch for the backward pass.
        batch_size: Images in that batch.
    """

    parameters: int
    macs: int
    macs_executed: int
    weights_mib: float
    gradients_mib: float
    optimizer_mib: float
    activations_mib: float
    batch_size: int

    @property
    def step_mib(self) -> float:
        """Memory that a training step holds at the end of its forward pass, without the libraries' own buffers."""
        return self.weights_mib + self.gradients_mib + self.optimizer_mib + self.activations_mib

    def training_images_per_s(self, tflops: float) -> float:
        """Return how many images a second are trained on at ``tflops`` TFLOP/s, sustained, of all devices together.

        images/s = TFLOP/s x 10^12 / (3 x 2 x MACs): a MAC is two operations, and the backward pass costs twice the forward
        pass. MACs as executed. Reading images, communication and validation are left out, so that it is an upper bound
        unless ``tflops`` was measured with them.
        """
        return tflops * 1e12 / (3 * 2 * self.macs_executed)

    def imagenet_days(self, tflops: float) -> float:
        """Return the days that the paper's run on ImageNet-1K takes at ``tflops``: 300 epochs of 1,281,167 images."""
        return IMAGENET_EPOCHS * IMAGENET_IMAGES / self.training_images_per_s(tflops) / 86_400


def cost_of(model: nn.Module, image_shape: tuple[int, int, int], batch_size: int) -> Cost:
    """Return the costs of a model for images of shape (C, H, W).

    Nothing is computed on numbers and the model is left alone: a copy on the ``meta`` device is run.

    Args:
        model: Any model of images.
        image_shape: (C, H, W).
        batch_size: Images in a training step.

    Raises:
        ValueError, RuntimeError: The model cannot take such a batch.
    """
    model = copy.deepcopy(model).to("meta")
    parameters = sum(p.numel() for p in model.parameters())
    whole, executed = _macs(model, image_shape)
    mib = 4 * parameters / 2**20
    return Cost(
        parameters, whole, executed, mib, mib, 2 * mib, _activation_bytes(model, image_shape, batch_size) / 2**20, batch_size
    )


def thop_counters(model: nn.Module) -> dict[type[nn.Module], Callable[[Any, Any, Tensor], None]]:
    """Return what ``thop.profile(model, inputs, custom_ops=...)`` needs to count terms, as executed, and their layers.

    thop goes by classes: without it a layer with a term, whose class it does not know, counts nothing at all.
    """
    kinds = {type(m) for m in model.modules() if isinstance(m, QuadraticForm | TermBeside | QuadraticLinear)}
    return dict.fromkeys(kinds, _count_for_thop)


def _count_for_thop(module: Any, inputs: Any, output: Tensor) -> None:
    form: QuadraticForm = getattr(module, "quadratic", module)
    beside = 0 if module is form else output.numel() * module.weight[0].numel()
    module.total_ops += beside + _term_macs(form, output.numel() // form.out_features)


def _term_macs(form: QuadraticForm, vectors: int) -> int:
    """Return the MACs of a form as executed."""
    channels, outputs = form.in_features, form.out_features
    if form.rank is not None:
        return vectors * form.rank * (channels + outputs)
    if isinstance(form, PixelwiseForm2d):  # makes no use of the symmetry
        return vectors * outputs * channels**2
    return form_macs(vectors, channels, outputs)


def terms_and_twin(model: nn.Module) -> tuple[int, nn.Module]:
    """Return how many terms a model has, and its plain twin; the model stays as it is."""
    terms = sum(isinstance(module, QuadraticForm) for module in model.modules())
    return terms, remove_quadratic(copy.deepcopy(model))


@torch.no_grad()
def _macs(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return the MACs of one image, with the terms as the paper counts them, and as they are executed."""
    saved = 0  # by the symmetry of A

    def count(form: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal saved
        assert isinstance(form, QuadraticForm)
        vectors = output.numel() // form.out_features
        saved += vectors * form.out_features * form.in_features**2 - _term_macs(form, vectors)

    forms = [m for m in model.modules() if isinstance(m, QuadraticForm) and m.rank is None]
    hooks = [form.register_forward_hook(count) for form in forms]
    try:
        with _mode(model, training=False), FlopCounterMode(display=False) as counter:
            model(_images(model, 1, image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    executed = counter.get_total_flops() // 2
    return executed + saved, executed


def _activation_bytes(model: nn.Module, image_shape: tuple[int, int, int], batch_size: int) -> int:
    """Return the bytes of all distinct storages that autograd saves, parameters and buffers left out."""
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    saved: dict[int, Tensor] = {}  # holds the tensors: a freed storage's address may come again

    def pack(tensor: Tensor) -> Tensor:
        saved.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with _mode(model, training=True), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(_images(model, batch_size, image_shape))
    return sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in own)


def _images(model: nn.Module, batch_size: int, image_shape: tuple[int, int, int]) -> Tensor:
    return torch.zeros(batch_size, *image_shape, device=next(model.parameters()).device)


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, before in modes.items():
            module.training = before
