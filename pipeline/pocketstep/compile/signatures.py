"""The programs of a bundle, written as functions of named tensors.

``encode`` image -> latent; ``classify`` latent, state -> logits; ``step`` one optimiser step; ``score`` gradients
without an update; ``statistics`` and ``solve`` the closed-form head. All arithmetic is here, so that a harness only
moves tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pocketstep.compile import closed_form, losses
from pocketstep.compile.operators import frozen, product
from pocketstep.compile.trace import Network
from pocketstep.compile.walk import Kernels, Walk
from pocketstep.plan import Plan

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Spec:
    """One input or output: float32, a fixed shape, and where its value comes from.

    ``source`` is ``batch`` (samples), ``state`` (kept by the device), ``hyper`` (a rate), ``control`` (a mask),
    ``statistics`` (accumulated during an update) or ``result`` (an output for the caller).
    """

    name: str
    shape: tuple[int, ...]
    source: str
    meaning: str


@dataclass(frozen=True)
class Signature:
    """A program: named inputs, named outputs, and the function between them."""

    name: str
    batch: int
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    function: Callable[[Values], dict[str, Tensor]]


@dataclass(frozen=True)
class Quantisation:
    """int8 codes of latents: value = code * scale + offset; codes are rounded only where they are stored."""

    scale: float
    offset: float

    @staticmethod
    def of(latents: Tensor) -> Quantisation:
        """The range of sample latents over the codes -128..127."""
        low, high = float(latents.min()), float(latents.max())
        scale = max(high - low, 1e-6) / 255
        return Quantisation(scale, low + 128 * scale)


@dataclass(frozen=True)
class Learner:
    """Everything the programs are made of.

    Attributes:
        mean, std: per channel, in units of 0..1.
        input_shape: (H, W, C).
        latent_shape: (h, w, c).
    """

    network: Network
    plan: Plan
    quantisation: Quantisation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_shape: tuple[int, int, int]
    latent_shape: tuple[int, int, int]
    kernels: Kernels = field(default_factory=Kernels)

    @property
    def closed_size(self) -> int:
        """Length of the joined features that the closed-form head sees."""
        return int(self.plan.parameters[self.head_weight].shape[1]) + self.latent_shape[2]

    @property
    def head_weight(self) -> str:
        """Qualified name of the head's weight in the network."""
        return next(p.name for p in self.plan.trained if p.trained == "head.weight")

    def encode(self, images: Tensor) -> Tensor:
        """(B, H, W, C) in 0..255 to latents in code units."""
        scale = frozen(lambda: 1.0 / (255.0 * torch.tensor(self.std)))
        shift = frozen(lambda: torch.tensor(self.mean) / torch.tensor(self.std))
        latent = Walk(self.network, self.plan, self.kernels, {}).prefix(images * scale - shift)
        return (latent - self.quantisation.offset) * (1.0 / self.quantisation.scale)

    def latent(self, codes: Tensor) -> Tensor:
        """Codes to latent values."""
        return codes * self.quantisation.scale + self.quantisation.offset

    def suffix(self, latent: Tensor, state: Values) -> tuple[Tensor, Tensor]:
        """Latent values to logits (B, slots) and features (B, D)."""
        return Walk(self.network, self.plan, self.kernels, state).suffix(latent)


def trained_specs(learner: Learner, prefix: str, source: str, meaning: str) -> list[Spec]:
    """One spec for every trained tensor, its name behind ``prefix``."""
    return [
        Spec(prefix + p.trained, p.trained_shape, source, meaning)
        for p in learner.plan.trained
        if p.trained is not None and p.trained_shape is not None
    ]


def latents_spec(learner: Learner, batch: int) -> Spec:
    """The latents every signature behind the cut begins with."""
    return Spec("latents", (batch, *learner.latent_shape), "batch", "int8 codes as float32")


def class_mask_spec(learner: Learner) -> Spec:
    """Which class slots exist."""
    return Spec("class_mask", (learner.plan.slots,), "state", "1 for a class that exists")


