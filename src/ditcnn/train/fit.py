"""The front door of training: what the command line, the experiments and a notebook call."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ditcnn.data.stream.workers import end_if_importing_main
from ditcnn.recipes import OWN, RECIPES, Recipe
from ditcnn.system.devices import choose_device
from ditcnn.system.display import Display
from ditcnn.system.environment import record_launch
from ditcnn.system.errors import Diverged, InputError, ToldElsewhere, reason
from ditcnn.system.failures import explained
from ditcnn.system.processes import Processes
from ditcnn.system.signals import Stopped
from ditcnn.train.build import build_model
from ditcnn.train.folder import RunFolder
from ditcnn.train.inputs import Data, Inputs, named_data, open_inputs
from ditcnn.train.matching import match_recipe
from ditcnn.train.saved import save_model
from ditcnn.train.settings import (
    DEFAULTS,
    FIELDS,
    Beside,
    as_yaml,
    base_of,
    check_each,
    read_settings,
    refuse_changes,
    refuse_idle,
    resolve,
    with_weights,
)
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
    resolved = processes.on_first(lambda: _resolve(model, train, recipe, out, resume, config, asked, settings, display))
    name, wanted, beside, folder = resolved.name, resolved.recipe, resolved.beside, resolved.folder
    if train is None and (train := resolved.data) is not None and train.startswith(OWN):
        raise processes.agreed(
            InputError(
                f"{folder} was trained on a Python object ({train.removeprefix(OWN)}): go on from Python, with ditcnn.fit."
            )
        )
    place = processes.on_all(lambda: processes.own_device(choose_device(beside.device)))
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
    return Plan(name, inputs.recipe, inputs, network, named_data(train), beside, folder, resolved.new, place)


@dataclass(frozen=True)
class _Resolved:
    name: str | None
    recipe: Recipe
    beside: Beside
    data: str | None  # as a stored run or a config names it
    folder: Path | None
    new: bool
    given: set[str]  # names of settings that were asked for


def _resolve(
    model: str | nn.Module | None,
    train: Data,
    recipe: str | Recipe | None,
    out: str | Path | None,
    resume: bool,
    config: str | Path | None,
    asked: dict[str, Any],
    settings: dict[str, Any],
    display: Display,
) -> _Resolved:
    """Return a run's settings: the recipe's, a config's, a stored run's and those asked for, on top of each other."""
    if out is not None and not str(out):
        raise InputError("`out` is empty; name a folder.")
    own = {} if model is None else {"model": _own_name(model) if isinstance(model, nn.Module) else model}
    asked = {key: value for key, value in asked.items() if value is not None}
    Beside(**asked)
    check_each(settings | own)  # each by itself, before images are looked at
    in_config = read_settings(Path(config).expanduser()) if config is not None else {}
    folder = Path(out).expanduser() if out is not None else _newest(recipe, model) if resume else None
    stored = _stored(folder, resume, display) if folder is not None else None
    if stored is not None and out is None:
        display.say(f"going on with the newest run, {folder}")
    below = {**in_config, **(stored or {})}
    name = _name(recipe, in_config.get("recipe"), (stored or {}).get("recipe"))
    if name is None and not isinstance(recipe, Recipe):
        images = train if train is not None else below.get("data")
        if images is None and resume and not in_config:
            raise InputError(f"there is no run below {_RUNS}/ to go on with; name a recipe or images to begin one.")
        name = "digits" if images is None and in_config else match_recipe(images, display.say)
    layers = [_of_recipe(stored or {}), _of_recipe(in_config), settings | own]
    named = next((layer["model"] for layer in reversed(layers) if "model" in layer), None)
    base = recipe if isinstance(recipe, Recipe) else base_of(name, None if str(named).startswith(OWN) else named)
    before = resolve(base, layers[:1], f"{folder}/config.yaml: ")
    wanted = resolve(resolve(before, layers[1:2], f"{config}: "), layers[2:])
    wanted.check()
    given = {key for layer in layers for key in layer}
    beside = Beside(**(DEFAULTS | {key: value for key, value in below.items() if key in DEFAULTS} | asked))
    if stored is not None:
        assert folder is not None
        refuse_changes(before, wanted, RunFolder(folder).config)
    else:
        wanted = _complete(wanted, name, given, set(settings), train is not None or "data" in in_config, display)
    return _Resolved(name, wanted, beside, below.get("data"), folder, stored is None, given)


def _stored(folder: Path, resume: bool, display: Display) -> dict[str, Any] | None:
    """Return the settings of the run in a folder that is to go on; None where a new one begins there."""
    run = RunFolder(folder)
    if not str(folder).isascii() and any("\udc80" <= char <= "\udcff" for char in str(folder)):
        raise InputError(f"`out` {folder} is not UTF-8, which TensorBoard's events need; name another folder.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`out` {folder} is a file, not a folder.")
    if run.holds_run() and not run.config.exists():
        raise InputError(f"{folder} holds files of a run, but no config.yaml. Name another folder.")
    if not resume:
        run.refuse_run()
        return None
    if not run.config.exists():
        display.say(f"{folder} holds no run: beginning one")
        return None
    if run.lost_checkpoints():
        raise InputError(f"{run.path} holds a run that lost its last.pt; put it back, or delete the folder.")
    return read_settings(run.config)


def _name(recipe: str | Recipe | None, in_config: Any, in_run: Any) -> str | None:
    """Return the name of a run's recipe, on which what was asked for, a config and the run must agree."""
    named = (recipe if isinstance(recipe, str) else None, in_config, in_run)
    known = dict.fromkeys(str(name) for name in named if name is not None)
    if len(known) > 1:
        raise InputError(f"a run has one recipe; named are {' and '.join(known)}.")
    return next(iter(known), None)


