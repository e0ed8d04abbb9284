"""Recipes, learning rates and parameter groups."""

import dataclasses
import math

import pytest
import timm
import torch
import yaml
from timm.scheduler import create_scheduler_v2

import ditcnn
from ditcnn import parameter_groups
from ditcnn.recipes import RECIPES, Recipe, make_recipe
from ditcnn.system.errors import InputError
from ditcnn.train import precision
from ditcnn.train.optim import lr_factor, make_optimizer, set_lr
from ditcnn.train.settings import Beside, as_yaml, read_settings, refuse_idle, resolve


def test_the_papers_recipe_is_the_default_for_cifar():
    for name in ("cifar10", "cifar100"):
        recipe = make_recipe(name)
        assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.momentum, recipe.weight_decay) == (
            160,
            128,
            0.1,
            0.9,
            1e-4,
        )
        assert (recipe.schedule, recipe.milestones, recipe.gamma, recipe.term_lr_scale) == ("multistep", (80, 120), 0.1, 10)
        assert (recipe.crop_padding, recipe.flip, recipe.warmup_epochs) == (4, True, 0)
        assert recipe.mean == (0.4914, 0.4822, 0.4465)
        assert recipe.std == (0.2023, 0.1994, 0.2010)


@pytest.mark.parametrize("model", ["resnet56", "dit_resnet56", "resnet110", "dit_resnet110"])
def test_deep_networks_run_epoch_0_at_a_tenth_of_the_rate(model):
    recipe = make_recipe("cifar10", model)
    assert [round(lr_factor(recipe, p), 6) for p in (0, 0.5, 0.99, 1, 79.9, 80, 120)] == [0.1, 0.1, 0.1, 1, 1, 0.1, 0.01]


def test_multistep_lowers_the_rate_at_its_milestones():
    recipe = make_recipe("cifar10")
    assert [lr_factor(recipe, p) for p in (0, 79.99, 80, 119.99, 120, 159.99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_follows_a_linear_warmup_and_ends_at_zero():
    recipe = dataclasses.replace(
        make_recipe("cifar10-warmup"), epochs=11, warmup_epochs=1, warmup_factor=0.1, warmup="linear"
    )
    assert [lr_factor(recipe, p) for p in (0, 0.5, 1, 6, 11)] == pytest.approx([0.1, 0.55, 1, 0.5, 0], abs=1e-12)
    assert lr_factor(recipe, 3.5) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


@pytest.mark.parametrize(("epochs", "warmup"), [(300, 20), (30, 0), (7, 3)])
def test_cosine_by_epoch_is_timms_schedule_in_each_epoch_and_group(epochs, warmup):
    recipe = dataclasses.replace(make_recipe("imagenet"), epochs=epochs, warmup_epochs=warmup)
    model = timm.create_model("dit_convnext_atto")
    ours, theirs = make_optimizer(model, recipe), make_optimizer(model, recipe)
    scheduler, length = create_scheduler_v2(theirs, sched="cosine", num_epochs=epochs, warmup_epochs=warmup, warmup_lr=1e-5)
    assert length == epochs
    for epoch in range(epochs):
        for within in (0, 0.99):
            set_lr(ours, recipe.lr * lr_factor(recipe, epoch + within))
            rates = [group["lr"] for group in theirs.param_groups]
            assert [group["lr"] for group in ours.param_groups] == pytest.approx(rates, rel=1e-9)
        scheduler.step(epoch + 1)


def test_vectors_are_spared_from_decay_as_in_timm():
    model = timm.create_model("dit_convnext_atto")
    recipe = make_recipe("imagenet")
    theirs = timm.optim.param_groups_weight_decay(model, recipe.weight_decay)
    expected = {id(p): group["weight_decay"] for group in theirs for p in group["params"]}
    optimizer = make_optimizer(model, recipe)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]} == expected
    named = timm.create_model("test_vit")  # names parameters to be spared
    optimizer = make_optimizer(named, dataclasses.replace(recipe, model="test_vit"))
    assert named.pos_embed.ndim > 1
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(named.pos_embed)] == 0


