from __future__ import annotations

import pytest
import torch
from torch import nn

from pocketstep.features import PULL, FeatureTransfer, linear_head
from pocketstep.networks import ResidualNet
from pocketstep_device.errors import InputError

LABELS = torch.tensor([0, 1, 2, 3, 1, 2])


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teacher() -> ResidualNet:
    return ResidualNet(7, widths=(4, 16), blocks=2, seed=1).eval()


def features(net: ResidualNet, images: torch.Tensor) -> torch.Tensor:
    return net.group2(net.group1(net.stem(images))).mean((2, 3))


def test_by_hand_from_a_wider_teacher_of_other_classes(teacher: ResidualNet, images: torch.Tensor) -> None:
    student = ResidualNet(4, widths=(4, 8), blocks=1).eval()
    with FeatureTransfer(teacher, student) as transfer:
        assert [tuple(p.shape) for p in transfer.parameters()] == [(16, 8), (16,)]
        value = transfer(student, images, LABELS)
        value.backward()
        taught, learnt = features(teacher, images), transfer.mapping(features(student, images))
        angle = 1 - (taught * learnt).sum(1) / (taught.norm(dim=1) * learnt.norm(dim=1))
    labels = nn.functional.cross_entropy(student(images), LABELS)
    assert value.item() == pytest.approx((labels + PULL * angle.mean()).item(), rel=1e-4)
    assert transfer.mapping.weight.grad is not None
    assert student.stem.conv.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(m._forward_pre_hooks for net in (teacher, student) for m in net.modules())


def test_a_student_that_is_the_teacher_is_at_no_distance(teacher: ResidualNet, images: torch.Tensor) -> None:
    student = ResidualNet(7, widths=(4, 16), blocks=2, seed=1).eval()
    with FeatureTransfer(teacher, student, lambda model, x, y: model(x).sum() * 0) as transfer:
        with torch.no_grad():
            transfer.mapping.weight.copy_(torch.eye(16))
            transfer.mapping.bias.zero_()
        assert abs(transfer(student, images, LABELS).item()) < 1e-4


def test_wrong_use_is_told(teacher: ResidualNet, images: torch.Tensor) -> None:
    student = ResidualNet(7, widths=(4, 8), blocks=1)
    transfer = FeatureTransfer(teacher, student)
    with pytest.raises(InputError, match="inside of `with transfer:`"):
        transfer(student, images, LABELS)
    with transfer, pytest.raises(InputError, match="watches its student only"):
        transfer(ResidualNet(7, widths=(4, 8), blocks=1), images, LABELS)
    with pytest.raises(InputError, match="has no linear layer"):
        linear_head(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()))
