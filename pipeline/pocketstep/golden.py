"""Records the golden trace: what PyTorch's autograd gives for every signature and for consecutive steps."""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor

from pocketstep.compile.oracle import Oracle
from pocketstep.compile.signatures import LearningModel, Signature
from pocketstep_device.samples import Samples
from pocketstep_device.tensors import write_tensors

STEPS = 12
POOL = 4  # candidates for each row of a batch


class Recorder:
    """Runs the oracle call by call; a call's inputs and outputs stay for the next ones, as in the device's replay."""

    def __init__(self, model: LearningModel, signatures: dict[str, Signature], state: dict[str, Tensor]):
        self.oracle, self.signatures = Oracle(model), signatures
        self.values: dict[str, Tensor] = {}
        self.tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
        self.calls: list[str] = []
        self.fresh: dict[str, Tensor] = dict(state)

    def call(self, name: str, **given: Tensor) -> None:
        """One call: given and still unused values are stored as inputs, the oracle's as expected outputs."""
        self.fresh.update(given)
        signature, index = self.signatures[name], len(self.calls)
        self.calls.append(name)
        for spec in signature.inputs:
            if spec.name in self.fresh:
                value = self.fresh.pop(spec.name)
                self.values[spec.name] = value.float()
                self.tensors[f"{index}.in.{spec.name}"] = value.numpy()
        outputs = self.oracle.signatures[name](self.values)
        for spec in signature.outputs:
            value = outputs[spec.name].detach().contiguous()
            self.values[spec.name] = value
            self.tensors[f"{index}.out.{spec.name}"] = value.numpy()

    def to_bytes(self) -> bytes:
        """``golden.safetensors``."""
        return write_tensors(self.tensors, {"calls": json.dumps(self.calls)})


def record(
    model: LearningModel,
    signatures: dict[str, Signature],
    state: dict[str, Tensor],
    images: Tensor,
    samples: Samples,
    hyper: dict[str, float],
) -> bytes:
    """A trace over every signature, with ``STEPS`` consecutive steps on changing batches, rates and masks.

    Args:
        model: what was compiled.
        signatures: by name.
        state: the bundle's initial state.
        images: (batch, H, W, C) in 0..255, for ``encode``.
        samples: replay samples of the cloud, for the rest.
        hyper: default hyper-parameters.
    """
    generator = torch.Generator().manual_seed(0)
    recorder = Recorder(model, signatures, state)
    recorder.fresh.update({name: torch.tensor([value]) for name, value in hyper.items()})
    recorder.call("encode", images=images)
    recorder.call("classify")
    labelled = _batch(recorder, "statistics", samples, generator)
    recorder.call("statistics", labels=labelled["labels"], label_weights=labelled["label_weights"])
    recorder.call("solve")
    recorder.call("classify", blend=torch.ones(1))
    zeros = {spec.name: torch.zeros(spec.shape) for spec in signatures["score"].inputs if spec.source == "statistics"}
    recorder.fresh.update(zeros)
    recorder.call("score", **_batch(recorder, "score", samples, generator))
    masks = {s.name: s.shape for s in signatures["step"].inputs if s.name.startswith("mask.")}
    recorder.fresh["soft_mask"] = state["class_mask"]
    for step in range(STEPS):
        if step % 4 == 0:
            keep = 1.0 if step == 0 else 0.5
            recorder.fresh.update({n: (torch.rand(s, generator=generator) <= keep).float() for n, s in masks.items()})
        rate = hyper["learning_rate"] * (1 - step / STEPS)
        batch = _batch(recorder, "step", samples, generator)
        recorder.call("step", learning_rate=torch.tensor([rate]), **batch)
    recorder.call("classify", blend=torch.zeros(1))
    return recorder.to_bytes()


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
    return {
        "latents": torch.from_numpy(samples.latents[chosen]),
        "labels": labels * weights[:, None],
        "label_weights": weights,
        "soft_targets": torch.from_numpy(samples.soft_targets[chosen]),
        "soft_weights": weights.clone(),
    }
