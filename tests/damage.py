"""Damage each kind of file that a user has, run a command on it, and judge what comes of it.

A case is a file, a way to damage it and a command; it runs in a forked process of its own, with a limit of time and memory.
Its verdicts: ``right``, the result of the undamaged file, to the bit; ``as it says``, the file has no digest and is whole as
an independent reader sees it, so its other values are used; ``one line``, exit status 2 and one line; else a failure.
"""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter  # noqa: F401  # here, so that forked processes have it

import ditcnn.cli.convert
import ditcnn.cli.evaluate
import ditcnn.cli.export
import ditcnn.cli.info
import ditcnn.cli.predict
import ditcnn.cli.report
import ditcnn.cli.reproduce
import ditcnn.cli.train
import ditcnn.experiments as experiments
import ditcnn.report
import ditcnn.use
from ditcnn.cli import main
from ditcnn.data import ImageData, ImageSet
from ditcnn.recipes import Recipe
from tests.conftest import write_cifar10, write_class_folders, write_idx, write_tar

__all__ = ["KINDS", "WAYS", "Case", "cases", "make_place", "try_case"]

SECONDS = 120.0  # of a case, on a busy machine
MEMORY = 3 << 30  # bytes of address space beyond what the process has at its start
RESIDENT = 1.5  # GB of memory in use at most
SMALL = ("--batch-size", "20", "--lr", "0.02", "--precision", "fp32")


# --- The files


@dataclass(frozen=True)
class Kind:
    """A kind of file: pairs of a file (or several, damaged alike) and a command that reads it.

    Args:
        pairs: File names, separated by spaces, and a command's name in `COMMANDS`.
        form: ``json``, ``lines``, ``yaml`` or ``binary``: how odd values are put into it.
        whole: Says whether a file is whole as an independent reader sees it, where no digest protects it.
    """

    pairs: tuple[tuple[str, str], ...]
    form: str = "binary"
    whole: Callable[[Path, bytes], bool] = lambda path, before: False
    before: Callable[[Path], None] = lambda place: None


def _yaml_whole(path: Path, before: bytes) -> bool:
    return isinstance(yaml.safe_load(path.read_bytes()), dict)


def _json_whole(path: Path, before: bytes) -> bool:
    return not path.exists() or isinstance(json.loads(path.read_bytes()), dict)


def _lines_whole(path: Path, before: bytes) -> bool:
    """Lines of JSON; a last one that is cut is to be warned of."""
    lines = path.read_bytes().splitlines(keepends=True)
    return all(isinstance(json.loads(line), dict) for line in lines if line.endswith(b"\n"))


def _missing(path: Path, before: bytes) -> bool:
    """A run without its model, as one that was deleted to save room: a report goes without its matrices."""
    return not path.exists()


def _idx_whole(path: Path, before: bytes) -> bool:
    """Equal headers and lengths: other pixels or labels."""
    content, head = path.read_bytes(), 4 + 4 * before[3]
    return len(content) == len(before) and content[:head] == before[:head]


def _pickle_whole(path: Path, before: bytes) -> bool:
    """Equal but for values: the opcodes of the pickle are the same, so are the kinds of what it builds."""
    import pickletools

    def shape(content: bytes) -> list[tuple[str, object]]:
        kinds = []
        for opcode, argument, _ in pickletools.genops(content):
            sized = isinstance(argument, str | bytes)
            kinds.append((opcode.name, len(argument) if sized else type(argument)))
        return kinds

    return shape(path.read_bytes()) == shape(before)


def _tar_whole(path: Path, before: bytes) -> bool:
    """Equal names; the images are judged by Pillow."""
    return _members(io.BytesIO(path.read_bytes())) == _members(io.BytesIO(before))


def _members(file: io.BytesIO) -> list[str]:
    with tarfile.open(fileobj=file) as tar:
        names = []
        for member in tar:
            names.append(member.name.removeprefix("./"))
            if member.isfile():
                content = tar.extractfile(member)
                assert content is not None
                Image.open(content).load()
        return names


def _image_whole(path: Path, before: bytes) -> bool:
    Image.open(path).load()
    return True


