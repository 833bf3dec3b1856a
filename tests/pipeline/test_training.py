from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pocketstep.data import Dataset
from pocketstep.networks import ResidualNet
from pocketstep.training import accuracy_per_class, cross_entropy, evaluate, fit, prepare
from pocketstep_device.errors import CheckFailedError, InputError

MEAN, STD = (0.5,), (0.25,)


@pytest.fixture(scope="module")
def stripes():
    """Horizontal and vertical stripes at random phases."""
    rng = np.random.default_rng(0)
    rows = ((np.arange(8) + rng.integers(0, 4, (60, 1))) // 2 % 2 * 200).astype(np.uint8)
    images = np.repeat(rows[:, :, None], 8, 2)
    images[30:] = images[30:].transpose(0, 2, 1)
    return Dataset(images[..., None], np.repeat([0, 1], 30).astype(np.int64), ("horizontal", "vertical"))


def train(dataset, seed=0, **settings):
    model = ResidualNet(2, widths=(4, 8), blocks=1)
    options = {"epochs": 3, "batch": 16, "learning_rate": 0.05, "augment": True, **settings}
    return model, fit(model, dataset, seed=seed, mean=MEAN, std=STD, **options)


def test_it_learns_and_reports_every_epoch(stripes):
    seen = []
    model, history = train(stripes, epochs=6, stage="teacher", on_progress=seen.append)
    assert seen == history.epochs
    assert [(p.stage, p.epoch, p.epochs) for p in seen] == [("teacher", e, 6) for e in range(1, 7)]
    assert seen[-1].loss < 0.3 < seen[0].loss
    assert seen[-1].accuracy >= 0.9
    assert history.seconds > 0
    assert not model.training
    assert accuracy_per_class(evaluate(model, stripes, MEAN, STD), stripes.labels, 2).min() >= 0.9


def test_the_seed_decides_everything(stripes):
    torch.manual_seed(1)
    one, _ = train(stripes, seed=4, mirror=True)
    torch.manual_seed(2)
    same, _ = train(stripes, seed=4, mirror=True)
    other, _ = train(stripes, seed=5, mirror=True)
    for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_a_step_is_nesterov_sgd_with_weight_decay():
    dataset = Dataset(np.full((2, 1, 1, 1), 255, np.uint8), np.array([0, 1]), ("a", "b"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False))
    start = model[1].weight.item()
    fit(
        model, dataset, epochs=1, batch=2, learning_rate=0.1, seed=0, mean=(0,), std=(1,), augment=False,
        loss=lambda net, images, labels: net(images).mean(),
    )  # fmt: skip
    gradient = 1 + 5e-4 * start
    assert model[1].weight.item() == pytest.approx(start - 0.1 * 1.9 * gradient, rel=1e-5)


def test_frozen_parameters_stay_and_all_frozen_is_refused(stripes):
    model = ResidualNet(2, widths=(4,), blocks=1)
    model.stem.requires_grad_(False)
    before = model.stem[0].weight.clone()
    fit(model, stripes, epochs=1, batch=16, learning_rate=0.1, seed=0, mean=MEAN, std=STD, augment=False)
    assert torch.equal(model.stem[0].weight, before)
    model.requires_grad_(False)
    with pytest.raises(InputError, match="nothing to train"):
        fit(model, stripes, epochs=1, batch=16, learning_rate=0.1, seed=0, mean=MEAN, std=STD, augment=False)


def record(dataset, **settings):
    """The batches that the loss sees in one epoch, as pixels."""
    batches = []

    def loss(net, images, labels):
        batches.append(((images * STD[0] + MEAN[0]) * 255).round())
        return cross_entropy(net, images, labels)

    train(dataset, epochs=1, loss=loss, **settings)
    return torch.cat(batches).squeeze(1)


def test_without_augmentation_each_image_is_seen_once(stripes):
    seen = record(stripes, batch=60, augment=False)
    expected = torch.from_numpy(stripes.images[..., 0]).float()
    assert torch.equal(seen.flatten(1).sort(0).values, expected.flatten(1).sort(0).values)


def test_shift_moves_by_at_most_its_pixels_and_fills_with_zeros():
    point = np.zeros((64, 8, 8, 1), np.uint8)
    point[:, 4, 4] = 200
    seen = record(Dataset(point, np.arange(64) % 2, ("a", "b")), batch=64, shift=1)
    places = seen.nonzero()
    assert len(places) == 64
    assert {tuple(p.tolist()) for p in places[:, 1:]} == {(y, x) for y in (3, 4, 5) for x in (3, 4, 5)}


def test_mirror_flips_left_and_right_only():
    point = np.zeros((64, 8, 8, 1), np.uint8)
    point[:, 1, 2] = 200
    seen = record(Dataset(point, np.arange(64) % 2, ("a", "b")), batch=64, shift=0, mirror=True)
    assert {tuple(p.tolist()) for p in seen.nonzero()[:, 1:]} == {(1, 2), (1, 5)}


def test_small_images_come_first(stripes):
    sides, rows = [], []

    def loss(net, images, labels):
        sides.append(tuple(images.shape[2:]))
        rows.append(images.mean((2, 3)))
        return cross_entropy(net, images, labels)

    settings = {"epochs": 4, "batch": 30, "augment": False, "loss": loss}
    train(stripes, small_first=True, **settings)
    assert sides == [(4, 4)] * 4 + [(6, 6)] * 2 + [(8, 8)] * 2
    small = torch.cat(rows)
    rows.clear()
    train(stripes, **settings)
    assert set(sides[8:]) == {(8, 8)}
    whole = torch.cat(rows)
    torch.testing.assert_close(small[:120], whole[:120], atol=0.15, rtol=0)  # stripes that a border cuts weigh more
    torch.testing.assert_close(small[:120].mean(), whole[:120].mean(), atol=0.01, rtol=0)


def test_a_network_that_takes_one_size_is_refused_small_images(stripes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(InputError, match=r"0\.5 of their size.*global pooling"):
        fit(
            model, stripes, epochs=1, batch=16, learning_rate=0.1, seed=0, mean=MEAN, std=STD, augment=False,
            small_first=True,
        )  # fmt: skip


def test_bfloat16_is_not_emulated(stripes, monkeypatch):
    """Where a processor has none, float32 takes its place, and the result is float32's."""
    kinds = []

    def loss(net, images, labels):
        value = cross_entropy(net, images, labels)
        kinds.append(net(images).dtype)
        return value

    for native, kind in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda native=native: native)
        train(stripes, epochs=1, precision="bfloat16", loss=loss)
        assert set(kinds) == {kind}
        kinds.clear()


def test_divergence_is_an_error_that_says_what_to_do(stripes):
    def explode(net, images, labels):
        return cross_entropy(net, images, labels) * float("nan")

    with pytest.raises(CheckFailedError, match="lower the learning rate of"):
        train(stripes, loss=explode)


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"shift": -1}])
def test_impossible_settings_are_refused(stripes, settings):
    with pytest.raises(InputError, match="cannot train"):
        train(stripes, **settings)


