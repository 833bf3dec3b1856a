"""A Flower ``ClientApp`` around the device's learner: parts in, an update on own samples, parts of own classes out.

Images, labels and latents stay in the device's state folder: a reply holds trained tensors, how many images of each
class are behind them, and two accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from pocketstep.federate.methods import local_schedule, shared
from pocketstep.federate.records import ARRAYS, CONFIG, NEW_ACCURACY, from_arrays, reply
from pocketstep_device import Budget, Learner
from pocketstep_device.errors import PocketstepError
from pocketstep_device.exchange import counts, export_parts, import_parts

Open = Callable[[Context], AbstractContextManager[Learner]]


def client_app(open_learner: Open, budget: Budget | None = None) -> ClientApp:
    """The app of one device.

    Args:
        open_learner: gives the device's learner, which holds what the device observed; closed after each round.
        budget: of each update.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        """One round."""
        config = message.content.config_records[CONFIG]
        number, method = int(config["server-round"]), str(config["method"])  # type: ignore[arg-type]
        with open_learner(context) as learner:
            given = from_arrays(message.content.array_records[ARRAYS])
            own = counts(learner)
            wanted = set(shared(method, given, own))
            import_parts(learner, {name: part for name, part in given.items() if name in wanted})
            report = learner.update(budget, method=local_schedule(method, learner.manifest.schedules))
            if not report.accepted:
                raise PocketstepError(f"the update was not kept: {report.reason}")
            parts = export_parts(learner)
            sent = {name: parts[name] for name in shared(method, parts, own)}
            figures = {"old_accuracy": report.old_accuracy, NEW_ACCURACY: report.new_accuracy}
            content = reply(sent, own, number, {k: v for k, v in figures.items() if not math.isnan(v)})
        return Message(content=content, reply_to=message)

    return app
