"""Everything that decides what a training run computes, except the data: settings by component, ranges beside them."""

import ast
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import Self, dataclass_transform

from ditcnn.system.errors import InputError, nearest

__all__ = [
    "OWN", "Augmentation", "Execution", "Images", "Model", "Optimiser", "Recipe", "Schedule", "Selection", "parse_arguments",
    "settings",
]  # fmt: skip

Class = TypeVar("Class", bound=type)
HUGE = 2**63

Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AtLeast0 = Annotated[float, Field(ge=0, lt=HUGE)]
Share = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass_transform(frozen_default=True)
def settings(cls: Class) -> Class:
    """Make a frozen dataclass whose values are checked against their types and ranges; text from YAML becomes numbers.

    A value that does not fit is an `InputError` that names the field in backticks, the rule and the value.
    """
    made = dataclass(frozen=True, config=ConfigDict(extra="forbid"))(cls)
    make: Callable[..., None] = made.__init__

    def init(self: Any, *values: Any, **named: Any) -> None:
        try:
            make(self, *values, **named)
        except ValidationError as error:
            raise InputError(_rule(error)) from None

    made.__init__ = init  # type: ignore[method-assign]
    return made  # type: ignore[return-value]


_BOUNDS = {"greater_than": ("gt", "above"), "greater_than_equal": ("ge", "at least"), "less_than": ("lt", "below"),
           "less_than_equal": ("le", "at most")}  # fmt: skip


def _rule(error: ValidationError) -> str:
    """Return the first of pydantic's errors as a line: the field, what it must be, the value."""
    first = error.errors(include_url=False)[0]
    field, given = str(first["loc"][0]), str(first["input"])[:80]
    if first["type"] == "unexpected_keyword_argument":
        return f"there is no setting {field!r}."
    if first["type"] in _BOUNDS:
        name, words = _BOUNDS[first["type"]]
        bound = first["ctx"][name]
        rule = "must not be negative" if (name, bound) == ("ge", 0) else f"must be {words} {bound:g}"
    else:
        rule = first["msg"].replace("Input should be", "must be").replace("Value error, ", "").replace("Input ", "it ")
    return f"`{field}` {rule}; got {given}."


def parse_arguments(items: Iterable[str]) -> dict[str, Any]:
    """Return ``name=value`` items as a dict; values are Python literals, or text.

    Raises:
        InputError: An item has another form.
    """
    arguments = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"`model_kwargs` takes name=value; got {item!r}.")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            arguments[name] = value
    return arguments


@settings
class Model:
    """What is trained."""

    model: str = "dit_resnet20"
    """Any name of timm's registry; `ditcnn list models` prints ours."""
    model_kwargs: tuple[str, ...] = ()
    """Arguments of the model as name=value, e.g. quadratic_norm=batch."""
    pretrained: str | None = None
    """Weights to start from: the folder of a run, or a name of timm's registry that has weights."""
    drop_path: Share = 0.0
    """Stochastic depth: greatest probability that a block is passed over."""

    def model_arguments(self) -> dict[str, Any]:
        """Return ``model_kwargs`` as a dict, as `parse_arguments` does, and ``drop_path_rate`` where there is one."""
        return ({"drop_path_rate": self.drop_path} if self.drop_path else {}) | parse_arguments(self.model_kwargs)


@settings
class Images:
    """What images are like when the model sees them."""

    mean: tuple[float, ...] = ()
    """Mean per channel, in 0..1. Default: that of the weights to start from, else of the training images."""
    std: tuple[Above0, ...] = ()
    """Standard deviation per channel, as the mean."""
    img_size: Annotated[int, Field(gt=0, le=8192)] | None = None
    """Height and width. Default: that of small images as they are; else of the weights, else the model's own."""
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a resized image's side that is evaluated, from its centre."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] | None = None
    """How evaluated images are resized. Default: as those of the weights, else as the model's own."""


