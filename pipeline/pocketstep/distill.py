"""Selective layer-wise knowledge transfer from a teacher to a compressed student (Zhao et al. 2022, §4)."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pocketstep.networks import ResidualNet
from pocketstep_device.errors import InputError


class KnowledgeTransfer:
    """The loss l1 * J1 + l2 * sum over groups of Jb + l3 * J3, to be used as the loss of ``training.fit``.

    For every batch and group, the teacher's and the student's most similar pair of blocks (equations 3 and 4)
    is found, and the student's maps are drawn to the teacher's in that pair (Jb), its logits to the teacher's
    (J1), and its predictions to the labels (J3: softmax cross-entropy; the paper's formula lacks the minus).

    Maps are normalised image by image, and every term is a mean over the images, so that the loss does not
    depend on the batch size. Equation 3 on maps normalised so is the mean of the images' cosines.

    Use it in a ``with`` block: on entry it puts hooks on the blocks and the teacher into evaluation mode, on
    exit it removes the hooks.

    Attributes:
        pairs: (teacher's block, student's block) that the last batch mapped, for each group.

    Args:
        teacher: Trained; its classes are the student's first ones (the student may have more).
        student: The network that ``fit`` trains; as many groups, at most the teacher's widths.
        weights: (l1, l2, l3).
        labelled: False leaves J3 out: classes without labels (§4.2).

    Raises:
        InputError: If the weights are not three numbers of 0 or more, or the networks do not correspond.
    """

    def __init__(
        self,
        teacher: ResidualNet,
        student: ResidualNet,
        weights: Sequence[float] = (1.0, 1.0, 1.0),
        *,
        labelled: bool = True,
    ) -> None:
        if len(weights) != 3 or min(weights) < 0:
            raise InputError(f"transfer weights are {tuple(weights)}: give three numbers of 0 or more")
        _check(teacher, student)
        self.teacher, self.student = teacher, student
        self.weights, self.labelled = tuple(weights), labelled
        self.pairs: list[tuple[int, int]] = []
        self._maps: dict[nn.Module, Tensor] = {}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> KnowledgeTransfer:
        self.teacher.eval()
        blocks = [b for network in (self.teacher, self.student) for group in network.blocks for b in group]
        self._hooks = [block.register_forward_hook(self._keep) for block in blocks]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._maps.clear()

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch.

        Args:
            model: The student.
            images: Normalised float (B, C, H, W).
            labels: int64 (B,); not looked at in the unlabelled mode.

        Returns:
            A scalar that carries the student's gradients.

        Raises:
            InputError: If the model is not the student, or this is called outside of a ``with`` block.
        """
        if model is not self.student or not self._hooks:
            raise InputError("the transfer watches its student only, inside of `with transfer:`; train that one")
        with torch.no_grad():
            taught: Tensor = self.teacher(images)
        logits: Tensor = model(images)
        l1, l2, l3 = self.weights
        total = l1 * logit_distance(taught, logits[:, : taught.shape[1]]) + l2 * self._block_distances()
        if self.labelled:
            total = total + l3 * nn.functional.cross_entropy(logits, labels)
        self._maps.clear()
        return total

    def _keep(self, block: nn.Module, inputs: tuple[Tensor, ...], maps: Tensor) -> None:
        self._maps[block] = maps

    def _block_distances(self) -> Tensor:
        self.pairs, distances = [], []
        for teachers, students in zip(self.teacher.blocks, self.student.blocks, strict=True):
            taught = [self._maps[block] for block in teachers]
            learnt = [pad_channels(self._maps[block], taught[0].shape[1]) for block in students]
            self.pairs.append(most_similar(taught, learnt))
            k, j = self.pairs[-1]
            distances.append(map_distance(taught[k], learnt[j]))
        return torch.stack(distances).sum()


def logit_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """J1: the L2 distance of two rows of logits, (B, classes), averaged over the images."""
    distances: Tensor = torch.linalg.vector_norm(teacher - student, dim=1)
    return distances.mean()


def map_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Jb: the L2 distance of l2-normalised maps, (B, C, H, W) each, averaged over the images."""
    return logit_distance(_unit(teacher), _unit(student))


def similarity(teacher: Tensor, student: Tensor) -> Tensor:
    """Equations 3 and 4: the cosine of two (B, C, H, W) activations, averaged over the images."""
    return (_unit(teacher) * _unit(student)).sum(1).mean()


@torch.no_grad()
def most_similar(teachers: Sequence[Tensor], students: Sequence[Tensor]) -> tuple[int, int]:
    """(k*, j*): the places of the teacher's and the student's most similar maps; the first of equals."""
    cosines = torch.stack([similarity(taught, learnt) for taught in teachers for learnt in students])
    return divmod(int(cosines.argmax()), len(students))


def pad_channels(maps: Tensor, channels: int) -> Tensor:
    """Adds channels of zeros behind those of (B, C, H, W), up to ``channels`` (Zhao et al. §4.1)."""
    return nn.functional.pad(maps, (0, 0, 0, 0, 0, channels - maps.shape[1]))


def _unit(maps: Tensor) -> Tensor:
    return nn.functional.normalize(maps.flatten(1), dim=1)


def _check(teacher: ResidualNet, student: ResidualNet) -> None:
    above, below = teacher.architecture, student.architecture
    pairs = list(zip(above.groups, below.groups, strict=False))
    same_groups = len(above.groups) == len(below.groups) and all(
        t[0].stride == s[0].stride and t[-1].outputs >= s[-1].outputs for t, s in pairs
    )
    if not same_groups or above.in_channels != below.in_channels:
        raise InputError(
            "the student does not correspond to the teacher: give one that shallow() and thin() made from it "
            "(as many groups, the same strides and image channels, no greater width)"
        )
    if above.classes > below.classes:
        raise InputError(f"the teacher knows {above.classes} classes, the student only {below.classes}: widen its head")
