"""Laws of `ditcnn.fit`: any module on any images, a folder that every command reads, the same bits after any stop."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

import ditcnn
from ditcnn.cli import main
from ditcnn.recipes import Recipe
from ditcnn.system.display import Display
from ditcnn.system.errors import InputError
from ditcnn.train import RunFolder, Trainer
from ditcnn.train.selection import HeldOut, Last, selection_of
from ditcnn.train.settings import read_settings
from ditcnn.train.sources import Cut
from ditcnn.train.storage import load_state
from tests.conftest import write_class_folders, write_idx

FAST = {"epochs": 2, "batch_size": 16, "lr": 0.01, "warmup_epochs": 0.0, "precision": "fp32"}
QUIET = {"display": Display(quiet=True)}


class Small(nn.Module):
    """A network without batch norm."""

    def __init__(self, channels=3, classes=3):
        super().__init__()
        self.conv, self.head = nn.Conv2d(channels, 8, 3), nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def small(channels=3, classes=3):
    torch.manual_seed(0)
    return Small(channels, classes)


def images(count=60, *, channels=3, classes=3, size=8, seed=0):
    """Images of brightness by class, with noise: uint8 ``[N, C, H, W]``, and labels."""
    labels = np.arange(count) % classes
    noise = np.random.default_rng(seed).integers(0, 60, (count, channels, size, size))
    return torch.from_numpy((80 * labels[:, None, None, None] + noise).astype(np.uint8)), torch.from_numpy(labels)


class Own(Dataset):
    """A map-style dataset of one's own: what it makes of its images is up to it."""

    def __init__(self, make=lambda image: image, count=60, seed=0):
        self.images, self.labels = images(count, seed=seed)
        self.make = make

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.make(self.images[index]), int(self.labels[index])


def as_pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def as_floats(image):
    return image.float() / 127.5 - 1


def fit(model="test_resnet", train=None, **given):
    return ditcnn.fit(model, images() if train is None else train, **(FAST | QUIET | {"out": "run"} | given))


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_seconds(lines):
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


class Interrupted(Exception):
    pass


def interrupt(at):
    """Return a callback that ends the run at its ``at``-th step."""
    steps = []

    def callback(line):
        steps.extend([line["step"]] if "step" in line else [])
        if len(steps) == at:
            raise Interrupted

    return callback


# --- Models and data


def test_a_module_of_ones_own_trains_in_place_and_its_folder_asks_for_it():
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = fit(model, epochs=6, lr=0.1)
    assert result.model is model
    assert not model.training
    assert not torch.equal(before["head.weight"], model.state_dict()["head.weight"])
    with pytest.raises(InputError, match=r"a module of your own, tests.test_fit.Small"):
        ditcnn.load("run")
    assert same_weights(ditcnn.load("run", model=small()), model)
    assert "python:tests.test_fit.Small" in Path("run/config.yaml").read_text()
    assert main(["train", "--out", "run", "--resume"]) == 2


@pytest.mark.parametrize(
    "train",
    [Own(), Own(as_pil), Own(as_floats), Own(lambda image: image.permute(1, 2, 0).numpy()), images(), images(channels=1)],
    ids=["bytes", "PIL", "floats", "arrays", "pair", "grey pair"],
)
def test_datasets_and_pairs_of_every_kind_are_learnt(train):
    result = fit("test_resnet", train, epochs=8, lr=0.05, batch_size=8)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] < 3
    assert result.summary["holdout_top1"] > 60


def test_floats_are_taken_as_they_are():
    seen = []

    class Watching(Small):
        def forward(self, x):
            seen.append(x.detach().clone())
            return super().forward(x)

    own = Own(as_floats)
    result = fit(Watching(), own, epochs=1)
    pixels = {tuple(own[i][0].flatten().tolist()) for i in range(len(own))}
    assert all(tuple(x.flatten().tolist()) in pixels for batch in seen for x in batch if x.any())
    settings = read_settings(Path("run/config.yaml"))
    assert (settings["mean"], settings["std"], settings["flip"]) == ([0.0] * 3, [1.0] * 3, False)
    assert result.summary["selected_on"] == "holdout"
    with pytest.raises(InputError, match="`auto_augment` needs images of bytes"):
        fit(small(), own, auto_augment="rand-m9-mstd0.5", out="other")


def test_photographs_of_several_sizes_are_brought_to_the_models_own():
    class Several(Own):
        def __getitem__(self, index):
            return Image.new("RGB", (70 + index % 5, 90), (80 * (index % 3), 0, 0)), index % 3

    result = fit("test_resnet", Several(), img_size=None, epochs=1)
    assert json.loads(Path("run/config.json").read_bytes())["pretrained_cfg"]["input_size"] == [3, 160, 160]
    assert "holdout_top1" in result.history[0]
    assert read_settings(Path("run/config.yaml"))["recipe"] == "photos"


