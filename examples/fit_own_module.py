"""Train a module of your own, with a quadratic term, on tensors; load its weights again."""

import sys

import torch
from torch import nn

import ditcnn


class Net(nn.Module):
    """A small network; `ditcnn.fit` asks for nothing but logits [N, classes]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.head = nn.Linear(16 * 16, classes)
        ditcnn.add_quadratic(self, ["features.0"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.features(x).flatten(1))


def main(out: str = "runs/own", epochs: int = 3) -> None:
    """Train on images whose classes differ in how two colours go together, which a mean does not show."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 2
    images = torch.randint(0, 256, (600, 3, 16, 16), generator=draw)
    alike = labels[:, None, None] == 0
    images[:, 1] = torch.where(alike, images[:, 0], 255 - images[:, 0])
    result = ditcnn.fit(
        Net(2), (images.to(torch.uint8), labels), epochs=epochs, lr=0.05, batch_size=32, term_lr_scale=1.0, milestones=(),
        crop_padding=0, recipe=ditcnn.Recipe(), out=out,
    )  # fmt: skip
    print(f"held-out accuracy {result.summary['holdout_top1']:.1f}%")
    again = ditcnn.load(result.folder, model=Net(2))
    print("same logits:", torch.equal(again(torch.zeros(1, 3, 16, 16)), result.model(torch.zeros(1, 3, 16, 16))))


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
