"""Saved models: the one place that writes them, reads them, and knows what a name stands for.

A model is named by the folder of a run or of a converted model (``local-dir:FOLDER`` too), by a name of timm's registry, or
by ``hf-hub:NAME``.
"""

import copy
import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.data import resolve_data_config
from timm.models import PretrainedCfg, save_for_hf
from torch import nn

from ditcnn.data.class_names import imagenet_classes
from ditcnn.system.documents import read_json
from ditcnn.system.errors import InputError, nearest
from ditcnn.system.files import write_atomically
from ditcnn.system.network import HUB_NAMES, hub, hub_offline_if_unreachable, reachable
from ditcnn.system.text import one_line
from ditcnn.train.folder import RunFolder
from ditcnn.train.preprocessing import Preprocessing
from ditcnn.train.weights import encoded, read_weights

__all__ = [
    "TrainedModel",
    "as_folder",
    "check_name",
    "holds_own_module",
    "is_elsewhere",
    "load_model",
    "model_of",
    "open_model",
    "read_config",
    "registered",
    "save_model",
]

_EXIF = "exif_orientation"  # key of config.json, beside those of timm, which passes over it


@dataclass(frozen=True)
class TrainedModel:
    """A model with what it needs to be used: class names, image shape (C, H, W), normalisation, preprocessing.

    Without ``named`` the model's classes have no names, as a converted one's, and are called by their numbers.
    """

    model: nn.Module
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    named: bool = True
    preprocessing: Preprocessing = field(default=None)  # type: ignore[assignment]
    """Default: images of another size are cut to ``image_shape`` about their centre."""
    trained: bool = True
    """Whether the weights are trained ones."""

    def __post_init__(self) -> None:
        if self.preprocessing is None:
            object.__setattr__(self, "preprocessing", Preprocessing(self.image_shape, self.mean, self.std))


# --- Writing


def save_model(
    model: nn.Module, folder: Path, *, classes: Sequence[str] = (), data_config: Mapping[str, Any] | None = None
) -> None:
    """Write ``config.json`` and ``model.safetensors`` for ``timm.create_model("local-dir:DIR", pretrained=True)``.

    A model that timm cannot build from its name and arguments (a module of one's own, or one with terms put in) is written
    too: `load_model` then asks for the module.

    Args:
        model: Any model.
        folder: DIR; it exists.
        classes: Names of the classes, where they are known.
        data_config: Preprocessing, as timm has it, and ``exif_orientation`` where images are to be turned by it. Default:
            that of the model's name.

    Raises:
        OSError: The disk is full or read-only.
    """
    plain = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    data = dict(data_config or {})
    beside = {_EXIF: bool(data.pop(_EXIF, False))} | ({"label_names": list(classes)} if classes else {})
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
        try:
            if not _save_by_timm(plain, Path(temporary), beside, data):
                _save_own(plain, Path(temporary), beside, data, len(classes))
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error)) from None
        weights = load_file(Path(temporary, "model.safetensors"))
        write_atomically(folder / "model.safetensors", encoded(weights))
        write_atomically(folder / "config.json", Path(temporary, "config.json").read_bytes())


def _save_by_timm(model: nn.Module, folder: Path, beside: dict[str, Any], data: dict[str, Any]) -> bool:
    """Write a model by timm's way; say whether timm builds one with the same weights from what was written."""
    if not _own_cfg(model).get("architecture") or not hasattr(model, "_model_args"):
        return False
    try:
        save_for_hf(model, str(folder), model_config=dict(beside), data_config=data or None, safe_serialization=True)
    except ValueError as error:
        if "serializable" not in str(error):
            raise
        return False
    config = json.loads((folder / "config.json").read_bytes())
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            cfg = _known(config["pretrained_cfg"]) | {"num_classes": config["num_classes"]}
            twin = timm.create_model(config["architecture"], pretrained_cfg=cfg, **config.get("model_args", {}))
    except Exception:  # what a model makes of arguments can be anything
        return False
    shapes = [{key: value.shape for key, value in own.state_dict().items()} for own in (model, twin)]
    return shapes[0] == shapes[1]


def _known(cfg: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cfg.items() if key in PretrainedCfg.__dataclass_fields__}