def test_one_dataset_of_bytes_and_floats_is_refused():
    mixed = Own()
    mixed.make = lambda image: as_floats(image) if image.sum() % 2 else image
    with pytest.raises(InputError, match="all bytes, or all floats of one shape"):
        fit(small(), mixed)


def test_a_pair_is_brought_to_the_size_that_is_asked_for():
    fit("test_resnet", images(size=12), img_size=8, epochs=1)
    assert json.loads(Path("run/config.json").read_bytes())["pretrained_cfg"]["input_size"] == [3, 8, 8]


def test_paths_are_taken_as_train_val_and_test():
    write_idx(Path("a"), train=60)
    write_idx(Path("b"), test=24)
    summary = fit("test_resnet", "a", val="b").summary
    assert summary["selected_on"] == "val"
    write_class_folders(Path("c"), classes=("0", "1"), train=20)
    for part in ("train", "test"):
        Path("c", part).rename(part)
    result = fit("test_resnet", "train", val="test", out="folders")  # class folders alone: all of each is that part
    assert load_state(RunFolder(result.folder).last)["classes"] == ["0", "1"]


def test_labels_of_val_are_those_of_train():
    more = Own()
    more.labels = torch.arange(60) % 5
    with pytest.raises(InputError, match="below the number of classes, 3"):
        fit(small(), Own(), val=more)


# --- What is watched, and tested


def test_val_is_selected_on_and_test_is_touched_once(monkeypatch):
    evaluated = []
    evaluate = Trainer._evaluate
    monkeypatch.setattr(
        Trainer, "_evaluate", lambda self, source, *more: evaluated.append(len(source)) or evaluate(self, source, *more)
    )
    result = fit(small(), images(60), val=images(30, seed=1), test=images(33, seed=2), epochs=3)
    assert evaluated == [30, 30, 30, 33]
    best = max(result.history, key=lambda line: (line["val_top1"], -line["val_loss"]))
    assert (result.summary["selected_on"], result.summary["selected_epoch"]) == ("val", best["epoch"])
    assert result.summary["val_top1"] == best["val_top1"]
    assert 0 <= result.summary["test_top1"] <= 100


@pytest.mark.parametrize("protocol", ["holdout", "last"])
def test_without_val_a_tenth_of_train_is_held_out(protocol):
    result = fit(small(), Own(), protocol=protocol)
    assert all("holdout_top1" in line for line in result.history)
    assert "test_top1" not in result.summary
    line = result.summary
    assert (line.get("selected_on") or line["watched"]) == "holdout"


def test_each_protocol_says_which_images_it_lacks_or_has_in_vain():
    some = Own()
    assert isinstance(selection_of("last", some, None, None), Last)
    assert isinstance(selection_of("holdout", some, some, None), HeldOut)
    with pytest.raises(InputError, match="paper needs test images"):
        selection_of("paper", None, None, None)
    with pytest.raises(InputError, match="paper watches test; leave out val"):
        selection_of("paper", None, some, some)
    with pytest.raises(InputError, match="last needs images to watch"):
        selection_of("last", None, None, None)


def test_the_result_has_the_chosen_weights_the_folder_the_epochs_and_the_last_line():
    result = fit("resnet20", epochs=3, lr=0.1)
    assert not result.model.training
    assert same_weights(result.model, timm.create_model("local-dir:run", pretrained=True))
    assert result.folder == Path("run")
    assert [line["epoch"] for line in result.history] == [1, 2, 3]
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [*result.history, result.summary] == lines
    best = max(result.history, key=lambda line: (line["holdout_top1"], -line["holdout_loss"]))
    assert result.summary["selected_epoch"] == best["epoch"]


# --- The same as the command line


def test_fit_and_the_command_line_give_the_same_bits_and_metrics():
    write_idx(Path("idx"), train=120, test=30)
    result = fit("resnet20", "idx", recipe="digits", out="python")
    flags = ["--epochs", "2", "--batch-size", "16", "--lr", "0.01", "--warmup-epochs", "0"]
    assert main(["train", "digits", "--data", "idx", "--model", "resnet20", *flags, "--out", "line"]) == 0
    assert Path("line/model.safetensors").read_bytes() == Path("python/model.safetensors").read_bytes()
    lines = [json.loads(line) for line in Path("line/metrics.jsonl").read_text().splitlines()]
    assert without_seconds(lines) == without_seconds([*result.history, result.summary])
    a, b = (read_settings(Path(out, "config.yaml")) for out in ("line", "python"))
    assert {k: v for k, v in a.items() if k != "workers"} == {k: v for k, v in b.items() if k != "workers"}


