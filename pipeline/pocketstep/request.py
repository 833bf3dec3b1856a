"""What a bundle is asked to be: everything but the network's weights and the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pocketstep.compile.class_covariances import MOST_DIRECTIONS
from pocketstep.compile.options import StepOptions
from pocketstep.compile.strips import STRIPS
from pocketstep.plan import InputGradient, Preset, Role
from pocketstep_device.errors import InputError

LEAST_EXPANSION, MOST_EXPANSION = 16, 8192
"""Random features: as many make a second moment of up to 150 MB."""


def check_directions(directions: int | None, expansion: int) -> None:
    """That so many directions can be had, beside so many random features.

    Raises:
        InputError: they cannot.
    """
    if directions is not None and directions not in range(0, MOST_DIRECTIONS + 1, STRIPS):
        raise InputError(
            f"covariances of classes' own in {directions} directions are not offered; choose a multiple of {STRIPS} "
            f"up to {MOST_DIRECTIONS}, or 0 for none"
        )
    if expansion and directions:
        raise InputError("random features (expansion) and directions are not offered together; choose one of them")


@dataclass(frozen=True)
class Request:
    """A bundle's task, plan and programs.

    Attributes:
        name: of the bundle.
        classes: names of the network's outputs, in order.
        input_shape: (H, W, C).
        mean, std: per channel, in units of 0..1.
        preset, cut, roles, input_gradient, gradient_filter: see ``make_plan``.
        spare_classes: class slots for what devices learn.
        pooled_cells: the closed-form head also sees the latent pooled over cells x cells; None chooses.
        expansion: the closed-form head sees so many random features of what it would see (ACIL); 0: none.
        directions: along so many, in eights, the closed form gives each class a covariance of its own; 0: along none;
            None chooses.
        mirrored: an image and its mirror image are encoded, and their logits and features averaged.
        batch: of every program.
        step: what the ``step`` program can do.
        replay_per_class: images of each class whose latents go along.
        seed: of their choice.
        allowance: second constants of the programs as a share of the parameters (``compact_convolutions``).
        prefix_bits: 32, or 8 for a frozen prefix with int8 weights.
        plain: whether the network goes along as it is, as signature ``plain``, for ``bench step`` to compare with.

    Raises:
        InputError: a number or a list makes no sense.
    """

    name: str
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preset: Preset = "centre"
    cut: str | None = None
    roles: Sequence[tuple[str, Role]] = ()
    input_gradient: InputGradient = "exact"
    gradient_filter: bool = False
    spare_classes: int = 8
    pooled_cells: int | None = None
    expansion: int = 0
    directions: int | None = None
    mirrored: bool = False
    batch: int = 32
    step: StepOptions = field(default_factory=StepOptions)
    replay_per_class: int = 20
    seed: int = 0
    allowance: float = 0.2
    prefix_bits: int = 32
    plain: bool = False

    def __post_init__(self) -> None:
        channels = self.input_shape[2]
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise InputError(
                f"images have {channels} channels, but the normalisation has {len(self.mean)} means and "
                f"{len(self.std)} deviations; give one mean and one positive deviation a channel"
            )
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise InputError("class names must be two or more, all different")
        sizes = {"batch": self.batch, "spare_classes": self.spare_classes, "image side": min(self.input_shape)}
        for what, value in sizes.items():
            if value < 1:
                raise InputError(f"{what} is {value}; it must be 1 or more")
        if self.expansion and not LEAST_EXPANSION <= self.expansion <= MOST_EXPANSION:
            raise InputError(
                f"an expansion to {self.expansion} random features is not offered; choose 0 for none, or "
                f"{LEAST_EXPANSION} to {MOST_EXPANSION}"
            )
        check_directions(self.directions, self.expansion)
        if self.mirrored and self.step.projection != "none":
            raise InputError("mirrored images and a projected step are not offered together; choose one of them")
        if self.prefix_bits not in (8, 32):
            raise InputError(f"a prefix of {self.prefix_bits} bits is not offered; choose 32 or 8")

    @property
    def slots(self) -> int:
        """Class slots, known and spare."""
        return len(self.classes) + self.spare_classes
