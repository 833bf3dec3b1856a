"""A Flower strategy that averages parts over the devices that hold them, counts bytes and survives bad answers."""

from __future__ import annotations

import logging
import random
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from pocketstep.federate.aggregate import Contribution, Defence, aggregate
from pocketstep.federate.methods import check_method
from pocketstep.federate.privacy import Privacy, hidden
from pocketstep.federate.records import ARRAYS, CONFIG, contribution, from_arrays, to_arrays
from pocketstep_device.errors import InputError

log = logging.getLogger(__name__)


@dataclass
class Round:
    """What a round was: devices asked, used, rejected, silent or failed, scaled down; bytes of parts; classes found.

    ``own_accuracy`` is what devices say of their own held-back samples after their updates: their mean, 0 to 1; None
    where nobody says.
    """

    number: int
    asked: int
    used: int = 0
    rejected: int = 0
    failed: int = 0
    clipped: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    found: tuple[str, ...] = ()
    own_accuracy: float | None = None


class PartsAverage(Strategy):
    """TeAM's critical-path average, or FedAvg, FedPer, FedRep, LG-FedAvg: they differ in the parts that devices share.

    Args:
        method: see ``methods.shared``.
        share: of the devices there are, asked in a round.
        least: devices that a round needs; it waits for them to come.
        defence: see ``aggregate``.
        seed: of the choice of devices.
        seconds: how long a round waits for devices to come before it goes on with those there are.
        privacy: noise that hides each device (see ``privacy``), with its own defence in place of ``defence``; None for
            none.

    Attributes:
        rounds: what happened.
    """

    def __init__(
        self, method: str = "critical-paths", share: float = 1.0, least: int = 1, defence: Defence | None = None,
        seed: int = 0, seconds: float = 60.0, privacy: Privacy | None = None,
    ) -> None:  # fmt: skip
        check_method(method)
        if not 0 < share <= 1 or least < 1:
            raise InputError(f"a share of {share} of the devices and at least {least} cannot be asked: give 0 to 1")
        self.method, self.share, self.least = method, share, least
        self.privacy, self.seconds = privacy, seconds
        self.defence = privacy.defence if privacy else defence or Defence()
        self.rounds: list[Round] = []
        self._random = random.Random(seed)
        self._current: dict[str, object] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Asks some of the devices that are there."""
        self._current = from_arrays(arrays)
        nodes = self._nodes(grid)
        count = min(len(nodes), max(self.least, round(self.share * len(nodes))))
        chosen = self._random.sample(nodes, count)
        size = sum(len(array.data) for array in arrays.values())
        self.rounds.append(Round(server_round, count, bytes_down=count * size))
        config["server-round"], config["method"] = server_round, self.method
        content = RecordDict({ARRAYS: arrays, CONFIG: config})
        return [Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node) for node in chosen]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What is sound of the answers, averaged; those that never came are missed and no more."""
        done, sent = self.rounds[-1], list[Contribution]()
        for message in replies:
            if message.has_error():
                done.failed += 1
                log.warning("round %d: %s failed: %s", server_round, message.metadata.src_node_id, message.error.reason)
                continue
            done.bytes_up += sum(len(a.data) for r in message.content.array_records.values() for a in r.values())
            try:
                sent.append(contribution(message))
            except InputError as error:
                done.rejected += 1
                log.warning("round %d: %s rejected: %s", server_round, message.metadata.src_node_id, error)
        outcome = aggregate(self._current, sent, server_round, self.defence)  # type: ignore[arg-type]
        if self.privacy:
            outcome.parts = hidden(outcome.parts, outcome.holders, self.privacy)
        done.rejected += len(outcome.rejected)
        done.used, done.clipped, done.found = len(sent) - len(outcome.rejected), len(outcome.clipped), outcome.found
        done.failed = done.asked - done.used - done.rejected
        said = [c.own_accuracy for c in sent if c.sender not in outcome.rejected and c.own_accuracy is not None]
        done.own_accuracy = statistics.fmean(said) if said else None
        metrics = {k: v for k, v in asdict(done).items() if k not in ("number", "found") and v is not None}
        return to_arrays(outcome.parts), MetricRecord(metrics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Devices judge every update on their own held-back samples; nothing more is asked."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing was asked."""
        return None

    def summary(self) -> None:
        """One line for the log."""
        log.info("%s, %g of the devices a round, %s, %s", self.method, self.share, self.defence, self.privacy)

    def _nodes(self, grid: Grid) -> list[int]:
        import time

        deadline = time.monotonic() + self.seconds
        while True:
            nodes = sorted(grid.get_node_ids())
            if len(nodes) >= self.least or time.monotonic() > deadline:
                return nodes
            time.sleep(0.2)
