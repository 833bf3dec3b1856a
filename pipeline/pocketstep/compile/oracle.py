"""What PyTorch's own operators, optimiser and autograd give for every signature; the compiled programs must agree.

Runs the original graph, NCHW, on whole kernels into which the trained tensors are folded back: nothing of the NHWC
operators, of their backward rules or of the delegate-friendly losses is used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from pocketstep.compile import oracle_closed_form, oracle_optimisers
from pocketstep.compile.graph import aten
from pocketstep.compile.heads import features_node
from pocketstep.compile.joined_features import sketched
from pocketstep.compile.options import DEFAULT, StepOptions
from pocketstep.compile.oracle_closed_form import random_matrix, strips_of
from pocketstep.compile.oracle_losses import losses
from pocketstep.compile.signatures import LearningModel, Values
from pocketstep.compile.surrogates import surrogates
from pocketstep.compile.walk import fold_back
from pocketstep.plan import Parameter
from pocketstep.strides import channels_first

ABSENT = float("-inf")


class Oracle:
    """Reference results by signature: values by name in, outputs by name out, as in ``signatures`` and ``training``.

    Args:
        model: what was compiled.
        options: those of its ``step`` and ``score``.
    """

    def __init__(self, model: LearningModel, options: StepOptions = DEFAULT):
        self.model, self.options = model, options
        self.groups = model.plan.trained_groups
        self.signatures: Mapping[str, Callable[[Values], dict[str, Tensor]]] = {
            "encode": self.encode,
            "plain": self.plain,
            "classify": self.classify,
            "statistics": self.statistics,
            "solve": self.solve,
            "project": self.project,
            "score": self.score,
            "step": self.step,
        }

    def encode(self, v: Values) -> dict[str, Tensor]:
        """Normalised images through the frozen prefix."""
        model = self.model
        mean, std = (torch.tensor(s).view(-1, 1, 1) for s in (model.mean, model.std))
        images = (v["images"].permute(0, 3, 1, 2) / 255 - mean) / std
        latent = model.network.run(images)[model.plan.cut].permute(0, 2, 3, 1)
        if model.mirrored:
            other = model.network.run(images.flip(3))[model.plan.cut].permute(0, 2, 3, 1)
            latent = torch.cat([latent, other], 1)
        return {"latents": (latent - model.quantisation.offset) / model.quantisation.scale}

    def plain(self, v: Values) -> dict[str, Tensor]:
        """The network as it came."""
        model = self.model
        mean, std = (torch.tensor(s).view(-1, 1, 1) for s in (model.mean, model.std))
        return {
            "plain_logits": model.network.run((v["images"].permute(0, 3, 1, 2) / 255 - mean) / std)[
                model.network.output
            ]
        }

    def forward(self, v: Values, leaves: Values) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, slots), features (B, D) and latent with trained tensors taken from ``leaves``.

        The latent is (B, h, w, c), or (2 B, h, w, c) with mirror images.
        """
        model = self.model
        latent = model.latent(v["latents"])
        weights = fold_back(model.network, model.plan, leaves)
        weights = {name: channels_first(w) for name, w in weights.items()}
        special = surrogates(model.network, model.plan, weights)
        values = model.network.run_from(model.plan.cut, channels_first(latent.permute(0, 3, 1, 2)), weights, special)
        features = values[features_node(model.plan.head)]
        features = features.mean((2, 3)) if features.dim() == 4 else features
        logits = values[model.network.output]
        if model.mirrored:
            logits, features = (_pairs(x).mean(1) for x in (logits, features))
        return logits, features, latent

    @torch.no_grad()
    def margins(self, v: Values) -> Tensor:
        """How far each sample keeps from the kinks of ReLU and ReLU6 behind the cut, (B,), relative to each map.

        At a kink the gradient jumps, so a sample that comes closer than rounding errors has no one right gradient.
        """
        model = self.model
        latent = model.latent(v["latents"]).permute(0, 3, 1, 2)
        values = model.network.run_from(model.plan.cut, latent, fold_back(model.network, model.plan, v))
        nearest = torch.full((len(latent),), torch.inf)
        for node in values:
            if node is not model.plan.cut and node.target in (aten.relu.default, aten.hardtanh.default):
                arguments: Any = node.args
                before = values[arguments[0]]
                for distance in [before, *(before - float(top) for top in arguments[2:])]:
                    each = distance.abs().flatten(1).amin(1) / before.abs().max()
                    nearest = torch.minimum(nearest, each)
        return _pairs(nearest).amin(1) if model.mirrored else nearest

    @torch.no_grad()
    def classify(self, v: Values) -> dict[str, Tensor]:
        """Both heads, mixed, and softmax over the classes that exist."""
        logits, features, latent = self.forward(v, v)
        seen = [sketched(features)]
        if all(self.model.cells):
            pooled = F.adaptive_avg_pool2d(latent.permute(0, 3, 1, 2), self.model.cells).permute(0, 2, 3, 1).flatten(1)
            seen.append(_pairs(pooled).mean(1) if self.model.mirrored else pooled)
        parts = [F.normalize(part, dim=1) * part.shape[1] ** 0.5 for part in seen]
        joined = torch.cat(parts, 1)
        if self.model.expansion:
            joined = (joined @ random_matrix(joined.shape[1], self.model.expansion)).relu()
        joined = joined - self.model.origin
        if (axes := self.model.directions) is not None:
            places = joined @ axes.T
            joined = torch.cat([joined, places, strips_of(places[:, :, None] * places[:, None])], 1)
        closed = F.linear(joined, v["closed.weight"], v["closed.bias"])
        logits = torch.lerp(logits, closed, float(v["blend"]))
        present = logits.masked_fill(v["class_mask"] == 0, ABSENT)
        return {"logits": logits, "probabilities": present.softmax(1), "features": joined}

    def statistics(self, v: Values) -> dict[str, Tensor]:
        """See ``oracle_closed_form``."""
        return oracle_closed_form.statistics(self.model, v)

    def solve(self, v: Values) -> dict[str, Tensor]:
        """See ``oracle_closed_form``."""
        return oracle_closed_form.solve(self.model, v)

    @torch.no_grad()
    def project(self, v: Values) -> dict[str, Tensor]:
        """By eigenvectors, in double precision."""
        result: dict[str, Tensor] = {}
        for name in (n for n in v if n.startswith("covariance.")):
            values, vectors = torch.linalg.eigh(v[name].double())
            level = values.mean().clamp(min=1e-12)
            hard, soft = values <= level * float(v["null_ratio"]), 1 / (1 + values / level / float(v["tau"]))
            kept = hard.double() if v["hard"] > 0.5 else soft
            result[name.replace("covariance.", "projection.")] = (vectors @ (kept[:, None] * vectors.T)).float()
        return result

    def score(self, v: Values) -> dict[str, Tensor]:
        """Autograd's gradients of the cross-entropy; covariances by ``unfold``, class means one by one."""
        gradients, _ = self.gradients(v, StepOptions(losses=("labels",)))
        result: dict[str, Tensor] = {}
        for name, gradient in gradients.items():
            result[f"gradient.{name}"] = v[f"gradient.{name}"] + gradient
            result[f"importance.{name}"] = v[f"importance.{name}"] + (gradient * v[name]).square()
        if self.options.projection == "matrix":
            result.update(self.covariances(v))
        if "prototypes" in self.options.losses:
            result.update(self._class_means(v))
        return result

    def step(self, v: Values) -> dict[str, Tensor]:
        """``torch.optim`` on autograd's gradients; masked weights are put back afterwards."""
        gradients, result = self.gradients(v, self.options)
        leaves = {name: v[name].clone().requires_grad_() for name in self.groups}
        for name, leaf in leaves.items():
            leaf.grad = gradients[name].clone()
        if self.options.clip:
            result["gradient_norm"] = oracle_optimisers.clip(v, leaves)
        optimiser = oracle_optimisers.make(self.options, v, leaves, self.groups)
        oracle_optimisers.load_state(optimiser, v, leaves)
        optimiser.step()
        moved = oracle_optimisers.restrict(v, leaves)
        return {**result, **moved, **oracle_optimisers.read_state(optimiser, v, leaves)}

    def gradients(self, v: Values, options: StepOptions) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Of the weighted sum of the losses, by trained tensor; and every loss, (1,) each."""
        leaves = {name: v[name].clone().requires_grad_() for name in self.groups}
        with torch.enable_grad():
            logits, features, _ = self.forward(v, leaves)
            parts = losses(v, options, logits, features, leaves)
            gradients = torch.autograd.grad(parts["loss"].sum(), list(leaves.values()))
        values = {name: value.detach().reshape(1) for name, value in parts.items()}
        return dict(zip(leaves, gradients, strict=True)), values

    @torch.no_grad()
    def covariances(self, v: Values) -> dict[str, Tensor]:
        """Those given, and X'X of what each centre, or each tap of a whole kernel, sees of ``latents``."""
        model = self.model
        weights = fold_back(model.network, model.plan, v)
        latent = model.latent(v["latents"]).permute(0, 3, 1, 2)
        values = model.network.run_from(model.plan.cut, latent, weights)
        result: dict[str, Tensor] = {}
        for p, node in self._convolutions(values):
            arguments: Any = node.args
            x, _, _, stride, padding, dilation = arguments[:6]
            columns = F.unfold(values[x], p.shape[2:], dilation, padding, stride)  # (B, I * kh * kw, places)
            columns = columns.reshape(len(columns), p.shape[1], -1, columns.shape[2]).transpose(1, 2)
            middle = p.shape[2] // 2 * p.shape[3] + p.shape[3] // 2
            seen = (columns[:, middle] if p.role == "centre" else columns.flatten(1, 2)).double()
            sums = torch.einsum("bip,b,bjp->ij", seen, v["label_weights"].double(), seen)
            name = f"covariance.{p.trained}"
            result[name] = v[name] + sums.to(v[name].dtype)
        return result

    def _convolutions(self, values: Mapping[fx.Node, Tensor]) -> Iterator[tuple[Parameter, fx.Node]]:
        """Convolutions of all channels at once that have a trained kernel."""
        trained = {p.name: p for p in self.model.plan.trained if p.role != "head"}
        for node in values:
            if node.target is aten.convolution.default and node.args[8] == 1 and isinstance(node.args[1], fx.Node):
                name = self.model.network.names[node.args[1].name]
                if name in trained:
                    yield trained[name], node

    @torch.no_grad()
    def _class_means(self, v: Values) -> dict[str, Tensor]:
        _, features, _ = self.forward(v, v)
        count, means = v["prototype_count"].clone(), v["prototypes"].clone()
        for feature, label, weight in zip(features, v["labels"], v["label_weights"], strict=True):
            slot = int(label.argmax())
            if weight > 0 and label.any():
                count[slot] += weight
                means[slot] += (feature - means[slot]) * weight / count[slot]
        return {"prototypes": means, "prototype_count": count}


def _pairs(x: Tensor) -> Tensor:
    """(2 B, ...) of images and mirror images to (B, 2, ...)."""
    return x.reshape(-1, 2, *x.shape[1:])