def test_epochs_rescale_as_the_flag_does():
    write_idx(Path("idx"))
    given = ["--data", "idx", "--batch-size", "16", "--model", "test_resnet", "--epochs", "3", "--out", "line"]
    assert main(["train", "cifar10", *given]) == 0
    ditcnn.fit("test_resnet", "idx", recipe="cifar10", epochs=3, batch_size=16, out="python", **QUIET)
    a, b = (read_settings(Path(out, "config.yaml")) for out in ("line", "python"))
    assert a["milestones"] == b["milestones"] == [1.5, 2.25]
    assert a["epochs"] == b["epochs"] == 3


def test_every_command_takes_the_folder(capsys):
    write_idx(Path("idx"))
    fit("resnet20", "idx", recipe="digits")
    Image.new("L", (8, 8), 200).save("a.png")
    capsys.readouterr()
    assert main(["eval", "run", "--data", "idx"]) == 0
    assert main(["predict", "run", "a.png"]) == 0
    assert main(["report", "run", "--out", "page"]) == 0
    assert main(["train", "--resume", "--out", "run"]) == 0
    assert timm.create_model("local-dir:run", pretrained=True)(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    assert ditcnn.evaluate("run", "idx")["images"] == 12


# --- Callbacks and stops


def test_a_callback_sees_each_step_and_each_line():
    seen = []
    result = fit(small(), callbacks=[seen.append], epochs=2)
    lines = [line for line in seen if "step" not in line]
    assert lines == [*result.history, result.summary]
    steps = [(line["epoch"], line["step"]) for line in seen if "step" in line]
    assert steps == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3, 4)]  # 54 images in batches of 16
    assert all({"loss", "lr"} <= line.keys() for line in seen if "step" in line)


class Jittered:
    """A transform that draws from Python's, NumPy's and torch's generators."""

    def __call__(self, image):
        shift = random.randint(0, 20) + int(np.random.randint(20)) + int(torch.randint(20, ()))
        return as_pil(image.clamp(max=190) + shift)


@pytest.mark.parametrize(
    ("train", "more"),
    [
        (images(), {}),
        (Own(Jittered()), {}),
        (Own(v2.Compose([v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])), {}),
        (Own(Jittered()), {"workers": 1}),
        (Own(as_pil), {"mixup": 0.5, "cutmix": 1.0, "reprob": 0.5, "ema_decay": 0.5, "auto_augment": "rand-m9-mstd0.5"}),
    ],
    ids=["memory", "own draws", "floats", "workers", "everything"],
)
def test_interrupted_in_the_middle_of_an_epoch_a_run_ends_with_the_same_bits(train, more):
    given = {"checkpoint_minutes": 0.0, "batch_size": 8} | more | {"workers": 0}
    whole = fit("test_resnet", train, out="whole", **given)
    with pytest.raises(Interrupted):
        fit("test_resnet", train, callbacks=[interrupt(9)], **given)
    state = load_state(Path("run/last.pt"))["progress"]
    assert state["epoch"] == 1
    assert state["step"] > 0
    random.seed(5)
    resumed = fit("test_resnet", train, resume=True, **(given | more))  # workers too change nothing
    assert Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert same_weights(resumed.model, whole.model)


def test_a_resumed_run_of_ones_own_module_goes_on_from_its_weights():
    with pytest.raises(Interrupted):
        fit(small(), callbacks=[interrupt(6)])
    resumed = fit(small(), resume=True)
    assert same_weights(resumed.model, fit(small(), out="whole").model)


# --- Every setting, for images in memory as for streamed ones

SETTINGS = [
    {"label_smoothing": 0.1}, {"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}, {"ema_decay": 0.5},
    {"global_batch": 24, "batch_size": 8}, {"auto_augment": "rand-m9-mstd0.5"}, {"reprob": 0.5, "resplit": True},
    {"scale": (0.3, 1.0), "crop_padding": 0}, {"clip_grad": 0.1}, {"precision": "bf16"}, {"precision": "fp16"},
    {"decay_vectors": False, "opt": "adamw"}, {"model_kwargs": ("drop_rate=0.5",)}, {"protocol": "last"},
]  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(s))
@pytest.mark.parametrize("train", [images(65), Own(as_pil, 65)], ids=["memory", "stream"])
def test_each_setting_works_in_memory_and_streamed(train, setting):
    result, plain = (
        fit("test_resnet" if "model_kwargs" in setting else small(), train, epochs=1, out=out, **given)
        for out, given in (("run", setting), ("plain", {}))
    )
    assert np.isfinite(result.history[0]["train_loss"])
    state = load_state(Path("run/last.pt"))
    assert ("ema" in state) == ("ema_decay" in setting)
    if setting != {"protocol": "last"}:
        name = "ema" if "ema" in state else "model"
        other = load_state(Path("plain/last.pt"))["model"]
        assert not all(torch.equal(value, other[key]) for key, value in state[name].items())
    assert plain.folder != result.folder


