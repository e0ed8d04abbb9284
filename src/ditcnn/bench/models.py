"""A network with the term against its plain twin: training steps, inference, peak memory."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditcnn.bench.rivals import published
from ditcnn.bench.timing import interleave, peak_mib, peak_of_call
from ditcnn.convert import quadratic_terms
from ditcnn.layers import QuadraticForm2d

__all__ = ["MODEL_CASES", "ModelCase", "bench_models"]

FORMS = ("plain", "ours", "published")


@dataclass(frozen=True)
class ModelCase:
    """What is measured."""

    model: str
    batch_size: int
    image_size: int
    precision: Literal["fp32", "bf16"] = "fp32"
    mode: Literal["step", "inference"] = "step"


MODEL_CASES = [
    ModelCase("dit_resnet20", 128, 32),
    ModelCase("dit_resnet20", 128, 32, "bf16"),
    ModelCase("dit_convnext_tiny", 8, 224),
    ModelCase("dit_convnext_tiny", 8, 224, mode="inference"),
]


class _PublishedForm2d(QuadraticForm2d):
    """The term as the published layers compute it, height and width in their places."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x).movedim(1, -1)
        y = published(z.reshape(-1, self.in_features), self.weight)
        return y.view(*z.shape[:-1], -1).movedim(-1, 1)


def bench_models(case: ModelCase, rounds: int) -> dict[str, Any]:
    """Return times in ms and peak MiB of the plain network, of ours, and of ours with the published form."""
    steps: dict[str, Callable[[], object]] = {form: _step(case, form) for form in FORMS}
    times = interleave(steps, rounds)
    peaks = {form: peak_mib(__name__, {"case": asdict(case), "form": form}) for form in FORMS}
    return asdict(case) | {"rounds": rounds, "time_ms": times, "peak_mib": peaks}


def _step(case: ModelCase, form: str) -> Callable[[], object]:
    """Return a function that makes one training step, or one forward pass; maps have channels last, A is random."""
    torch.manual_seed(0)
    name = case.model.removeprefix("dit_") if form == "plain" else case.model
    model = timm.create_model(name).to(memory_format=torch.channels_last).train(case.mode == "step")
    for _, term in quadratic_terms(model):
        nn.init.normal_(term.weight, std=1e-2)
        if form == "published":
            term.__class__ = _PublishedForm2d
    images = torch.randn(case.batch_size, 3, case.image_size, case.image_size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (case.batch_size,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16"):
            logits: Tensor = model(images)
        return logits.float()

    def step() -> None:
        F.cross_entropy(forward(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step if case.mode == "step" else torch.no_grad()(forward)


def _print_peak(arguments: dict[str, Any]) -> None:
    """Print the peak memory of the second step, above what the process has before it builds the model."""
    case, form = ModelCase(**arguments["case"]), arguments["form"]

    def build_and_run() -> None:
        step = _step(case, form)
        step()
        step()

    print(peak_of_call(build_and_run))


if __name__ == "__main__":
    _print_peak(json.loads(sys.argv[1]))