def test_imagenet_is_the_published_command():
    recipe = make_recipe("imagenet")
    published = dict(
        model="dit_convnext_tiny", batch_size=64, global_batch=8 * 8 * 64, precision="fp16", weight_decay=0.08, lr=0.006,
        schedule="cosine-by-epoch", epochs=300, warmup_epochs=20, opt="adamw", auto_augment="rand-m9-mstd0.5", mixup=0.8,
        cutmix=1.0, reprob=0.25, drop_path=0.1, crop_pct=0.95, ema_decay=0.9998, label_smoothing=0.1, term_lr_scale=1,
    )  # fmt: skip
    assert {name: getattr(recipe, name) for name in published} == published
    rates = {"dit_convnext_small": 0.4, "convnext_base": 0.5, "convnext_tiny": 0.1, "dit_convnext_atto": 0.1}
    assert {model: make_recipe("imagenet", model).drop_path for model in rates} == rates
    assert make_recipe("imagenet", "dit_convnext_base").model_arguments() == {"drop_path_rate": 0.5}


def test_epochs_move_milestones_and_warmup_in_proportion():
    recipe = make_recipe("cifar10", "dit_resnet110").at_epochs(40)
    assert (recipe.epochs, recipe.milestones, recipe.warmup_epochs) == (40, (20, 30), 0.25)


def test_the_term_and_its_norm_train_at_ten_times_the_rate():
    model = timm.create_model("dit_resnet20")
    optimizer = make_optimizer(model, make_recipe("cifar10"))
    set_lr(optimizer, 0.05)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.5 if "quadratic" in name else 0.05)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    assert isinstance(optimizer, torch.optim.SGD)
    assert not optimizer.param_groups[0]["nesterov"]
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_groups_come_from_types_not_names():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.quadratic = torch.nn.Linear(3, 3)
            self.other = ditcnn.QuadraticForm2d(3, 2)

    rest, term = parameter_groups(Odd(), 10.0)
    assert [len(rest["params"]), len(term["params"])] == [2, 1]
    assert len(parameter_groups(timm.create_model("resnet20"), 10.0)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "`epochs` must be above 0; got 0"),
        ({"batch_size": -1}, "`batch_size` must be above 0; got -1"),
        ({"lr": float("nan")}, "`lr` must be"),
        ({"seed": -1}, "`seed` must not be negative; got -1"),
        ({"warmup_epochs": 160}, "`warmup_epochs` must be below `epochs`; got 160 of 160"),
        ({"milestones": (float("nan"),)}, "`milestones` must .*; got nan"),
        ({"lr": float("inf")}, "`lr` must be a finite number; got inf"),
        ({"seed": 2**70}, "`seed` must be below 9.22337e"),
        ({"opt": "momentun"}, r"no optimiser 'momentun'. Did you mean momentum\?"),
        ({"model": "dit_resnet21"}, "no model 'dit_resnet21'. Did you mean dit_resnet"),
        ({"mean": (0.1,)}, "`mean` and `std`"),
        ({"mean": (0.1,), "std": (0.0,)}, "`std` must be above 0"),
        ({"reprob": 1.5}, "`reprob` must be at most 1; got 1.5"),
        ({"ema_decay": 1.0}, "`ema_decay` must be below 1; got 1.0"),
        ({"crop_pct": 0.0}, "`crop_pct` must be above 0"),
        ({"scale": (0.5, 0.1), "crop_padding": 0}, "`scale` takes two shares"),
        ({"scale": (0.5, 1.0)}, "`scale` and `crop_padding` both crop"),
        ({"img_size": 0}, "`img_size` must be above 0"),
        ({"global_batch": 129}, "`global_batch` must be a multiple of `batch_size`; got 129 and 128"),
        ({"warmup_lr": 1e-3}, "belong to `schedule` cosine-by-epoch"),
        ({"clip_grad": -1.0}, "`clip_grad` must not be negative"),
        ({"model_kwargs": ("batch",)}, "name=value; got 'batch'"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(Recipe(), **changes).check()


def test_model_kwargs_are_literals_or_text():
    recipe = Recipe(model_kwargs=("spatial_transpose=True", "img_size=(8, 9)", "quadratic_norm=batch"))
    assert recipe.model_arguments() == {"spatial_transpose": True, "img_size": (8, 9), "quadratic_norm": "batch"}


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"no recipe 'cifar'.*Did you mean cifar10\?"):
        make_recipe("cifar")


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_is_whole(name):
    recipe = make_recipe(name, "resnet20")
    recipe.check()
    assert recipe.model == "resnet20"
    make_recipe(name).check()
    assert all(0 <= lr_factor(recipe, e / 3) <= 1 for e in range(3 * recipe.epochs))


# Of the fast recipes


