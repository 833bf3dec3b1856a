from __future__ import annotations

import numpy as np
import pytest

from pocketstep.camera import CAMERAS, Camera
from pocketstep_device.errors import InputError

GREY = np.full((2, 8, 8, 3), 102, np.uint8)


def test_the_neutral_camera_changes_nothing():
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Camera().shoot(images), images)


def test_gamma_gain_and_cast_by_hand():
    shot = Camera(gamma=2, gain=0.5, cast=(1.0, 2.0, 20.0)).shoot(GREY)
    # 102 / 255 = 0.4; squared 0.16; halved 0.08
    assert shot[0, 0, 0].tolist() == [round(0.08 * 255), round(0.16 * 255), 255]


def test_one_channel_gets_the_mean_cast():
    shot = Camera(cast=(0.5, 1.0, 0.9)).shoot(GREY[..., :1])
    assert np.unique(shot).tolist() == [round(0.4 * 0.8 * 255)]


def test_blur_is_a_symmetric_average_that_keeps_light():
    point = np.zeros((1, 11, 11, 1), np.uint8)
    point[0, 5, 5] = 255
    shot = Camera(blur=0.9).shoot(point)[0, :, :, 0].astype(int)
    np.testing.assert_array_equal(shot, shot.T)
    np.testing.assert_array_equal(shot, shot[::-1])
    assert shot[5, 5] == shot.max() < 80
    assert abs(shot.sum() - 255) <= 5
    np.testing.assert_array_equal(Camera(blur=2.0).shoot(GREY), GREY)


def test_noise_has_its_deviation_and_follows_the_seed():
    images = np.full((4, 32, 32, 1), 128, np.uint8)
    camera = Camera(noise=0.04)
    shot = camera.shoot(images, seed=3)
    assert shot.std() / 255 == pytest.approx(0.04, rel=0.05)
    np.testing.assert_array_equal(shot, camera.shoot(images, seed=3))
    assert not np.array_equal(shot, camera.shoot(images, seed=4))


def test_dim_is_darker():
    shot = CAMERAS["dim"].shoot(GREY)
    assert shot.dtype == np.uint8
    assert shot.shape == GREY.shape
    assert shot.mean() < 0.6 * GREY.mean()


@pytest.mark.parametrize("settings", [{"gamma": 0}, {"gain": -1}, {"cast": ()}, {"blur": -1}, {"noise": float("nan")}])
def test_impossible_cameras_are_refused(settings):
    with pytest.raises(InputError):
        Camera(**settings)


@pytest.mark.parametrize("images", [GREY[0], GREY.astype(np.float32), GREY[..., :2]])
def test_other_images_are_refused(images):
    with pytest.raises(InputError, match="this camera takes"):
        Camera().shoot(images)