def _of_recipe(stored: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stored.items() if key in FIELDS}


def _complete(
    recipe: Recipe, name: str | None, given: set[str], asked: set[str], has_data: bool, display: Display
) -> Recipe:
    """Return a new run's settings with what its weights want; say what they are."""
    streamed = name is not None and RECIPES[name].streamed
    if name == "imagenet-finetune" and recipe.pretrained is None:
        raise InputError("recipe imagenet-finetune needs `pretrained`: a model of timm's registry, or a run's folder.")
    if streamed and not has_data:
        raise InputError(f"recipe {name} needs `data`: class folders train/<class>/* and val/<class>/*.")
    recipe = with_weights(recipe, given, streamed)
    refuse_idle(recipe, asked)
    display.say(_schedule(recipe, name))
    if streamed and recipe.pretrained:
        display.say(
            f"images of {recipe.img_size} pixels ({recipe.interpolation}), mean {recipe.mean}, deviation {recipe.std}; from "
            f"{recipe.pretrained}"
        )
    return recipe


def _own_name(model: nn.Module) -> str:
    return f"{OWN}{type(model).__module__}.{type(model).__qualname__}"


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
    path = planned.folder or processes.on_first(lambda: _new_folder(planned.name or "run", recipe))
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
            raise Stopped(stop.signum, f"checkpoint saved; go on with: {_command(path, processes)}") from None
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


def _of_model(model: str, key: str, default: Any) -> Any:
    """Return what a model of timm's registry says of its images; ``default`` where it says nothing."""
    return (timm.models.get_pretrained_cfg_value(model, key) if timm.is_model(model) else None) or default


def _schedule(recipe: Recipe, name: str | None) -> str:
    """Return the schedule in words; a number of epochs has moved milestones and warm-up."""
    own = RECIPES[name].recipe.epochs if name else recipe.epochs
    rescaled = f" (the recipe's {own} rescaled)" if recipe.epochs != own else ""
    drops = recipe.milestones if recipe.schedule == "multistep" else ()
    milestones = f", milestones at {', '.join(f'{m:g}' for m in drops)}" if drops else ""
    return f"schedule: {recipe.epochs} epochs{rescaled}{milestones}, warm-up of {recipe.warmup_epochs:g} epochs"


# Folders

_RUNS = Path("runs")


def _new_folder(name: str, recipe: Recipe) -> Path:
    """Make and return runs/NAME-MODEL-N, N the next free number; runs that begin together have one each."""
    stem = f"{name}-{recipe.own_module.rpartition('.')[2] if recipe.own_module else recipe.model}"
    _RUNS.mkdir(parents=True, exist_ok=True)
    numbers = [int(match[1]) for path in _RUNS.iterdir() if (match := re.fullmatch(rf"{re.escape(stem)}-(\d+)", path.name))]
    number = max(numbers, default=0) + 1
    while True:
        try:
            (folder := _RUNS / f"{stem}-{number}").mkdir()
            return folder
        except FileExistsError:
            number += 1


def _newest(recipe: str | Recipe | None, model: str | nn.Module | None) -> Path | None:
    """Return the folder below runs/ whose run was the last to save, of a recipe and model where they are given."""
    stem = f"{recipe if isinstance(recipe, str) else '*'}-{model if isinstance(model, str) else '*'}-*"
    found = [path for path in _RUNS.glob(stem) if (path / "config.yaml").is_file()]
    return max(found, key=lambda path: max(f.stat().st_mtime_ns for f in path.iterdir()), default=None)


def _command(folder: Path, processes: Processes) -> str:
    """Return what a person types to go on with a run."""
    out = shlex.quote(str(folder))
    called = sys.argv[0]
    if not called.endswith(("ditcnn", "ditcnn/__main__.py", "ditcnn.exe")):
        return f"ditcnn.fit(..., out={str(folder)!r}, resume=True)"
    if processes.launcher is not None:
        return f"the same torchrun command, with --out {out} --resume"
    return f"{program()} train --out {out} --resume"


def program() -> str:
    """Return how this program was called, for a person to repeat."""
    called = sys.argv[0]
    if called.endswith("__main__.py"):
        return "python -m ditcnn"
    return "ditcnn" if shutil.which("ditcnn") == os.path.abspath(called) else called
