"""Recipes, learning rates and parameter groups."""

import dataclasses
import math

import pytest
import timm
import torch
from timm.scheduler import create_scheduler_v2

import ditcnn
from ditcnn import parameter_groups
from ditcnn.recipes import RECIPES, Recipe, make_recipe
from ditcnn.system.errors import InputError
from ditcnn.train.optim import lr_factor, make_optimizer, set_lr


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
