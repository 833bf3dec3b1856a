"""``step`` and ``score``: forward, losses, backward and optimiser as one function without side effects."""

from __future__ import annotations

import torch
from torch import Tensor

from pocketstep.compile import objective, optimisers, projection
from pocketstep.compile.operators import column_sums, product, rows
from pocketstep.compile.options import DEFAULT, LOSSES, MEANINGS, OUTPUTS, WEIGHTS, StepOptions
from pocketstep.compile.signatures import LearningModel, Signature, Spec, Values, class_mask_spec, trained_specs

LABELS_ONLY = StepOptions(losses=("labels",))


def step(model: LearningModel, batch: int, options: StepOptions = DEFAULT) -> Signature:
    """One step of the optimiser on the weighted sum of the losses.

    The gradients g come first; ``clip`` multiplies them all with min(1, clip_norm / norm), the norm of those of
    weights that may move (mask * g). The optimiser makes an update u of them and of its moments, and
    w <- w - rate * factor * mask * P u: the factor is TeAM's rate a group, the mask freezes single weights (ODIL), P
    is CsKO's projection, after the moments; without one, P u is u.

    Raises:
        InputError: the options do not fit the network.
    """
    objective.check(model, options)
    groups, projected = model.plan.trained_groups, projection.sizes(model, options)

    def function(v: Values) -> dict[str, Tensor]:
        there_and_back = objective.differentiate(model, v, options)
        result, gradients = dict(there_and_back.losses), there_and_back.gradients
        if options.clip:
            norm = optimisers.norm(v[f"mask.{name}"] * gradient for name, gradient in gradients.items())
            factor = optimisers.clip_factor(norm, v["clip_norm"])
            gradients = {name: gradient * factor for name, gradient in gradients.items()}
            result["gradient_norm"] = norm
        optimiser = optimisers.BY_NAME[options.optimiser](options, v)
        for name, gradient in gradients.items():
            update, moments = optimiser.update(name, gradient)
            if name in projected:
                update = product(v[f"projection.{name}"], update)
            rate = v["learning_rate"] * v[f"factor.{groups[name]}"]
            result[name] = v[name].detach() - rate * (v[f"mask.{name}"] * update)
            result.update(moments)
        return {**result, **optimiser.shared}

    hyper = options.hyper(groups.values())
    inputs = [
        *objective.label_specs(model, batch),
        *objective.target_specs(model, batch, options),
        *(Spec(name, (1,), "hyper", meaning) for name, (_, _, _, meaning) in hyper.items()),
        *trained_specs(model, "mask.", "control", "1 where a weight may move, 0 where it is frozen"),
        *trained_specs(model, "", "state", "trained tensor"),
        *optimisers.state_specs(model, options),
        *projection.specs(model, options),
        *(s for s in _prototype_specs(model, options) if s.name == "prototypes"),
    ]
    return Signature("step", batch, tuple(inputs), tuple(_step_outputs(model, options)), function)


def score(model: LearningModel, batch: int, options: StepOptions = DEFAULT) -> Signature:
    """Adds one batch to sums; nothing is updated.

    Gradients of the cross-entropy and importances (g * w)^2 (ODIL). With ``projection``, the uncentred covariances
    X'X of what the projected taps see, at every place of every sample (CsKO's, after Adam-NSCL; its code averages the
    batch first). With the loss ``prototypes``, the class means of the features, going on from those given.
    """
    projected = projection.sizes(model, options)

    def function(v: Values) -> dict[str, Tensor]:
        there_and_back = objective.differentiate(model, v, LABELS_ONLY)
        result: dict[str, Tensor] = {}
        for name, gradient in there_and_back.gradients.items():
            result[f"gradient.{name}"] = v[f"gradient.{name}"] + gradient
            result[f"importance.{name}"] = v[f"importance.{name}"] + (gradient * v[name].detach()) ** 2
        for name in projected:
            seen = there_and_back.tap_inputs[name]
            weighted = seen * v["label_weights"].reshape(-1, 1, 1, 1)
            result[f"covariance.{name}"] = v[f"covariance.{name}"] + product(rows(weighted), rows(seen), turn_a=True)
        if "prototypes" in options.losses:
            result.update(_class_means(v, there_and_back.features))
        return result

    gradients = trained_specs(model, "gradient.", "statistics", "sum of gradients")
    importances = trained_specs(model, "importance.", "statistics", "sum of (gradient * weight)^2")
    others = [*projection.covariance_specs(model, options, "statistics"), *_prototype_specs(model, options)]
    inputs = [
        *objective.label_specs(model, batch),
        class_mask_spec(model),
        *trained_specs(model, "", "state", "trained tensor"),
        *gradients,
        *importances,
        *others,
    ]
    outputs = [spec for pair in zip(gradients, importances, strict=True) for spec in pair]
    return Signature("score", batch, tuple(inputs), (*outputs, *others), function)