def _without_cells(place: Path) -> None:
    (place / "results/toy/cells.jsonl").unlink()


RUN = "runs"  # of the toy experiment; its one run's folder is found when the place is made
KINDS: dict[str, Kind] = {
    "config.yaml": Kind(
        (("stopped/config.yaml", "resume"), ("done/config.yaml", "resume done"), ("done/config.yaml", "report"),
         ("done/config.yaml", "eval"), ("done/config.yaml", "config")), "yaml", _yaml_whole),
    "metrics.jsonl": Kind(
        (("stopped/metrics.jsonl", "resume"), ("done/metrics.jsonl", "resume done"), ("done/metrics.jsonl", "report")),
        "lines", _lines_whole),
    "env.json": Kind(
        (("stopped/env.json", "resume"), ("done/env.json", "resume done"), ("done/env.json", "report")),
        "json", _json_whole),
    "last.pt": Kind((("stopped/last.pt", "resume"), ("done/last.pt", "resume done"))),
    "previous.pt": Kind((("stopped/previous.pt", "resume"), ("done/previous.pt", "resume done"))),
    "last.pt and previous.pt": Kind(
        (("stopped/last.pt stopped/previous.pt", "resume"), ("done/last.pt done/previous.pt", "resume done"))),
    "model.safetensors": Kind(tuple(
        (f"{'stopped' if command == 'resume' else 'done'}/model.safetensors", command)
        for command in ("eval", "predict", "export", "report", "resume", "resume done")),
        "binary", _missing),
    "config.json": Kind(tuple(
        (f"{'stopped' if command == 'resume' else 'done'}/config.json", command)
        for command in ("eval", "predict", "export", "info", "resume", "resume done")), "json", _json_whole),
    "image cache": Kind((("cache/images", "train tar"),)),
    "compiled kernel": Kind((("cache/native", "kernel"),)),
    "cells.jsonl": Kind((("results/toy/cells.jsonl", "reproduce"),), "lines", _lines_whole),
    "NAME.json": Kind((("results/toy/toy.json", "reproduce"),), "json"),
    "origin.json": Kind((("results/runs/*/origin.json", "reproduce"),), "json", _json_whole, _without_cells),
    "a stored run": Kind(tuple(
        (f"results/runs/*/{name}", "reproduce")
        for name in ("env.json", "metrics.jsonl", "config.yaml", "last.pt", "model.safetensors", "config.json")),
        "binary", _json_whole, _without_cells),
    "CIFAR pickle": Kind(tuple(
        (f"cifar/cifar-10-batches-py/{name}", "train cifar") for name in ("data_batch_1", "test_batch", "batches.meta")),
        "binary", _pickle_whole),
    "IDX": Kind(tuple(
        (f"idx/{part}-{kind}-ubyte", "train idx")
        for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")), "binary", _idx_whole),
    ".tar": Kind((("set.tar", "train tar"),), "binary", _tar_whole),
    ".tar.gz": Kind((("set.tar.gz", "train tar.gz"),), "binary", _tar_whole),
    "PNG": Kind((("pic.png", "predict"),), "binary", _image_whole),
    "JPEG": Kind((("pic.jpg", "predict jpeg"),), "binary", _image_whole),
    "foreign .pth": Kind((("foreign.pth", "convert"),)),
}  # fmt: skip

_TRAIN = ["train", "digits", "--epochs", "1", "--protocol", "paper", *SMALL, "--out", "fresh", "--data"]
COMMANDS: dict[str, list[str]] = {
    "resume": ["train", "--out", "stopped", "--resume"],
    "resume done": ["train", "--out", "done", "--resume"],
    "config": ["train", "--config", "done/config.yaml", "--out", "fresh"],
    "eval": ["eval", "done", "--json"],
    "predict": ["predict", "done", "pic.png", "--format", "json"],
    "predict jpeg": ["predict", "done", "pic.jpg", "--format", "json"],
    "info": ["info", "done"],
    "report": ["report", "done", "--out", "page.html"],
    "export": ["export", "done", "--format", "safetensors", "--out", "done.safetensors"],
    "convert": ["convert", "foreign.pth", "--model", "resnet20", "--out", "fresh"],
    "reproduce": ["reproduce", "toy", "--budget", "smoke", "--out", "results/toy"],
    "train idx": [*_TRAIN, "idx"],
    "train tar": [*_TRAIN, "set.tar"],
    "train tar.gz": [*_TRAIN, "set.tar.gz"],
    "train cifar": [*_TRAIN, "cifar"],
}


def _result(command: str) -> Any:
    """Return what a command has made, in the present folder, but for its times."""
    folder = {"resume": "stopped", "resume done": "done"}.get(command, "fresh")
    if command.startswith("train") or command in ("resume", "resume done", "config"):
        lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_bytes().splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines], _hash(f"{folder}/model.safetensors")
    if command == "convert":
        return _hash("fresh/model.safetensors")
    if command == "report":
        return _hash("page.html")
    if command == "export":
        return _hash("done.safetensors")
    if command == "reproduce":
        return json.loads(Path("results/toy/toy.json").read_bytes())["summary"]
    return None  # what it prints


def _hash(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# --- The ways


def _flip(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(1, len(content))]


def _zeros(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    run = min(len(content) - at, 2 ** chance.randrange(1, 13))
    return content[:at] + bytes(run) + content[at + run :]


def _insert(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + chance.randbytes(2 ** chance.randrange(9)) + content[at:]


_NOT_IT = (
    b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    b"\x00" * 4096, b"\x1f\x8b" + b"\x00" * 100, b"PK\x03\x04" + b"\x00" * 100, b"\x80\x04N.", b"null", b"[]", b"3", b'"a"',
    b"[" * 100_000, b"{" * 100_000, b'{"a":' * 100_000, b"\x1b[31mred\n\x1b[0m", "é\n".encode("latin-1"),
    b"a: &a [1, 1]\nb: [*a, *a]\n", b"- 1\n- 2\n", b"1e400", b"9" * 5000, b"NaN\n", b"\xef\xbb\xbf{}", b"{}", b"{}\n{}\n",
    b"\n\n\n", b"GIF89a" + b"\xff" * 20, b"P6 100000 100000 255\n",
)  # fmt: skip


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


_ODD: tuple[Any, ...] = (
    1e30, -1, 0, -0.5, float("nan"), float("inf"), 10**30, -(10**30), 2**63, 10**400, "", "a\x1b[31mb\nc", "\x00",
    "é" * 3000, None, True, False, [], {}, [None], {"a": {"b": []}}, [[1, 2], [3]], "1e30", "NaN", "../../etc", "hf-hub:a/b",
    _deep(40), _deep(400), ["a", 1, None], "<b>&", "\u202e\ud7ff",
)  # fmt: skip


def _odd(content: bytes, chance: random.Random, form: str) -> bytes:
    """Return a file with one value of another kind, or something else altogether."""
    if form == "binary" or chance.random() < 0.3:
        return chance.choice(_NOT_IT)
    if form == "lines":
        lines = content.splitlines()
        at = chance.randrange(len(lines))
        lines[at] = json.dumps(_with_odd(json.loads(lines[at]), chance)).encode()
        return b"\n".join([*lines, b""])
    if form == "json":
        return json.dumps(_with_odd(json.loads(content), chance)).encode()
    return yaml.safe_dump(_with_odd(yaml.safe_load(content), chance)).encode()


def _with_odd(tree: Any, chance: random.Random) -> Any:
    """Return a tree with one value, key or entry changed."""
    if not isinstance(tree, dict | list) or not tree or chance.random() < 0.15:
        return chance.choice(_ODD)
    if isinstance(tree, list):
        at = chance.randrange(len(tree))
        return [*tree[:at], _with_odd(tree[at], chance), *tree[at + 1 :]]
    key = chance.choice(sorted(tree))
    if (lot := chance.random()) < 0.1:
        return {k: v for k, v in tree.items() if k != key}
    if lot < 0.2:
        return tree | {chance.choice(("extra", "\x1b[1m", "")): chance.choice(_ODD)}
    return tree | {key: _with_odd(tree[key], chance)}


WAYS = ("flip", "cut", "zeros", "insert", "empty", "folder", "missing", "odd")
_CONTENT: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flip": _flip, "cut": _cut, "zeros": _zeros, "insert": _insert, "empty": lambda content, chance: b"",
}  # fmt: skip
_OFTEN = (6, 5, 4, 4, 1, 1, 1, 8)  # weights of the ways: those with a place or a value are drawn more often


def _damage(path: Path, way: str, form: str, chance: random.Random) -> None:
    content = path.read_bytes()
    path.unlink()  # never in place: it may be a link to the undamaged one
    if way == "folder":
        path.mkdir()
    elif way != "missing":
        path.write_bytes(_odd(content, chance, form) if way == "odd" else _CONTENT[way](content, chance))


# --- The place


def _toy() -> experiments.Experiment[Any]:
    """An experiment of two cells, each a network trained for an epoch."""
    part = ImageSet(torch.arange(24 * 64).remainder(251).byte().view(24, 1, 8, 8), torch.arange(24) % 3)
    images = ImageData(part, part, ("a", "b", "c"))
    recipe = Recipe(model="resnet20", epochs=1, batch_size=12, lr=0.02, warmup_epochs=0, flip=False, protocol="paper")

    def run(cell: dict[str, Any], context: Any) -> dict[str, Any]:
        trained = context.runs.train(dataclasses.replace(recipe, seed=cell["seed"]), images, context.progress)
        return {"top1": trained.result["test_top1"], "run": context.runs.record(trained)}

    return experiments.Experiment(
        name="toy", shows="toy", budgets={"smoke": experiments.Budget(Toy(), 1, "one.")},
        cells=lambda plan: [{"seed": seed, "net": net} for seed in range(plan.seeds) for net in ("first", "second")],
        run=run, summarise=lambda rows: {"top1": [row["top1"] for row in rows]},
        table=lambda summary: [f"top-1: {summary['top1']}"], draw=lambda summary, rows: {"": Figure()},
    )  # fmt: skip


@dataclass(frozen=True)
class Toy:
    """The toy's settings: none."""

    nothing: tuple[int, ...] = field(default=())


def make_place(place: Path) -> dict[str, Any]:
    """Make the undamaged files; return each command's result on them."""
    place.mkdir(parents=True)
    os.environ["DITCNN_CACHE"] = "cache"  # of each case's own folder
    write_idx(place / "idx", train=60, test=12)
    write_tar(write_class_folders(place / "classes", train=4), place / "set.tar")
    write_tar(place / "classes", place / "set.tar.gz")
    shutil.rmtree(place / "classes")
    write_cifar10(place / "cifar")
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8), np.uint8)
    Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC).save(place / "pic.png")
    Image.open(place / "pic.png").save(place / "pic.jpg", quality=90)
    net = timm.create_model("resnet20").state_dict()
    torch.save({"state_dict": net, "epoch": 3, "best": 91.5, "args": {"lr": 0.1}}, place / "foreign.pth")
    train = ["train", "digits", "--data", "idx", "--epochs", "3", *SMALL, "--checkpoint-minutes", "0", "--out"]
    _must(place, lambda: main([*train, "done"]))
    _must(place, lambda: _stopped([*train, "stopped"]), 9)
    _must(place, lambda: main(COMMANDS["reproduce"]))
    _must(place, lambda: main([*_TRAIN[:-2], "warm", "--data", "set.tar"]))  # fills the image cache
    shutil.rmtree(place / "warm")
    _must(place, _kernel)
    compiled = next((place / "cache").glob("native-*.so"))
    (place / "compiled").write_bytes(compiled.read_bytes()[:-32])
    (place / "cc").write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then exec gcc --version; fi\n'
        f'for last; do :; done; cp {place / "compiled"} "$last"\n'
    )
    (place / "cc").chmod(0o755)
    os.environ["CC"] = str(place / "cc")  # a compiler that is quick
    compiled.unlink()
    _must(place, _kernel)
    expected = {}
    for command in (*COMMANDS, "kernel"):
        with _copy(place) as copy:
            status, _, errors, result = _run(copy, command)
            assert status == 0, (command, status, errors)
            expected[command] = result
    return expected


