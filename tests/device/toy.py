"""A runtime in numpy and a bundle for it: the whole learner in milliseconds, without any native library.

The network: ``encode`` averages and mixes pixels into a latent of 12 int8 codes, a fixed layer behind the cut makes
8 features of them, and a linear head, trained or in closed form, makes logits. What is fixed comes from two seeds in
the program file, so that bundles can agree in their frozen prefix, in all that is fixed, or in nothing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakes
import numpy as np
import numpy.typing as npt

from pocketstep_device import machine
from pocketstep_device.bundle import Bundle
from pocketstep_device.bundle_writer import write_bundle
from pocketstep_device.errors import BundleError
from pocketstep_device.tensors import write_tensors

if TYPE_CHECKING:
    import pytest

Array = npt.NDArray[np.float32]
IMAGE, LATENT, FEATURES, BATCH = (4, 4, 1), (2, 2, 3), 8, 16
CLASSES = ("dark", "bright")
HELD_BACK_EVERY = 4
RUNTIME = "toy"
"""What scripts call it."""
_HYPER = {"learning_rate": 0.05, "momentum": 0.9, "shrinkage": 0.05, "ridge": 0.0}
_PARAMETERS = ("head.weight", "head.bias")


def state_shapes(slots: int) -> dict[str, tuple[tuple[int, ...], str]]:
    return {
        "head.weight": ((slots, FEATURES), "parameter"),
        "head.bias": ((slots,), "parameter"),
        "momentum.head.weight": ((slots, FEATURES), "optimiser"),
        "momentum.head.bias": ((slots,), "optimiser"),
        "class_mask": ((slots,), "control"),
        "blend": ((1,), "control"),
        "count": ((slots,), "statistics"),
        "total": ((slots, FEATURES), "statistics"),
        "second": ((FEATURES, FEATURES), "statistics"),
        "closed.weight": ((slots, FEATURES), "head"),
        "closed.bias": ((slots,), "head"),
    }


class ToyProgram:
    """What ``open_program`` gives for a toy bundle."""

    def __init__(self, bundle: Bundle) -> None:
        seeds = json.loads(bundle.read("program.tflite"))
        self._manifest = bundle.manifest
        mixing = np.random.default_rng(seeds["encoder"]).standard_normal((4, 3))
        self._mixing = mixing.astype(np.float32)
        fixed = np.random.default_rng(seeds["suffix"]).standard_normal((12, FEATURES))
        self._fixed = (fixed / 64).astype(np.float32)

    def call(self, signature: str, inputs: Sequence[Array]) -> list[Array]:
        described = self._manifest.signatures[signature]
        named = {spec.name: value for spec, value in zip(described.inputs, inputs, strict=True)}
        try:
            outputs = getattr(self, f"_{signature}")(named)
            return [np.asarray(outputs[spec.name], np.float32) for spec in described.outputs]
        except (ValueError, KeyError, IndexError, AttributeError, np.linalg.LinAlgError) as reason:
            raise BundleError(f"the toy program can't run '{signature}' ({reason})") from reason

    def _encode(self, v: dict[str, Array]) -> dict[str, Array]:
        cells = v["images"].reshape(-1, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 2, 2, 4)
        return {"latents": ((cells - 127.5) / 8) @ self._mixing}

    def _features(self, latents: Array) -> Array:
        return np.tanh(latents.reshape(len(latents), -1) @ self._fixed)

    def _logits(self, v: dict[str, Array], features: Array, blend: float) -> Array:
        trained = features @ v["head.weight"].T + v["head.bias"]
        closed = features @ v["closed.weight"].T + v["closed.bias"] if blend else 0.0
        logits: Array = blend * closed + (1 - blend) * trained
        return np.where(v["class_mask"] > 0, logits, np.float32(-30))

    def _classify(self, v: dict[str, Array]) -> dict[str, Array]:
        features = self._features(v["latents"])
        logits = self._logits(v, features, float(v["blend"][0]))
        return {"logits": logits, "probabilities": _softmax(logits), "features": features}

    def _gradients(self, v: dict[str, Array]) -> tuple[float, dict[str, Array]]:
        features = self._features(v["latents"])
        probabilities = _softmax(self._logits(v, features, 0.0))
        weights = v["label_weights"] / max(1.0, float(v["label_weights"].sum()))
        error = (probabilities - v["labels"]) * weights[:, None]
        loss = -float((np.log((probabilities * v["labels"]).sum(1) + 1e-9) * weights).sum())
        return loss, {"head.weight": error.T @ features, "head.bias": error.sum(0)}

    def _step(self, v: dict[str, Array]) -> dict[str, Array]:
        loss, gradients = self._gradients(v)
        result: dict[str, Array] = {"loss": np.array([loss], np.float32)}
        for name, gradient in gradients.items():
            result[f"momentum.{name}"] = v["momentum"] * v[f"momentum.{name}"] + gradient
            result[name] = v[name] - v["learning_rate"] * v[f"mask.{name}"] * result[f"momentum.{name}"]
        return result

    def _score(self, v: dict[str, Array]) -> dict[str, Array]:
        _, gradients = self._gradients(v)
        sums = {f"gradient.{n}": v[f"gradient.{n}"] + g for n, g in gradients.items()}
        return {**sums, **{f"importance.{n}": v[f"importance.{n}"] + (g * v[n]) ** 2 for n, g in gradients.items()}}

    def _statistics(self, v: dict[str, Array]) -> dict[str, Array]:
        weighted = v["labels"] * v["label_weights"][:, None]
        return {
            "count": v["count"] + weighted.sum(0),
            "total": v["total"] + weighted.T @ v["features"],
            "second": v["second"] + (v["features"] * v["label_weights"][:, None]).T @ v["features"],
        }

    def _solve(self, v: dict[str, Array]) -> dict[str, Array]:
        count = np.maximum(v["count"], 1)[:, None]
        means = v["total"] / count
        spread = v["second"] / max(1.0, float(v["count"].sum())) - (means * count).T @ means / max(1, v["count"].sum())
        share = float(v["shrinkage"][0])
        spread = (1 - share) * spread + share * np.eye(FEATURES) * max(float(np.trace(spread)) / FEATURES, 1e-3)
        weight = np.linalg.solve(spread, means.T).T
        return {"closed.weight": weight, "closed.bias": -0.5 * (weight * means).sum(1)}


def _softmax(logits: Array) -> Array:
    e = np.exp(logits - logits.max(1, keepdims=True))
    result: Array = e / e.sum(1, keepdims=True)
    return result


def open_toy(bundle: Bundle, runtime: str, threads: int) -> ToyProgram:
    """In the place of ``runtimes.open_program``."""
    try:
        return ToyProgram(bundle)
    except (ValueError, KeyError, TypeError) as reason:
        raise BundleError(f"no toy program ({reason})") from reason


def install(monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    """Makes learners run toy programs, for good or for a test."""
    if monkeypatch is None:
        machine.open_program = open_toy
    else:
        monkeypatch.setattr(machine, "open_program", open_toy)


def images(of: str, count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Images of a class, (count, 4, 4, 1): ``dark``, ``bright``, and any other name its own pattern."""
    random = np.random.default_rng([seed, *of.encode()])
    base = {"dark": np.full(IMAGE, 40.0), "bright": np.full(IMAGE, 215.0)}.get(of)
    if base is None:
        base = np.random.default_rng([*of.encode()]).uniform(20, 235, IMAGE)
    return np.clip(base + random.normal(0, 12, (count, *IMAGE)), 0, 255).astype(np.uint8)


