"""Train a Dit-ResNet on a torch Dataset of (image, label), use it, and go on from its folder. A minute, no download."""

import sys

from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, random_split

import ditcnn


class Digits(Dataset):
    """scikit-learn's handwritten digits as PIL images; any map-style Dataset will do."""

    def __init__(self) -> None:
        digits = load_digits()
        self.images, self.targets = digits.images, digits.target.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray((self.images[index] * 255 / 16).astype("uint8")), self.targets[index]


def main(out: str = "runs/example", epochs: int = 10) -> None:
    """Train, say how it went, and classify an image."""
    train, test = random_split(Digits(), [0.8, 0.2])
    result = ditcnn.fit("dit_resnet20", train, test=test, recipe="digits", epochs=epochs, out=out, resume=True)
    print(f"test accuracy {result.summary['test_top1']:.1f}%, of epoch {result.summary['selected_epoch']}; {result.folder}")
    image, label = test[0]
    print(f"a {label} is seen as", ditcnn.predict(result.folder, [image], topk=1)[0]["top"])


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