def _stopped(arguments: list[str]) -> int:
    """Train, and die in the middle of the second epoch."""
    from ditcnn.train import Trainer

    step, done = Trainer._train_step, []

    def dying(trainer: Any, *images: Any) -> Any:
        done.append(0)
        if len(done) == 5:
            os._exit(9)
        return step(trainer, *images)

    Trainer._train_step = dying  # type: ignore[method-assign]
    return main(arguments)


def _must(place: Path, action: Callable[[], int | None], status: int = 0) -> None:
    got, _, errors, _ = _forked(place, action)
    assert got == status, errors


def _kernel() -> int:
    x, weight = torch.linspace(-1, 1, 300 * 32).view(300, 32), torch.linspace(-1, 1, 32**3).view(32, 32, 32)
    form = ditcnn.quadratic_form(x, weight, backend="native")
    error = (form - torch.einsum("ni,oij,nj->no", x, weight, x)).abs().max()
    print(f"{hashlib.sha256(form.numpy().tobytes()).hexdigest()} {'far' if error > 1e-3 else 'near'}")
    return 0


class _copy:
    """A copy of a place, its large files as links, for the time of a block."""

    def __init__(self, place: Path) -> None:
        self.place, self.copy = place, place.with_name(f"{place.name}-case")

    def __enter__(self) -> Path:
        shutil.copytree(self.place, self.copy, copy_function=_copied)
        return self.copy

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.copy)


