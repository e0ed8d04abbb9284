"""The front door of training: what the command line, the experiments and a notebook call."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ditcnn.data.batches import normalise
from ditcnn.data.stream.workers import end_if_importing_main
from ditcnn.recipes import OWN, Recipe
from ditcnn.system.devices import choose_device
from ditcnn.system.display import Display
from ditcnn.system.environment import record_launch
from ditcnn.system.errors import Diverged, InputError, ToldElsewhere, reason
from ditcnn.system.failures import explained
from ditcnn.system.processes import Processes
from ditcnn.system.signals import Stopped
from ditcnn.train.build import build_model
from ditcnn.train.folder import RunFolder, new_run_folder, resume_command
from ditcnn.train.inputs import Data, Inputs, named_data, open_inputs
from ditcnn.train.precision import choose_precision
from ditcnn.train.resolve import resolve_run
from ditcnn.train.saved import save_model
from ditcnn.train.settings import Beside, as_yaml
from ditcnn.train.sources import Cut, MemorySource
from ditcnn.train.trainer import Callback, Trainer
from ditcnn.train.trial import check_step

__all__ = ["Plan", "Result", "fit", "plan"]

TIME_TO_DIE = 15.0  # seconds until a network's disk has let go of a killed process's lock


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
        model: The network with the weights that count, in eval mode.
        folder: The run's folder, which `ditcnn.load`, `ditcnn eval`, `predict` and `report` read.
        history: The metrics, a dict an epoch.
        summary: The result's line: accuracies in percent, and what they were selected on.
        signum: A signal that asked to stop when the run was all but done.
    """

    model: nn.Module
    folder: Path
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    signum: int | None = None


@dataclass(frozen=True)
class Plan:
    """A run that is resolved and checked, and has written nothing yet."""

    name: str | None
    recipe: Recipe
    inputs: Inputs
    model: nn.Module
    data: str | None
    beside: Beside
    folder: Path | None  # None: a new one below runs/
    new: bool
    fresh: bool  # neither a checkpoint nor other weights are loaded
    device: torch.device


def fit(
    model: str | nn.Module | None,
    train: Data,
    val: Data = None,
    *,
    test: Data = None,
    recipe: str | Recipe | None = None,
    out: str | Path | None = None,
    device: str | None = "auto",
    workers: int | None = 0,
    resume: bool = False,
    skip_bad_images: bool | None = False,
    checkpoint_minutes: float | None = 5.0,
    config: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    display: Display | None = None,
    **settings: Any,
) -> Result:
    """Train a network; return it, where it lies, and how it went.

    Interrupted anywhere, the same call with ``resume=True`` and the same ``out`` goes on and ends with the same bits. Under
    torchrun, each process calls it alike.

    Args:
        model: A name of timm's registry, or a module of your own, which is trained in place; None: the recipe's.
        train: Images: a path as ``ditcnn train --data`` takes it; a map-style torch Dataset of (image, label), the image
            PIL, a uint8 array or tensor, or a float tensor ``[C, H, W]`` that is taken as it is, without normalisation,
            crop and flip; a pair (images uint8
            ``[N, C, H, W]``, labels ``[N]``); None: the recipe's own data.
        val: Images to select on or to watch. Without them a part of train is held out, unless the path has such a part.
        test: Images for one test at the end.
        recipe: A name of `ditcnn.recipes`, a `Recipe`, or None for the one that suits the data.
        out: Folder of the run. Default: a new one below ``runs/``.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``. None, for this and the next ones: what the run or ``config`` has.
        workers: Processes that read streamed images; 0: this one does.
        resume: Go on with the run in ``out`` (default: the newest), or begin it if there is none.
        skip_bad_images: Go on without images that cannot be decoded, and count them.
        checkpoint_minutes: Time between checkpoints within an epoch; there is one after each epoch.
        config: Settings of an earlier run, its ``config.yaml``; others go on top.
        callbacks: Each is called with every line of the metrics, and with each step's ``epoch``, ``step``, ``loss``, ``lr``.
        display: Where to report.
        settings: Fields of `Recipe` by name. ``epochs=3`` rescales milestones and warm-up.

    Raises:
        InputError: Settings or data that make no sense.
        Stopped: A signal asked for it; a checkpoint is saved.
        Diverged, RunFailed: The run could not go on.
    """
    end_if_importing_main()
    processes = Processes.join()
    display = display or Display(quiet=not processes.first)
    restarted = processes.any_restarted()  # the run is then the one that the processes before have begun
    resume = resume or restarted
    if processes.max_restarts and out is None:
        raise processes.agreed(
            InputError("torchrun's --max-restarts needs `out`, by which restarted processes find their run.")
        )
    try:
        planned = plan(
            model, train, val, test=test, recipe=recipe, out=out, device=device, workers=workers, resume=resume,
            skip_bad_images=skip_bad_images, checkpoint_minutes=checkpoint_minutes, config=config, display=display,
            processes=processes, **settings,
        )  # fmt: skip
        result = _run(planned, processes, display, callbacks, TIME_TO_DIE if restarted else 0.0)
    except RuntimeError as error:  # before or after the run, which tells more
        if (failure := explained(error)) is error:
            raise
        raise failure from None
    except (InputError, Diverged, Stopped, ToldElsewhere):  # on which all processes have agreed
        processes.leave()
        raise
    processes.leave()
    return result


