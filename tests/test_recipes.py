"""Recipes, learning rates and parameter groups."""

import dataclasses
import math

import pytest
import timm
import torch

import ditcnn
from ditcnn import parameter_groups
from ditcnn.errors import InputError
from ditcnn.recipes import RECIPES, Recipe, make_recipe
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
        ({"epochs": 0}, "--epochs must be above 0; got 0"),
        ({"batch_size": -1}, "--batch-size"),
        ({"lr": float("nan")}, "--lr"),
        ({"seed": -1}, "--seed must not be negative"),
        ({"warmup_epochs": 160}, "--warmup-epochs must be below --epochs; got 160 of 160"),
        ({"milestones": (float("nan"),)}, "--milestones must be epochs"),
        ({"lr": float("inf")}, "--lr"),
        ({"seed": 2**70}, "--seed must not be negative or huge"),
        ({"opt": "momentun"}, r"no optimiser 'momentun'. Did you mean momentum\?"),
        ({"model": "dit_resnet21"}, "no model 'dit_resnet21'. Did you mean dit_resnet"),
        ({"mean": (0.1,)}, "--mean and --std"),
        ({"mean": (0.1,), "std": (0.0,)}, "--std must be above 0"),
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
    assert all(0 <= lr_factor(recipe, e / 3) <= 1 for e in range(3 * recipe.epochs))