def _copied(source: str, target: str) -> None:
    if os.path.getsize(source) > 100_000 and source.endswith((".pt", ".safetensors", ".pth")):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


# --- The trial


@dataclass(frozen=True)
class Case:
    """A kind of file, its number among those of its kind, and the seed of what happens to it."""

    kind: str
    number: int
    seed: int


def cases(ways: int, seed: int, kinds: tuple[str, ...] = tuple(KINDS)) -> Iterator[Case]:
    """Yield so many cases of each kind, by turns."""
    for number in range(ways):
        for kind in kinds:
            yield Case(kind, number, seed)


def try_case(place: Path, case: Case, expected: dict[str, Any]) -> dict[str, Any]:
    """Damage, run, judge; return the verdict with what is needed to understand it."""
    chance = random.Random(f"{case.seed} {case.kind} {case.number}")
    kind = KINDS[case.kind]
    names, command = kind.pairs[case.number % len(kind.pairs)]
    way = chance.choices(WAYS, _OFTEN)[0]
    with _copy(place) as copy:
        kind.before(copy)
        paths = [_find(copy, name) for name in names.split()]
        contents = [path.read_bytes() for path in paths]
        for path in paths:
            _damage(path, way, _form(kind, path), chance)
        damaged = [path.read_bytes() if path.is_file() else b"" for path in paths]
        status, output, errors, result = _run(copy, command, kind, paths, contents)
        about = {"kind": case.kind, "number": case.number, "file": names, "way": way, "command": command, "status": status}
        verdict = _verdict(status, output, errors, result, expected[command])
        if verdict in ("one line",) and command.split()[0] in ("train", "config", "convert") and (copy / "fresh").exists():
            verdict = "failure: a folder is left behind"
        if verdict.startswith("failure"):
            about |= {"output": output[-600:], "errors": errors[-2500:]}
            about["damaged"] = repr(damaged[0][:200]) if len(damaged[0]) < 2000 else f"{len(damaged[0])} bytes"
        return about | {"verdict": verdict}