def toy_manifest(slots: int, classes: Sequence[str]) -> dict[str, Any]:
    """A manifest without files."""
    state = state_shapes(slots)
    manifest = fakes.fake_manifest()
    accept = manifest["schedules"]["auto"]["accept"]
    masks = [(f"mask.{n}", state[n][0], "control") for n in _PARAMETERS]
    sums = [(f"{kind}.{n}", state[n][0], "statistics") for n in _PARAMETERS for kind in ("gradient", "importance")]
    batch = [("latents", (BATCH, *LATENT), "batch"), ("labels", (BATCH, slots), "batch")]
    weights = [("label_weights", (BATCH,), "batch")]
    mask, closed = _state(state, "class_mask"), _state(state, "closed.weight", "closed.bias")
    trained = _state(state, *_PARAMETERS)
    momenta = _state(state, *(f"momentum.{n}" for n in _PARAMETERS))
    statistics = _state(state, "count", "total", "second")
    rates = [(name, (1,), "hyper") for name in ("learning_rate", "momentum")]
    logits = [("logits", (BATCH, slots), "result"), ("probabilities", (BATCH, slots), "result")]
    train = {"kind": "train", "rows": "all", "epochs": 2, "learning_rate": 0.05}
    solve = {"kind": "solve", "name": "closed form", "shrinkage": 0.05}
    manifest.update(
        name="toy",
        latent={"shape": list(LATENT), "dtype": "int8"},
        task={
            "classes": list(classes),
            "slots": slots,
            "input": {"shape": list(IMAGE), "range": [0, 255], "colour": "grey", "mean": [0.5], "std": [0.25]},
        },
        state=[
            {"name": name, "shape": list(shape), "dtype": "float32", "kind": kind}
            for name, (shape, kind) in state.items()
        ],
        signatures={
            "encode": _signature([("images", (BATCH, *IMAGE), "batch")], [("latents", (BATCH, *LATENT), "result")]),
            "classify": _signature(
                [batch[0], *mask, *_state(state, "blend"), *closed, *trained],
                [*logits, ("features", (BATCH, FEATURES), "result")],
            ),
            "step": _signature(
                [*batch, *weights, *mask, *rates, *masks, *trained, *momenta],
                [("loss", (1,), "result"), *trained, *momenta],
            ),
            "score": _signature([*batch, *weights, *mask, *trained, *sums], sums),
            "statistics": _signature(
                [("features", (BATCH, FEATURES), "batch"), batch[1], *weights, *statistics], statistics
            ),
            "solve": _signature(
                [*statistics, *mask, ("shrinkage", (1,), "hyper")], closed, batch=1
            ),
        },
        hyper={n: {"default": d, "min": 0.0, "max": 1.0, "meaning": n} for n, d in _HYPER.items()},
        schedules={
            "auto": _schedule([solve, {**train, "name": "replay"}], {**accept, "max_old_loss": 0.2}),
            "closed-form": _schedule([solve], {**accept, "max_old_loss": 1.0}),
            "train": _schedule([{**train, "freeze": 0.3}], {**accept, "max_old_loss": 1.0}),
        },
        cost={"bytes.resident.litert": 2.0**20},
    )  # fmt: skip
    return manifest


