from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from pocketstep.data import Dataset
from pocketstep.distill import (
    KnowledgeTransfer,
    best_pairs,
    logit_distance,
    map_distance,
    similarities,
)
from pocketstep.networks import ResidualNet
from pocketstep.prune import thin
from pocketstep.shallow import shallow
from pocketstep.training import fit
from pocketstep_device.errors import InputError


@pytest.fixture
def images():
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def teacher(images):
    net = ResidualNet(3, widths=(4, 8), blocks=3, seed=1)
    net(images)
    return net.eval()


@pytest.fixture
def student(teacher, images):
    thinned, _ = thin(shallow(teacher), images, 0.5, min_width=2)
    assert thinned.group2[0].conv2.out_channels < 8
    return thinned


def block_outputs(model, images):
    maps = model.stem(images)
    return [[maps := block(maps) for block in group] for group in model.blocks]


def test_j1_by_hand():
    teacher, student = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert logit_distance(teacher, student).item() == pytest.approx((5 + 0) / 2)


def test_jb_by_hand():
    teacher = torch.tensor([3.0, 0.0, 0.0, 4.0]).view(1, 1, 2, 2)
    student = torch.tensor([0.0, 2.0, 0.0, 0.0]).view(1, 1, 2, 2)
    assert map_distance(teacher, student).item() == pytest.approx(math.sqrt(0.36 + 0.64 + 1))
    assert map_distance(teacher, 7 * teacher).item() == pytest.approx(0, abs=1e-6)


def test_gradients_stay_finite_where_the_distance_is_zero():
    maps = torch.rand(2, 3, 4, 4).requires_grad_()
    (map_distance(maps.detach(), maps) + logit_distance(maps.detach().flatten(1), maps.flatten(1))).backward()
    assert maps.grad.isfinite().all()


def test_cosine_and_pairs_against_a_naive_loop():
    generator = torch.Generator().manual_seed(3)
    teachers = [torch.rand(5, 6, 3, 3, generator=generator) for _ in range(3)]
    students = [torch.rand(5, 4, 3, 3, generator=generator) for _ in range(2)]
    students[1] = teachers[2][:, :4] * 0.5
    found, best, expected = similarities(teachers, students), -1.0, None
    for k, taught in enumerate(teachers):
        for j, learnt in enumerate(students):
            wide = np.zeros((5, 6, 3, 3))
            wide[:, :4] = learnt
            cosines = [
                (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
                for a, b in zip(taught.numpy().astype(float), wide, strict=True)
            ]
            assert found[k, j].item() == pytest.approx(np.mean(cosines), rel=1e-5)
            if np.mean(cosines) > best:
                best, expected = np.mean(cosines), (k, j)
    assert expected == (2, 1)
    alone = (teachers[:1], students[:1])
    assert best_pairs([(teachers, students), alone, (teachers[2:], students)]) == [expected, (0, 0), (0, 1)]


def test_half_precision_maps_are_compared_as_float32():
    generator = torch.Generator().manual_seed(4)
    teachers = [torch.randn(4, 6, 5, 5, generator=generator).bfloat16() for _ in range(2)]
    students = [torch.randn(4, 3, 5, 5, generator=generator).bfloat16()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = similarities(teachers, students)
    assert found.dtype == torch.float32
    exact = similarities([m.float() for m in teachers], [m.float() for m in students])
    assert torch.allclose(found, exact, rtol=1e-6, atol=1e-7)


def test_the_loss_is_the_weighted_sum_of_its_terms(teacher, student, images, labels):
    with torch.no_grad():
        above, below = block_outputs(teacher, images), block_outputs(student, images)
        jb, pairs = 0.0, []
        for taught, (learnt,) in zip(above, below, strict=True):
            pairs.append((int(similarities(taught, [learnt]).argmax()), 0))
            jb += map_distance(taught[pairs[-1][0]], learnt).item()
        j1 = logit_distance(teacher(images), student(images)).item()
        j3 = nn.functional.cross_entropy(student(images), labels).item()
    for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 2, 3)):
        with KnowledgeTransfer(teacher, student, weights) as transfer:
            value = transfer(student, images, labels).item()
        assert value == pytest.approx(np.dot(weights, (j1, jb, j3)), rel=1e-4)
        assert transfer.pairs == (pairs if weights[1] else [])  # without Jb no blocks are compared


def test_without_labels_they_do_not_matter(teacher, student, images, labels):
    with KnowledgeTransfer(teacher, student, labelled=False) as transfer:
        assert transfer(student, images, labels).item() == transfer(student, images, labels.flip(0)).item()
        unlabelled = transfer(student, images, labels).item()
    with KnowledgeTransfer(teacher, student, (1, 1, 0)) as transfer:
        assert transfer(student, images, labels).item() == pytest.approx(unlabelled)


def test_the_loss_does_not_depend_on_the_batch_size(teacher, student, images, labels):
    with KnowledgeTransfer(teacher, student) as transfer:
        once = transfer(student, images, labels).item()
        twice = transfer(student, images.repeat(2, 1, 1, 1), labels.repeat(2)).item()
    assert twice == pytest.approx(once, rel=1e-5)


def test_only_the_student_gets_gradients(teacher, student, images, labels):
    with KnowledgeTransfer(teacher.train(), student, (1, 1, 0)) as transfer:
        transfer(student, images, labels).backward()
        assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert student.stem[0].weight.grad.abs().sum() > 0


def test_hooks_go_when_the_block_ends(teacher, student, images, labels):
    transfer = KnowledgeTransfer(teacher, student)
    with pytest.raises(InputError, match="with transfer"):
        transfer(student, images, labels)
    with transfer, pytest.raises(InputError, match="its student"):
        transfer(teacher, images, labels)
    assert not any(m._forward_hooks for net in (teacher, student) for m in net.modules())


def test_a_student_may_know_more_classes(teacher, student, images, labels):
    wide = ResidualNet(5, widths=(4, 8), blocks=1)
    with KnowledgeTransfer(teacher, wide, (1, 0, 0)) as transfer:
        value = transfer(wide, images, labels)
    assert value.item() == pytest.approx(logit_distance(teacher(images), wide(images)[:, :3]).item(), rel=1e-4)


def test_fit_with_transfer_brings_the_student_nearer(teacher, student):
    rng = np.random.default_rng(0)
    dataset = Dataset(rng.integers(0, 256, (48, 8, 8, 1), dtype=np.uint8), np.arange(48) % 3, ("a", "b", "c"))
    with KnowledgeTransfer(teacher, student, labelled=False) as transfer:
        settings = {"epochs": 8, "batch": 16, "learning_rate": 0.05, "seed": 0, "augment": False}
        history = fit(student, dataset, mean=(0.5,), std=(0.3,), loss=transfer, **settings)
    assert history.epochs[-1].loss < 0.8 * history.epochs[0].loss


@pytest.mark.parametrize("weights", [(1, 1), (1, -1, 1)])
def test_bad_weights_are_refused(teacher, student, weights):
    with pytest.raises(InputError, match="three numbers"):
        KnowledgeTransfer(teacher, student, weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (4,)}, "does not correspond"),
        ({"widths": (4, 9)}, "does not correspond"),
        ({"widths": (4, 8), "in_channels": 3}, "does not correspond"),
        ({"widths": (4, 8), "classes": 2}, "only 2"),
    ],
)
def test_networks_that_do_not_correspond_are_refused(teacher, settings, message):
    with pytest.raises(InputError, match=message):
        KnowledgeTransfer(teacher, ResidualNet(**{"classes": 3, "blocks": 1, **settings}))