@settings
class Optimiser:
    """How weights follow gradients."""

    batch_size: Annotated[int, Field(gt=0, lt=HUGE)] = 128
    """Images of a step; with global_batch, images of a forward pass in each process."""
    global_batch: Annotated[int, Field(gt=0, lt=HUGE)] | None = None
    """Images of a step over all processes, by accumulation: a multiple of batch_size."""
    opt: str = "momentum"
    """timm's name of the optimiser; momentum is SGD with momentum, sgd is Nesterov's."""
    lr: Above0 = 0.1
    """Base learning rate."""
    momentum: AtLeast0 = 0.9
    """Momentum of the optimiser."""
    weight_decay: AtLeast0 = 1e-4
    """Weight decay, on the parameters that decay_vectors leaves."""
    decay_vectors: bool = True
    """Decay all parameters; timm's scripts leave out biases, norms and other vectors."""
    term_lr_scale: AtLeast0 = 10.0
    """Rate of the quadratic terms and the norms in front of them, as a multiple of the base rate."""
    bias_lr_scale: AtLeast0 = 1.0
    """Rate of the other norms' biases, as a multiple of the base rate; their decay in a step stays that of the rest."""
    clip_grad: AtLeast0 = 0.0
    """Largest norm of the gradient; 0 for no limit."""


@settings
class Schedule:
    """How long, and how the learning rate goes."""

    epochs: Annotated[int, Field(gt=0, lt=10**9)] = 160
    """Passes over the training images. Given alone, milestones and warm-up are rescaled in proportion."""
    schedule: Literal["multistep", "cosine", "cosine-by-epoch", "linear", "triangular"] = "multistep"
    """multistep: times gamma at each milestone. cosine, linear: to zero at the end. cosine-by-epoch: timm's. triangular:
    linear from warmup_factor to 1 at the peak, and to end_factor at the end."""
    milestones: tuple[AtLeast0, ...] = (80.0, 120.0)
    """Epochs, counted from 0, from which on the rate is lowered."""
    gamma: Above0 = 0.1
    """Factor of the rate at a milestone."""
    warmup: Literal["linear", "constant"] = "linear"
    """linear: the rate grows from warmup_factor to 1, step by step. constant: it stays at warmup_factor."""
    warmup_epochs: AtLeast0 = 0.0
    """Length of the warm-up."""
    warmup_factor: Above0 = 0.1
    """Factor of the rate at the start of the warm-up, or of the triangle."""
    peak: Share = 0.23
    """triangular: share of the run after which the rate is highest."""
    end_factor: Annotated[float, Field(ge=0, le=1)] = 0.07
    """triangular: factor of the rate at the end."""
    warmup_lr: AtLeast0 = 1e-5
    """cosine-by-epoch: rate of the first epoch of the warm-up."""
    min_lr: AtLeast0 = 0.0
    """cosine-by-epoch: rate at the end."""

    def at_epochs(self, epochs: int) -> Self:
        """Return the same for another number of epochs, milestones and warm-up moved in proportion."""
        scale = epochs / self.epochs
        milestones = tuple(round(m * scale, 4) for m in self.milestones)
        return replace(self, epochs=epochs, milestones=milestones, warmup_epochs=round(self.warmup_epochs * scale, 4))  # type: ignore[type-var]


@settings
class Augmentation:
    """What is done to training images and their labels."""

    crop_padding: Annotated[int, Field(ge=0, le=1024)] = 4
    """Pixels around an image before its random crop; 0 for no crop."""
    padding_mode: Literal["constant", "reflect"] = "constant"
    """constant: these are black. reflect: the image's own, mirrored at its edge."""
    flip: bool = True
    """Horizontal flip."""
    flip_mode: Literal["random", "alternating"] = "random"
    """random: half of the images, drawn in each epoch. alternating: half of them, and the others in the next epoch."""
    scale: tuple[Above0, Above0] | None = None
    """Random resized crop: least and greatest share of the area; None for none."""
    auto_augment: str | None = None
    """timm's name of an augmentation, as rand-m9-mstd0.5."""
    mixup: AtLeast0 = 0.0
    """Alpha of mixup; 0 for none."""
    cutmix: AtLeast0 = 0.0
    """Alpha of cutmix; 0 for none. With mixup, each batch has one or the other."""
    label_smoothing: Share = 0.0
    """Share of the target spread evenly over the classes."""
    reprob: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of random erasing."""
    resplit: bool = False
    """Spare the first half of each batch from erasing: timm's --resplit without --aug-splits."""


