"""A small network of the digits 0 to 8, trained for three epochs: what bundles of these tests are made of."""

from __future__ import annotations

from typing import Any

SHAPE = (16, 16, 1)


def trained(digits: Any) -> tuple[Any, Any, tuple[tuple[float, ...], tuple[float, ...]]]:
    """The network, its training images, and their mean and deviation."""
    from pocketstep.data import normalisation
    from pocketstep.networks import ResidualNet
    from pocketstep.training import fit

    train = digits[0].select(range(9))
    mean, std = normalisation(train)
    net = ResidualNet(9, 1, (8, 16), 1)
    fit(net, train, epochs=3, batch=64, learning_rate=0.1, seed=0, mean=mean, std=std, augment=False)
    return net, train, (mean, std)
