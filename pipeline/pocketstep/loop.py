"""The steps of a training run: optimiser, schedule, progress, saving and going on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor, nn

from pocketstep.checkpoint import Checkpoint, Saved
from pocketstep.feed import Feed
from pocketstep.history import History, OnProgress, Progress, Watch
from pocketstep.parallel import Workers
from pocketstep.rates import Schedule
from pocketstep.sizes import SizeSchedule, resized
from pocketstep_device.errors import CheckFailedError, InputError

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, normalised images (B, C, H, W), labels (B,)) -> scalar; calls the model once."""

_MOMENTUM, _WEIGHT_DECAY = 0.9, 5e-4
_STEP_SECONDS = 0.5


class Run:
    """One training run; ``go`` does all of it, or the rest of it.

    Args:
        model: trained in place.
        feed: its batches.
        loss: what to minimise; parameters of a loss that is a module are trained too.
        epochs: passes over the feed.
        learning_rate: the schedule's peak.
        schedule: of the rate.
        sizes: of the images.
        workers: the processes.
        stage: name for progress and errors.
        checkpoint: where to keep the run; None does not.
        watch: what to measure on the way.
        score: accuracy (0..1) of the model on the watched images.
        on_progress: called after each epoch.
        on_step: called at most twice a second.
    """

    def __init__(
        self, model: nn.Module, feed: Feed, loss: Loss, epochs: int, learning_rate: float, schedule: Schedule,
        sizes: SizeSchedule, workers: Workers, *, stage: str, checkpoint: Checkpoint | None, watch: Watch | None,
        score: Callable[[], float], on_progress: OnProgress | None, on_step: OnProgress | None,
    ) -> None:  # fmt: skip
        self.model, self.feed, self.loss = model, feed, loss
        self.epochs, self.steps = epochs, epochs * feed.steps
        self.learning_rate, self.schedule, self.sizes, self.workers = learning_rate, schedule, sizes, workers
        self.stage, self.checkpoint, self.watch, self.score = stage, checkpoint, watch, score
        self.on_progress = on_progress if workers.first else None
        self.on_step = on_step if workers.first else None
        self.apart = [p for p in loss.parameters() if p.requires_grad] if isinstance(loss, nn.Module) else []
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise InputError("nothing to train: no parameter requires gradients; unfreeze some")
        self.optimiser = torch.optim.SGD(
            [*parameters, *self.apart], learning_rate, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY, nesterov=True
        )
        self.history, self.step = History(), 0
        self.total = torch.zeros(2, device=feed.device)  # loss and hits of this epoch
        self.best: dict[str, Tensor] = {}
        self._before, self._begun, self._shown = 0.0, (time.perf_counter(), 0), 0.0

    def go(self) -> History:
        """Trains, and leaves the model in evaluation mode.

        Raises:
            CheckFailedError: If the loss is no longer finite.
        """
        state = self._resume()
        self.model.eval()  # every step looks at the mode anew
        self._begun = (time.perf_counter(), self.step)
        called = self.workers.wrap(self.model)
        seen: list[Tensor] = []
        hook = self.model.register_forward_hook(lambda module, inputs, logits: seen.append(logits.detach()))
        try:
            while self.step < self.steps:
                first = self.step % self.feed.steps
                for images, labels in self.feed.epoch(first, state):
                    self._update(called, images, labels, seen)
                state = None
                self._end_epoch()
        finally:
            hook.remove()
        self.history.seconds = self._seconds()
        if self.best:
            self.model.load_state_dict(self.best)
        self.model.eval()
        return self.history

    def _update(self, called: nn.Module, images: Tensor, labels: Tensor, seen: list[Tensor]) -> None:
        train_mode(self.model)
        rate = self.learning_rate * self.schedule(self.step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        images = resized(images, self.sizes(self.step, self.steps))
        seen.clear()
        with self.workers.autocast():
            value = self.loss(called, images, labels)
        self.workers.step(value, self.optimiser, self.apart)
        self.total += torch.stack([value.detach().float(), (seen[0].argmax(1) == labels).float().mean()])
        self.step += 1
        if self.watch and (self.step % self.watch.every == 0 or self.step == self.steps):
            self._measure(self.watch)
        if self.on_step and time.perf_counter() - self._shown > _STEP_SECONDS:
            self._shown = time.perf_counter()
            self.on_step(self._progress())
        if self.checkpoint and self.checkpoint.due and self.step % self.feed.steps:
            self._save()

    def _measure(self, watch: Watch) -> None:
        self.model.eval()
        accuracy = self.score()
        if watch.keep_best and accuracy > max((best for _, best in self.history.curve), default=-1.0):
            self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.history.curve.append((self.step, accuracy))

    def _end_epoch(self) -> None:
        self.total = self.workers.mean(self.total)
        progress = self._progress()
        if not math.isfinite(progress.loss):
            raise CheckFailedError(
                f"{self.stage} diverged in epoch {progress.epoch} (loss {progress.loss}): "
                f"lower the learning rate of {self.learning_rate}"
            )
        self.history.epochs.append(progress)
        self.total = torch.zeros_like(self.total)
        if self.on_progress:
            self.on_progress(progress)
        if self.checkpoint:
            self._save()

    def _progress(self) -> Progress:
        done = (self.step - 1) % self.feed.steps + 1
        loss, accuracy = (self.total / done).tolist()
        start, first = self._begun
        pace = (time.perf_counter() - start) / max(self.step - first, 1)
        watched = self.history.curve[-1][1] if self.history.curve else None
        epoch = (self.step - 1) // self.feed.steps + 1
        return Progress(
            self.stage, epoch, self.epochs, loss, accuracy, self.step, self.steps,
            pace * (self.steps - self.step), watched,
        )  # fmt: skip

    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._begun[0]

    def _save(self) -> None:
        assert self.checkpoint
        if not self.workers.first:
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"apart.{index}": parameter for index, parameter in enumerate(self.apart)}
        for index, parameter in enumerate(self.optimiser.param_groups[0]["params"]):
            momentum = self.optimiser.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{index}"] = momentum
        tensors |= {"total": self.total, "epoch": self.feed.before_epoch, "now": self.feed.generator.get_state()}
        facts = {
            "step": self.step, "curve": self.history.curve, "epochs": [asdict(e) for e in self.history.epochs],
            "seconds": self._seconds(), "scale": self.workers.scale,
        }  # fmt: skip
        self.checkpoint.save(tensors, facts)

    def _resume(self) -> Tensor | None:
        """Goes back to where the run was saved; returns the generator's state within that epoch, if within one."""
        saved = self.checkpoint.load() if self.checkpoint else None
        if saved is None:
            return None
        try:
            return self._restore(saved)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            assert self.checkpoint
            raise InputError(
                f"cannot go on from {self.checkpoint.path} ({error}): delete it to start this training anew"
            ) from error

    def _restore(self, saved: Saved) -> Tensor | None:
        tensors, facts = saved.tensors, saved.facts
        self.model.load_state_dict(_part(tensors, "model."))
        self.best = _part(tensors, "best.")
        with torch.no_grad():
            for index, parameter in enumerate(self.apart):
                parameter.copy_(tensors[f"apart.{index}"])
        for index, parameter in enumerate(self.optimiser.param_groups[0]["params"]):
            if f"momentum.{index}" in tensors:
                momentum = torch.empty_like(parameter).copy_(tensors[f"momentum.{index}"])
                self.optimiser.state[parameter]["momentum_buffer"] = momentum
        self.step, self._before = int(facts["step"]), float(facts["seconds"])
        self.history.curve = [(int(step), float(accuracy)) for step, accuracy in facts["curve"]]
        self.history.epochs = [Progress(**epoch) for epoch in facts["epochs"]]
        self.workers.scale = facts["scale"]
        within = self.step % self.feed.steps != 0
        self.total = tensors["total"].to(self.total.device) if within else torch.zeros_like(self.total)
        self.feed.generator.set_state(tensors["epoch"] if within else tensors["now"])
        return tensors["now"] if within else None


def train_mode(model: nn.Module) -> None:
    """Training mode, but frozen batch norms keep their statistics."""
    if not model.training:
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and not any(p.requires_grad for p in module.parameters()):
                module.eval()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
