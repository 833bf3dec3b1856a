"""Writes one network and plan as data that every rival reads: nodes, weights, a batch and autograd's first losses.

    python scripts/rivals/prepare.py NETWORK PLAN BATCH FOLDER

`graph.json` lists the nodes in order; `weights.npz` and `batch.npz` hold PyTorch's layouts (OIHW, NCHW).
"""

from __future__ import annotations

import json
import operator
import sys
from pathlib import Path
from typing import Any

import networks
import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

RATE = 0.001
ELEMENTWISE = {torch.relu: "relu", F.relu: "relu", operator.add: "add", torch.add: "add"}
MODULES = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.AdaptiveAvgPool2d: "mean"}
POOLINGS = {"mean", F.adaptive_avg_pool2d}


def main(network: str, plan: str, batch: int, folder: Path) -> None:
    """Writes the files."""
    net, trained = networks.planned(network, plan)
    torch.manual_seed(1)
    images = torch.randn(batch, *networks.INPUTS[network])
    labels = torch.randint(0, networks.CLASSES, (batch,))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "weights.npz", **{name: value.detach().numpy() for name, value in net.named_parameters()})
    np.savez(folder / "batch.npz", images=images.numpy(), labels=labels.numpy())
    graph = {"nodes": nodes(net), "trained": trained, "classes": networks.CLASSES, "rate": RATE}
    graph["losses"] = first_losses(net, images, labels)  # changes the weights
    (folder / "graph.json").write_text(json.dumps(graph, indent=1))


def first_losses(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Loss of the batch before and after one step of autograd and SGD (with or without momentum: it begins at 0)."""
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], RATE)
    losses = []
    for _ in range(2):
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def nodes(net: fx.GraphModule) -> list[dict[str, Any]]:
    """The graph as a list of {op, inputs, output, ...}; the first input is 'images', the last output 'logits'."""
    listed: list[dict[str, Any]] = []
    names: dict[fx.Node, str] = {}
    for node in net.graph.nodes:
        if node.op == "placeholder":
            names[node] = "images"
        elif node.op != "output":
            inputs = [names[n] for n in node.all_input_nodes]
            names[node] = _append(listed, net, node, inputs)
    listed[-1]["output"] = "logits"
    return listed


def _append(listed: list[dict[str, Any]], net: fx.GraphModule, node: fx.Node, inputs: list[str]) -> str:
    """Appends what a node does; the name of its output."""
    if node.op == "call_module":
        module = net.get_submodule(str(node.target))
        if isinstance(module, networks.Decoupled):
            parts = {"ring": module.ring, "centre": module.centre}
            both = [_conv(listed, f"{node.target}.{name}", part, inputs) for name, part in parts.items()]
            return _add(listed, {"op": "add"}, both)
        if isinstance(module, nn.Conv2d):
            return _conv(listed, str(node.target), module, inputs)
        if isinstance(module, nn.Linear):
            weight, bias = f"{node.target}.weight", f"{node.target}.bias"
            return _add(listed, {"op": "linear", "weight": weight, "bias": bias}, inputs)
        if isinstance(module, nn.MaxPool2d):
            sizes = {"kernel": module.kernel_size, "stride": module.stride, "padding": module.padding}
            return _add(listed, {"op": "max_pool", **sizes}, inputs)
        return inputs[0] if isinstance(module, nn.Dropout) else _add(listed, {"op": MODULES[type(module)]}, inputs)
    if node.target is torch.flatten:
        return inputs[0]
    op = "mean" if node.target in POOLINGS else ELEMENTWISE[node.target]
    return _add(listed, {"op": op}, inputs)


def _conv(listed: list[dict[str, Any]], name: str, conv: nn.Conv2d, inputs: list[str]) -> str:
    entry = {
        "op": "conv", "weight": f"{name}.weight", "bias": None if conv.bias is None else f"{name}.bias",
        "stride": conv.stride[0], "padding": conv.padding[0], "groups": conv.groups,
    }  # fmt: skip
    return _add(listed, entry, inputs)


def _add(listed: list[dict[str, Any]], entry: dict[str, Any], inputs: list[str]) -> str:
    listed.append({**entry, "inputs": inputs, "output": f"t{len(listed)}"})
    return str(listed[-1]["output"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
