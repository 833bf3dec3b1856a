"""Records the golden trace: what PyTorch's autograd gives for every signature and for consecutive steps."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pocketstep.compile.options import DEFAULT, WEIGHTS, StepOptions
from pocketstep.compile.oracle import Oracle
from pocketstep.compile.signatures import LearningModel, Signature
from pocketstep_device.golden import sample
from pocketstep_device.samples import Samples
from pocketstep_device.tensors import write_tensors

STEPS = 12
POOL = 4  # candidates for each row of a batch
LOSS_WEIGHT = 0.5
LARGEST_PROJECTION = 128  # 64 KiB in the trace
SHRINKAGE = 0.8  # much, so that the matrix is well conditioned whatever the features: arithmetic is on trial, not it
EPSILON = 0.01  # Adam's: with its 1e-8 a gradient that is a rounding error moves its weight as far as any other
CLIP_NORMS = (0.05, 1e3)  # binding and not, in turns


class Recorder:
    """Runs the oracle call by call; a call's inputs and outputs stay for the next ones, as in the device's replay."""

    def __init__(
        self, model: LearningModel, signatures: dict[str, Signature], state: dict[str, Tensor], options: StepOptions
    ):
        self.oracle, self.signatures = Oracle(model, options), signatures
        self.values: dict[str, Tensor] = {}
        self.tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
        self.calls: list[str] = []
        self.state, self.fresh = state, dict(state)

    def call(self, name: str, **given: Tensor) -> None:
        """One call: given and still unused values are stored as inputs, the oracle's as expected outputs.

        What the bundle's state holds is not stored again; of large outputs only a sample is.
        """
        self.fresh.update(given)
        signature, index = self.signatures[name], len(self.calls)
        self.calls.append(name)
        for spec in signature.inputs:
            if spec.name in self.fresh:
                value = self.fresh.pop(spec.name)
                self.values[spec.name] = value.float()
                if value is not self.state.get(spec.name):
                    self.tensors[f"{index}.in.{spec.name}"] = _compact(value).numpy()
        outputs = self.oracle.signatures[name](self.values)
        for spec in signature.outputs:
            value = outputs[spec.name].detach().contiguous()
            self.values[spec.name] = value
            self.fresh.pop(spec.name, None)  # the state's own value has been replaced before anyone used it
            self.tensors[f"{index}.out.{spec.name}"] = sample(value.numpy())

    def to_bytes(self) -> bytes:
        """``golden.safetensors``."""
        return write_tensors(self.tensors, {"calls": json.dumps(self.calls)})


def _compact(value: Tensor) -> Tensor:
    """As bytes where all values are whole numbers of 0 to 255: pixels, masks, one-hot labels."""
    small = value.to(torch.uint8)
    return small if value.dtype == torch.float32 and torch.equal(small.float(), value) else value


def record(
    model: LearningModel,
    signatures: dict[str, Signature],
    state: dict[str, Tensor],
    images: Tensor,
    samples: Samples,
    hyper: dict[str, float],
    options: StepOptions = DEFAULT,
) -> bytes:
    """A trace over every signature, with ``STEPS`` consecutive steps on changing batches, rates and masks.

    Args:
        model: what was compiled.
        signatures: by name.
        state: the bundle's initial state.
        images: (batch, H, W, C) in 0..255, for ``encode``.
        samples: replay samples of the cloud, for the rest.
        hyper: default hyper-parameters.
        options: of ``step`` and ``score``; losses that weigh nothing by default get a weight.
    """
    generator = torch.Generator().manual_seed(0)
    recorder = Recorder(model, signatures, state, options)
    rates = {**hyper, **({"epsilon": EPSILON} if "epsilon" in hyper else {})}
    recorder.fresh.update({name: torch.tensor([value]) for name, value in rates.items()})
    if "plain" in signatures:
        recorder.call("plain", images=images)
    recorder.call("encode", images=images)
    recorder.call("classify")
    labelled = _batch(recorder, "statistics", samples, generator)
    recorder.call("statistics", labels=labelled["labels"], label_weights=labelled["label_weights"])
    recorder.call("solve", shrinkage=torch.tensor([SHRINKAGE]), ridge=torch.ones(1))
    recorder.call("solve", ridge=torch.zeros(1), own=torch.ones(1))
    recorder.call("classify", blend=torch.ones(1))
    zeros = {spec.name: torch.zeros(spec.shape) for spec in signatures["score"].inputs if spec.source == "statistics"}
    recorder.fresh.update(zeros)
    recorder.call("score", **_batch(recorder, "score", samples, generator))
    if "project" in signatures:
        _project(recorder, generator)
    given = {s.name: s.shape for s in signatures["step"].inputs}
    masks = {name: shape for name, shape in given.items() if name.startswith("mask.")}
    recorder.fresh.update(_controls(state["class_mask"], hyper))
    for step in range(STEPS):
        if step % 4 == 0:
            keep = 1.0 if step == 0 else 0.5
            recorder.fresh.update({n: (torch.rand(s, generator=generator) <= keep).float() for n, s in masks.items()})
        if step == STEPS // 2:
            recorder.fresh.update(_projections(given, generator))
        rate = hyper["learning_rate"] * (1 - step / STEPS)
        if options.clip:
            recorder.fresh["clip_norm"] = torch.tensor([CLIP_NORMS[step % 2]])
        batch = _batch(recorder, "step", samples, generator)
        recorder.call("step", learning_rate=torch.tensor([rate]), **batch)
    recorder.call("classify", blend=torch.zeros(1))
    return recorder.to_bytes()


def _controls(known: Tensor, hyper: Mapping[str, float]) -> dict[str, Tensor]:
    """Inputs of ``step`` that stay: classes that are protected, and a weight for losses that have none by default."""
    masks = dict.fromkeys(("soft_mask", "logit_mask", "prototype_weights"), known)
    return {**masks, **{name: torch.tensor([LOSS_WEIGHT]) for name in WEIGHTS.values() if hyper.get(name) == 0}}


def _project(recorder: Recorder, generator: torch.Generator) -> None:
    """Soft projections of what ``score`` added up; and hard ones, of made-up covariances with a gap at the threshold.

    Eigenvalues near a threshold are on either side by a rounding error; and a large matrix is not worth its bytes.
    """
    recorder.call("project", hard=torch.zeros(1), tau=torch.ones(1))
    sizes = {s.name: s.shape for s in recorder.signatures["project"].inputs if s.name.startswith("covariance.")}
    if max(shape[0] for shape in sizes.values()) <= LARGEST_PROJECTION:
        seen = {name: torch.randn(shape[0] // 2, shape[0], generator=generator) for name, shape in sizes.items()}
        recorder.call("project", hard=torch.ones(1), **{name: x.T @ x for name, x in seen.items()})


def _projections(given: Mapping[str, tuple[int, ...]], generator: torch.Generator) -> dict[str, Tensor]:
    """For each projection one that spares a random direction: I - u u' / (u' u); large ones stay as they are."""
    result: dict[str, Tensor] = {}
    for name, shape in given.items():
        if name.startswith("projection.") and shape[0] <= LARGEST_PROJECTION:
            u = torch.randn(shape[0], 1, generator=generator)
            result[name] = torch.eye(shape[0]) - u @ u.T / (u * u).sum()
    return result


def _batch(recorder: Recorder, name: str, samples: Samples, generator: torch.Generator) -> dict[str, Tensor]:
    """Samples with random labels, the last two rows padding, so that padding is part of the trace.

    Of a random pool those are taken that keep farthest from the kinks of ReLUs, where a rounding error would make a
    finite difference of gradients; random labels keep every gradient far from zero.
    """
    batch, slots = recorder.signatures[name].batch, recorder.oracle.model.plan.slots
    pool = torch.randperm(len(samples), generator=generator)[: POOL * batch]
    latents = torch.from_numpy(samples.latents[pool.numpy()]).float()
    margins = recorder.oracle.margins({**recorder.fresh, **recorder.values, "latents": latents})
    order = margins.argsort(descending=True)
    chosen = pool[order[torch.arange(batch) % len(pool)]].numpy()
    weights = torch.ones(batch)
    weights[-2:] = 0
    known = int(samples.labels.max()) + 1
    drawn = torch.randint(known, (batch,), generator=generator)
    labels = torch.nn.functional.one_hot(drawn, slots).float()
    disturbance = torch.randn(batch, slots, generator=generator)  # a network that teaches itself has no loss to compare
    others = {s.name: s.shape for s in recorder.signatures[name].inputs if s.name == "feature_targets"}
    return {
        "latents": torch.from_numpy(samples.latents[chosen]),
        "labels": labels * weights[:, None],
        "label_weights": weights,
        "soft_targets": torch.from_numpy(samples.soft_targets[chosen]) + disturbance,
        "soft_weights": weights.clone(),
        **{key: torch.rand(shape, generator=generator) for key, shape in others.items()},
        "feature_weights": weights.clone(),
    }