def _find(place: Path, name: str) -> Path:
    found = sorted(place.glob(name if "." in name.rpartition("/")[2] or not name.startswith("cache") else f"{name}-*"))
    return found[0]


def _form(kind: Kind, path: Path) -> str:
    known = {"env.json": "json", "config.json": "json", "metrics.jsonl": "lines", "config.yaml": "yaml"}
    return known.get(path.name, kind.form) if kind.form == "binary" else kind.form


def _verdict(status: int | str, output: str, errors: str, result: Any, expected: Any) -> str:
    if isinstance(status, str):
        return f"failure: {status}"
    text = output + errors
    if "Traceback" in text or "a fault of ditcnn" in text:
        return "failure: a fault"
    if not all(char.isprintable() or char == "\n" for char in text):
        return "failure: control characters"
    if max(map(len, errors.splitlines()), default=0) > 1500:
        return "failure: a line without end"
    if status == 0:
        if result[:2] == expected[:2]:
            return "right"
        if result[2] == "with a warning":
            return "as it says" if "warning" in errors.lower() else "failure: a cut line, and no warning"
        return "as it says" if result[2] else "failure: a wrong result"
    if status != 2:
        return f"failure: status {status}"
    told = [line for line in errors.splitlines() if line.startswith("ditcnn: ") and not line.startswith("ditcnn: warning")]
    return "one line" if told and errors.splitlines()[-1] == told[-1] else "failure: not one line"