def _save_own(model: nn.Module, folder: Path, beside: dict[str, Any], data: dict[str, Any], classes: int) -> None:
    """Write a model that only its own code can build."""
    state = model.state_dict()
    seen: set[int] = set()
    for key, value in state.items():  # safetensors takes no two names for one memory
        state[key] = value.clone() if value.untyped_storage().data_ptr() in seen else value.contiguous()
        seen.add(value.untyped_storage().data_ptr())
    save_file(dict(state), folder / "model.safetensors")
    config = {
        "architecture": None,
        "module": f"{type(model).__module__}.{type(model).__qualname__}",
        "num_classes": classes or int(getattr(model, "num_classes", 0)),
        "pretrained_cfg": data or model_of(model).preprocessing.data_config(),
    }
    (folder / "config.json").write_text(json.dumps(config | beside, indent=2))


# --- Names


def as_folder(name: str | os.PathLike[str]) -> Path | None:
    """Return the folder that a name stands for, or None for a name of timm's or of the hub."""
    text = os.fspath(name)
    path = Path(text.removeprefix("local-dir:"))
    return path if path.is_dir() or text.startswith("local-dir:") else None


def is_elsewhere(name: str) -> bool:
    """Say whether a name is one of Hugging Face's hub."""
    return name.startswith(HUB_NAMES)


def check_name(name: str) -> None:
    """Raise `InputError` unless timm's registry has a name, weights' tag included."""
    if not timm.is_model(name):
        hint = nearest(name, timm.list_models())
        raise InputError(f"{name}: no such folder, and no model of timm's registry.{hint}")
    architecture, _, tag = name.partition(".")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        tagged = timm.list_pretrained(f"{architecture}.*")
        known = f" It has {', '.join(tagged)}." if 0 < len(tagged) < 6 else "" if tagged else " It has none."
        raise InputError(f"{name}: {architecture} has no weights called {tag!r}.{nearest(name, tagged)}{known}") from None


def registered(name: str, arguments: Mapping[str, Any] | None = None) -> PretrainedCfg | None:
    """Return timm's config of a name; that of the base for a model with terms put in.

    Raises:
        InputError: There is no such name.
    """
    check_name(name)
    base = (arguments or {}).get("base", name) if name == "with_quadratic" else name
    if base != name:
        check_name(str(base))
    return timm.get_pretrained_cfg(str(base))


# --- Reading


def read_config(folder: Path) -> dict[str, Any]:
    """Return a folder's ``config.json``, looked through: what is missing or of another kind is told here.

    Raises:
        InputError: There is none, or it is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the folder of a run.")
    run = RunFolder(folder)
    if not (folder / "config.json").exists() or not run.weights.exists():
        unfinished = "; its run is not that far yet, go on with --resume" if run.config.exists() else ""
        raise InputError(f"{folder} holds no trained model (config.json and model.safetensors){unfinished}.")
    try:
        config = read_json(folder / "config.json")
        _check(config)
    except (InputError, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{folder} holds a damaged model: config.json: {one_line(error)}") from None
    checked: dict[str, Any] = config
    return checked


def _check(config: Any) -> None:
    if not isinstance(config, dict):
        raise TypeError("it holds no entries by name")
    name, cfg, classes = config["architecture"], config["pretrained_cfg"], config["num_classes"]
    if not isinstance(cfg, dict) or type(classes) is not int or classes < 0:
        raise TypeError("pretrained_cfg must hold entries by name, num_classes a number from 0 on")
    if name is not None and not (isinstance(name, str) and timm.is_model(name)):
        raise ValueError(f"there is no model {name!r} in timm's registry")
    arguments = config.get("model_args") or {}
    if any(isinstance(value, str) and ":" in value for value in arguments.values()):  # a folder calls no hub
        raise ValueError("model_args name a model somewhere else")
    Preprocessing.of(cfg)
    names = _label_names(config)
    if names and len(names) != classes:
        raise ValueError(f"it names {len(names)} classes and has {classes} outputs")


def _label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the outputs, of only some by their number too; none where there are none."""
    names = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names") or ()
    if isinstance(names, dict):
        return tuple(str(names.get(str(n), names.get(n, n))) for n in range(config["num_classes"]))
    if not isinstance(names, list | tuple):
        raise TypeError("label_names must be a list")
    return tuple(map(str, names))


