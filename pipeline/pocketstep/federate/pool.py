"""The same apps and messages without Flower's simulation engine: a pool of processes, a device after the other in each.

The engine needs Ray, whose start fails on a machine that is busy for half a minute; this needs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from pocketstep.federate.client import client_app
from pocketstep.federate.population import Population

_SERVER = 0
_app: list[ClientApp] = []


class PoolGrid:
    """What a strategy asks of a grid: who is there, and answers to messages. Use as a context manager.

    A device that fails, or whose process ends, is one failed answer.

    Args:
        population: the devices.
        count: how many.
        processes: that they run in.
    """

    def __init__(self, population: Population, count: int, processes: int) -> None:
        _introduce()
        self._population, self._count, self._processes = population, count, processes
        self._pool = self._new()

    def __enter__(self) -> PoolGrid:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def get_node_ids(self) -> Iterable[int]:
        """Every device, by its number from 1."""
        return range(1, self._count + 1)

    def send_and_receive(self, messages: Iterable[Message], timeout: float | None = None) -> Iterable[Message]:
        """One answer a message."""
        replies = []
        waiting = [(message, self._pool.submit(_answer, message)) for message in messages]
        for message, future in waiting:
            try:
                replies.append(future.result(timeout))
            except Exception as error:  # whatever a device dies of, the round goes on
                replies.append(Message(Error(code=0, reason=f"{type(error).__name__}: {error}"), reply_to=message))
                if isinstance(error, BrokenProcessPool):
                    self._pool = self._new()
        return replies

    def _new(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._processes, initializer=_begin, initargs=(self._population,))


def _introduce() -> None:
    """Flower's messages name whom they are from."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, _SERVER


def _begin(population: Population) -> None:
    _introduce()
    _app[:] = [client_app(population)]


def _answer(message: Message) -> Message:
    node = message.metadata.dst_node_id
    facts: dict[str, Any] = {"partition-id": node - 1}
    context = Context(
        run_id=1, node_id=node, node_config=UserConfig(facts), state=RecordDict(), run_config=UserConfig({})
    )
    answer: Message = _app[0](message, context)
    return answer
