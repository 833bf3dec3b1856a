"""What knowledge transfer is compared with: Hinton's soft logits and FitNet's hints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pocketstep.distill import check_correspondence
from pocketstep.groups import facts_of, find_groups
from pocketstep.watcher import Watcher
from pocketstep_device.errors import InputError


class SoftLogits(nn.Module):
    """Hinton et al. 2015: cross-entropy with the labels, plus T^2 times the divergence from the teacher's soft logits.

    Args:
        teacher: trained; its classes are the student's first ones.
        temperature: T.
        share: of the soft part, 0 to 1; the rest is the labels'.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(self, teacher: nn.Module, temperature: float = 4.0, share: float = 0.9) -> None:
        super().__init__()
        if temperature <= 0 or not 0 <= share <= 1:
            raise InputError(f"temperature {temperature} must be above 0, and share {share} between 0 and 1")
        self._teacher = (teacher.eval(),)  # a tuple: none of the teacher's parameters are trained
        self.temperature, self.share = temperature, share

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch; images are normalised float (B, C, H, W), labels int64 (B,)."""
        with torch.no_grad():
            taught = self._teacher[0](images).float() / self.temperature
        logits: Tensor = model(images).float()
        learnt = nn.functional.log_softmax(logits[:, : taught.shape[1]] / self.temperature, 1)
        soft = nn.functional.kl_div(
            learnt, nn.functional.log_softmax(taught, 1), reduction="batchmean", log_target=True
        )
        hard = nn.functional.cross_entropy(logits, labels)
        return self.share * self.temperature**2 * soft + (1 - self.share) * hard


class Hints(Watcher):
    """FitNet's first stage (Romero et al. 2014): half the squared distance of maps in the middle of the networks.

    A 1x1 convolution, trained along, brings the student's width to the teacher's. Use it in a ``with`` block. The
    second stage is ``SoftLogits``.

    Args:
        teacher: trained.
        student: the network that ``fit`` trains.
        pattern: of both networks' blocks, see ``find_groups``.

    Raises:
        InputError: the networks do not correspond, or have no groups.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, pattern: str | None = None) -> None:
        super().__init__()
        above, below = find_groups(teacher, pattern), find_groups(student, pattern)
        check_correspondence(teacher, student, above, below)
        if not above:
            raise InputError("FitNet needs groups of blocks, and this network has none: choose another method")
        middle = len(above) // 2
        self._teacher = (teacher.eval(),)
        self._student = (student,)
        self._places = (above[middle].outputs[-1], below[middle].outputs[-1])
        widths = facts_of(student, below[middle])[0], facts_of(teacher, above[middle])[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.regressor = nn.Conv2d(*widths, 1)

    def _watch(self) -> Sequence[RemovableHandle]:
        def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
            return lambda module, inputs, maps: self._maps.__setitem__(name, maps)

        networks = (("teacher", self._teacher[0], self._places[0]), ("student", self._student[0], self._places[1]))
        return [network.get_submodule(place).register_forward_hook(keep(name)) for name, network, place in networks]

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The hints' loss of one batch; labels are not looked at."""
        with torch.no_grad():
            self._teacher[0](images)
        model(images)
        taught, learnt = self._maps["teacher"].float(), self._maps["student"].float()
        distance = taught - self.regressor(learnt)
        loss: Tensor = 0.5 * distance.square().mean()
        return loss
