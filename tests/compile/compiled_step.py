"""A tiny network's signatures and their oracle, with inputs for any options of the step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from small_networks import CLASSES, SLOTS, learning_model, residual_net
from torch import Tensor, nn

from pocketstep.compile import class_covariances, strips, training
from pocketstep.compile import signatures as sig
from pocketstep.compile.options import DEFAULT, LOSSES, StepOptions
from pocketstep.compile.oracle import Oracle
from pocketstep.compile.signatures import LearningModel, Signature
from pocketstep.compile.walk import initial_state
from pocketstep.plan import Preset

BATCH = 6
LIMIT = 1e-4
CUTS: dict[Preset, str | None] = {"centre": "group1", "last": None, "head": None, "full": "stem"}
WEIGHTS = [1.0, 1, 0.5, 1, 0, 0]  # the last two samples are padding
EVERYTHING = StepOptions("adamw", losses=LOSSES, clip=True, projection="matrix", feature_size=9)
OPTIONS = {
    "default": DEFAULT,
    "nesterov": StepOptions(nesterov=True, losses=("labels",), clip=True),
    "adam": StepOptions("adam", losses=("labels", "logits")),
    "adamw": StepOptions("adamw", losses=("labels", "soft", "features")),
    "sgd projected": StepOptions(losses=("labels", "prototypes"), projection="matrix"),
    "everything": EVERYTHING,
}
FIXED: dict[str, list[float]] = {
    "label_weights": WEIGHTS,
    "soft_weights": [0.0, 1, 1, 0.5, 0, 0],
    "feature_weights": [1.0, 0.5, 0, 1, 0, 0],
    "class_mask": [1.0, 1, 1, 1, 0],
    "soft_mask": [1.0, 1, 1, 0, 0],
    "logit_mask": [1.0, 1, 0, 0, 0],
    "prototype_weights": [1.0, 0.5, 1, 0, 0],
    "prototype_count": [9.0, 5, 4, 0, 0],
    "count": [80.0, 50, 40, 30, 0],
    "blend": [0.3],
    "shrinkage": [0.1],
    "own": [0.9],
    "learning_rate": [0.05],
    "momentum": [0.9],
    "weight_decay": [0.01],
    "temperature": [2.0],
    "distillation": [0.7],
    "logit_transfer": [0.4],
    "feature_transfer": [0.6],
    "prototype_replay": [0.3],
    "beta1": [0.9],
    "beta2": [0.98],
    "beta1_power": [0.9**3],
    "beta2_power": [0.98**3],
    "epsilon": [1e-4],
    "clip_norm": [0.5],
    "factor.body": [3.0],
    "factor.head": [0.5],
}


class Compiled:
    """A network's model, signatures and oracle for one preset and one set of options."""

    def __init__(
        self,
        preset: Preset,
        options: StepOptions = DEFAULT,
        net: nn.Module | None = None,
        cut: str | None = None,
        **how: Any,
    ) -> None:
        made = learning_model(net or residual_net(), preset, cut if net else CUTS[preset], **how)
        self.model: LearningModel = made
        self.use(options)

    def use(self, options: StepOptions) -> Compiled:
        """The same network with other options."""
        self.options, self.oracle = options, Oracle(self.model, options)
        batched = (sig.encode, sig.classify, sig.statistics)
        learning = (training.step, training.score)
        made = [sig.solve(self.model), *(make(self.model, BATCH) for make in batched)]
        made += [make(self.model, BATCH, options) for make in learning]
        self.signatures: dict[str, Signature] = {s.name: s for s in made}
        self.step, self.score = self.signatures["step"].function, self.signatures["score"].function
        return self

    @property
    def trained(self) -> list[str]:
        """Names of the trained tensors."""
        return list(self.model.plan.trained_groups)

    def values(self, name: str, seed: int = 0) -> dict[str, Tensor]:
        """Random inputs of a signature; trained tensors are near the network's, one class slot is absent."""
        generator = torch.Generator().manual_seed(seed)
        trained = initial_state(self.model.network, self.model.plan)
        return {
            spec.name: self._value(spec.name, spec.shape, trained, generator) for spec in self.signatures[name].inputs
        }

    def start(self) -> dict[str, Tensor]:
        """Inputs of a first step: as :meth:`values`, with the state that a bundle begins with and nothing masked."""
        state = training.initial_state(self.model, self.options)
        masks = {f"mask.{name}": torch.ones_like(self.values("step")[name]) for name in self.trained}
        return {**self.values("step"), **masks, **state}

    def batch(self, seed: int) -> dict[str, Tensor]:
        """Another batch for ``step``."""
        sources = {s.name: s.source for s in self.signatures["step"].inputs}
        return {name: value for name, value in self.values("step", seed).items() if sources[name] == "batch"}

    def _sums(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Of features around each class's mean, as many as ``count`` says."""
        generator, model = torch.Generator().manual_seed(9), self.model
        counts = torch.tensor(FIXED["count"])
        labels = torch.repeat_interleave(torch.arange(len(counts)), counts.long())
        means = torch.randn(len(counts), model.joined_size, generator=generator)
        features = means[labels] + torch.randn(len(labels), model.joined_size, generator=generator)
        if name == "second":
            return strips.second_moment(features, torch.ones(len(labels), 1))
        if model.directions is not None:
            features = class_covariances.with_places(features, model.directions)
        return torch.zeros(shape).index_add(0, labels, features)

    def _value(
        self, name: str, shape: tuple[int, ...], trained: Mapping[str, Tensor], generator: torch.Generator
    ) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        if name in trained:
            return trained[name] + 0.05 * noise
        if name == "ridge":  # one head or the other
            return (noise > 0).float()
        if name in FIXED:
            return torch.tensor(FIXED[name])
        if name == "images":
            return (noise * 60 + 120).clamp(0, 255).round()
        if name == "latents":
            return (noise * 40 - 60).clamp(-128, 127).round()
        if name == "labels":
            classes = torch.randint(CLASSES + 1, shape[:1], generator=generator)
            one_hot = torch.nn.functional.one_hot(classes, SLOTS).to(noise.dtype)
            return one_hot * (torch.tensor(WEIGHTS) > 0)[:, None]
        if name in ("total", "second"):
            return self._sums(name, shape)
        if name.startswith("mask."):
            return (noise > -0.5).to(noise.dtype)
        if name.startswith("second_moment."):
            return noise * noise * 0.01
        if name.startswith(("first.", "momentum.")):
            return noise * 0.1
        if name.startswith("projection."):
            return torch.eye(shape[0]) + noise * 0.1
        return noise
