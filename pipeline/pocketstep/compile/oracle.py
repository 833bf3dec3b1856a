"""What PyTorch's own operators, optimiser and autograd give for every signature; the compiled programs must agree.

Runs the original graph, NCHW, on whole kernels into which the trained tensors are folded back: nothing of the NHWC
operators, of their backward rules or of the delegate-friendly losses is used here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pocketstep.compile.signatures import LearningModel, Values
from pocketstep.compile.trace import aten
from pocketstep.compile.walk import fold_back

ABSENT = float("-inf")


class Oracle:
    """Reference results by signature: values by name in, outputs by name out, as in ``signatures`` and ``training``."""

    def __init__(self, model: LearningModel):
        self.model = model
        self.groups = model.plan.trained_groups
        self.signatures: Mapping[str, Callable[[Values], dict[str, Tensor]]] = {
            "encode": self.encode,
            "classify": self.classify,
            "statistics": self.statistics,
            "solve": self.solve,
            "score": self.score,
            "step": self.step,
        }

    def encode(self, v: Values) -> dict[str, Tensor]:
        """Normalised images through the frozen prefix."""
        model = self.model
        mean, std = (torch.tensor(s).view(-1, 1, 1) for s in (model.mean, model.std))
        images = (v["images"].permute(0, 3, 1, 2) / 255 - mean) / std
        latent = model.network.run(images)[model.plan.cut].permute(0, 2, 3, 1)
        return {"latents": (latent - model.quantisation.offset) / model.quantisation.scale}

    def forward(self, v: Values, leaves: Values) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, slots), features (B, D) and latent (B, h, w, c) with trained tensors taken from ``leaves``."""
        model = self.model
        latent = model.latent(v["latents"])
        weights = fold_back(model.network, model.plan, leaves)
        values = model.network.run_from(model.plan.cut, latent.permute(0, 3, 1, 2), weights)
        features = model.plan.head.args[1]
        return values[model.network.output], values[features], latent  # type: ignore[index]

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
        return nearest

    @torch.no_grad()
    def classify(self, v: Values) -> dict[str, Tensor]:
        """Both heads, mixed, and softmax over the classes that exist."""
        logits, features, latent = self.forward(v, v)
        pooled = F.adaptive_avg_pool2d(latent.permute(0, 3, 1, 2), self.model.cells).permute(0, 2, 3, 1).flatten(1)
        parts = [F.normalize(part, dim=1) * part.shape[1] ** 0.5 for part in (features, pooled)]
        joined = torch.cat(parts, 1) - self.model.origin
        closed = F.linear(joined, v["closed.weight"], v["closed.bias"])
        logits = torch.lerp(logits, closed, float(v["blend"]))
        present = logits.masked_fill(v["class_mask"] == 0, ABSENT)
        return {"logits": logits, "probabilities": present.softmax(1), "features": joined}

    @torch.no_grad()
    def statistics(self, v: Values) -> dict[str, Tensor]:
        """Sums in double precision."""
        features, labels, weights = (v[k].double() for k in ("features", "labels", "label_weights"))
        return {
            "count": (v["count"] + torch.einsum("bc,b->c", labels, weights)).float(),
            "total": (v["total"] + torch.einsum("bc,b,bd->cd", labels, weights, features)).float(),
            "second": (v["second"] + torch.einsum("bd,b,be->de", features, weights, features)).float(),
        }

    @torch.no_grad()
    def solve(self, v: Values) -> dict[str, Tensor]:
        """The discriminant with a true inverse, in double precision."""
        count, total, second, mask = (v[k].double() for k in ("count", "total", "second", "class_mask"))
        there = (count * mask) > 0
        means = torch.zeros_like(total)
        means[there] = total[there] / count[there, None]
        number = (count * mask).sum()
        within = (second - (means * (count * mask)[:, None]).T @ means) / number
        shrinkage = float(v["shrinkage"])
        eye = torch.eye(len(second), dtype=torch.double)
        covariance = (1 - shrinkage) * within + shrinkage * within.diagonal().mean() * eye
        weight = means @ torch.linalg.inv(covariance)
        return {"closed.weight": weight.float(), "closed.bias": (-0.5 * (weight * means).sum(1)).float()}

    def score(self, v: Values) -> dict[str, Tensor]:
        """Autograd's gradients of the cross-entropy."""
        gradients, _ = self._gradients(v, soft=False)
        result: dict[str, Tensor] = {}
        for name, gradient in gradients.items():
            result[f"gradient.{name}"] = v[f"gradient.{name}"] + gradient
            result[f"importance.{name}"] = v[f"importance.{name}"] + (gradient * v[name]).square()
        return result

    def step(self, v: Values) -> dict[str, Tensor]:
        """``torch.optim.SGD`` on autograd's gradients; masked weights are put back afterwards."""
        gradients, result = self._gradients(v, soft=True)
        for name, gradient in gradients.items():
            weight = v[name].clone().requires_grad_()
            weight.grad = gradient
            rate = float(v["learning_rate"]) * float(v[f"factor.{self.groups[name]}"])
            optimiser = torch.optim.SGD(
                [weight], rate, momentum=float(v["momentum"]), weight_decay=float(v["weight_decay"])
            )
            optimiser.state[weight]["momentum_buffer"] = v[f"momentum.{name}"].clone()
            optimiser.step()
            result[name] = torch.where(v[f"mask.{name}"] > 0, weight.detach(), v[name])
            result[f"momentum.{name}"] = optimiser.state[weight]["momentum_buffer"]
        return result

    def _gradients(self, v: Values, *, soft: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        leaves = {name: v[name].clone().requires_grad_() for name in self.groups}
        with torch.enable_grad():
            logits, _, _ = self.forward(v, leaves)
            present = logits.masked_fill(v["class_mask"] == 0, -1e30)
            each = -(present.log_softmax(1) * v["labels"]).sum(1)
            label_loss = (each * v["label_weights"]).sum() / v["label_weights"].sum().clamp(min=1e-6)
            loss, losses = label_loss, {"label_loss": label_loss}
            if soft:
                losses["soft_loss"] = self._distillation(v, logits)
                loss = label_loss + float(v["distillation"]) * losses["soft_loss"]
            losses["loss"] = loss
            gradients = torch.autograd.grad(loss, list(leaves.values()))
        values = {name: value.detach().reshape(1) for name, value in losses.items()}
        return dict(zip(leaves, gradients, strict=True)), values

    @staticmethod
    def _distillation(v: Values, logits: Tensor) -> Tensor:
        temperature, old = float(v["temperature"]), v["soft_mask"] > 0
        target = (v["soft_targets"][:, old] / temperature).softmax(1)
        ours = (logits[:, old] / temperature).log_softmax(1)
        each = F.kl_div(ours, target, reduction="none").sum(1)
        weights = v["soft_weights"]
        return (each * weights).sum() / weights.sum().clamp(min=1e-6) * temperature**2
