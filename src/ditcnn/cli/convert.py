"""``ditcnn convert``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ditcnn.cli.parsing import parse
from ditcnn.system.errors import InputError
from ditcnn.system.text import one_line, plain_console, visible

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["convert_command"]

SHOWN = 5  # keys that differ


@dataclass(frozen=True)
class ConvertFlags:
    """Make a folder that timm.create_model("local-dir:OUT", pretrained=True) reads from a checkpoint.

    Reads checkpoints of the published code (Dit-ResNet, Dit-ConvNeXt), of plain networks (the term then starts at zero)
    and of ditcnn's runs.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A .pth or .pt file of tensors, or .safetensors."""
    model: str
    """Name of timm's registry, as dit_resnet20."""
    out: Path
    """The new folder."""
    model_kwargs: tuple[str, ...] = ()
    """Arguments of the model as name=value, e.g. quadratic_combine=sum to keep a plain ResNet's function."""


def convert_command(argv: list[str]) -> None:
    """Convert; say which keys went where."""
    flags = parse(ConvertFlags, argv, "ditcnn convert")
    import timm
    from timm.models import ConvNeXt
    from timm.models.convnext import checkpoint_filter_fn

    from ditcnn.convert import differences, read_checkpoint, with_fresh_terms, with_our_keys
    from ditcnn.system.errors import nearest
    from ditcnn.train.saved import registered, save_model

    if not timm.is_model(flags.model):
        raise InputError(f"there is no model {flags.model!r}.{nearest(flags.model, timm.list_models())}")
    registered(flags.model)
    if flags.out.exists() and (not flags.out.is_dir() or any(flags.out.iterdir())):
        raise InputError(f"{flags.out} is there already; name another --out.")
    published = read_checkpoint(flags.checkpoint)
    state, moves = with_our_keys(published)
    model = _model_for(flags, published, state)
    if isinstance(model, ConvNeXt):
        state = checkpoint_filter_fn(state, model)  # type: ignore[no-untyped-call]
    complete = with_fresh_terms(state, model)
    fresh = [key for key in complete if key not in state]
    differing = differences(complete, model)
    if differing:
        more = f", and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise InputError(f"{flags.checkpoint} does not fit {flags.model}: {'; '.join(differing[:SHOWN])}{more}.")
    model.load_state_dict(complete)
    flags.out.mkdir(parents=True, exist_ok=True)
    save_model(model, flags.out)
    _report(flags, model, published, moves, fresh)


def _model_for(flags: ConvertFlags, published: "dict[str, Tensor]", state: "dict[str, Tensor]") -> "nn.Module":
    """Return the model with the arguments that the checkpoint shows, and on top of them those of the flags."""
    import timm

    from ditcnn.convert import swaps_height_and_width
    from ditcnn.models import DitResNet
    from ditcnn.recipes import parse_arguments

    asked = parse_arguments(flags.model_kwargs)
    shown: dict[str, Any] = {}
    cfg = timm.get_pretrained_cfg(flags.model)
    if cfg is not None:
        head = state.get(f"{cfg.classifier}.weight", state.get("head.weight"))  # the latter: ConvNeXt's authors'
        if head is not None:
            shown["num_classes"] = head.shape[0]
        stem = state.get(f"{cfg.first_conv}.weight")
        if stem is not None and stem.shape[1] != 3:
            shown["in_chans"] = stem.shape[1]
    model = _build(flags.model, shown | asked)
    if not isinstance(model, DitResNet):
        return model
    norm = state.get("layer2.0.quadratic.norm.weight")
    if norm is not None and norm.ndim == 2 and tuple(norm.shape) != (16, 16):
        shown["img_size"] = (2 * norm.shape[0], 2 * norm.shape[1])
    if swaps_height_and_width(published):
        shown["spatial_transpose"] = True
    return _build(flags.model, shown | asked)


def _build(name: str, arguments: dict[str, Any]) -> "nn.Module":
    import timm

    try:
        model: nn.Module = timm.create_model(name, **arguments)
    except MemoryError:
        raise
    except Exception as error:  # what a model makes of arguments can be anything
        raise InputError(f"model {name} with {arguments}: {one_line(error)}") from None
    return model


def _report(
    flags: ConvertFlags, model: "nn.Module", published: "dict[str, Tensor]", moves: dict[str, str], fresh: list[str]
) -> None:
    from rich.table import Table

    from ditcnn.convert import swaps_height_and_width
    from ditcnn.models import DitResNet

    table = Table("in the checkpoint", "here", box=None, pad_edge=False)
    for old, new in moves.items():
        table.add_row(visible(old), visible(new))
    if moves:
        plain_console(160).print(table)
    print(f"{len(published)} tensors read, {len(moves)} renamed")
    if swaps_height_and_width(published):
        print("the published layer swaps height and width of its output; kept, as spatial_transpose=True")
    if fresh:
        print(f"no quadratic term in the checkpoint; at its start: {', '.join(fresh)}")
        if isinstance(model, DitResNet) and model.layer2[0].combine == "mean":
            print(
                "the published block averages, so this is not the plain network's function; "
                "--model-kwargs quadratic_combine=sum is"
            )
    print(f"{visible(flags.out)}: timm.create_model('local-dir:{flags.out}', pretrained=True) after import ditcnn")
