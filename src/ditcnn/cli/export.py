"""``ditcnn export``."""

import importlib.util
import os
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ditcnn.cli.parsing import parse
from ditcnn.system.errors import InputError
from ditcnn.system.network import ask_hub_early
from ditcnn.system.text import one_line, visible

if TYPE_CHECKING:
    from torch import nn

__all__ = ["export_command"]


@dataclass(frozen=True)
class ExportFlags:
    """Write a model for other programs: ONNX, torch.export, or its weights alone. The batch size stays free."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """Folder of a run or of a converted model, or a name of timm's registry; a name without a tag has fresh weights."""
    format: Literal["onnx", "torch-export", "safetensors"]
    """onnx; torch-export, read by torch.export.load; or safetensors, the state dict."""
    out: Path
    """The file."""
    model_kwargs: tuple[str, ...] = ()
    """Arguments of a model named by registry name, as name=value."""
    force: bool = False
    """Overwrite the file if it is there."""


def export_command(argv: list[str]) -> None:
    """Write the file and say what is in it."""
    flags = parse(ExportFlags, argv, "ditcnn export")
    ask_hub_early(flags.model)
    if flags.out.exists() and not stat.S_ISREG(flags.out.stat().st_mode):
        raise InputError(f"{flags.out} is a folder, a pipe or a device; --out must name a file.")
    if flags.out.exists() and not flags.force:
        raise InputError(f"{flags.out} is there already; name another --out, or overwrite it with --force.")
    if not flags.out.parent.is_dir():
        raise InputError(f"{flags.out.parent}: no such folder.")
    if flags.format == "onnx":
        missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(f"--format onnx needs {' and '.join(missing)}: pip install 'ditcnn[export]'.")
    from ditcnn.recipes import parse_arguments  # loads torch, as the next do
    from ditcnn.train.saved import as_folder, is_elsewhere, open_model

    arguments = parse_arguments(flags.model_kwargs)
    if as_folder(flags.model) is not None and arguments:
        raise InputError(f"{flags.model} keeps the arguments it was made with; leave out --model-kwargs.")
    # A folder has weights, and so has a name with a tag.
    has_weights = as_folder(flags.model) is not None or is_elsewhere(flags.model) or "." in flags.model
    found = open_model(flags.model, pretrained=has_weights, **arguments)
    if not found.trained:
        print(f"ditcnn: {flags.model} has no trained weights; writing fresh ones.", file=sys.stderr)
    model, shape = found.model, found.image_shape
    with tempfile.TemporaryDirectory(prefix=".export-", dir=flags.out.parent) as temporary:
        file = Path(temporary, flags.out.name)
        try:
            _write(model, shape, flags.format, file)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # exporters and the models that they trace raise anything
            raise InputError(f"{flags.model} cannot be written as {flags.format}: {one_line(error)}") from None
        file.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner reads
        os.replace(file, flags.out)
    print(f"{visible(flags.out)}: {visible(flags.model)} as {flags.format}, images [N, {', '.join(map(str, shape))}]")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write(model: "nn.Module", shape: tuple[int, int, int], form: str, file: Path) -> None:
    import torch
    from safetensors.torch import save_file

    if form == "safetensors":
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)
        return
    images = torch.zeros(2, *shape)
    batch = torch.export.Dim("batch", min=1)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    if form == "torch-export":
        torch.export.save(exported, file)
        return
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    program: Any = torch.onnx.export(exported, **names, dynamic_shapes=({0: "batch"},), verbose=False)
    program.save(file, external_data=False)
