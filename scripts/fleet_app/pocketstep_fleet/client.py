"""A device: its learner lies where the SuperNode's ``--node-config`` says: bundle, state, and runtime if not LiteRT."""

from __future__ import annotations

from flwr.app import Context

from pocketstep.federate.client import client_app
from pocketstep_device import Learner


def open_learner(context: Context) -> Learner:
    """This node's."""
    node = context.node_config
    return Learner.open(str(node["bundle"]), str(node["state"]), str(node.get("runtime", "litert")))


app = client_app(open_learner)
