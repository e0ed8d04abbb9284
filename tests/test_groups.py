"""Groups of parameters: what timm's are, with the terms' rates kept, by torch's and timm's optimisers and schedulers."""

import copy
import functools
import warnings

import pytest
import timm
import torch
import torchvision
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import lr_scheduler

from ditcnn import add_quadratic, parameter_groups, quadratic_terms
from ditcnn.groups import scaled_groups

RATE = 3.0


def convnext():
    torch.manual_seed(0)
    return add_quadratic(
        timm.create_model("convnext_atto", num_classes=5), "stages.0.blocks.1.conv_dw", rate=RATE, norm="batch"
    )


def swin():
    """A model with ``no_weight_decay()`` of its own."""
    model = timm.create_model("swinv2_tiny_window8_256", num_classes=5, depths=(1, 1, 1, 1), img_size=64)
    return add_quadratic(model, "patch_embed.proj", rate=RATE, rank=2)


def resnet():
    """A model without ``group_matcher``."""
    return add_quadratic(torchvision.models.resnet18(num_classes=5), "layer1.0.conv1", rate=RATE)


MODELS = [convnext, swin, resnet]


def by_parameter(groups, lr=1.0):
    return {
        id(p): (lr * g.get("lr_scale", 1.0) if "lr" not in g else g["lr"], g["weight_decay"])
        for g in groups
        for p in g["params"]
    }


def agree(ours, timms, model):
    terms = {id(p) for _, term in quadratic_terms(model) for p in term.parameters()}
    assert ours.keys() == timms.keys()
    for p, (lr, decay) in ours.items():
        assert lr == pytest.approx(timms[p][0] * (RATE if p in terms else 1))
        assert decay == timms[p][1]
    assert terms & ours.keys()


@pytest.mark.parametrize("make", MODELS)
def test_weight_decay_is_timms(make):
    model = make()
    named = getattr(model, "no_weight_decay", set)()
    timms = param_groups_weight_decay(model, 0.05, no_weight_decay_list=named)
    agree(by_parameter(parameter_groups(model, 0.1, weight_decay=0.05)), by_parameter(timms, 0.1), model)


@pytest.mark.parametrize("make", MODELS)
def test_layer_decay_is_timms(make):
    model = make()
    named = getattr(model, "no_weight_decay", set)()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timms = param_groups_layer_decay(model, weight_decay=0.05, no_weight_decay_list=named, layer_decay=0.7)
        ours = parameter_groups(model, 0.1, weight_decay=0.05, layer_decay=0.7)
    agree(by_parameter(ours), by_parameter(timms, 0.1), model)


def test_layer_decay_alone_leaves_weight_decay_to_the_optimiser():
    groups = parameter_groups(convnext(), 0.1, layer_decay=0.7)
    assert all(group.keys() == {"params", "lr"} for group in groups)
    assert len({group["lr"] for group in groups}) > 3


def test_names_spare_more_parameters_decay():
    model = resnet()
    groups = parameter_groups(model, 0.1, weight_decay=0.05, no_weight_decay=["fc.*", "*.quadratic.*"], names=True)
    spared = {name for group in groups if group["weight_decay"] == 0 for name, _ in group["params"]}
    assert {"fc.weight", "layer1.0.conv1.quadratic.weight", "bn1.weight"} <= spared
    assert "layer1.0.conv1.weight" not in spared


def test_torchs_optimisers_keep_the_names():
    model = resnet()
    optimizer = torch.optim.SGD(parameter_groups(model, 0.1, names=True), lr=0.1)
    assert optimizer.param_groups[1]["param_names"] == ["layer1.0.conv1.quadratic.weight"]
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1, 0.1 * RATE])


@pytest.mark.parametrize("kwargs", [{}, {"weight_decay": 0.1}, {"layer_decay": 0.5}])
def test_frozen_parameters_are_left_out(kwargs):
    model = resnet().requires_grad_(False)
    term = model.layer1[0].conv1.quadratic.requires_grad_(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (group,) = parameter_groups(model, 0.1, **kwargs)
    assert group["params"] == list(term.parameters())
    assert [g["lr_scale"] for g in scaled_groups(model, 2.0)] == [2 * RATE]
    term.requires_grad_(False)
    assert parameter_groups(model, 0.1) == []


@pytest.mark.parametrize("options", [{}, {"layer_decay": 0.7}])
def test_timms_factory_takes_them(options):
    model = convnext()
    build = functools.partial(parameter_groups, lr=0.1, weight_decay=0.05, **options)
    optimizer = create_optimizer_v2(model, "adamw", lr=0.1, weight_decay=0.05, param_group_fn=build)
    agree(by_parameter(optimizer.param_groups), by_parameter(create_groups_of_timm(model, options), 0.1), model)
    scheduler = CosineLRScheduler(optimizer, t_initial=10)
    before = [g["lr"] for g in optimizer.param_groups]
    scheduler.step(5)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([lr / 2 for lr in before])


def create_groups_of_timm(model, options):
    return create_optimizer_v2(model, "adamw", lr=0.1, weight_decay=0.05, **options).param_groups and (
        param_groups_layer_decay(model, 0.05, **options) if options else param_groups_weight_decay(model, 0.05)
    )


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 10),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=[g["lr"] for g in o.param_groups], total_steps=10),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(
        o, base_lr=[g["lr"] / 10 for g in o.param_groups], max_lr=[g["lr"] for g in o.param_groups], step_size_up=3
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_called_as_the_docstring_says_keep_the_multiple(name):
    model = add_quadratic(nn.Sequential(nn.Conv2d(3, 8, 3)), "0", rate=10.0)
    optimizer = torch.optim.SGD(parameter_groups(model, 0.1), lr=0.1, momentum=0.9)
    scheduler = SCHEDULERS[name](optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            optimizer.step()
            scheduler.step()
            rest, term = (group["lr"] for group in optimizer.param_groups)
            assert term == pytest.approx(10 * rest)


def step(optimizer, model):
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()


@pytest.mark.parametrize(
    "build",
    [
        lambda model: torch.optim.AdamW(model.parameters()),
        lambda model: create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=0.05),
        lambda model: create_optimizer_v2(model, "adamw", lr=0.1, layer_decay=1.0),
        lambda model: (
            lr_scheduler.OneCycleLR(
                torch.optim.SGD(parameter_groups(model, 0.1), momentum=0.9), 0.1, total_steps=10
            ).optimizer
        ),
    ],
)
@pytest.mark.parametrize("copied", [lambda model: model, copy.deepcopy])
def test_a_rate_that_is_lost_is_warned_of_once(build, copied):
    model = copied(convnext())
    optimizer = build(model)
    with pytest.warns(UserWarning, match=r"rate=3 are about to train at the rate of the rest.*parameter_groups"):
        step(optimizer, model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(optimizer, model)


def test_a_rate_of_one_or_one_that_is_kept_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = add_quadratic(timm.create_model("convnext_atto"), "stages.0.blocks.1.conv_dw")
        step(torch.optim.SGD(model.parameters(), lr=0.1), model)
        model = convnext()
        step(torch.optim.SGD(parameter_groups(model, 0.1, weight_decay=0.05), lr=0.1), model)
        term = model.stages[0].blocks[1].conv_dw.quadratic
        step(torch.optim.SGD(term.parameters(), lr=0.1), term)
