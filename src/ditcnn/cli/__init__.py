"""The command line: the only place that puts the parts together."""

import sys
from collections.abc import Callable, Sequence

from ditcnn import __version__
from ditcnn.cli.bench import bench_command
from ditcnn.cli.convert import convert_command
from ditcnn.cli.data import data_command
from ditcnn.cli.evaluate import evaluate_command
from ditcnn.cli.export import export_command
from ditcnn.cli.info import info_command
from ditcnn.cli.predict import predict_command
from ditcnn.cli.report import report_command
from ditcnn.cli.reproduce import reproduce_command
from ditcnn.cli.train import train_command
from ditcnn.system.errors import InputError, RunFailed, ToldElsewhere, nearest, reason
from ditcnn.system.failures import out_of_memory
from ditcnn.system.signals import Stopped

__all__ = ["main"]

_COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "data": (data_command, "make class folders of ImageNet's archives"),
    "train": (train_command, "train a network by a recipe"),
    "eval": (evaluate_command, "test a run's or any timm model on images with labels"),
    "predict": (predict_command, "classify images with a run's or any timm model"),
    "info": (info_command, "what a model costs, against its plain twin"),
    "convert": (convert_command, "make a model of a published or a plain network's checkpoint"),
    "bench": (bench_command, "measure the form and the networks on this machine"),
    "reproduce": (reproduce_command, "run an experiment of the paper: numbers, figures, table"),
    "report": (report_command, "write a page about runs side by side"),
    "export": (export_command, "write a model as ONNX, torch.export or safetensors"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    0; 2 for bad input; 1 for a run that failed; 128 plus the signal's number for one that was stopped.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(argv)
        return 0
    except ToldElsewhere as told:
        return _outcome(told.error)[1]
    except (InputError, RunFailed, Stopped, KeyboardInterrupt, OSError) as error:
        message, status = _outcome(error)
        print(f"ditcnn: {message}", file=sys.stderr)
        return status
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        print(
            f"ditcnn: out of memory: {str(error).splitlines()[0]} Take fewer or smaller images at a time.", file=sys.stderr
        )
        return 1


def _outcome(error: BaseException) -> tuple[str, int]:
    """Return what to say of an error, and the exit status."""
    if isinstance(error, Stopped):
        return f"stopped by {error}, {error.advice}.", 128 + error.signum
    if isinstance(error, KeyboardInterrupt):
        return "interrupted.", 130
    if isinstance(error, OSError):  # a full disk, a file without permission
        return f"{reason(error)}.", 2
    return str(error), 2 if isinstance(error, InputError) else 1


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
    elif argv[0] == "--version":
        print(f"ditcnn {__version__}")
    elif argv[0] in _COMMANDS:
        _COMMANDS[argv[0]][0](argv[1:])
    else:
        raise InputError(f"there is no command {argv[0]!r}.{nearest(argv[0], _COMMANDS)} See ditcnn --help.")


def _usage() -> str:
    lines = [f"  {name:<9} {summary}" for name, (_, summary) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: ditcnn COMMAND ...",
            "",
            "Quadratic neurons for convolutional networks.",
            "",
            *lines,
            "",
            "ditcnn COMMAND --help lists a command's flags; ditcnn --version prints the version.",
        ]
    )
