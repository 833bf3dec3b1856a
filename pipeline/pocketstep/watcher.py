"""What losses share that look into networks while these run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from types import TracebackType
from typing import TypeVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pocketstep_device.errors import InputError

_Watcher = TypeVar("_Watcher", bound="Watcher")


class Watcher(nn.Module, ABC):
    """A loss with hooks on networks: put there on entry of a ``with`` block, removed on its exit."""

    def __init__(self) -> None:
        super().__init__()
        self._maps: dict[Hashable, Tensor] = {}  # what hooks keep of a batch
        self._hooks: Sequence[RemovableHandle] = ()
        self._ready = False

    @abstractmethod
    def _watch(self) -> Sequence[RemovableHandle]:
        """Puts hooks that keep their maps."""

    def _expect(self, student: nn.Module, model: nn.Module) -> None:
        if getattr(model, "module", model) is not student or not self._ready:
            raise InputError("the transfer watches its student only, inside of `with transfer:`; train that one")

    def __enter__(self: _Watcher) -> _Watcher:
        self._hooks, self._ready = self._watch(), True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._ready = (), False
        self._maps.clear()
