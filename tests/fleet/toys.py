"""Fleets of toy bundles, and a grid that calls each device's app in this process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import toy
from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.supercore.task_identity import TaskIdentity

from pocketstep_device import Learner
from pocketstep_device.bundle_writer import write_bundle

PATHS = [{"name": "head.weight", "axis": 0, "size": 1}, {"name": "head.bias", "axis": 0, "size": 1}]


def bundle(folder: Path, paths: bool = True, release: int = 0, classes: tuple[str, ...] = toy.CLASSES) -> Path:
    """A toy whose head's rows are paths, with a fleet's schedules."""
    manifest = copy.deepcopy(toy.toy_manifest(6, classes))
    manifest.update(release=release)
    train = {"kind": "train", "name": "enhance", "rows": "all", "epochs": 10, "learning_rate": 0.3, "new_paths": 10.0}
    for name in ("enhance", "enhance-in-turns"):
        manifest["schedules"][name] = {**manifest["schedules"]["auto"], "phases": [train]}
    if paths:
        manifest["plan"]["paths"] = PATHS
        own = {**manifest["schedules"]["enhance"], "phases": [{**train, "other_paths": 0.0}]}
        manifest["schedules"]["enhance-own"] = own
    return write_bundle(folder, manifest, toy.toy_files(6, classes)).path


def observing(path: Path, state: Path, *seen: str, count: int = 25, seed: int = 0) -> Learner:
    """A learner that has observed some classes, new ones among them."""
    learner = Learner.open(path, state)
    for name in seen if not len(learner.samples) else ():
        if name not in learner.classes:
            learner.add_class(name)
        learner.observe(toy.images(name, count, seed=seed), name)
    return learner


class NearGrid:
    """Devices in this process: node -> what answers a message; None stays silent."""

    def __init__(self, devices: dict[int, Callable[[Message, Context], Message] | None]) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0  # whom messages are from
        self.devices = devices
        self.seen: list[RecordDict] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(self.devices)

    def send_and_receive(self, messages: Iterable[Message], timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            device = self.devices[node]
            if device is None:
                continue
            try:
                context = Context(
                    run_id=1, node_id=node, node_config=UserConfig({}), state=RecordDict(), run_config=UserConfig({})
                )
                replies.append(device(message, context))
                self.seen.append(replies[-1].content)
            except Exception as error:
                replies.append(Message(Error(code=0, reason=str(error)), reply_to=message))
        return replies


def grid(devices: dict[int, Any]) -> Any:
    return NearGrid(devices)