@settings
class Selection:
    """Which model of the run counts, and what it is judged on."""

    protocol: Literal["holdout", "paper", "last"] = "holdout"
    """holdout: select on held-out images, test once. paper: test each epoch, report the best. last: select nothing."""
    ema_decay: Share = 0.0
    """Decay of the moving average of the weights; 0 for none."""
    views: Literal[1, 2, 6] = 1
    """Test-time views of the final model, whose accuracy is given beside that without: 2 for the mirrored image too, 6 for
    both moved by a pixel as well."""


@settings
class Execution:
    """Seed and arithmetic."""

    seed: Annotated[int, Field(ge=0, lt=HUGE)] = 0
    """Seed of the initial weights, the order of the images and their augmentation."""
    precision: Precision = "fp32"
    """Arithmetic of forward and backward pass; weights stay fp32. auto: bf16 where it is measured to be faster."""
    channels_last: bool = True
    """Keep maps in memory with channels last: the same numbers to rounding, faster on CPU."""
    compile: bool = False
    """torch.compile the model: minutes of compiling, then faster steps."""


@settings
class Recipe(Execution, Selection, Augmentation, Schedule, Optimiser, Images, Model):
    """Everything that decides what a training run computes, except the data; flat, as its components' fields.

    The defaults are the paper's for CIFAR: Liu et al., NeurIPS 2024, and its published script.
    """

    def __post_init__(self) -> None:
        """Raise unless the fields fit each other."""
        for name, way in (("num_classes", "the data decide it"), ("pretrained", "it is a setting of its own")):
            if name in self.model_arguments():
                raise InputError(f"`model_kwargs` takes no {name}: {way}.")
        if self.warmup_epochs >= self.epochs:
            raise InputError(f"`warmup_epochs` must be below `epochs`; got {self.warmup_epochs:g} of {self.epochs}.")
        if len(self.mean) != len(self.std):
            raise InputError(f"`mean` and `std` must have one value a channel each; got {self.mean} and {self.std}.")
        if self.scale is not None and not self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"`scale` takes two shares of the area, 0 < least <= greatest <= 1; got {self.scale}.")
        if self.scale is not None and self.crop_padding:
            raise InputError("`scale` and `crop_padding` both crop: set one of them to None or 0.")
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise InputError(f"`mixup` and `cutmix` pair images, so `batch_size` must be even; got {self.batch_size}.")
        if self.schedule != "cosine-by-epoch" and (self.warmup_lr, self.min_lr) != (Schedule.warmup_lr, Schedule.min_lr):
            raise InputError("`warmup_lr` and `min_lr` belong to `schedule` cosine-by-epoch.")
        if self.global_batch is not None and self.global_batch % self.batch_size:
            raise InputError(
                f"`global_batch` must be a multiple of `batch_size`; got {self.global_batch} and {self.batch_size}."
            )

    def check(self) -> None:
        """Raise unless timm knows the model and the optimiser; this alone needs timm.

        Raises:
            InputError: It does not.
        """
        import timm
        import timm.optim

        if not self.own_module and not timm.is_model(self.model):
            hint = nearest(self.model, timm.list_models())
            raise InputError(
                f"there is no model {self.model!r}.{hint} List them: ditcnn list models, or timm.list_models()."
            )
        optimisers = [str(name) for name in timm.optim.list_optimizers()]
        if self.opt not in optimisers:
            raise InputError(f"there is no optimiser {self.opt!r}.{nearest(self.opt, optimisers)}")

    @property
    def own_module(self) -> str | None:
        """The class of a module of the user's own, which no name of timm's registry makes; None for those that have one."""
        return self.model.removeprefix(OWN) if self.model.startswith(OWN) else None


OWN = "python:"  # before the class of a module that was made in Python