def initial_state(model: LearningModel, options: StepOptions = DEFAULT) -> dict[str, Tensor]:
    """What ``step`` and ``score`` keep beside the trained tensors, as it leaves the cloud.

    Moments, covariances and prototypes are zero, powers one, projections the identity.
    """
    kind = optimisers.BY_NAME[options.optimiser]
    state = {s.name: torch.zeros(s.shape) for s in optimisers.state_specs(model, options)}
    state.update({name: torch.ones(1) for name in kind.scalars})
    state.update({s.name: torch.eye(s.shape[0]) for s in projection.specs(model, options)})
    state.update({s.name: torch.zeros(s.shape) for s in projection.covariance_specs(model, options, "state")})
    state.update({s.name: torch.zeros(s.shape) for s in _prototype_specs(model, options)})
    return state


def state_kinds(model: LearningModel, options: StepOptions = DEFAULT) -> dict[str, str]:
    """The manifest's kind of each tensor of :func:`initial_state`."""
    return {
        **{s.name: "optimiser" for s in optimisers.state_specs(model, options)},
        **{s.name: "control" for s in projection.specs(model, options)},
        **{s.name: "statistics" for s in projection.covariance_specs(model, options, "state")},
        **{s.name: "statistics" for s in _prototype_specs(model, options)},
    }


def _step_outputs(model: LearningModel, options: StepOptions) -> list[Spec]:
    weighted = [f"{weight} * {OUTPUTS[loss]}" for loss, weight in WEIGHTS.items() if loss in options.losses]
    kind = optimisers.BY_NAME[options.optimiser]
    state = {s.name: s for s in [*trained_specs(model, "", "state", "trained tensor"),
                                 *optimisers.state_specs(model, options)]}  # fmt: skip
    order = [prefix + name for name in model.plan.trained_groups for prefix in ("", *kind.moments)]
    return [
        Spec("loss", (1,), "result", " + ".join(["label_loss", *weighted])),
        *(Spec(OUTPUTS[loss], (1,), "result", MEANINGS[loss]) for loss in LOSSES if loss in options.losses),
        *([Spec("gradient_norm", (1,), "result", "norm of all gradients before clipping")] if options.clip else []),
        *(state[name] for name in (*order, *kind.scalars)),
    ]


def _prototype_specs(model: LearningModel, options: StepOptions) -> list[Spec]:
    return objective.prototype_specs(model) if "prototypes" in options.losses else []


def _class_means(v: Values, features: Tensor) -> dict[str, Tensor]:
    """Running means: mean + (sum of the batch - mean * number in the batch) / number in all."""
    chosen = v["labels"] * v["label_weights"].reshape(-1, 1)
    number = column_sums(chosen).reshape(-1)
    count, means = v["prototype_count"] + number, v["prototypes"]
    change = product(chosen, features, turn_a=True) - means * number.reshape(-1, 1)
    return {"prototypes": means + change / count.reshape(-1, 1).clamp(min=1e-6), "prototype_count": count}