def plan(
    model: str | nn.Module | None,
    train: Data,
    val: Data = None,
    *,
    test: Data = None,
    recipe: str | Recipe | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    config: str | Path | None = None,
    display: Display | None = None,
    processes: Processes | None = None,
    device: str | None = "auto",
    workers: int | None = 0,
    skip_bad_images: bool | None = False,
    checkpoint_minutes: float | None = 5.0,
    **settings: Any,
) -> Plan:
    """Resolve and check everything that `fit` would do, and write nothing; arguments as there."""
    processes = processes or Processes()
    display = display or Display()
    asked = {
        "device": device,
        "workers": workers,
        "skip_bad_images": skip_bad_images,
        "checkpoint_minutes": checkpoint_minutes,
    }
    train, val, test = (os.path.expanduser(data) if isinstance(data, str | Path) else data for data in (train, val, test))
    # Settings and folder are one process's business: the others may not see the disk, or may see it half written.
    resolved = processes.on_first(lambda: resolve_run(model, train, recipe, out, resume, config, asked, settings, display))
    name, wanted, beside, folder = resolved.name, resolved.recipe, resolved.beside, resolved.folder
    if train is None and (train := resolved.data) is not None and train.startswith(OWN):
        raise processes.agreed(
            InputError(
                f"{folder} was trained on a Python object ({train.removeprefix(OWN)}): go on from Python, with ditcnn.fit."
            )
        )
    place = processes.on_all(lambda: processes.own_device(choose_device(beside.device)))
    precision = processes.on_first(lambda: choose_precision(wanted.precision, place, display.say, display.warn))
    wanted = replace(wanted, precision=precision)
    inputs = open_inputs(
        train, val, test, wanted, name, resolved.given,
        processes=processes,
        size_of_model=lambda: _of_model(wanted.model, "input_size", (224,))[-1],
        interpolation_of_model=lambda: _of_model(wanted.model, "interpolation", "bicubic"),
        workers=beside.workers,
        skip_bad_images=beside.skip_bad_images,
        display=display,
    )  # fmt: skip
    idle = [field for field in ("workers", "skip_bad_images") if asked[field]]
    if idle and isinstance(inputs.train, MemorySource):
        raise processes.agreed(InputError(f"`{idle[0]}` has no effect on images in memory; leave it out."))
    if not resolved.new and folder is not None:
        run = RunFolder(folder)
        begun = processes.on_first(lambda: run.last.exists() or run.previous.exists())
    else:
        begun = False
    cut = processes.on_all(lambda: Cut.of(inputs.recipe, processes.rank, processes.size))
    network = processes.on_all(lambda: _network(model, inputs, begun))
    processes.on_all(lambda: check_step(network, inputs.recipe, inputs.train, cut, place))
    fresh = not begun and wanted.pretrained is None
    return Plan(name, inputs.recipe, inputs, network, named_data(train), beside, folder, resolved.new, fresh, place)


def _network(model: str | nn.Module | None, inputs: Inputs, begun: bool) -> nn.Module:
    """Return the network to train, at its start; a checkpoint has the weights of a run that has begun."""
    recipe, shape, count = inputs.recipe, inputs.train.image_shape, len(inputs.classes)
    if not isinstance(model, nn.Module):
        if recipe.own_module is not None:
            raise InputError(
                f"this run trains a module of your own, {recipe.own_module}: go on from Python, with ditcnn.fit."
            )
        torch.manual_seed(recipe.seed)
        pretrained = None if begun else recipe.pretrained
        return build_model(recipe.model, shape, count, pretrained=pretrained, **recipe.model_arguments())
    if recipe.pretrained or recipe.model_arguments():
        raise InputError(
            "`pretrained`, `model_kwargs` and `drop_path` are for models that are named; this one is made already."
        )
    try:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        with torch.no_grad():
            logits = model.eval()(torch.zeros(2, *shape, device=device))
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"{recipe.own_module} does not take images {shape}: {' '.join(str(error).split())}") from None
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, count):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(f"{recipe.own_module} must return logits [N, {count}] for {count} classes; got {got} for N = 2.")
    return model.train()


