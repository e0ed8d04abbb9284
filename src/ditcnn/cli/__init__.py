"""The command line: the only place that puts the parts together. A command's module is imported when it is called."""

import importlib
import sys
from collections.abc import Callable, Sequence

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "list": ("ditcnn.cli.listing:list_command", "list models, recipes and experiments"),
    "data": ("ditcnn.cli.data:data_command", "make class folders of ImageNet's archives"),
    "train": ("ditcnn.cli.train:train_command", "train a network by a recipe"),
    "eval": ("ditcnn.cli.evaluate:evaluate_command", "test a run's or any timm model on images with labels"),
    "predict": ("ditcnn.cli.predict:predict_command", "classify images with a run's or any timm model"),
    "info": ("ditcnn.cli.info:info_command", "what a model costs, against its plain twin"),
    "convert": ("ditcnn.cli.convert:convert_command", "make a model of a published or a plain network's checkpoint"),
    "bench": ("ditcnn.cli.bench:bench_command", "measure the form and the networks on this machine"),
    "reproduce": ("ditcnn.cli.reproduce:reproduce_command", "run an experiment of the paper: numbers, figures, table"),
    "report": ("ditcnn.cli.report:report_command", "write a page about runs side by side"),
    "export": ("ditcnn.cli.export:export_command", "write a model as ONNX, torch.export or safetensors"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status, as `ditcnn.cli.outcome` says, and 0 where it did what it should."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from ditcnn.cli import outcome  # here, where Ctrl-C during the import is told in one line too

        outcome.check_streams()
        try:
            _run(argv)
        except SystemExit:  # help was asked for and is printed
            outcome.finish_output()
            raise
        outcome.finish_output()
    except (Exception, KeyboardInterrupt) as error:  # whatever it is, it ends in one line
        if "ditcnn.cli.outcome" not in sys.modules:
            print("ditcnn: interrupted.", file=sys.stderr)
            return 130
        message, status = outcome.line_and_status(error)
        if message:
            outcome.tell(message)
        return status
    return 0


def _run(argv: list[str]) -> None:
    from ditcnn import __version__
    from ditcnn.system.errors import InputError, nearest

    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
    elif argv[0] == "--version":
        print(f"ditcnn {__version__}")
    elif argv[0] in COMMANDS:
        module, _, function = COMMANDS[argv[0]][0].partition(":")
        command: Callable[[list[str]], None] = getattr(importlib.import_module(module), function)
        command(argv[1:])
    else:
        raise InputError(f"there is no command {argv[0]!r}.{nearest(argv[0], COMMANDS)} See ditcnn --help.")


def _usage() -> str:
    lines = [f"  {name:<9} {summary}" for name, (_, summary) in COMMANDS.items()]
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
