"""A user's own network: its factory, weights, class names and pictures, as ``pocketstep export`` takes them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pocketstep_device.errors import InputError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation that torchvision's and most of timm's weights expect."""


def load_model(factory: str, weights: Path | None, classes: int) -> nn.Module:
    """Calls ``module:factory`` and loads weights into what it gives.

    Args:
        factory: importable from the current folder or the environment, such as ``torchvision.models:resnet18``;
            called with ``num_classes`` where it takes that, else without arguments.
        weights: a ``.safetensors`` file with the module's own names, or None.
        classes: how many outputs the network shall have.

    Raises:
        InputError: no such module or factory, it fails, or the weights do not fit.
    """
    module_name, _, name = factory.partition(":")
    if not module_name or not name:
        raise InputError(f"'{factory}' is no module:factory; write for example torchvision.models:resnet18")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        make = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise InputError(f"cannot import '{module_name}': {error}; run in its folder or install it") from None
    except AttributeError:
        raise InputError(
            f"'{module_name}' has no '{name}'; name a function or a class that makes the network"
        ) from None
    model = _call(make, factory, classes)
    if weights is not None:
        _load_weights(model, weights)
    return model.eval()


def _call(make: object, factory: str, classes: int) -> nn.Module:
    if isinstance(make, nn.Module):
        return make
    if not callable(make):
        raise InputError(f"'{factory}' is neither a module nor something to call; name what makes the network")
    try:
        try:
            model = make(num_classes=classes)
        except TypeError:
            model = make()
    except Exception as error:
        raise InputError(
            f"'{factory}' failed: {type(error).__name__}: {error}; it must work without arguments"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"'{factory}' gives {type(model).__name__}, not a torch.nn.Module")
    return model


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is no readable .safetensors file: {error}; save one with "
            "safetensors.torch.save_file(model.state_dict(), path)"
        ) from None
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise InputError(f"the weights in {path} do not fit the network: {first}") from None


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names, one a line, in the order of the network's outputs.

    Raises:
        InputError: no such file, fewer than two names, or a name twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read class names from {path}: {error}; give a text file, one name a line") from None
    names = tuple(line.strip() for line in lines if line.strip())
    twice = sorted({name for name in names if names.count(name) > 1})
    if len(names) < 2 or twice:
        problem = f"'{twice[0]}' stands there twice" if twice else f"it has {len(names)} names"
        raise InputError(f"{path} must name two classes or more, one a line: {problem}")
    return names


def numbers(text: str, what: str) -> tuple[float, ...]:
    """Numbers between commas.

    Raises:
        InputError: something else.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{what} '{text}' must be numbers between commas, such as 0.485,0.456,0.406") from None


def input_size(text: str) -> tuple[int, int, int]:
    """``C,H,W`` as (H, W, C).

    Raises:
        InputError: not three whole numbers, or channels other than 1 or 3.
    """
    values = numbers(text, "--input")
    if len(values) != 3 or any(v != int(v) or v < 1 for v in values) or values[0] not in (1, 3):
        raise InputError(f"--input '{text}' must be channels (1 or 3), height and width, such as 3,224,224")
    channels, height, width = (int(v) for v in values)
    return height, width, channels


def default_normalisation(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """ImageNet's for colour; half and half for grey."""
    return IMAGENET if channels == 3 else ((0.5,), (0.5,))