def statistics_specs(learner: Learner) -> list[Spec]:
    """The statistics of the closed-form head, as part of the state."""
    slots, size = learner.plan.slots, learner.closed_size
    return [
        Spec("count", (slots,), "state", "samples of each class"),
        Spec("total", (slots, size), "state", "sum of features of each class"),
        Spec("second", (size, size), "state", "uncentred second moment of features"),
    ]


def closed_specs(learner: Learner) -> list[Spec]:
    """The closed-form head."""
    slots = learner.plan.slots
    return [
        Spec("closed.weight", (slots, learner.closed_size), "state", "closed-form head, rows of classes"),
        Spec("closed.bias", (slots,), "state", "closed-form head, biases"),
    ]


def encode(learner: Learner, batch: int) -> Signature:
    """image -> latent."""
    images = Spec("images", (batch, *learner.input_shape), "batch", "pixels 0..255")
    latents = Spec("latents", (batch, *learner.latent_shape), "result", "latents in code units, not yet rounded")
    return Signature("encode", batch, (images,), (latents,), lambda v: {"latents": learner.encode(v["images"])})


def classify(learner: Learner, batch: int) -> Signature:
    """Latent, state -> logits and probabilities; ``blend`` mixes the trained and the closed-form head."""
    slots = learner.plan.slots

    def function(v: Values) -> dict[str, Tensor]:
        latent = learner.latent(v["latents"])
        trained, features = learner.suffix(latent, v)
        joined = closed_form.joined_features(latent, features)
        closed = product(joined, v["closed.weight"].t()) + v["closed.bias"]
        logits = losses.masked(trained + v["blend"] * (closed - trained), v["class_mask"])
        return {"logits": logits, "probabilities": torch.softmax(logits, 1)}

    inputs = [
        latents_spec(learner, batch),
        class_mask_spec(learner),
        Spec("blend", (1,), "state", "0: trained head, 1: closed-form head"),
        *closed_specs(learner),
        *trained_specs(learner, "", "state", "trained tensor"),
    ]
    outputs = [
        Spec("logits", (batch, slots), "result", "absent classes at -1e4"),
        Spec("probabilities", (batch, slots), "result", "softmax over the classes that exist"),
    ]
    return Signature("classify", batch, tuple(inputs), tuple(outputs), function)


def statistics(learner: Learner, batch: int) -> Signature:
    """Adds samples to the closed-form head's statistics."""
    specs = statistics_specs(learner)

    def function(v: Values) -> dict[str, Tensor]:
        latent = learner.latent(v["latents"])
        _, features = learner.suffix(latent, {**v, **_no_head(learner)})
        joined = closed_form.joined_features(latent, features)
        sums = closed_form.accumulate(
            v["count"], v["total"], v["second"], joined, v["labels"], v["label_weights"]
        )
        return dict(zip(("count", "total", "second"), sums, strict=True))

    body = [s for s in trained_specs(learner, "", "state", "trained tensor") if not s.name.startswith("head.")]
    inputs = [
        latents_spec(learner, batch),
        Spec("labels", (batch, learner.plan.slots), "batch", "one-hot"),
        Spec("label_weights", (batch,), "batch", "1 a sample, -1 to forget it, 0 for padding"),
        *specs,
        *body,
    ]
    return Signature("statistics", batch, tuple(inputs), tuple(specs), function)


def _no_head(learner: Learner) -> dict[str, Tensor]:
    return {
        p.trained: frozen(lambda shape=p.trained_shape: torch.zeros(shape))  # type: ignore[misc]
        for p in learner.plan.trained
        if p.role == "head" and p.trained and p.trained_shape
    }


def solve(learner: Learner) -> Signature:
    """Statistics -> closed-form head."""

    def function(v: Values) -> dict[str, Tensor]:
        weight, bias = closed_form.discriminant(
            v["count"], v["total"], v["second"], v["class_mask"], v["shrinkage"]
        )
        return {"closed.weight": weight, "closed.bias": bias}

    inputs = [
        *statistics_specs(learner),
        class_mask_spec(learner),
        Spec("shrinkage", (1,), "hyper", "share of the identity in the covariance; 1 is nearest class mean"),
    ]
    return Signature("solve", 0, tuple(inputs), tuple(closed_specs(learner)), function)