def test_prepare_normalises_and_moves_channels_first():
    images = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    ready = prepare(images, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    assert ready.shape == (1, 3, 2, 4)
    assert ready[0, 2, 1, 3].item() == pytest.approx((23 / 255 - 0.3) / 4, rel=1e-5)
    with pytest.raises(InputError, match="3 channels"):
        prepare(images, (0.1,), (1.0,))


def test_grey_images_are_trained_channels_first(stripes):
    """Not by strides that count as channels last, too."""
    seen = []

    def loss(model, images, labels):
        seen.append(images.stride())
        return cross_entropy(model, images, labels)

    for varied in (False, True):
        train(stripes, epochs=1, loss=loss, augment=varied, small_first=varied)
    assert set(seen) == {(side * side, side * side, side, 1) for side in (4, 6, 8)}
    assert prepare(stripes.images, MEAN, STD).stride() == (64, 64, 8, 1)


def test_evaluate_keeps_order_and_mode(stripes):
    model = ResidualNet(2, widths=(4,), blocks=1).train()
    logits = evaluate(model, stripes, MEAN, STD, batch=7)
    assert model.training
    with torch.no_grad():
        expected = model.eval()(prepare(stripes.images, MEAN, STD))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_accuracy_per_class_by_hand():
    logits = np.array([[2, 1, 0], [0, 1, 0], [5, 1, 0], [0, 3, 9]], np.float32)
    shares = accuracy_per_class(logits, np.array([0, 0, 0, 1]), 3)
    np.testing.assert_allclose(shares, [2 / 3, 0, np.nan])
    with pytest.raises(InputError):
        accuracy_per_class(logits, np.array([0, 0, 0, 3]), 3)
    with pytest.raises(InputError):
        accuracy_per_class(logits, np.array([0, 0]), 3)