def test_triangular_rises_to_the_peak_and_falls_to_the_end_factor():
    recipe = Recipe(schedule="triangular", epochs=20, milestones=(), warmup_factor=0.2, peak=0.25, end_factor=0.1)
    assert [lr_factor(recipe, p) for p in (0, 2.5, 5, 12.5, 20)] == pytest.approx([0.2, 0.6, 1, 0.55, 0.1])
    assert lr_factor(recipe.at_epochs(40), 10) == pytest.approx(1)
    assert lr_factor(dataclasses.replace(recipe, peak=0.0), 0) == 1


def test_linear_falls_from_the_warmups_end_to_zero():
    recipe = Recipe(schedule="linear", epochs=11, milestones=(), warmup_epochs=1, warmup_factor=0.1)
    assert [lr_factor(recipe, p) for p in (0, 0.5, 1, 6, 11)] == pytest.approx([0.1, 0.55, 1, 0.5, 0], abs=1e-12)


def test_biases_of_norms_have_their_multiple_of_the_rate_and_the_decay_of_the_rest():
    model = timm.create_model("dit_cifarnet", quadratic_norm="batch")
    recipe = Recipe(model="dit_cifarnet", opt="sgd", lr=0.5, weight_decay=0.01, bias_lr_scale=64.0, term_lr_scale=3.0)
    optimizer = make_optimizer(model, recipe)
    set_lr(optimizer, 0.5)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == sum(p.requires_grad for p in model.parameters())
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        scale = 3 if "quadratic" in name else 64 if "norm" in name else 1
        assert groups[id(p)]["lr"] == pytest.approx(0.5 * scale), name
        decay = groups[id(p)]["lr"] * groups[id(p)]["weight_decay"]
        assert decay == pytest.approx(0.5 * 0.01 * (3 if "quadratic" in name else 1)), name
    assert optimizer.param_groups[0]["nesterov"]


def test_vectors_without_decay_keep_their_rates():
    model = timm.create_model("resnet20")
    recipe = Recipe(model="resnet20", decay_vectors=False, bias_lr_scale=2.0)
    groups = make_optimizer(model, recipe).param_groups
    assert {(group["lr_scale"], group["weight_decay"]) for group in groups} == {(1.0, 1e-4), (1.0, 0.0), (2.0, 0.0)}


def test_muon_orthogonalises_each_matrix_at_its_groups_rate():
    model = timm.create_model("dit_cifarnet", widths=(8, 8, 8), quadratic_rank=0)
    optimizer = make_optimizer(model, Recipe(model="dit_cifarnet", opt="muon", lr=1e-3, weight_decay=0.0, bias_lr_scale=5.0))
    set_lr(optimizer, 1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.to(memory_format=torch.channels_last)(torch.randn(32, 3, 12, 12)).square().sum().backward()
    optimizer.step()
    steps = {name: before[name] - p.detach() for name, p in model.named_parameters()}
    assert all(step.any() == model.get_parameter(name).requires_grad for name, step in steps.items())
    for name in ("block2.conv2.weight", "head.weight", "block1.conv1.quadratic.weight"):
        step = steps[name].flatten(1)
        values = torch.linalg.svdvals(step) / (1e-3 * (10 if "quadratic" in name else 1) * 0.2 * max(step.shape) ** 0.5)
        assert values.max() < 1.4, name
        assert values.median() > 0.6, name
    assert steps["block1.norm1.bias"].abs().max() == pytest.approx(5e-3, rel=0.01)  # AdamW's, for vectors


def test_the_fast_recipes_are_the_speed_records_in_our_units():
    """Their rates are for sums over 1,024 images and for steps without Nesterov's lengthening; their decay is the rate's."""
    longer = 1 + 1 / (1 - 0.85)
    for name, lr, decay, peak, end in (("fast", 11.5, 0.0153, 0.23, 0.07), ("best", 9.0, 0.012, 0.1, 0.0)):
        ten, hundred = make_recipe(f"cifar10-{name}"), make_recipe(f"cifar100-{name}")
        assert ten == hundred
        assert ten.lr * longer / ten.batch_size * 1024 == pytest.approx(lr, rel=1e-3)
        assert ten.lr * ten.weight_decay * longer / ten.batch_size * 1024 == pytest.approx(decay, rel=1e-3)
        assert (ten.opt, ten.momentum, ten.bias_lr_scale, ten.label_smoothing) == ("sgd", 0.85, 64, 0.2)
        assert (ten.schedule, ten.warmup_factor, ten.peak, ten.end_factor) == ("triangular", 0.2, peak, end)
        assert (ten.padding_mode, ten.flip_mode, ten.views, ten.precision) == ("reflect", "alternating", 6, "auto")
        assert "not yet chosen on held-out images" in RECIPES[f"cifar10-{name}"].about


NEW = {"bias_lr_scale": 1.0, "padding_mode": "constant", "flip_mode": "random", "views": 1}


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.endswith(("-fast", "-best"))])
def test_the_other_recipes_know_nothing_of_the_new_settings(name):
    recipe = make_recipe(name)
    assert {key: getattr(recipe, key) for key in NEW} == NEW
    assert recipe.schedule not in ("linear", "triangular")
    assert recipe.precision != "auto"


