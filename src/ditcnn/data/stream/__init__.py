"""ImageNet-sized data: read from where it lies, image by image, in an order that no number of processes changes."""

from ditcnn.data.stream.loading import (
    Step,
    epoch_order,
    eval_batches_of,
    micro_batches_per_rank,
    steps_per_epoch_of,
    train_batches_of,
)
from ditcnn.data.stream.mixing import Erase, Mix
from ditcnn.data.stream.parts import Split, open_source
from ditcnn.data.stream.randomness import seeded
from ditcnn.data.stream.source import BadImage, ImageSource, decode_rgb
from ditcnn.data.stream.transforms import EvalTransform, ImageTransform, TrainTransform, WholeTransform

__all__ = [
    "BadImage",
    "Erase",
    "EvalTransform",
    "ImageSource",
    "ImageTransform",
    "Mix",
    "Split",
    "Step",
    "TrainTransform",
    "WholeTransform",
    "decode_rgb",
    "epoch_order",
    "eval_batches_of",
    "micro_batches_per_rank",
    "open_source",
    "seeded",
    "steps_per_epoch_of",
    "train_batches_of",
]