def _state(state: dict[str, tuple[tuple[int, ...], str]], *names: str) -> list[tuple[str, tuple[int, ...], str]]:
    return [(name, state[name][0], "state") for name in names]


def _signature(inputs: list[Any], outputs: list[Any], batch: int = BATCH) -> dict[str, Any]:
    def tensors(entries: list[Any]) -> list[dict[str, Any]]:
        return [
            {"name": n, "shape": list(shape), "dtype": "float32", "source": source, "meaning": n}
            for n, shape, source in entries
        ]

    return {"batch": batch, "inputs": tensors(inputs), "outputs": tensors(outputs)}


def _schedule(phases: list[dict[str, Any]], accept: dict[str, Any]) -> dict[str, Any]:
    return {"meaning": "for tests", "phases": phases, "accept": accept}


def toy_files(
    slots: int = 6, classes: Sequence[str] = CLASSES, encoder: int = 1, suffix: int = 1, per_class: int = 12
) -> dict[str, bytes]:
    """Program, state and replay set of a toy bundle; the closed form's statistics are those of the replay set."""
    manifest, program = toy_manifest(slots, classes), json.dumps({"encoder": encoder, "suffix": suffix}).encode()
    runner = ToyProgram.__new__(ToyProgram)
    runner._mixing = np.random.default_rng(encoder).standard_normal((4, 3)).astype(np.float32)
    runner._fixed = (np.random.default_rng(suffix).standard_normal((12, FEATURES)) / 64).astype(np.float32)
    state = {name: np.zeros(shape, np.float32) for name, (shape, _) in state_shapes(slots).items()}
    state["head.weight"] = np.random.default_rng(suffix).normal(0, 0.1, (slots, FEATURES)).astype(np.float32)
    state["class_mask"][: len(classes)] = 1
    pictures = np.concatenate([images(name, per_class, seed=99) for name in classes]).astype(np.float32)
    labels = np.repeat(np.arange(len(classes)), per_class)
    codes = np.clip(np.rint(runner._encode({"images": pictures})["latents"]), -128, 127).astype(np.int8)
    features, one_hot = runner._features(codes.astype(np.float32)), np.eye(slots, dtype=np.float32)[labels]
    feed = {"features": features, "labels": one_hot, "label_weights": np.ones(len(labels), np.float32)}
    state.update({n: np.asarray(v, np.float32) for n, v in runner._statistics({**state, **feed}).items()})
    solved = runner._solve({**state, "shrinkage": np.array([0.05], np.float32)})
    state.update({n: np.asarray(v, np.float32) for n, v in solved.items()}, blend=np.ones(1, np.float32))
    replay = {
        "latents": codes,
        "labels": labels.astype(np.int64),
        "soft_targets": (4 * one_hot - 2).astype(np.float32),
        "held_back": np.arange(len(labels)) % HELD_BACK_EVERY == 0,
    }
    assert manifest["state"][0]["shape"] == [slots, FEATURES]
    return {
        "program.tflite": program,
        "state.safetensors": write_tensors(state),
        "replay.safetensors": write_tensors(replay),
    }


def toy_bundle(
    folder: Path,
    release: int = 0,
    name: str = "toy",
    slots: int = 6,
    schedules: Mapping[str, Any] | None = None,
    runtimes: Sequence[str] = ("litert",),
    **options: Any,
) -> Path:
    """Writes a toy bundle for all ``runtimes``; ``schedules`` beside its own, ``options`` as for ``toy_files``."""
    manifest = copy.deepcopy(toy_manifest(slots, options.get("classes", CLASSES)))
    manifest.update(
        release=release, name=name, schedules={**manifest["schedules"], **(schedules or {})},
        runtimes=dict.fromkeys(runtimes, manifest["runtimes"]["litert"]),
    )  # fmt: skip
    return write_bundle(folder, manifest, toy_files(slots, **options)).path
