from __future__ import annotations

import numpy as np
import pytest
import torch

from pocketstep.augment import Augmentation, blended, normalised
from pocketstep.rates import cosine, one_cycle, schedule_named
from pocketstep_device.errors import InputError


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(1, 256, (32, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_crops_and_flips_against_numpy(images):
    varied = Augmentation(shift=2, mirror=True)
    draws = varied.draw(32, (8, 8), torch.Generator().manual_seed(1))
    moved = varied.move(images, draws).numpy()
    assert len(np.unique(draws.corners.numpy(), axis=0)) > 10
    for before, after, (top, left), flip in zip(
        images.numpy(), moved, draws.corners.tolist(), draws.flips.tolist(), strict=True
    ):
        crop = np.pad(before, ((0, 0), (2, 2), (2, 2)))[:, top : top + 8, left : left + 8]
        np.testing.assert_array_equal(after, crop[:, :, ::-1] if flip else crop)


def test_cutout_masks_a_square_that_may_leave_the_image(images):
    varied = Augmentation(cutout=4)
    draws = varied.draw(32, (8, 8), torch.Generator().manual_seed(1))
    masked = varied.mask(images.float(), draws)
    sizes = set()
    for image, (y, x) in zip(masked, draws.holes.tolist(), strict=True):
        hole = (image == 0).all(0).nonzero()
        assert hole.min(0).values.tolist() == [max(y - 2, 0), max(x - 2, 0)]
        assert hole.max(0).values.tolist() == [min(y + 1, 7), min(x + 1, 7)]
        sizes.add(len(hole))
        assert (image != 0).sum() == 3 * (64 - len(hole))
    assert 16 in sizes
    assert min(sizes) < 16


def test_mixtures_against_numpy(images):
    """Half of the images are blends with the one before, half have a rectangle of it."""
    values = images.float()
    draws = Augmentation(mix=True).draw(32, (8, 8), torch.Generator().manual_seed(1))
    kinds = set()
    for index, mixed in enumerate(blended(values, draws).numpy()):
        own, other = values[index].numpy(), values[index - 1].numpy()
        share, (top, left, bottom, right) = float(draws.shares[index]), draws.patches[index].tolist()
        expected = share * own + (1 - share) * other
        if bottom > top:
            expected = own.copy()
            expected[:, top:bottom, left:right] = other[:, top:bottom, left:right]
            assert 2 <= bottom - top <= 6
            assert 2 <= right - left <= 6
        kinds.add(bottom > top)
        np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-3)
    assert kinds == {True, False}
    assert blended(values, Augmentation().draw(32, (8, 8), torch.Generator())) is values


def test_parts_of_a_batch_are_varied_like_the_whole(images):
    varied = Augmentation(2, True, 4)
    draws = varied.draw(32, (8, 8), torch.Generator().manual_seed(1))
    whole = varied.mask(varied.move(images, draws).float(), draws)
    rows = slice(8, 16)
    part = varied.mask(varied.move(images[rows], draws.take(rows)).float(), draws.take(rows))
    assert torch.equal(part, whole[rows])


def test_per_image_normalisation(images):
    images[0] = 7  # a constant image is no division by zero
    ready = normalised(images, (), (), per_image=True)
    values = images.double() / 255
    torch.testing.assert_close(ready[1:].mean((1, 2, 3)), torch.zeros(31), atol=1e-5, rtol=0)
    torch.testing.assert_close(ready[1:].std((1, 2, 3), correction=0), torch.ones(31), atol=1e-4, rtol=0)
    assert ready[0].abs().max() < 1e-4
    expected = (values[5] - values[5].mean()) / values[5].std(correction=0)
    torch.testing.assert_close(ready[5], expected.float(), atol=1e-5, rtol=1e-5)


def test_bad_numbers_are_refused(images):
    with pytest.raises(InputError, match="0 or more"):
        Augmentation(cutout=-1)
    with pytest.raises(InputError, match="one of each per channel"):
        normalised(images, (0.5,), (0.5,))


def test_schedules():
    assert cosine(0, 100) == pytest.approx(0.2)  # a warm-up of 5 steps
    assert cosine(50, 100) == pytest.approx(0.5)
    rates = [one_cycle(step, 100) for step in range(100)]
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.0, total_steps=100, final_div_factor=400)
    for rate in rates:
        assert rate == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-6)
        optimiser.step()
        if theirs.last_epoch < 99:
            theirs.step()
    assert all(0 < one_cycle(step, steps) <= 1 for steps in (1, 2, 3) for step in range(steps))
    with pytest.raises(InputError, match="no schedule 'step'"):
        schedule_named("step")