def holds_own_module(folder: Path) -> bool:
    """Say whether a folder's weights are of a module that only its own code builds.

    Raises:
        InputError: As `read_config`.
    """
    return read_config(folder)["architecture"] is None


def load_model(path: Path, *, model: nn.Module | None = None, **kwargs: Any) -> TrainedModel:
    """Read the chosen model of a run, or a converted model, in eval mode.

    Args:
        path: The folder.
        model: The module that the weights are of, where it is one of the user's own; it is filled in place.
        kwargs: Arguments of the model on top of those it was made with, as timm takes them.

    Raises:
        InputError: The folder holds none, or a damaged one.
    """
    config = read_config(path)
    weights = RunFolder(path).weights
    if config["architecture"] is None and model is None:
        raise InputError(
            f"{path} holds the weights of a module of your own, {config.get('module', 'which it does not name')}: load them "
            f"from Python, with ditcnn.load({str(path)!r}, model=my_module)."
        )
    try:
        state = read_weights(weights)  # timm passes over some damage with a warning
        if model is not None:
            model.load_state_dict(state)
        else:
            model = timm.create_model(f"local-dir:{path}", pretrained=True, **kwargs)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # what a model makes of another's weights or arguments can be anything
        raise InputError(f"{path} holds a damaged model: {one_line(error)}") from None
    outputs = int(getattr(model, "num_classes", config["num_classes"]))
    names = _label_names(config) if outputs == config["num_classes"] else ()
    preprocessing = Preprocessing.of(config["pretrained_cfg"], config.get(_EXIF))
    return _described(model, outputs, names, preprocessing)


def open_model(
    name: str | os.PathLike[str],
    *,
    pretrained: bool = True,
    model: nn.Module | None = None,
    image_size: int | None = None,
    crop_pct: float | None = None,
    **kwargs: Any,
) -> TrainedModel:
    """Return the model that ``name`` stands for, in eval mode, as it is to be used.

    Args:
        name: A folder, a name of timm's registry, ``local-dir:FOLDER`` or ``hf-hub:NAME``.
        pretrained: Load the weights that belong to a name. A name without any gives fresh ones, of seed 0.
        model: As in `load_model`.
        image_size: Height and width of the images. Default: those recorded; of a name, those that timm validates it at.
        crop_pct: As in `Preprocessing`. Default: as for the size.
        kwargs: Arguments of the model.

    Raises:
        InputError: There is no such model, its weights cannot be had, or it takes no images of this size.
    """
    folder = as_folder(name)
    if folder is not None:
        found = load_model(folder, model=model, **kwargs)
    elif model is not None:
        raise InputError(f"{name}: no such folder; model= is for a folder with the weights of a module of your own.")
    else:
        found = _from_timm(os.fspath(name), pretrained, kwargs)
    asked = found.preprocessing.data_config()
    if image_size is not None:
        asked["input_size"] = (found.image_shape[0], image_size, image_size)
    if crop_pct is not None:
        asked["crop_pct"] = crop_pct
    try:
        wanted = Preprocessing(**asked, exif_orientation=found.preprocessing.exif_orientation)
    except ValueError as error:
        raise InputError(f"{name}: {error}.") from None
    _try(os.fspath(name), found.model, wanted.input_size)
    return _described(found.model, len(found.classes), found.classes if found.named else (), wanted, found.trained)


def model_of(model: nn.Module, data_config: Mapping[str, Any] | None = None) -> TrainedModel:
    """Return a module with what it says of itself, as timm's models and those of `load_model` do (``pretrained_cfg``).

    Args:
        model: Any module; it is put into eval mode.
        data_config: What is to be done to images, as timm has it. Default: as the module says.

    Raises:
        InputError: It does not say.
    """
    cfg: dict[str, Any] = dict(getattr(model, "pretrained_cfg", None) or {}) | dict(data_config or {})
    if not {"input_size", "mean", "std"} <= cfg.keys():
        raise InputError(
            f"{type(model).__name__} does not say what its images must be like: give data_config={{'input_size': (C, H, W), "
            "'mean': (...), 'std': (...)}."
        )
    try:
        preprocessing = Preprocessing.of(cfg, cfg.get(_EXIF, getattr(model, _EXIF, False)))
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"the preprocessing of {type(model).__name__}: {one_line(error)}.") from None
    outputs = int(getattr(model, "num_classes", 0)) or _outputs(model, preprocessing.input_size)
    names = tuple(map(str, cfg.get("label_names") or ()))
    return _described(model.eval(), outputs, names if len(names) == outputs else (), preprocessing)


