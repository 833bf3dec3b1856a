"""The server: rounds with the devices that are there, then ``next.bundle``; its settings are the app's config."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pocketstep.federate.aggregate import PLAIN, Defence
from pocketstep.federate.privacy import Privacy
from pocketstep.federate.serve import serve
from pocketstep.federate.strategy import PartsAverage
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import InputError

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run."""
    config = context.run_config
    if not config["bundle"] or not config["out"]:
        raise InputError("give the run its bundle and folder, by their whole paths: -c 'bundle=… out=…'")
    strategy = PartsAverage(
        str(config["method"]), float(config["share"]), int(config["least"]), Defence() if config["defended"] else PLAIN,
        seconds=float(config["patience"]),
        privacy=Privacy(float(config["noise"]), float(config["norm"])) if config["noise"] else None,
    )  # fmt: skip
    bundle, out = Bundle.open(str(config["bundle"])), Path(str(config["out"]))
    serve(grid, bundle, out, strategy, int(config["rounds"]), seconds=float(config["seconds"]))
