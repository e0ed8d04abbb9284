"""The training engine: loop, checkpoints, records, the chosen model."""

from ditcnn.train.build import build_model
from ditcnn.train.evaluate import evaluate
from ditcnn.train.folder import RunFolder
from ditcnn.train.loop import Trainer
from ditcnn.train.preprocessing import Preprocessing
from ditcnn.train.saved import TrainedModel, load_model, open_model, save_model
from ditcnn.train.streamed import StreamTrainer

__all__ = [
    "Preprocessing",
    "RunFolder",
    "StreamTrainer",
    "TrainedModel",
    "Trainer",
    "build_model",
    "evaluate",
    "load_model",
    "open_model",
    "save_model",
]
