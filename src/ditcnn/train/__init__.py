"""The training engine: the front door, the loop, checkpoints, records, the chosen model."""

from ditcnn.train.build import build_model
from ditcnn.train.evaluate import evaluate
from ditcnn.train.export import TrainedModel, load_model, save_model
from ditcnn.train.fit import Plan, Result, fit, plan
from ditcnn.train.folder import RunFolder
from ditcnn.train.trainer import Trainer

__all__ = [
    "Plan",
    "Result",
    "RunFolder",
    "TrainedModel",
    "Trainer",
    "build_model",
    "evaluate",
    "fit",
    "load_model",
    "plan",
    "save_model",
]
