"""The training engine: the front door, the loop, checkpoints, records, saved models."""

from ditcnn.train.build import build_model
from ditcnn.train.evaluate import evaluate
from ditcnn.train.fit import Plan, Result, fit, plan
from ditcnn.train.folder import RunFolder
from ditcnn.train.preprocessing import Preprocessing
from ditcnn.train.saved import TrainedModel, load_model, open_model, save_model
from ditcnn.train.trainer import Trainer

__all__ = [
    "Plan",
    "Preprocessing",
    "Result",
    "RunFolder",
    "TrainedModel",
    "Trainer",
    "build_model",
    "evaluate",
    "fit",
    "load_model",
    "open_model",
    "plan",
    "save_model",
]
