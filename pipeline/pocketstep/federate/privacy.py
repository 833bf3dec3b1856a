"""Central differential privacy for parts: what a device changes is bounded, and noise hides whether it took part.

Flower's own wrappers (``DifferentialPrivacyServerSideFixedClipping`` and the mods for clients) want the same arrays
from every device, and end the run at an answer with others; devices of a fleet send the parts of their own classes. So
the same Gaussian mechanism is applied part by part, with Flower's functions for the noise and its size.

A device's whole change is clipped to a norm S that does not depend on the data; every part is the plain mean of its k
holders' changes plus noise of standard deviation z S / k (McMahan et al. 2018, Learning Differentially Private
Recurrent Language Models). In units of S / k, part by part, a device moves the result by at most 1 and the noise is z:
one release of the Gaussian mechanism with multiplier z for a device, a round.

What this does not do: the server is trusted, it sees what devices send; which classes a device has, how many devices
have a class, and how many images, are not hidden; epsilon is not counted (an accountant wants z, the rounds and how
devices are chosen, all of them in ``fleet.json``); the noise is of floating point numbers from numpy's generator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.supercore.differential_privacy import add_gaussian_noise_inplace, compute_stdv

from pocketstep.federate.aggregate import Array, Defence
from pocketstep_device.errors import InputError


@dataclass(frozen=True)
class Privacy:
    """A Gaussian mechanism.

    Attributes:
        noise: its multiplier z; 1 and more is what strong privacy wants.
        norm: S, the largest norm of what a device changes in a round.

    Raises:
        InputError: one of them is not a positive number.
    """

    noise: float
    norm: float = 1.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value > 0 for value in (self.noise, self.norm)):
            raise InputError(
                f"noise of {self.noise} for changes up to {self.norm} is no private average: give positive numbers"
            )

    @property
    def defence(self) -> Defence:
        """How answers are bounded: by S alone, and each holder counts alike.

        A limit that follows the median of what was sent, a trimmed mean, or weights by samples would let a device move
        the result further than the noise is made for.
        """
        return Defence(clip=0.0, max_norm=self.norm, trim=0.0, equal=True)


def hidden(parts: Mapping[str, Array], holders: Mapping[str, int], privacy: Privacy) -> dict[str, Array]:
    """A round's parts with noise on those that devices changed.

    Args:
        parts: float32, after the average.
        holders: how many devices each changed part was averaged over; parts that nobody changed say nothing of anyone.
        privacy: the mechanism.
    """
    result = dict(parts)
    for name, count in holders.items():
        if count:
            result[name] = parts[name].copy()
            add_gaussian_noise_inplace([result[name]], compute_stdv(privacy.noise, privacy.norm, count))
    return result
