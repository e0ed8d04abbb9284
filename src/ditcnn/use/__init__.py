"""A saved model, used: loaded, tested on images with labels, asked for the classes of others."""

from ditcnn.use.evaluating import evaluate
from ditcnn.use.loading import load
from ditcnn.use.predicting import predict

__all__ = ["evaluate", "load", "predict"]
