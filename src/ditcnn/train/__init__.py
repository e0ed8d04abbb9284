"""The training engine: loop, checkpoints, records, the chosen model."""

from ditcnn.train.build import build_model
from ditcnn.train.device import choose_device
from ditcnn.train.display import Display
from ditcnn.train.distributed import Processes
from ditcnn.train.evaluate import evaluate
from ditcnn.train.export import TrainedModel, load_model, save_model
from ditcnn.train.folder import RunFolder
from ditcnn.train.loop import Trainer
from ditcnn.train.stop import Stopped
from ditcnn.train.streamed import StreamTrainer

__all__ = [
    "Display",
    "Processes",
    "RunFolder",
    "Stopped",
    "StreamTrainer",
    "TrainedModel",
    "Trainer",
    "build_model",
    "choose_device",
    "evaluate",
    "load_model",
    "save_model",
]
