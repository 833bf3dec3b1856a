"""Knowledge transfer through the features that the head sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pocketstep.loop import Loss
from pocketstep.training import cross_entropy
from pocketstep.watcher import Watcher
from pocketstep_device.errors import InputError

PULL = 10.0
"""Weight of the features' distance."""


class FeatureTransfer(Watcher):
    """A loss on labels, plus ``PULL`` times 1 - cosine of the teacher's features and the student's, mapped linearly.

    Features are what the head sees. Hints (Romero et al. 2014) at the last layer, and for another end: a larger
    network's features tell apart classes that neither has learned, and those of a student that imitates them do so,
    too. The map to the teacher's width is trained along and then dropped. Use it in a ``with`` block: hooks on both
    heads keep the features.

    Args:
        teacher: trained; its classes may be others than the student's.
        student: the network that ``fit`` trains.
        loss: on labels.

    Raises:
        InputError: a network has no linear layer.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, loss: Loss = cross_entropy) -> None:
        super().__init__()
        heads = linear_head(teacher), linear_head(student)
        self._networks = (teacher.eval(), student)  # tuples: none of their parameters are this module's
        self._heads, self._loss = heads, (loss,)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.mapping = nn.Linear(heads[1].in_features, heads[0].in_features)
        self.mapping.to(heads[1].weight.device)

    def _watch(self) -> Sequence[RemovableHandle]:
        def keep(head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._maps[head] = inputs[0].float()

        return [head.register_forward_pre_hook(keep) for head in self._heads]

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch; images are normalised float (B, C, H, W), labels int64 (B,).

        Raises:
            InputError: this is called outside of a ``with`` block, or with another network than the student.
        """
        teacher, student = self._networks
        self._expect(student, model)
        with torch.no_grad():
            teacher(images)
        own = self._loss[0](model, images, labels)
        taught, learnt = (self._maps[head] for head in self._heads)
        cosine = nn.functional.cosine_similarity(self.mapping(learnt).float(), taught, dim=1)
        return own + PULL * (1 - cosine).mean()


def linear_head(network: nn.Module) -> nn.Linear:
    """The network's last linear layer.

    Raises:
        InputError: it has none.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise InputError(f"a {type(network).__name__} has no linear layer, and this needs one: choose another method")
    return layers[-1]
