"""Networks in files: safetensors with, in the header, all that is needed to build the network again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pocketstep.architectures import Blueprint, blueprint_of, build_network
from pocketstep.decouple.surgery import Decoupling, decoupling_of, mark_decoupled
from pocketstep.networks import ResidualNet, parse_architecture
from pocketstep.shallow import shallow
from pocketstep_device.errors import InputError
from pocketstep_device.storage import write_atomically


def save_network(model: nn.Module, path: str | Path) -> None:
    """Writes weights and how the network was made (JSON in the header) to one safetensors file, atomically.

    Raises:
        InputError: the network is none of ours: neither a ``ResidualNet`` nor built from a blueprint.
    """
    blueprint = blueprint_of(model)
    if isinstance(model, ResidualNet):
        metadata = {"architecture": json.dumps(asdict(model.architecture))}
    elif blueprint:
        metadata = {"blueprint": json.dumps(asdict(blueprint))}
    else:
        raise InputError(f"cannot save a {type(model).__name__}: only networks that a recipe names can be read again")
    decoupling = decoupling_of(model)
    if decoupling:
        metadata["decoupling"] = json.dumps(asdict(decoupling))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(Path(path), save(tensors, metadata))


def load_network(path: str | Path) -> nn.Module:
    """Reads what ``save_network`` wrote; the network comes back in evaluation mode, on the CPU.

    Raises:
        InputError: If the file is missing, damaged, not a network, or its weights have other shapes.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no mapping
        with torch.device("meta"):  # no memory is spent before the file's shapes have been compared
            model = _rebuilt(metadata, tensors)
        model.load_state_dict(tensors, assign=True)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise InputError(f"cannot load a network from {path} ({error}): give a file that save_network wrote") from error
    return model.eval()


def _rebuilt(metadata: dict[str, str], tensors: dict[str, Tensor]) -> nn.Module:
    if "architecture" in metadata:
        own = ResidualNet.from_architecture(parse_architecture(json.loads(metadata["architecture"])))
        if "decoupling" in metadata:
            _split(own, metadata["decoupling"])
            _resize(own, tensors)
        return own
    if "blueprint" not in metadata:
        raise ValueError("its header has neither an architecture nor a blueprint")
    described: dict[str, Any] = json.loads(metadata["blueprint"])
    blueprint = Blueprint(**{**described, "size": tuple(described["size"])})
    model = build_network(blueprint)
    if blueprint.shallow:
        model = shallow(model, blueprint.pattern)
    if "decoupling" in metadata:
        _split(model, metadata["decoupling"])
    _resize(model, tensors)
    model.eval()(torch.zeros(1, blueprint.in_channels, *blueprint.size))  # do the widths fit together?
    return model


def _split(model: nn.Module, described: str) -> None:
    """Makes grouped convolutions of the paths', as a decoupled network has them; their widths follow."""
    facts = json.loads(described)
    decoupling = Decoupling(**{**facts, "classes": tuple(facts["classes"]), "norms": tuple(facts["norms"])})
    for name, groups in decoupling.layers.items():
        layer = model.get_submodule(name)
        if groups > 1 and isinstance(layer, nn.Conv2d):
            layer.groups, layer.in_channels = groups, 0  # the weights say how many
    mark_decoupled(model, decoupling)


def _resize(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Gives every layer the widths that its weights in the file have."""
    for name, module in model.named_modules():
        weight = tensors.get(f"{name}.weight")
        if weight is None:
            continue
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups == module.in_channels > 1
            module.out_channels = weight.shape[0]
            module.groups = weight.shape[0] if depthwise else module.groups
            module.in_channels = weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = weight.shape[0]
        for key, own in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            other = tensors[f"{name}.{key}"]
            if own.ndim == other.ndim and isinstance(own, nn.Parameter):
                setattr(module, key, nn.Parameter(torch.empty(other.shape)))
            elif own.ndim == other.ndim:
                setattr(module, key, torch.empty(other.shape, dtype=own.dtype))
