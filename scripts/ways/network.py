"""What a newcomer brings: a torchvision network, trained on folders of pictures. Nothing here knows pocketstep.

python network.py FOLDER writes FOLDER/pictures/{known,test}/CLASS/*.png (scikit-learn's digits), FOLDER/pictures/new/9,
FOLDER/names.txt and FOLDER/weights.safetensors, of a MobileNetV2 that knows nine digits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn
from torchvision.models import mobilenet_v2

SIDE, KNOWN, EPOCHS = 64, 9, 8
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def make(num_classes: int = KNOWN) -> nn.Module:
    """The network, half as wide as the usual one."""
    return mobilenet_v2(num_classes=num_classes, width_mult=0.5)


def write_pictures(folder: Path) -> None:
    """A fifth of each class for tests; of the tenth class, the rest is new to the device."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        part = "test" if number % 5 == 0 else "known" if label < KNOWN else "new"
        path = folder / part / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)


def read(folder: Path, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images (N, 3, 64, 64), and labels."""
    files = [(path, label) for label, name in enumerate(names) for path in sorted((folder / name).glob("*.png"))]
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in files])
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (values - 0.5) / 0.5, torch.tensor([label for _, label in files])


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Adam, a one-cycle rate; returns the last epoch's accuracy."""
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    steps = len(images) // 32
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=EPOCHS * steps)
    hits = 0
    for _ in range(EPOCHS):
        hits = 0
        for rows in torch.randperm(len(images))[: steps * 32].split(32):
            logits = model(images[rows])
            optimiser.zero_grad()
            nn.functional.cross_entropy(logits, labels[rows]).backward()
            optimiser.step()
            schedule.step()
            hits += int((logits.argmax(1) == labels[rows]).sum())
    return hits / (steps * 32)


def main(folder: Path) -> None:
    """Pictures, names, and a trained network's weights."""
    torch.manual_seed(0)
    names = [str(label) for label in range(KNOWN)]
    write_pictures(folder / "pictures")
    (folder / "names.txt").write_text("\n".join(names) + "\n")
    model = make()
    accuracy = train(model, *read(folder / "pictures" / "known", names))
    model.eval()
    with torch.no_grad():
        images, labels = read(folder / "pictures" / "test", names)
        tested = (model(images).argmax(1) == labels).float().mean()
    save_file(model.state_dict(), folder / "weights.safetensors")
    print(f"the network has {accuracy:.1%} on its training pictures and {tested:.1%} on others")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
