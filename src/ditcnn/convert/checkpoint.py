"""Checkpoints of plain networks and of the published code, under this package's keys."""

import contextlib
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ditcnn.convert.insert import quadratic_terms
from ditcnn.system.errors import InputError, reason
from ditcnn.system.text import one_line

__all__ = ["differences", "read_checkpoint", "swaps_height_and_width", "with_fresh_terms", "with_our_keys"]

State = dict[str, Tensor]

# Where people keep the weights among other things: averages first, as timm reads them.
_CONTAINERS = (
    "state_dict_ema", "model_ema", "params_ema", "state_dict", "model", "model_state_dict", "model_state", "net", "network",
    "module", "params", "weights",
)  # fmt: skip
_WRAPPERS = ("module.", "_orig_mod.")  # of any key
_MEMBERS = (
    "model.",
    "net.",
    "network.",
    "backbone.",
    "encoder.",
)  # of all keys: the attribute that a trainer keeps a model in
MOST_NAMES = 200  # of classes in a file

# Keys of the published code (Liu et al., NeurIPS 2024) and what they are called here.
_PUBLISHED = (
    (r"(.+)\.quadratic_layer\.quadratic", r"\1.quadratic.weight"),
    (r"(layer\d\.\d+)\.ln_in\.(weight|bias)", r"\1.quadratic.norm.\2"),
    (r"(layer\d\.\d+)\.shortcut\.(.+)", r"\1.downsample.\2"),
    (r"linear\.(weight|bias)", r"fc.\1"),
    (r"(stages\.\d+\.blocks\.\d+)\.quadratic\.quadratic", r"\1.conv_dw.quadratic.weight"),
)

# What lies in the place of weights, by its first bytes.
_OTHERS = (
    (b"version https://git-lfs", "is a pointer of Git LFS and not the weights: fetch them with git lfs pull"),
    (b"<", "is a web page or XML and not weights: the address gave a page; download the file itself"),
    (b"{", "is JSON and not weights"),
    (b"\x1f\x8b", "is compressed by gzip: unpack it first"),
    (b"\xfd7zXZ", "is compressed by xz: unpack it first"),
    (b"7z\xbc\xaf", "is a 7z archive: unpack it first"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes; only PyTorch's files and safetensors are read"),
    (b"\x93NUMPY", "is a NumPy array; only PyTorch's files and safetensors are read"),
    (b"GGUF", "is a GGUF file; only PyTorch's files and safetensors are read"),
)


class _Ignored:
    """Stands for an object of a class that is not loaded: code that a file names is not run."""

    name = ""

    def __new__(cls, *arguments: Any, **kwargs: Any) -> "_Ignored":
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...


def _dict(*arguments: Any) -> dict[Any, Any]:
    return {}


def read_checkpoint(path: Path) -> State:
    """Return the tensors of a file of safetensors or of one that ``torch.save`` wrote, without running code from it.

    The tensors may lie bare or under one of the names that trainers give them (``state_dict``, ``model``, ``net``, ...), an
    average of the weights first. Their keys may begin with ``module.`` or ``_orig_mod.``, and all of them with ``model.``
    and the like. Objects of foreign classes beside them (arguments, numbers of NumPy, settings) are passed over.

    Raises:
        InputError: The file is not there, is damaged, is something else, or holds no tensors by name.
    """
    head = _head(path)
    try:
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:  # safetensors, whatever it is called
            loaded: Any = load_file(path)
        elif path.suffix == ".safetensors":
            raise SafetensorError("it does not begin as such a file does")
        else:
            loaded = _load(path, head)
    except (InputError, MemoryError):
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason(error)}.") from None
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}.") from None
    except Exception as error:  # a damaged or foreign file can raise anything
        raise InputError(_told(path, error)) from None
    if isinstance(loaded, _Ignored):
        raise InputError(_whole(path, loaded.name))
    if isinstance(loaded, Tensor):
        raise InputError(f"{path} holds one tensor without a name.")
    while isinstance(loaded, dict) and (inner := next((loaded[c] for c in _CONTAINERS if _is_state(loaded.get(c))), None)):
        loaded = inner
    state = (
        {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)} if isinstance(loaded, dict) else {}
    )
    if not state:
        raise InputError(f"{path} holds no tensors by name, neither bare nor under {', '.join(_CONTAINERS)}.")
    return _unwrapped(state)


def _whole(path: Path, what: str) -> str:
    return f"{path} holds a whole {what}, which only its own code loads; there, torch.save(model.state_dict(), FILE)."


