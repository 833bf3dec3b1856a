"""Selective layer-wise knowledge transfer from a teacher to a compressed student (Zhao et al. 2022, §4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pocketstep.groups import Group, facts_of, find_groups
from pocketstep.watcher import Watcher
from pocketstep_device.errors import InputError

_IMAGE = (1, 2, 3)
"""The dimensions of one image's maps."""
_SMALLEST = 1e-12


class KnowledgeTransfer(Watcher):
    """The loss l1 * J1 + l2 * sum over groups of Jb + l3 * J3, to be used as the loss of ``training.fit``.

    For every batch and group, the teacher's and the student's most similar pair of blocks (equations 3 and 4)
    is found, and the student's maps are drawn to the teacher's in that pair (Jb), its logits to the teacher's
    (J1), and its predictions to the labels (J3: softmax cross-entropy; the paper's formula lacks the minus).

    Maps are normalised image by image, and every term is a mean over the images, so that the loss does not
    depend on the batch size. Equation 3 on maps normalised so is the mean of the images' cosines. A term of weight 0
    is not computed: without J1 and Jb the teacher is not run, without Jb no maps are kept. Networks without groups
    have no Jb.

    Use it in a ``with`` block: on entry it puts hooks on the blocks and the teacher into evaluation mode, on
    exit it removes the hooks.

    Attributes:
        pairs: (teacher's block, student's block) that the last batch mapped, for each group.

    Args:
        teacher: Trained; its classes are the student's first ones (the student may have more).
        student: The network that ``fit`` trains; as many groups, at most the teacher's widths.
        weights: (l1, l2, l3).
        labelled: False leaves J3 out: classes without labels (§4.2).
        pattern: Of both networks' blocks, see ``find_groups``.

    Raises:
        InputError: If the weights are not three numbers of 0 or more, or the networks do not correspond.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        weights: Sequence[float] = (1.0, 1.0, 1.0),
        *,
        labelled: bool = True,
        pattern: str | None = None,
    ) -> None:
        super().__init__()
        if len(weights) != 3 or min(weights) < 0:
            raise InputError(f"transfer weights are {tuple(weights)}: give three numbers of 0 or more")
        self._networks = (teacher, student)  # a tuple: this module has no parameters of its own to train
        self._groups = (find_groups(teacher, pattern), find_groups(student, pattern))
        check_correspondence(teacher, student, *self._groups)
        self.weights, self.labelled = tuple(weights), labelled
        self.pairs: list[tuple[int, int]] = []

    def _watch(self) -> Sequence[RemovableHandle]:
        self._networks[0].eval()
        if not self.weights[1]:
            return ()
        return [
            network.get_submodule(name).register_forward_hook(self._keep)
            for network, groups in zip(self._networks, self._groups, strict=True)
            for group in groups
            for name in group.outputs
        ]

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch.

        Args:
            model: The student, or what wraps it as its ``module``.
            images: Normalised float (B, C, H, W).
            labels: int64 (B,); not looked at in the unlabelled mode.

        Returns:
            A scalar that carries the student's gradients.

        Raises:
            InputError: If the model is not the student, or this is called outside of a ``with`` block.
        """
        teacher, student = self._networks
        self._expect(student, model)
        l1, l2, l3 = self.weights
        taught = None
        if l1 or l2:
            with torch.no_grad():
                taught = teacher(images).float()
        logits: Tensor = model(images).float()
        total = logits.new_zeros(())
        if taught is not None and l1:
            total = total + l1 * logit_distance(taught, logits[:, : taught.shape[1]])
        if l2 and self._groups[0]:
            total = total + l2 * self._block_distances()
        if self.labelled and l3:
            total = total + l3 * nn.functional.cross_entropy(logits, labels)
        self._maps.clear()
        return total

    def _keep(self, block: nn.Module, inputs: tuple[Tensor, ...], maps: Tensor) -> None:
        self._maps[block] = maps

    def _block_distances(self) -> Tensor:
        teacher, student = self._networks
        sides = [
            ([self._maps[teacher.get_submodule(name)] for name in above.outputs],
             [self._maps[student.get_submodule(name)] for name in below.outputs])
            for above, below in zip(*self._groups, strict=True)
        ]  # fmt: skip
        self.pairs = best_pairs(sides)
        return torch.stack(
            [map_distance(taught[k], learnt[j]) for (k, j), (taught, learnt) in zip(self.pairs, sides, strict=True)]
        ).sum()