def _run(
    place: Path,
    command: str,
    kind: Kind | None = None,
    paths: Sequence[Path] = (),
    contents: Sequence[bytes] = (),
) -> tuple[int | str, str, str, Any]:
    """Return exit status, output, errors, and the result with whether the damaged files are whole without their digests."""

    def action() -> int:
        whole = bool(kind) and _whole(kind, paths, contents)  # before the command, which may mend the file
        status = _kernel() if command == "kernel" else main(COMMANDS[command])
        if status == 0:
            made = _result(command)
            sys.stdout.flush()
            if kind and kind.whole is _image_whole and whole:  # the same pixels in an undamaged file are to give the same
                whole = _as_pillow_reads(place, paths[0], COMMANDS[command])
            Path("result.pickle").write_bytes(pickle.dumps((made, whole)))
        return status

    status, output, errors, _ = _forked(place, action)
    result: Any = None
    if status == 0:
        made, whole = pickle.loads((place / "result.pickle").read_bytes())
        result = (made, output if made is None else None, whole)
    return status, output, errors, result


def _whole(kind: Kind, paths: Sequence[Path], contents: Sequence[bytes]) -> bool | str:
    try:
        whole = all(kind.whole(path, content) for path, content in zip(paths, contents, strict=True))
        cut = kind.form == "lines" and not paths[0].read_bytes().endswith(b"\n")
        return "with a warning" if whole and cut else whole
    except Exception:  # whatever another reader makes of it
        return False


def _as_pillow_reads(place: Path, path: Path, arguments: list[str]) -> bool:
    """Say whether a picture that is damaged gives what its pixels, as Pillow reads them, give in a whole file."""
    before = Path("told").read_text()
    Image.open(path).convert("L").save(place / "whole.png")
    assert main([str(place / "whole.png") if argument == path.name else argument for argument in arguments]) == 0
    sys.stdout.flush()
    after = Path("told").read_text()[len(before) :]
    os.truncate("told", len(before.encode()))
    return [guess["top"] for guess in json.loads(before)] == [guess["top"] for guess in json.loads(after)]


def _forked(place: Path, action: Callable[[], int | None]) -> tuple[int | str, str, str, float]:
    """Return exit status, or why there is none, output, errors and peak memory of an action in a process of its own."""
    told, errors = place / "told", place / "errors"
    child = os.fork()
    if child == 0:
        _child(place, told, errors, action)
    end = time.monotonic() + SECONDS
    while not (ended := os.wait4(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.wait4(child, 0)
            return f"hangs for {SECONDS:g} s", told.read_text(errors="replace"), errors.read_text(errors="replace"), 0.0
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(ended[1])
    status: int | str = code if code >= 0 else f"killed by signal {-code}"
    if ended[2].ru_maxrss / 1e6 > RESIDENT:
        status = f"takes {ended[2].ru_maxrss / 1e6:.1f} GB"
    return status, told.read_text(errors="replace"), errors.read_text(errors="replace"), ended[2].ru_maxrss / 1e6


def _child(place: Path, told: Path, errors: Path, action: Callable[[], int | None]) -> None:
    """Run an action with its output in files, and end the process."""
    try:
        os.chdir(place)
        for path, descriptor in ((told, 1), (errors, 2)):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            os.dup2(handle, descriptor)
            os.close(handle)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        experiments.EXPERIMENTS["toy"] = _toy()
        status = action() or 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