def test_a_config_from_before_the_new_settings_reads_as_their_defaults(tmp_path):
    recipe = make_recipe("cifar10-warmup")
    config = as_yaml(recipe, "cifar10-warmup", None, Beside())
    old = {key: value for key, value in config.items() if key not in {*NEW, "peak", "end_factor"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    stored = read_settings(tmp_path / "config.yaml")
    fields = {key: value for key, value in stored.items() if hasattr(recipe, key)}
    assert resolve(make_recipe("cifar10-warmup"), [fields]) == recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peak": 0.1}, "`peak` has no effect here: it needs `schedule` triangular"),
        ({"schedule": "triangular", "warmup_epochs": 1.0}, "`warmup_epochs` has no effect here"),
        ({"schedule": "linear", "milestones": (1.0,)}, "`milestones` has no effect here"),
        ({"crop_padding": 0, "padding_mode": "reflect"}, "`padding_mode` has no effect here: it needs `crop_padding`"),
        ({"flip": False, "flip_mode": "alternating"}, "`flip_mode` has no effect here: it needs `flip`"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        refuse_idle(Recipe(**settings), set(settings))


@pytest.mark.parametrize(("gain", "chosen"), [(2.0, "bf16"), (1.05, "fp32"), (0.1, "fp32")])
def test_auto_takes_bf16_where_it_is_faster_and_says_which(monkeypatch, gain, chosen):
    monkeypatch.setattr(precision, "gain_over_fp32", lambda device, other: gain)
    said, warned = [], []
    assert precision.choose_precision("auto", torch.device("cpu"), said.append, warned.append) == chosen
    assert said[0].startswith(f"precision {chosen}: bf16 is ")
    assert not warned


def test_a_slow_precision_is_warned_of_and_kept(monkeypatch):
    monkeypatch.setattr(precision, "gain_over_fp32", lambda device, other: 0.1)
    said, warned = [], []
    assert precision.choose_precision("fp16", torch.device("cpu"), said.append, warned.append) == "fp16"
    assert warned == [
        "fp16 is 10.0 times slower than fp32 here (cpu, a small block of convolutions); `precision` fp32 would be faster."
    ]
    monkeypatch.setattr(precision, "gain_over_fp32", lambda device, other: 2.0)
    assert precision.choose_precision("bf16", torch.device("cpu"), said.append, warned.append) == "bf16"
    assert precision.choose_precision("fp32", torch.device("cpu"), said.append, warned.append) == "fp32"
    assert (len(said), len(warned)) == (0, 1)


def test_the_gain_is_measured_once_and_draws_no_random_number():
    before = torch.random.get_rng_state()
    first = precision.gain_over_fp32(torch.device("cpu"), "bf16")
    assert precision.gain_over_fp32(torch.device("cpu"), "bf16") == first > 0
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("protocol", ["holdout", "paper", "last"])
def test_a_runs_result_has_the_figure_with_views_beside_the_one_without(tmp_path, protocol, idx_folder):
    options = dict(recipe="digits", epochs=1, batch_size=32, protocol=protocol, mean=(0.5,), std=(0.3,))
    plain, viewed = (
        ditcnn.fit("resnet20", idx_folder, out=tmp_path / str(views), views=views, **options).summary for views in (1, 2)
    )
    assert {key: viewed[key] for key in plain} == plain
    assert not any("views" in key for key in plain)
    assert viewed["views"] == 2
    parts = {"holdout": ("holdout", "test"), "paper": ("test",), "last": ("val",)}[protocol]
    assert {key for key in viewed if key.endswith("views_top1")} == {f"{part}_views_top1" for part in parts}
