"""What becomes of a run's model when its terms are taken out."""

from pathlib import Path

from ditcnn.convert import quadratic_terms
from ditcnn.data import open_data
from ditcnn.data.split import trained_on
from ditcnn.experiments.removal import Removal, measure_removal
from ditcnn.recipes import RECIPES
from ditcnn.report.runs import Run
from ditcnn.system.errors import InputError
from ditcnn.train import load_model
from ditcnn.train.saved import holds_own_module

__all__ = ["removal_of"]


def removal_of(run: Run, data: Path) -> Removal | None:
    """Return what removal does to a run's saved model, or None where it has no term, or is a module of the user's own.

    Raises:
        InputError: The data cannot be read, or is not of the shape and classes that the model was trained for.
    """
    if holds_own_module(run.folder.path):
        return None
    trained = load_model(run.folder.path)
    if not any(True for _ in quadratic_terms(trained.model)):
        return None
    name = run.settings.get("recipe") or "digits"
    if name not in RECIPES:
        raise InputError(f"{run.folder.path} names the recipe {name}, which this ditcnn does not know. Leave out --data.")
    kind = RECIPES[name].data
    if kind == "photographs":
        raise InputError(
            f"{run.folder.path} is a run on ImageNet; removal is measured on images in memory. Leave out --data."
        )
    images = open_data(data, kind)
    if (images.image_shape, len(images.classes)) != (trained.image_shape, len(trained.classes)):
        raise InputError(
            f"{run.folder.path} was trained on {len(trained.classes)} classes of images {trained.image_shape}; "
            f"--data {data} has {len(images.classes)} of {images.image_shape}."
        )
    seen = trained_on(images, run.settings.get("protocol", "holdout"))
    return measure_removal(trained, seen, images.test)
