from __future__ import annotations

import pytest
import torch
from torch import nn

from pocketstep.groups import find_groups, last_convolutions
from pocketstep.networks import ResidualNet
from pocketstep.rivals import Hints, SoftLogits
from pocketstep.shallow import shallow
from pocketstep.stages import only_last
from pocketstep_device.errors import InputError


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teacher(images) -> ResidualNet:
    net = ResidualNet(3, widths=(4, 8), blocks=2, seed=1)
    net(images)
    return net.eval()


def test_soft_logits_by_hand(teacher, images):
    student = ResidualNet(4, widths=(4, 8), blocks=1)
    labels = torch.tensor([0, 1, 2, 3, 1, 2])
    value = SoftLogits(teacher, temperature=2.0, share=0.75)(student, images, labels)
    with torch.no_grad():
        taught, logits = (teacher(images) / 2).softmax(1), student(images)
        learnt = (logits[:, :3] / 2).log_softmax(1)
    soft = (taught * (taught.log() - learnt)).sum(1).mean()
    assert value.item() == pytest.approx(
        (0.75 * 4 * soft + 0.25 * nn.functional.cross_entropy(logits, labels)).item(), rel=1e-4
    )
    with pytest.raises(InputError, match="above 0"):
        SoftLogits(teacher, temperature=0)


def test_hints_train_the_student_up_to_the_middle_and_the_regressor(teacher, images):
    student = shallow(teacher)
    with Hints(teacher, student) as hints:
        assert [tuple(p.shape) for p in hints.parameters()] == [(8, 8, 1, 1), (8,)]
        value = hints(student, images, torch.zeros(6).long())
        value.backward()
        taught = teacher.group2(teacher.group1(teacher.stem(images)))
        learnt = hints.regressor(student.group2(student.group1(student.stem(images))))
        assert value.item() == pytest.approx(0.5 * (taught - learnt).square().mean().item(), rel=1e-3)
    assert student.group1[0].conv1.weight.grad.abs().sum() > 0
    assert hints.regressor.weight.grad.abs().sum() > 0
    assert student.head.weight.grad is None
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(m._forward_hooks for net in (teacher, student) for m in net.modules())


def test_hints_need_groups():
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    assert find_groups(plain) == []
    with pytest.raises(InputError, match="needs groups"):
        Hints(plain, plain)
    with pytest.raises(InputError, match="needs groups"):
        only_last(plain)


def test_only_the_last_convolutions_and_the_head_train(teacher):
    student = shallow(teacher)
    only_last(student)
    trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert trained == {"group1.0.conv2.weight", "group2.0.conv2.weight", "head.weight", "head.bias"}
    assert last_convolutions(student, find_groups(student)) == ["group1.0.conv2", "group2.0.conv2"]
