"""What is done to a normalised batch in the training step: mixup, cutmix, label smoothing, random erasing."""

from dataclasses import dataclass
from functools import cached_property

from timm.data import Mixup
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from ditcnn.data.stream.randomness import seeded

__all__ = ["Erase", "Mix"]

_MIX, _ERASE = 1, 2  # keep the two's draws apart


@dataclass(frozen=True)
class Mix:
    r"""timm's mixup and cutmix with smoothed labels; the fields mean what its training script's flags mean.

    Each micro-batch is mixed with itself in reverse, with one weight. timm's loader mixes the bytes and normalises then;
    normalising is affine, so mixing normalised images is the same but for its rounding to bytes.
    Sources: Zhang et al., "mixup", 2018; Yun et al., "CutMix", 2019.
    """

    num_classes: int
    mixup: float = 0.8
    """Parameter of the Beta distribution of mixup's weight; 0 for none."""
    cutmix: float = 1.0
    """Parameter of the Beta distribution of cutmix's area; 0 for none."""
    prob: float = 1.0
    """Probability that a micro-batch is mixed at all (``--mixup-prob``)."""
    switch_prob: float = 0.5
    """Probability of cutmix where both are on (``--mixup-switch-prob``)."""
    smoothing: float = 0.1
    """Weight that is spread over all classes."""
    seed: int = 0
    """Seed of the run."""

    @cached_property
    def _mixup(self) -> Mixup:
        return Mixup(
            mixup_alpha=self.mixup,
            cutmix_alpha=self.cutmix,
            prob=self.prob,
            switch_prob=self.switch_prob,
            label_smoothing=self.smoothing,
            num_classes=self.num_classes,
        )

    def __call__(self, images: Tensor, labels: Tensor, step: int, micro_batch: int) -> tuple[Tensor, Tensor]:
        """Return mixed images ``[B, 3, H, W]``, in place, and targets ``[B, classes]`` that sum to one.

        Args:
            images: Normalised, floating point.
            labels: ``[B]``.
            step: Steps done since the start of the run.
            micro_batch: Number of the micro-batch in the whole step, the same at any number of processes.

        Of an odd number of images, as the last batch in memory may have, the last one stays as it is.
        """
        even = len(images) // 2 * 2 if self.mixup or self.cutmix else 0
        targets = mixup_target(labels, self.num_classes, 1.0, self.smoothing)
        if even:
            with seeded(self.seed, step, micro_batch, _MIX):
                _, targets[:even] = self._mixup(images[:even], labels[:even])
        return images, targets


@dataclass(frozen=True)
class Erase:
    """timm's random erasing of a rectangle in normalised images; the fields mean what its script's flags mean.

    Source: Zhong et al., "Random Erasing Data Augmentation", 2020.
    """

    prob: float = 0.25
    """Probability for each image (``--reprob``)."""
    mode: str = "pixel"
    """pixel: normal noise. rand: one random colour. const: the mean (``--remode``)."""
    count: int = 1
    """Most rectangles in an image (``--recount``)."""
    skip_first_half: bool = False
    """Leave the first half of each micro-batch as it is, as ``--resplit`` does without ``--aug-splits``."""
    seed: int = 0
    """Seed of the run."""

    def __call__(self, images: Tensor, step: int, micro_batch: int) -> Tensor:
        """Return the images ``[B, 3, H, W]`` with rectangles erased, in place. Arguments as those of `Mix`."""
        if not self.prob:
            return images
        erase = RandomErasing(
            self.prob,
            mode=self.mode,
            max_count=self.count,
            num_splits=2 if self.skip_first_half else 0,
            device=images.device,
        )
        with seeded(self.seed, step, micro_batch, _ERASE, device=images.device):
            erased: Tensor = erase(images)
        return erased