def _run(planned: Plan, processes: Processes, display: Display, callbacks: Sequence[Callback], patience: float) -> Result:
    inputs, recipe = planned.inputs, planned.recipe
    path = planned.folder or processes.on_first(
        lambda: new_run_folder(f"{planned.name or 'run'}-{recipe.model.rpartition('.')[2]}")
    )
    folder = RunFolder(path)
    config = {
        "input_size": inputs.train.image_shape,
        "mean": recipe.mean,
        "std": recipe.std,
        "crop_pct": inputs.evaluation.crop_pct,
        "crop_mode": inputs.evaluation.crop_mode,
        "interpolation": inputs.evaluation.interpolation,
        "exif_orientation": inputs.upright,
    }

    def export(model: nn.Module) -> None:
        save_model(model, path, classes=inputs.classes, data_config=config)

    try:
        if planned.fresh:
            _prepare(planned.model, inputs, processes)
        trainer = processes.on_all(
            lambda: Trainer(
                recipe,
                planned.model,
                inputs.train,
                inputs.selection,
                folder,
                planned.device,
                display,
                digest=inputs.digest,
                export=export,
                processes=processes,
                callbacks=callbacks,
                checkpoint_minutes=planned.beside.checkpoint_minutes,
            )
        )
    except Exception:
        if planned.folder is None:  # a new one, in which nothing has been written
            processes.on_first(path.rmdir)
        raise
    with ExitStack() as lock:
        processes.on_first(lambda: lock.enter_context(folder.locked(patience)))
        if planned.new:
            processes.on_first(lambda: folder.create(as_yaml(recipe, planned.name, planned.data, planned.beside)))
        trainer.restore()
        if not trainer.progress.finished:
            for difference in processes.on_first(lambda: record_launch(folder.environment, planned.device, processes.size)):
                display.warn(f"resumed with other {difference}; bits may differ from an uninterrupted run.")
        size = processes.size
        step = f"; {trainer.steps} steps an epoch, each of {trainer.cut.global_batch} images"
        if size > 1 or trainer.cut.micro_batches > 1:
            each = trainer.cut.micro_batches // size
            step += f" = {size} process{'es' if size > 1 else ''} x {each} x {trainer.cut.batch_size}"
        display.say(f"{recipe.model} on {planned.device} in {recipe.precision}: {inputs.summary}{step}; {path}")
        try:
            summary = trainer.run()
        except Stopped as stop:
            raise Stopped(
                stop.signum, f"checkpoint saved; go on with: {resume_command(path, processes.launcher is not None)}"
            ) from None
        except Diverged:
            if trainer.stop.signum is not None:  # the wish to stop came first
                raise Stopped(trainer.stop.signum, "the run had broken off") from None
            raise
        except OSError as error:
            raise InputError(
                f"{reason(error)}. The newest checkpoint stands; go on with --resume when that is mended."
            ) from None
    history = [line for line in trainer.lines if not line.get("final")]
    chosen = planned.model
    chosen.load_state_dict(trainer.weights)
    return Result(chosen.eval(), path, history, summary, trainer.stop.signum)


def _prepare(model: nn.Module, inputs: Inputs, processes: Processes) -> None:
    """Show some training images, as the network will see them, to a network that starts from them.

    Any model may have a method ``prepare_on_images(images)``, images ``[N, C, H, W]``, normalised and not augmented. It is
    called once, before the first step of a run from fresh weights; one that may have trained already should let it pass.
    """
    if not hasattr(model, "prepare_on_images"):
        return
    recipe, (_, height, width) = inputs.recipe, inputs.train.image_shape

    def prepared() -> dict[str, torch.Tensor]:
        images = inputs.train.sample(max(1, min(_SHOWN, _SHOWN_PIXELS // (height * width))))
        model.prepare_on_images(normalise(images, recipe.mean, recipe.std))  # type: ignore[operator]
        return model.state_dict()

    model.load_state_dict(processes.on_first(prepared))  # the first one's numbers for all


_SHOWN = 5_000  # images
_SHOWN_PIXELS = _SHOWN * 64 * 64  # of larger images fewer


def _of_model(model: str, key: str, default: Any) -> Any:
    """Return what a model of timm's registry says of its images; ``default`` where it says nothing."""
    return (timm.models.get_pretrained_cfg_value(model, key) if timm.is_model(model) else None) or default