def logit_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """J1: the L2 distance of two rows of logits, (B, classes), averaged over the images."""
    distances: Tensor = torch.linalg.vector_norm(teacher - student, dim=1)
    return distances.mean()


def map_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Jb: the L2 distance of l2-normalised maps, (B, C, H, W) and (B, at most C, H, W), averaged over the images."""
    wide = pad_channels(student.float(), teacher.shape[1])
    distances: Tensor = torch.linalg.vector_norm(_unit(teacher.float()) - _unit(wide), dim=_IMAGE)
    return distances.mean()


@torch.no_grad()
def similarities(teachers: Sequence[Tensor], students: Sequence[Tensor]) -> Tensor:
    """Equations 3 and 4: the cosines of a group's maps, averaged over the images.

    Channels that a student's maps lack count as zeros (§4.1), which add nothing: they are not made. Half-precision maps
    are multiplied in float32 and not copied into it.

    Args:
        teachers: K maps (B, C, H, W).
        students: J maps (B, at most C, H, W).

    Returns:
        (K, J), float32.
    """
    with torch.autocast(teachers[0].device.type, enabled=False):
        above, below = ([_norm(maps) for maps in side] for side in (teachers, students))
        wide = [maps.float() for maps in students]
        cosines = [
            ((taught[:, : learnt.shape[1]] * learnt).sum(_IMAGE) / (first * second).clamp(min=_SMALLEST)).mean()
            for taught, first in zip(teachers, above, strict=True)
            for learnt, second in zip(wide, below, strict=True)
        ]
    return torch.stack(cosines).view(len(teachers), len(students))


def best_pairs(groups: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]]) -> list[tuple[int, int]]:
    """(k*, j*) of each group: the places of the teacher's and the student's most similar maps; the first of equals.

    A group of one block each needs no comparison; all others wait for the device once, together.
    """
    several = [len(teachers) * len(students) > 1 for teachers, students in groups]
    compared = [similarities(*group).argmax() for group, compare in zip(groups, several, strict=True) if compare]
    best = iter(torch.stack(compared).tolist() if compared else [])
    return [
        divmod(next(best), len(students)) if compare else (0, 0)
        for (_, students), compare in zip(groups, several, strict=True)
    ]


def pad_channels(maps: Tensor, channels: int) -> Tensor:
    """Adds channels of zeros behind those of (B, C, H, W), up to ``channels`` (Zhao et al. §4.1)."""
    if maps.shape[1] == channels:
        return maps  # torch's own padding would copy them
    return nn.functional.pad(maps, (0, 0, 0, 0, 0, channels - maps.shape[1]))


def _norm(maps: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(maps, dim=_IMAGE, dtype=torch.float32)
    return norms


def _unit(maps: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(maps, dim=_IMAGE, keepdim=True)
    return maps / norms.clamp(min=_SMALLEST)  # no flattening, which would copy maps that are channels last


def check_correspondence(
    teacher: nn.Module, student: nn.Module, above: Sequence[Group], below: Sequence[Group]
) -> None:
    """Whether the student can learn from the teacher, block by block.

    Raises:
        InputError: other groups, greater widths, other image channels, or fewer classes.
    """
    same_groups = len(above) == len(below)
    if same_groups:
        pairs = [(facts_of(teacher, a), facts_of(student, b)) for a, b in zip(above, below, strict=True)]
        same_groups = all(t[1] == s[1] and t[0] >= s[0] for t, s in pairs)
    if not same_groups or _ends(teacher)[0] != _ends(student)[0]:
        raise InputError(
            "the student does not correspond to the teacher: give one that shallow() and thin() made from it "
            "(as many groups, the same strides and image channels, no greater width)"
        )
    if _ends(teacher)[1] > _ends(student)[1]:
        raise InputError(
            f"the teacher knows {_ends(teacher)[1]} classes, the student only {_ends(student)[1]}: widen its head"
        )


def _ends(model: nn.Module) -> tuple[int, int]:
    """Channels of the images, and number of logits."""
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    heads = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return (convolutions[0].in_channels if convolutions else 0), (heads[-1].out_features if heads else 0)
