"""The trained tables: what removal takes away, who reuses whose runs, and each experiment at its smoke budget."""

import json
import math
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from ditcnn.analysis.channel_moments import ChannelMoments
from ditcnn.analysis.intervals import Interval
from ditcnn.analysis.power import detectable_difference, holm, paired_p_value
from ditcnn.cost import cost_of
from ditcnn.data import ImageSet
from ditcnn.experiments import EXPERIMENTS, Plan, reproduce
from ditcnn.experiments.arms import ARMS as ALL_ARMS
from ditcnn.experiments.arms import recipe_of
from ditcnn.experiments.engine import runs
from ditcnn.experiments.engine.experiment import Context
from ditcnn.experiments.engine.runs import RunStore, run_digest
from ditcnn.experiments.engine.sets import made_sets
from ditcnn.experiments.engine.tables import markdown
from ditcnn.experiments.removal import accuracy, less_covariance, term_parts, without_terms
from ditcnn.experiments.trained.compared import made_images, run_arm, run_of, summarise_arms, taken_over_text
from ditcnn.experiments.trained.comparison import ARMS, COMPARISON, verdict
from ditcnn.system.errors import Diverged, InputError, RunFailed
from ditcnn.system.signals import Stopped
from ditcnn.train import TrainedModel, Trainer
from tests.test_older import WIDTHS

CELL = {"data": "cifar10", "net": "dit", "depth": 20, "schedule": "smoke", "seed": 0}


def diverges(trainer, micro_batches):
    raise Diverged("the loss became nan")


def context(out: Path, experiment: str = "table2") -> Context:
    return Context(made_sets(("cifar10",), made_images), RunStore(out / "runs", experiment))


def text_of(name: str, rows: list[dict]) -> str:
    experiment = EXPERIMENTS[name]
    return markdown(experiment.table(experiment.summarise(rows)))