def test_memory_and_stream_take_the_same_steps_with_the_same_settings():
    given = {"batch_size": 9, "epochs": 1, "label_smoothing": 0.1, "reprob": 0.5}  # 54 images: the same whole steps
    memory = fit(small(), images(), **given)
    stream = fit(small(), Own(as_pil), out="stream", mean=read_settings(Path("run/config.yaml"))["mean"],
                 std=read_settings(Path("run/config.yaml"))["std"], **given)  # fmt: skip
    assert same_weights(memory.model, stream.model)


@pytest.mark.parametrize("train", [images(), Own(as_pil)], ids=["memory", "stream"])
def test_the_gradient_of_an_accumulated_batch_is_that_of_one(train):
    given = {"epochs": 1, "global_batch": 24, "clip_grad": 0.0, "lr": 0.5}
    one = fit(small(), train, out="one", **(given | {"batch_size": 24}))
    parts = fit(small(), train, out="parts", **(given | {"batch_size": 4}))
    for a, b in zip(one.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert one.history[0]["train_loss"] == pytest.approx(parts.history[0]["train_loss"], rel=1e-5)


def test_cuts_of_a_batch_depend_on_no_process():
    recipe = Recipe(batch_size=8, global_batch=32)
    assert [Cut.of(recipe, rank, 2).micro_batches for rank in (0, 1)] == [4, 4]
    with pytest.raises(InputError, match="not a multiple of `batch_size` 8 times 3 processes"):
        Cut.of(recipe, 0, 3)
    with pytest.raises(InputError, match="`batch_size` 9 cannot be shared by 2 processes"):
        Cut.of(Recipe(batch_size=9), 0, 2)


# --- What is refused, and when


class Untouched(Dataset):
    def __len__(self):
        raise AssertionError("data were opened")

    __getitem__ = __len__


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": -1}, "`lr` must be above 0; got -1"),
        ({"labelsmoothing": 0.1}, "no setting 'labelsmoothing'. Did you mean label_smoothing"),
        ({"opt": "adamwx"}, "no optimiser 'adamwx'. Did you mean adamw"),
        ({"precision": "fp8"}, "`precision` must be"),
        ({"workers": -1}, "`workers` must not be negative"),
        ({"device": "tpu"}, "`device` must be"),
        ({"recipe": "cifra10"}, "no recipe 'cifra10'. Did you mean cifar10"),
        ({"out": ""}, "`out` is empty"),
    ],
)
def test_settings_are_checked_before_data_are_opened(given, message):
    with pytest.raises(InputError, match=re.escape(message)):
        fit("test_resnet", Untouched(), **given)
    with pytest.raises(InputError, match="no model 'resnet21'"):
        fit("resnet21", Untouched())
    assert not Path("run").exists()


@pytest.mark.parametrize("opt", ["adahessian", "fusedadam", "bnbadamw"])
def test_an_optimiser_that_this_machine_or_model_cannot_have_leaves_no_folder(opt):
    with pytest.raises(InputError, match=rf"`opt` {opt} cannot train tests.test_fit.Small on this machine: \w+"):
        fit(small(), opt=opt)
    assert not Path("run").exists()


@pytest.mark.parametrize("train", [images(), Own(as_pil)], ids=["memory", "stream"])
def test_a_batch_of_one_that_cannot_train_leaves_no_folder(train):
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model(torch.zeros(2, 3, 8, 8))
    with pytest.raises(InputError, match="leave a batch of one, which this model cannot train on"):
        fit(model, train, batch_size=1)
    with pytest.raises(InputError, match="leave a batch of one, which this model cannot train on"):
        fit(model, train, batch_size=1, global_batch=4)
    assert not Path("run").exists()
    fit(model, train, batch_size=2, epochs=1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (small(channels=1), "does not take images (3, 8, 8)"),
        (small(classes=4), "must return logits [N, 3] for 3 classes; got (2, 4) for N = 2"),
    ],
)
def test_a_module_that_does_not_fit_the_images_is_told(model, message):
    with pytest.raises(InputError, match=re.escape(message)):
        fit(model)
    assert not Path("run").exists()


def test_settings_that_do_nothing_are_refused():
    for given in ({"workers": 2}, {"skip_bad_images": True}):
        with pytest.raises(InputError, match="has no effect on images in memory"):
            fit(small(), **given)
    with pytest.raises(InputError, match="made already"):
        fit(small(), drop_path=0.1)


def test_too_few_images_for_a_step_are_told():
    with pytest.raises(InputError, match="make no step of 610 in 61 parts"):
        fit(small(), images(), batch_size=10, global_batch=610, val=images())