def _told(path: Path, error: Exception) -> str:
    """Return what is wrong with a file, of torch's paragraphs what is about it."""
    text = str(error) or type(error).__name__
    if blocked := re.search(r"unsupported GLOBAL (\S+) whose module", text):
        return f"{path} is refused: it calls {blocked[1]}, as no weights do."
    if "persistent_load of storage" in text:
        return _whole(path, "module")
    words = text.partition("WeightsUnpickler error:")[2].strip() or text
    return f"{path} is damaged or is no file of tensors: {one_line(words.splitlines()[0], 200)}"


def _head(path: Path) -> bytes:
    """Return a file's first bytes; tell what it is where it is plainly no weights."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is a folder, a pipe or a device; it must be a file of tensors.")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason(error)}.") from None
    if not head:
        raise InputError(f"{path} is empty.")
    for start, what in _OTHERS:
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(start):
            raise InputError(f"{path} {what}.")
    return head


def _load(path: Path, head: bytes) -> Any:
    """Return what ``torch.save`` wrote, with stand-ins for what is not of torch."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:  # torch.load itself does not verify the checksums
            names = archive.namelist()
            if (bad := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {bad} in it does not match. Download or copy it again.")
        if any(name.endswith("constants.pkl") for name in names):
            raise InputError(f"{path} is a TorchScript archive; save the tensors of its state_dict() instead.")
        if not any(name.endswith("data.pkl") for name in names):
            raise InputError(f"{path} is a zip archive without weights of torch.save: unpack it first.")
    elif head.startswith(b"PK"):
        raise ValueError("it is cut off. Download or copy it again.")
    ignored: dict[str, Any] = {"collections.defaultdict": _dict}
    while True:
        try:
            with _stand_ins(ignored):
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            found = re.search(r"GLOBAL ([\w.]+) was not an allowed global", str(error))
            name = "" if found is None else found[1] if "." in found[1] else f"builtins.{found[1]}"
            if not name or name in ignored or len(ignored) > MOST_NAMES:
                raise
            ignored[name] = type("Ignored", (_Ignored,), {"name": name})


@contextlib.contextmanager
def _stand_ins(ignored: dict[str, Any]) -> Iterator[None]:
    with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in ignored.items()]):
        yield


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and bool(value)


def with_our_keys(state: State) -> tuple[State, dict[str, str]]:
    """Return the tensors with published keys renamed to this package's, and {published key: key here}.

    The published matrices are ``[O, C C]`` and become ``[O, C, C]``.
    """
    renamed, moves = {}, {}
    for key, value in state.items():
        new = _our_key(key)
        if new != key:
            moves[key] = new
        if new.endswith("quadratic.weight") and value.ndim == 2:
            channels = round(value.shape[1] ** 0.5)
            if channels**2 == value.shape[1]:
                value = value.reshape(len(value), channels, channels)
        renamed[new] = value
    return renamed, moves


def swaps_height_and_width(state: State) -> bool:
    """Say whether a checkpoint is of the published CIFAR layer, whose output has height and width swapped."""
    return any(key.endswith(".quadratic_layer.quadratic") for key in state)


def with_fresh_terms(state: State, model: nn.Module) -> State:
    """Return the tensors with the model's own terms added where there are none at all: those of a plain network.

    A checkpoint with a part of the terms is left as it is, for a strict load to refuse.
    """
    own = model.state_dict()
    keys = [key for name, _ in quadratic_terms(model) for key in own if key.startswith(f"{name}.")]
    if any(key in state for key in keys):
        return state
    return state | {key: own[key] for key in keys}


def differences(state: State, model: nn.Module) -> list[str]:
    """Return what keeps a strict load from working, a line for each key: missing, not known, or of another shape."""
    own = model.state_dict()
    lines = [f"{key} is missing" for key in own if key not in state]
    lines += [f"{key} has no place in the model" for key in state if key not in own]
    lines += [
        f"{key} is {list(value.shape)}, the model's {list(own[key].shape)}"
        for key, value in state.items()
        if key in own and own[key].shape != value.shape
    ]
    return lines


def _unwrapped(state: State) -> State:
    """Return the tensors without what wrappers and trainers put before their keys."""
    while True:
        member = next((m for m in _MEMBERS if all(key.startswith(m) for key in state)), "")
        shorter = {_without_wrappers(key.removeprefix(member)): value for key, value in state.items()}
        if shorter.keys() == state.keys():
            return state
        state = shorter


def _without_wrappers(key: str) -> str:
    while key.startswith(_WRAPPERS):
        key = key.partition(".")[2]
    return key


def _our_key(key: str) -> str:
    for published, ours in _PUBLISHED:
        if re.fullmatch(published, key):
            return re.sub(published, ours, key)
    return key
