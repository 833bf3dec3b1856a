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

from pocketstep.compile import class_covariances, closed_form, joined_features, losses, strips
from pocketstep.compile.graph import Network, aten
from pocketstep.compile.operators import Pair, PairMean, frozen, grid_pool, product
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
class LearningModel:
    """Everything the programs are made of.

    Attributes:
        mean, std: per channel, in units of 0..1.
        input_shape: (H, W, C).
        latent_shape: (h, w, c).
        cells: rows and columns of the grid that pools the latent for the closed-form head; 0: it sees only the
            penultimate features.
        origin: mean of the joined features over the cloud's images, (joined_size,).
        directions: along which each class has a covariance of its own, (k, joined_size); None: all share one.
        expansion: the closed-form head sees so many random features of them; 0: themselves.
        mirrored: a latent is that of an image above that of its mirror image, (2 h', w, c); their logits and features
            are averaged.
    """

    network: Network
    plan: Plan
    quantisation: Quantisation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_shape: tuple[int, int, int]
    latent_shape: tuple[int, int, int]
    cells: Pair
    origin: Tensor
    directions: Tensor | None = None
    kernels: Kernels = field(default_factory=Kernels)
    expansion: int = 0
    mirrored: bool = False

    @property
    def joined_size(self) -> int:
        """Length of the joined features, without what outer products add."""
        if self.expansion:
            return self.expansion
        width = int(self.plan.parameters[self.head_weight].shape[1])
        return joined_features.sketched_size(width) + self.cells[0] * self.cells[1] * self.latent_shape[2]

    @property
    def closed_size(self) -> int:
        """Length of all that the closed-form head sees."""
        return self.joined_size + (0 if self.directions is None else class_covariances.added(len(self.directions)))

    @property
    def head_weight(self) -> str:
        """Qualified name of the head's weight in the network."""
        return next(p.name for p in self.plan.trained if p.trained == "head.weight")

    def encode(self, images: Tensor) -> Tensor:
        """(B, H, W, C) in 0..255 to latents in code units."""
        scale = frozen(lambda: 1.0 / (255.0 * torch.tensor(self.std)))
        shift = frozen(lambda: torch.tensor(self.mean) / torch.tensor(self.std))
        images = images * scale - shift
        latent = Walk(self.network, self.plan, self.kernels, {}).prefix(images)
        if self.mirrored:
            mirrored = Walk(self.network, self.plan, self.kernels, {}).prefix(torch.flip(images, [2]))
            latent = torch.cat([latent, mirrored], 1)
        return (latent - self.quantisation.offset) * (1.0 / self.quantisation.scale)

    def latent(self, codes: Tensor) -> Tensor:
        """Codes to latent values; of an image and its mirror image one after the other, (2 B, h', w, c)."""
        values = codes * self.quantisation.scale + self.quantisation.offset
        return values.reshape(-1, codes.shape[1] // 2, *codes.shape[2:]) if self.mirrored else values

    def suffix(self, walk: Walk, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Latent values to logits (B, slots) and features (B, D)."""
        logits, features = walk.suffix(latent)
        return (PairMean.apply(logits), PairMean.apply(features)) if self.mirrored else (logits, features)

    def joined(self, latent: Tensor, features: Tensor) -> Tensor:
        """What the closed-form head sees, (B, closed_size), of latent values and features."""
        pooled = grid_pool(latent, self.cells) if all(self.cells) else None
        if self.mirrored and pooled is not None:
            pooled = PairMean.apply(pooled)
        seen = joined_features.joined(pooled, features, self.expansion, self.origin)
        return seen if self.directions is None else class_covariances.with_places(seen, self.directions)


def trained_specs(model: LearningModel, prefix: str, source: str, meaning: str) -> list[Spec]:
    """One spec for every trained tensor, its name behind ``prefix``."""
    return [
        Spec(prefix + p.trained, p.trained_shape, source, meaning)
        for p in model.plan.trained
        if p.trained is not None and p.trained_shape is not None
    ]


def latents_spec(model: LearningModel, batch: int) -> Spec:
    """The latents every signature behind the cut begins with."""
    return Spec("latents", (batch, *model.latent_shape), "batch", "int8 codes as float32")


def class_mask_spec(model: LearningModel) -> Spec:
    """Which class slots exist."""
    return Spec("class_mask", (model.plan.slots,), "state", "1 for a class that exists")


def statistics_specs(model: LearningModel) -> list[Spec]:
    """The statistics of the closed-form head, as part of the state."""
    slots, size = model.plan.slots, model.joined_size
    return [
        Spec("count", (slots,), "state", "samples of each class"),
        Spec("total", (slots, model.closed_size), "state", "sum of features of each class"),
        Spec("second", strips.second_shape(size), "state", "uncentred second moment of features, in strips"),
    ]


def closed_specs(model: LearningModel) -> list[Spec]:
    """The closed-form head."""
    slots = model.plan.slots
    return [
        Spec("closed.weight", (slots, model.closed_size), "state", "closed-form head, rows of classes"),
        Spec("closed.bias", (slots,), "state", "closed-form head, biases"),
    ]


def encode(model: LearningModel, batch: int) -> Signature:
    """image -> latent."""
    images = Spec("images", (batch, *model.input_shape), "batch", "pixels 0..255")
    latents = Spec("latents", (batch, *model.latent_shape), "result", "latents in code units, not yet rounded")
    return Signature("encode", batch, (images,), (latents,), lambda v: {"latents": model.encode(v["images"])})


def plain(model: LearningModel, batch: int) -> Signature:
    """The network as it is, image -> logits of the classes it came with: what other programs are compared with."""
    head = model.plan.head

    def function(v: Values) -> dict[str, Tensor]:
        mean = frozen(lambda: torch.tensor(model.mean).view(-1, 1, 1))
        std = frozen(lambda: torch.tensor(model.std).view(-1, 1, 1))
        images = (v["images"].permute(0, 3, 1, 2) * (1.0 / 255.0) - mean) / std
        linear = {n: _linear for n in model.network.operators if n.target is aten.addmm.default}
        values = model.network.run_from(model.network.input, images, {}, linear)
        return {"plain_logits": values[model.network.output]}

    images = Spec("images", (batch, *model.input_shape), "batch", "pixels 0..255")
    logits = Spec("plain_logits", (batch, int(head.meta["val"].shape[1])), "result", "of the network's own classes")
    return Signature("plain", batch, (images,), (logits,), function)


def _linear(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """As ``aten.addmm``, its weight one constant and no transpose of one."""
    return torch.mm(x, frozen(lambda: weight.detach().clone(memory_format=torch.contiguous_format))) + bias


def classify(model: LearningModel, batch: int) -> Signature:
    """Latent, state -> logits, probabilities, features; ``blend`` mixes the trained and the closed-form head."""
    slots = model.plan.slots

    def function(v: Values) -> dict[str, Tensor]:
        latent = model.latent(v["latents"])
        trained, features = model.suffix(Walk(model.network, model.plan, model.kernels, v), latent)
        joined = model.joined(latent, features)
        closed = product(joined, v["closed.weight"], turn_b=True) + v["closed.bias"]
        logits = trained + v["blend"] * (closed - trained)
        probabilities = torch.softmax(losses.masked(logits, v["class_mask"]), 1)
        return {"logits": logits, "probabilities": probabilities, "features": joined}

    inputs = [
        latents_spec(model, batch),
        class_mask_spec(model),
        Spec("blend", (1,), "state", "0: trained head, 1: closed-form head"),
        *closed_specs(model),
        *trained_specs(model, "", "state", "trained tensor"),
    ]
    outputs = [
        Spec("logits", (batch, slots), "result", "of every slot, also of absent classes"),
        Spec("probabilities", (batch, slots), "result", "softmax over the classes that exist"),
        Spec("features", (batch, model.closed_size), "result", "what the closed-form head sees"),
    ]
    return Signature("classify", batch, tuple(inputs), tuple(outputs), function)


def statistics(model: LearningModel, batch: int) -> Signature:
    """Adds samples to the closed-form head's statistics, from the features that ``classify`` gave."""
    specs = statistics_specs(model)

    def function(v: Values) -> dict[str, Tensor]:
        sums = closed_form.accumulate(
            v["count"], v["total"], v["second"], v["features"], v["labels"], v["label_weights"], model.joined_size
        )
        return dict(zip(("count", "total", "second"), sums, strict=True))

    inputs = [
        Spec("features", (batch, model.closed_size), "batch", "joined features of classify"),
        Spec("labels", (batch, model.plan.slots), "batch", "one-hot"),
        Spec("label_weights", (batch,), "batch", "1 a sample, -1 to forget it, 0 for padding"),
        *specs,
    ]
    return Signature("statistics", batch, tuple(inputs), tuple(specs), function)


def solve(model: LearningModel) -> Signature:
    """Statistics -> closed-form head."""

    def function(v: Values) -> dict[str, Tensor]:
        statistics = (v["count"], v["total"], v["second"])
        weight, bias = closed_form.linear_head(
            *statistics, v["class_mask"], v["shrinkage"], v["ridge"], v.get("own"), model.directions
        )
        return {"closed.weight": weight, "closed.bias": bias}

    own = [Spec("own", (1,), "hyper", "1: covariances of each class's own in some directions, 0: one of all")]
    inputs = [
        *statistics_specs(model),
        class_mask_spec(model),
        Spec("shrinkage", (1,), "hyper", "share of the identity in the covariance; 1 is nearest class mean"),
        Spec("ridge", (1,), "hyper", "0: discriminant, 1: ridge regression"),
        *([] if model.directions is None else own),
    ]
    return Signature("solve", 1, tuple(inputs), tuple(closed_specs(model)), function)
