from __future__ import annotations

import numpy as np

from pocketstep_device import masks

NAMES = ["conv.centre", "head.weight"]
SCORES = {
    "importance.conv.centre": np.array([[1.0, 2], [3, 4], [9, 9]], np.float32),
    "importance.head.weight": np.array([[0.0, 0, 0], [20, 30, 40]], np.float32),
    "gradient.conv.centre": np.array([[1.0, -1], [-5, 0], [0, 0.5]], np.float32),
    "gradient.head.weight": np.ones((2, 3), np.float32),
}


def test_everything_may_move() -> None:
    found = masks.everything(NAMES, {"conv.centre": np.zeros((3, 2)), "head.weight": np.zeros((2, 3))})
    assert all((mask == 1).all() for mask in found.values())


def test_the_most_important_share_is_frozen() -> None:
    """Of all weights together, or of each tensor."""
    found = masks.without_important(SCORES, NAMES, 0.25, by_layer=False)
    assert found["conv.centre"].sum() == 6
    np.testing.assert_array_equal(found["head.weight"], [[1, 1, 1], [0, 0, 0]])
    found = masks.without_important(SCORES, NAMES, 0.5, by_layer=True)
    np.testing.assert_array_equal(found["conv.centre"], [[1, 1], [1, 0], [0, 0]])
    np.testing.assert_array_equal(found["head.weight"], [[1, 1, 1], [0, 0, 0]])


def test_channels_that_new_images_want() -> None:
    """By the mean size of summed gradients of an input; the head always learns."""
    found = masks.selected_channels(SCORES, NAMES, 0.67)
    np.testing.assert_array_equal(found["conv.centre"], [[1, 1], [1, 1], [0, 0]])
    assert (found["head.weight"] == 1).all()
    one = masks.selected_channels(SCORES, NAMES, 0.01)["conv.centre"]
    np.testing.assert_array_equal(one, [[0, 0], [1, 1], [0, 0]])


def test_masks_together() -> None:
    a, b = {"x": np.array([1, 1, 0], np.float32)}, {"x": np.array([1, 0, 1], np.float32)}
    np.testing.assert_array_equal(masks.together([a, b])["x"], [1, 0, 0])