@pytest.fixture
def trained() -> TrainedModel:
    torch.manual_seed(0)
    model = timm.create_model("dit_resnet20", num_classes=3).eval()
    nn.init.normal_(model.layer2[0].quadratic.weight, std=0.1)
    return TrainedModel(model, ("x", "y", "z"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3)


def test_moments_are_those_of_all_vectors_at_once_whatever_the_batches():
    maps = 1000 + torch.randn(7, 3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = ChannelMoments()
    for part in maps.split([1, 4, 2]):
        moments.add(part)
    vectors = maps.movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(moments.mean, vectors.mean(0))
    torch.testing.assert_close(moments.covariance, torch.cov(vectors.T, correction=0))


def test_both_parts_of_a_term_add_up_to_its_mean(trained):
    images = made_images("cifar10").train
    parts = term_parts(trained, images, batch_size=20)
    (name, own), term, outputs = *parts.items(), trained.model.layer2[0].quadratic, []
    assert name == "layer2.0.quadratic"
    hook = term.register_forward_hook(lambda module, inputs, q: outputs.append(q.double()))
    accuracy(trained, trained.model, images)
    hook.remove()
    torch.testing.assert_close(own.of_mean + own.of_covariance, torch.cat(outputs).mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert own.of_covariance.abs().max() > 1e-3


def test_less_covariance_subtracts_one_number_a_channel_from_the_term_alone(trained):
    parts = term_parts(trained, made_images("cifar10").train)
    changed = less_covariance(trained.model, parts)
    x = torch.randn(2, 32, 16, 16)
    before, after = trained.model.layer2[0].quadratic(x), changed.layer2[0].quadratic(x)
    expected = parts["layer2.0.quadratic"].of_covariance.float()
    torch.testing.assert_close(before - after, expected[:, None, None].expand_as(before), rtol=1e-3, atol=1e-4)


def test_at_zero_the_halving_stays(trained):
    block, x = trained.model.layer2[0], torch.randn(2, 16, 32, 32)
    without = without_terms(trained.model).layer2[0]
    h = block.act1(block.bn1(block.conv1(x)))
    assert torch.equal(without(x), (block.bn2(block.conv2(h)) / 2 + block.downsample(x)).relu())
    assert not torch.equal(without(x), block(x))
    assert trained.model.layer2[0].quadratic.weight.abs().sum() > 0


def no_step(monkeypatch) -> None:
    monkeypatch.setattr(Trainer, "_train_step", lambda *arguments: pytest.fail("it trained again"))


def test_a_run_that_two_experiments_need_is_trained_once(tmp_path, monkeypatch):
    first = run_arm(CELL, context(tmp_path, "comparison"))
    no_step(monkeypatch)
    again = run_arm(CELL, context(tmp_path, "table2"))
    assert first["run"] == again["run"] | {"taken_over": False}
    assert again["run"]["trained_by"] == "comparison"
    assert first | {"run": None} == again | {"run": None}
    commit = again["run"]["launches"][0]["commit"]
    found = summarise_arms([CELL | again, CELL | again, CELL | first], ())["taken_over"]
    assert found == [{"experiment": "comparison", "runs": 1, "commits": [str(commit or "unknown")]}]
    assert taken_over_text({"taken_over": found}).startswith("1 run taken over from comparison (commit ")
    assert run_of(CELL | {"measure": "removal"}, context(tmp_path, "table4")).folder == tmp_path / first["run"]["folder"]
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        run_arm(CELL | {"seed": 1}, context(tmp_path, "table4"))


def test_a_run_is_named_by_its_recipe_and_its_images_and_by_nothing_else():
    data, recipe = made_images("cifar10"), recipe_of(CELL)
    name = run_digest(recipe, data)
    assert name == run_digest(replace(recipe), replace(data, classes=("a", "b", "c")))
    others = [
        replace(recipe, **change) for change in (dict(seed=1), dict(lr=0.02), dict(model_kwargs=("quadratic_stage=1",)))
    ]
    turned = replace(data, train=replace(data.train, labels=data.train.labels.flip(0)))
    assert len({name, run_digest(recipe, turned), *(run_digest(other, data) for other in others)}) == 5


def test_a_process_that_wants_a_run_waits_for_the_one_that_trains_it(tmp_path):
    done = []

    def want() -> None:
        with runs._alone(tmp_path / ".lock"):
            done.append(True)

    with runs._alone(tmp_path / ".lock"):
        other = threading.Thread(target=want)
        other.start()
        other.join(0.2)
        assert not done
    other.join(10)
    assert done


def test_a_cell_that_was_stopped_goes_on_to_what_an_unbroken_one_has(tmp_path, monkeypatch):
    step, stops = Trainer._train_step, []

    def stopped(trainer, micro_batches):
        done = step(trainer, micro_batches)
        if not stops:
            stops.append(os.kill(os.getpid(), signal.SIGTERM))
        return done

    monkeypatch.setattr(Trainer, "_train_step", stopped)
    with pytest.raises(Stopped):
        run_arm(CELL, context(tmp_path / "stopped"))
    numbers = [run_arm(CELL, context(tmp_path / name)) for name in ("stopped", "unbroken")]
    assert len(numbers[0]["run"]["launches"]) == 2
    first, second = ({key: own[key] for key in own if key != "run" and "seconds" not in key} for own in numbers)
    assert first == second


def test_a_stop_in_the_last_moments_of_a_run_is_not_lost(tmp_path, monkeypatch):
    finish = Trainer._finish

    def stopped(trainer):
        finish(trainer)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_finish", stopped)
    with pytest.raises(Stopped):
        run_arm(CELL, context(tmp_path))
    no_step(monkeypatch)
    assert run_arm(CELL, context(tmp_path))["failed"] is None


def test_a_finished_run_without_its_checkpoint_is_not_trained_again_on_top(tmp_path):
    folder = run_of(CELL, context(tmp_path)).folder
    before = (folder / "metrics.jsonl").read_bytes()
    for checkpoint in ("last.pt", "previous.pt"):
        (folder / checkpoint).unlink(missing_ok=True)
    with pytest.raises(InputError, match="run that lost its last"):
        run_arm(CELL, context(tmp_path))
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_run_that_breaks_off_counts_as_chance_and_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_train_step", diverges)
    numbers = run_arm(CELL, context(tmp_path, "comparison"))
    assert numbers["failed"] == "the loss became nan"
    assert numbers["test_top1"] == numbers["holdout_top1"] == pytest.approx(100 / 3)
    json.dumps(numbers, allow_nan=False)
    no_step(monkeypatch)
    assert run_arm(CELL, context(tmp_path, "table2")) | {"run": None} == numbers | {"run": None}


def test_a_stop_in_the_step_that_diverges_is_not_lost(tmp_path, monkeypatch):
    def stopped(trainer, micro_batches):
        os.kill(os.getpid(), signal.SIGTERM)
        diverges(trainer, micro_batches)

    monkeypatch.setattr(Trainer, "_train_step", stopped)
    with pytest.raises(Stopped):
        run_arm(CELL, context(tmp_path))


def test_a_machine_short_of_memory_is_no_result(tmp_path, monkeypatch):
    def broken(trainer, micro_batches):
        raise RunFailed("out of memory")

    monkeypatch.setattr(Trainer, "_train_step", broken)
    with pytest.raises(RunFailed, match="out of memory"):
        run_arm(CELL, context(tmp_path))


def test_the_arms_are_those_of_the_protocol():
    plan = Plan(COMPARISON.budgets["quick"].settings, COMPARISON.budgets["quick"].seeds, ("cifar10",))
    cells = COMPARISON.cells(plan)
    assert len(cells) == 25
    assert [cell["seed"] for cell in cells] == sorted(cell["seed"] for cell in cells)
    recipes = [recipe_of(cell) for cell in cells]
    same = {replace(recipe, model="", model_kwargs=(), seed=0) for recipe in recipes}
    assert len(same) == 1
    (shared,) = same
    assert (shared.epochs, shared.warmup_epochs, shared.precision, shared.protocol) == (4, 1.0, "fp32", "holdout")
    assert (shared.schedule, shared.term_lr_scale, shared.weight_decay) == ("cosine", 10.0, 1e-4)
    assert recipe_of(cells[4]).model_kwargs == ("spatial_transpose=True",)


def test_the_widened_arms_have_the_widths_that_are_found_by_cost():
    arms = {net: recipe_of(CELL | {"net": net}).model_arguments() for net in ("plain-parameters", "plain-macs")}
    assert arms == {"plain-parameters": {"widths": WIDTHS["parameters"]}, "plain-macs": {"widths": WIDTHS["macs"]}}


@pytest.mark.parametrize("net", ALL_ARMS)
@pytest.mark.parametrize("schedule", ["short", "paper"])
def test_every_network_is_built_by_a_recipe_that_makes_sense(net, schedule):
    recipe = recipe_of(CELL | {"net": net, "schedule": schedule})
    recipe.check()
    with torch.device("meta"):
        model = timm.create_model(recipe.model, num_classes=10, **recipe.model_arguments())
    assert cost_of(model, (3, 32, 32), 2).parameters > 250_000


def test_the_older_networks_keep_their_authors_tricks():
    assert (recipe_of(CELL | {"net": "quadralib"}).clip_grad, recipe_of(CELL | {"net": "quadralib"}).weight_decay) == (
        0.5,
        5e-4,
    )
    assert recipe_of(CELL | {"net": "qres"}).clip_grad == recipe_of(CELL | {"net": "dit"}).clip_grad == 0


@pytest.mark.parametrize("depth", [20, 32, 56, 110])
def test_all_families_of_a_depth_have_the_same_first_epoch(depth):
    nets = ("plain", "dit", "dit-published", "fan", "quadralib", "qres")
    recipes = [recipe_of(CELL | {"net": net, "depth": depth, "schedule": "paper"}) for net in nets]
    warmups = {(recipe.warmup, recipe.warmup_epochs, recipe.warmup_factor) for recipe in recipes}
    assert warmups == {("constant", 1.0, 0.1) if depth >= 56 else ("linear", 0.0, 0.1)}


def row(net: str, seed: int, top1: float, failed: str | None = None) -> dict:
    figures = dict(parameters=1, macs=2, median_epoch_seconds=2.0 if net == "dit" else 1.0, holdout_top1=top1, failed=failed)
    return CELL | figures | {"net": net, "seed": seed, "test_top1": top1, "best_test_top1": None}


def arm_rows(seeds: int, schedule: str = "short", **means: float) -> list[dict]:
    return [
        row(net, s, means.get(arm, 80.0) + (-0.1) ** (s + 1) * (arm == "b")) | {"schedule": schedule}
        for s in range(seeds)
        for arm, net in ARMS.items()
    ]


def test_the_claim_needs_both_intervals_above_zero():
    def supported(**means: float) -> bool:
        return COMPARISON.summarise(arm_rows(5, **means))["verdict"][-1] == "The claim is supported."

    assert supported(b=81.0)
    assert not supported(b=81.0, d=81.5)
    assert not supported(b=81.0, c=81.005)
    assert not supported()


def test_the_verdict_is_one_of_the_outcomes_that_were_registered():
    above, across, below = Interval(1.0, 0.5, 1.5, 5), Interval(0.1, -0.3, 0.5, 5), Interval(-1.0, -1.5, -0.5, 5)
    good = {"b - c": above, "b - d": above, "b - a": above, "b - e": across}
    assert verdict(good)[-1] == "The claim is supported."
    assert verdict(good | {"b - d": across}) == [
        "b - c lies above zero: better at this schedule.",
        "b - d includes zero: not shown at this schedule, differences above 0.50 points are excluded.",
        "The claim, which needs both above zero, is not supported.",
    ]
    assert "below zero: at equal cost, width is the better use" in verdict(good | {"b - c": below})[0]
    assert "not shown to help even beside a cheaper plain network" in verdict(good | {"b - a": across})[-1]
    assert verdict(good | {"b - e": below})[-1] == "b - e lies below zero: the published swap helps."
    assert verdict(good | {"b - c": above._replace(n=4)}) == ["Fewer than five seeds: no verdict."]


def test_only_five_seeds_of_the_short_schedule_are_the_registered_comparison():
    def text(seeds: int, schedule: str) -> str:
        return text_of("comparison", arm_rows(seeds, schedule, b=81.0))

    assert "not the registered comparison" not in text(5, "short")
    assert "not the registered comparison" in text(5, "paper")
    assert "not the registered comparison" in text(6, "short")
    assert "no verdict. This is not the registered comparison" in text(2, "smoke")


def test_the_papers_protocol_shows_the_best_epoch_and_the_last():
    rows = [
        row(net, seed, 80.0 + seed)
        | {"schedule": "paper", "best_test_top1": None if seed == 0 else 85.0}
        | {"whole_top1": None, "removed_top1": None}
        for net in ("plain", "dit") for seed in (0, 1)
    ]  # fmt: skip
    for name in ("table2", "fig5"):  # The first seed broke off: the protocol is the recipe's
        assert EXPERIMENTS[name].summarise(rows)["selected_on"] == "test"
        text = text_of(name, rows)
        assert "best test epoch [%] | last epoch [%]" in text
        assert "82.50 [50.73, 114.27] | 80.50 [74.15, 86.85]" in text
        held = text_of(name, [row | {"schedule": "short", "best_test_top1": None} for row in rows])
        assert "last epoch" not in held
        assert "chosen on held-out images" in held


def test_comparisons_pair_by_seed_and_worked_by_hand():
    tops = {"a": [70.0, 80.0, 90.0], "b": [71.0, 82.0, 93.0], "c": [70.0] * 3, "d": [70.0] * 3, "e": [70.0] * 3}
    rows = [row(ARMS[arm], seed, value) for arm, values in tops.items() for seed, value in enumerate(values)]
    summary = COMPARISON.summarise(rows[::-1])
    own = summary["pairs"]["b - a"]
    assert own["ahead"] == 3
    half = 4.302653 / math.sqrt(3)
    assert own["interval"] == pytest.approx((2.0, 2 - half, 2 + half, 3))
    assert own["p"] == pytest.approx(0.0742, abs=1e-4)
    assert {arm["arm"]: arm["time_ratio"] for arm in summary["arms"]}["dit"] == 2.0
    assert "Fewer than five seeds: no verdict." in text_of("comparison", rows)


def test_each_network_is_compared_with_the_plain_one_of_its_family():
    tops = {"plain": 80.0, "dit-stage3": 81.0, "convnext": 60.0, "convnext-block1": 57.0}
    removed = {"dit-stage3": 50.0, "convnext-block1": 50.0}
    rows = [
        row(net, seed, top1 + seed) | {"whole_top1": top1 + seed, "removed_top1": removed.get(net)}
        for net, top1 in tops.items() for seed in (0, 1)
    ]  # fmt: skip
    nets = {own["arm"]: own for own in EXPERIMENTS["fig5"].summarise(rows)["arms"]}
    gains = {net: own["gain"] and own["gain"].mean for net, own in nets.items()}
    assert gains == {"plain": None, "dit-stage3": 1.0, "convnext": None, "convnext-block1": -3.0}
    assert nets["dit-stage3"]["drop"].mean == 31.5
    assert nets["plain"]["drop"] is None


@pytest.mark.parametrize("name", ["comparison", "table2", "fig5"])
def test_runs_that_broke_off_are_counted_and_said_to_be_chance(name):
    nets = ARMS.values() if name == "comparison" else ("plain", "dit")
    with_term, without = {"whole_top1": 80.0, "removed_top1": 70.0}, {"whole_top1": None, "removed_top1": None}
    rows = [
        row(net, seed, 80.0 + seed) | (with_term if net == "dit" else without)
        for net in nets for seed in (0, 1)
    ]  # fmt: skip
    assert "broken off, as" not in text_of(name, rows)
    rows[-1] |= without | {"failed": "the loss became nan"}
    assert "loss was not finite (1), count with the accuracy of chance" in text_of(name, rows)
    if name == "fig5":
        assert "The drop is of the other runs alone." in text_of(name, rows)
        assert [own["drop"].n for own in EXPERIMENTS[name].summarise(rows)["arms"] if own["arm"] == "dit"] == [1]


def test_figure_of_table2_draws_no_mean_with_chance_in_it():
    rows = [row(net, seed, 80.0 + seed) for net in ("plain", "dit", "qres") for seed in (0, 1)]
    rows[-1] |= {"test_top1": 10.0, "failed": "the loss became nan"}
    experiment = EXPERIMENTS["table2"]
    (axes,) = experiment.draw(experiment.summarise(rows), rows)[""].axes
    drawn = {bars.get_label(): len(bars[0].get_xdata()) for bars in axes.containers}
    assert list(drawn.values()) == [1, 1, 0]
    assert [label for label in drawn if "broken off" in label] == ["QRes, ResNet (broken off)"]


def test_table4_leaves_out_runs_that_broke_off():
    tops = {"whole": 80.0, "less tr(A S)": 79.0, "Q = 0": 70.0}
    rows = [row("dit", 0, 80.0) | {"top1": tops}, row("dit", 1, 10.0, failed="the loss became nan") | {"top1": None}]
    summary = EXPERIMENTS["table4"].summarise(rows)
    assert summary["arms"][0]["drop, Q = 0"] == (10.0, None, None, 1)
    assert "Runs broken off (1) have no network to take apart." in text_of("table4", rows)


def test_table5_compares_the_two_terms_by_seed_and_shows_what_each_costs():
    extra = {"convnext": 0, "convnext-deeper": 30_144, "convnext-block3": 32_768, "convnext-pixelwise": 76_832}
    tops = {"convnext": [60, 61], "convnext-deeper": [62, 62], "convnext-block3": [64, 62], "convnext-pixelwise": [61, 63]}
    rows = [
        row(net, seed, tops[net][seed]) | {"parameters": 100 + extra[net], "whole_top1": None, "removed_top1": None}
        for net in extra for seed in ((1, 0) if net == "convnext-block3" else (0, 1))
    ]  # fmt: skip
    summary = EXPERIMENTS["table5"].summarise(rows)
    assert summary["pairs"]["channel-wise less pixel-wise"] == pytest.approx(
        (1.0, 1 - 25.41, 1 + 25.41, 2), abs=0.01
    )  # 3 and -1
    line = "Channel-wise less pixel-wise: 1.00 [-24.41, 26.41] points, n = 2, terms of 32,768 against 76,832 parameters."
    text = text_of("table5", rows)
    assert line in text
    assert "Channel-wise less a plain network of equal cost: 1.00 [-11.71, 13.71] points, n = 2." in text
    deeper = next(row for row in text.splitlines() if "deepened to equal cost" in row)
    assert [word.strip() for word in deeper.split("|")][3] == "-"  # parameters, but none of a term
    rows = [row for row in rows if "block" in row["net"] or row["net"] == "convnext"]
    assert "Channel-wise less" not in text_of("fig5", rows)


def test_the_deepened_network_costs_nearest_to_the_one_with_a_term():
    def of(net, **other):
        recipe = recipe_of(CELL | {"net": net, "schedule": "short"})
        return cost_of(timm.create_model(recipe.model, num_classes=10, **recipe.model_arguments() | other), (3, 32, 32), 2)

    wanted, found = of("convnext-block3"), of("convnext-deeper")
    for cost in ("parameters", "macs"):
        missed = abs(getattr(found, cost) - getattr(wanted, cost))
        assert missed < 0.03 * getattr(wanted, cost)
        for blocks in (5, 7):
            neighbour = getattr(of("convnext-deeper", depths=(blocks, 2, 2, 2)), cost)
            assert abs(neighbour - getattr(wanted, cost)) > missed


def test_power_is_what_a_simulation_finds():
    effect = detectable_difference(1.0, 5)
    draw = torch.Generator().manual_seed(0)
    samples = (torch.randn(800, 5, generator=draw) + effect).tolist()
    found = sum(paired_p_value(sample, [0.0] * 5) < 0.05 for sample in samples) / len(samples)
    assert found == pytest.approx(0.8, abs=0.05)
    assert detectable_difference(2.0, 5) == pytest.approx(2 * effect)
    assert paired_p_value([1.0], [0.0]) is None
    assert holm({}) == {}


@pytest.mark.parametrize("name", ["table3", "table4", "table5", "fig5"])
def test_smoke_leaves_record_table_and_figure(name, tmp_path):
    experiment = EXPERIMENTS[name]
    done = reproduce(experiment, "smoke", tmp_path / name, seeds=1)
    text = (tmp_path / name / f"{name}.md").read_text()
    assert "| --- |" in text
    assert {path.name for path in (tmp_path / name).iterdir()} - {"cells.jsonl", ".lock"} == {
        f"{name}.{ending}" for ending in ("json", "md", "png", "svg")
    }
    if name == "table4":
        assert set(done.rows[0]["top1"]) == {"whole", "less tr(A S)", "Q = 0"}


def test_the_comparisons_smoke_feeds_table2(tmp_path):
    reproduce(COMPARISON, "smoke", tmp_path / "comparison", seeds=1)
    assert len(list((tmp_path / "runs").glob("*/config.yaml"))) == 5
    done = reproduce(EXPERIMENTS["table2"], "smoke", tmp_path / "table2", seeds=1)
    assert len(list((tmp_path / "runs").glob("*/config.yaml"))) == 8  # three older networks more
    assert len(done.rows) == 6
    arms = done.record["summary"]["arms"]
    assert {own["title"].split(",")[0] for own in arms} >= {"ResNet-20", "Dit-ResNet-20", "QuadraLib"}
    assert set(arms[0]["top1"]) == {"mean", "low", "high", "n"}
    text = (tmp_path / "table2" / "table2.md").read_text()
    assert "not available as text" in text
    assert "3 runs taken over from comparison (commit" in text


def test_table3_has_the_papers_costs_beside_its_quoted_accuracies(tmp_path):
    experiment = EXPERIMENTS["table3"]
    cell = {"model": "dit_convnext_tiny"}
    numbers = experiment.run(cell, context(tmp_path))
    assert (numbers["parameters"], round(numbers["macs"] / 1e9, 2)) == (29_473_864, 7.23)
    table = text_of("table3", [cell | numbers])
    assert "| Dit-ConvNeXt-T | 29,473,864 | 7.23 |" in table
    assert "82.6 | not trained | Liu et al., NeurIPS 2024, Table 3 |" in table
    assert "not available as text" in table


def test_an_image_set_of_one_class_gives_the_share_of_right_answers(trained):
    images = made_images("cifar10").test
    one = ImageSet(images.images, torch.zeros_like(images.labels))
    answers = trained.model((images.images.float() / 255 - 0.5) / 0.25).argmax(1)
    assert accuracy(trained, trained.model, one) == pytest.approx(100 * float((answers == 0).float().mean()))
