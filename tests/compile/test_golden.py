"""A golden trace of every option, replayed on the compiled functions as a device replays it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from compiled_step import LIMIT, OPTIONS, Compiled
from small_networks import CLASSES, SLOTS
from torch import Tensor

from pocketstep import golden
from pocketstep.compile import training
from pocketstep.compile.walk import initial_state
from pocketstep_device.golden import relative_error, sample
from pocketstep_device.samples import Samples
from pocketstep_device.tensors import read_tensors


def cloud_samples(case: Compiled, count: int = 40) -> Samples:
    generator = np.random.default_rng(0)
    latents = generator.normal(-60, 40, (count, *case.model.latent_shape)).clip(-128, 127)
    soft = np.full((count, SLOTS), -30, np.float32)
    soft[:, :CLASSES] = generator.normal(0, 3, (count, CLASSES))
    labels = generator.integers(0, CLASSES, count)
    flags = np.zeros(count, np.bool_)
    return Samples(latents.astype(np.int8), labels, soft, ~flags, flags, flags.astype(np.uint8), flags)


def first_state(case: Compiled) -> dict[str, Tensor]:
    """What a bundle begins with: the closed form's statistics are made up."""
    model, values = case.model, case.values("solve")
    closed = {s.name: torch.zeros(s.shape) for s in case.signatures["solve"].outputs}
    state = {**initial_state(model.network, model.plan), **training.initial_state(model, case.options), **closed}
    mask = (torch.arange(SLOTS) < CLASSES).float()
    statistics = {name: values[name] for name in ("count", "total", "second")}
    return {**state, **statistics, "class_mask": mask, "blend": torch.zeros(1)}


@pytest.mark.parametrize("name", ["default", "adam", "everything"])
def test_the_trace_replays_on_the_compiled_functions(name: str) -> None:
    case = Compiled("centre", OPTIONS[name])
    state, ranges = first_state(case), case.options.hyper(case.oracle.groups.values())
    hyper = {"shrinkage": 0.05, **{key: default for key, (default, _, _, _) in ranges.items()}}
    images = case.values("encode")["images"]
    data = golden.record(case.model, case.signatures, state, images, cloud_samples(case), hyper, case.options)
    tensors, metadata = read_tensors(data, "the trace")
    values, losses = dict(state), []
    for index, call in enumerate(json.loads(metadata["calls"])):
        signature = case.signatures[call]
        for spec in signature.inputs:
            if (key := f"{index}.in.{spec.name}") in tensors:
                values[spec.name] = torch.from_numpy(tensors[key].astype(np.float32))
        outputs = signature.function(values)
        for key, value in outputs.items():
            error = relative_error(sample(value.detach().numpy()), tensors[f"{index}.out.{key}"])
            assert error <= LIMIT, f"{key} of call {index} ({call}): {error:.1e}"
        values.update(outputs)
        if call == "step":
            losses.append({key: float(value) for key, value in outputs.items() if value.shape == (1,)})
    assert len(losses) == golden.STEPS
    parts = [key for key in losses[0] if key.endswith("_loss")]
    assert all(step[key] > 0 for step in losses for key in parts)
    assert all(abs(step["loss"] - step["label_loss"]) > 1e-3 for step in losses)
    if case.options.clip:
        bounds = [golden.CLIP_NORMS[i % 2] > step["gradient_norm"] for i, step in enumerate(losses)]
        assert True in bounds
        assert False in bounds