def _described(
    model: nn.Module, outputs: int, names: tuple[str, ...], preprocessing: Preprocessing, trained: bool = True
) -> TrainedModel:
    """Return a model with its description, which the model itself gets to know too: timm asks it (``pretrained_cfg``)."""
    names = names or imagenet_classes(outputs)
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    about = preprocessing.data_config() | {"num_classes": outputs}
    known = {key: value for key, value in cfg.items() if key not in ("test_input_size", "test_crop_pct")}
    model.pretrained_cfg = known | about | ({"label_names": list(names)} if names else {})  # type: ignore[assignment]
    setattr(model, _EXIF, preprocessing.exif_orientation)  # not among the former: timm refuses a key that it does not know
    classes = names or tuple(map(str, range(outputs)))
    shape, mean, std = preprocessing.input_size, preprocessing.mean, preprocessing.std
    return TrainedModel(model.eval(), classes, shape, mean, std, bool(names), preprocessing, trained)


def _from_timm(name: str, pretrained: bool, kwargs: dict[str, Any]) -> TrainedModel:
    on_hub = is_elsewhere(name)
    cfg = None if on_hub else registered(name, kwargs)
    trained = pretrained and (on_hub or (cfg is not None and bool(cfg.has_weights)))
    if pretrained and not trained:
        print(f"ditcnn: {name} has no trained weights: what follows is of fresh ones, seed 0.", file=sys.stderr)
    torch.manual_seed(0)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # else it tells each of its attempts
    try:
        with hub_offline_if_unreachable():
            _refuse_unreachable(cfg if trained else None)
            model: nn.Module = timm.create_model(name, pretrained=trained, **kwargs).eval()
        preprocessing = Preprocessing.of(resolve_data_config(pretrained_cfg=_own_cfg(model), use_test_size=True))  # type: ignore[no-untyped-call]
    except MemoryError:
        raise
    except Exception as error:  # what a download, or a model with its arguments, raises has no common class
        if not trained and not on_hub:
            raise InputError(f"model {name} with {kwargs or 'its defaults'}: {one_line(error)}") from None
        raise InputError(
            f"{name}: the model cannot be had: {one_line(error, 300)} Without a network, name a folder that timm has saved, "
            "or pass --no-pretrained for fresh weights."
        ) from None
    outputs = int(getattr(model, "num_classes", 0))
    names = tuple(map(str, _own_cfg(model).get("label_names") or ()))[:outputs]
    return _described(model, outputs, names if len(names) == outputs else (), preprocessing, trained)


def _refuse_unreachable(cfg: PretrainedCfg | None) -> None:
    """Raise for weights on a server that does not answer, which are not in the cache either."""
    if cfg is None or cfg.file:
        return
    if cfg.hf_hub_id:
        names = (cfg.hf_hub_filename, "model.safetensors", "pytorch_model.bin")
        cached = any(isinstance(try_to_load_from_cache(cfg.hf_hub_id, name), str) for name in names if name)
        server = hub()
    else:
        server = cfg.url if isinstance(cfg.url, str) else ""
        cached = Path(torch.hub.get_dir(), "checkpoints", server.rpartition("/")[2]).exists()
    if server and not cached and not reachable(server):
        raise OSError(f"{server} cannot be reached, and the weights are not in the cache.")


def _own_cfg(model: nn.Module) -> dict[str, Any]:
    return dict(getattr(model, "pretrained_cfg", None) or {})


def _try(name: str, model: nn.Module, shape: tuple[int, int, int]) -> None:
    """Raise `InputError` unless the model takes images of a shape."""
    try:
        _outputs(model, shape)
    except (RuntimeError, ValueError, AssertionError, TypeError, LookupError) as error:
        raise InputError(f"{name} takes no images of (C, H, W) = {shape}: {one_line(error)}") from None


@torch.no_grad()
def _outputs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    parameter = next(model.parameters(), torch.empty(0))
    logits = model.eval()(torch.zeros(1, *shape, device=parameter.device))
    return int(logits.shape[-1])
