"""A fleet from end to end without native code: toy learners, Flower's messages, the strategy, the next bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is an extra: pip install 'pocketstep[fleet]'")

import toy
import toys
from flwr.app import Context, Message

from pocketstep.federate.client import client_app
from pocketstep.federate.methods import local_schedule
from pocketstep.federate.next_bundle import initial_parts, next_bundle
from pocketstep.federate.records import ARRAYS, CONFIG, METRICS, NEW_ACCURACY, from_arrays, reply, to_arrays
from pocketstep.federate.strategy import PartsAverage
from pocketstep_device import Learner, adopt
from pocketstep_device.bundle import Bundle
from pocketstep_device.errors import BundleError, InputError
from pocketstep_device.exchange import export_parts, import_parts

NEW = "green"


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    toy.install(monkeypatch)


def device(bundle: Path, state: Path, *seen: str, seed: int = 0) -> Any:
    app = client_app(lambda context: toys.observing(bundle, state, *seen, seed=seed))
    return lambda message, context: app(message, context)


def hostile(change: Any) -> Any:
    """A device that sends back what ``change`` makes of the parts it was given."""

    def answer(message: Message, context: Context) -> Message:
        given = from_arrays(message.content.array_records[ARRAYS])
        number = int(message.content.config_records[CONFIG]["server-round"])  # type: ignore[arg-type]
        parts, number = change(given, number)
        return Message(content=reply(parts, {"dark": 10, "bright": 10}, number, {}), reply_to=message)

    return answer


def run(strategy: PartsAverage, bundle: Path, devices: dict[int, Any], rounds: int = 2) -> tuple[dict[str, Any], Any]:
    grid = toys.grid(devices)
    result = strategy.start(grid, to_arrays(initial_parts(Bundle.open(bundle))), num_rounds=rounds)
    return from_arrays(result.arrays), grid


def test_devices_teach_one_another_and_adopt_the_next_bundle(tmp_path: Path) -> None:
    bundle = toys.bundle(tmp_path / "first.bundle")
    fleet = {1: ("dark", NEW), 2: ("bright", NEW), 3: ("dark", "bright", "own")}
    devices = {n: device(bundle, tmp_path / str(n), *seen, seed=n) for n, seen in fleet.items()}
    strategy = PartsAverage(least=3)
    parts, grid = run(strategy, bundle, devices)
    assert [(r.used, r.rejected, r.failed) for r in strategy.rounds] == [(3, 0, 0)] * 2
    assert strategy.rounds[0].found == (NEW, "own")
    for content in grid.seen:  # trained tensors and numbers; nothing of an image
        assert set(content.keys()) == {ARRAYS, METRICS, CONFIG}
        assert {name.partition("@")[0] for name in content[ARRAYS]} == {"head.weight", "head.bias"}
    row = 4 * (toy.FEATURES + 1)
    uploaded = sum(array.data and len(array.data) for content in grid.seen for array in content[ARRAYS].values())
    assert sum(r.bytes_up for r in strategy.rounds) == uploaded
    assert uploaded >= 2 * sum(len(seen) for seen in fleet.values()) * row
    made = next_bundle(Bundle.open(bundle), parts, tmp_path / "next.bundle")
    assert made.manifest.task.classes == (*toy.CLASSES, NEW, "own")
    assert made.manifest.release == 1
    with Learner.open(made.path, tmp_path / "fresh") as fresh:  # a device that never saw the new class
        found = fresh.classify(toy.images(NEW, 40, seed=9)).labels
        assert np.mean([label == NEW for label in found]) > 0.8
    with toys.observing(bundle, tmp_path / "4", "dark", "mine") as learner:
        learner.update(method="enhance")
    adoption = adopt(made.path, tmp_path / "4")
    assert adoption.accepted
    assert adoption.classes == ("mine",)
    with Learner.open(made.path, tmp_path / "4") as learner:
        assert learner.classes == [*toy.CLASSES, NEW, "own", "mine"]
        found = learner.classify(toy.images("mine", 40, seed=9)).labels
        assert np.mean([label == "mine" for label in found]) > 0.8


@pytest.mark.parametrize("method", ["critical-paths", "fedavg", "fedper", "fedrep", "lg-fedavg"])
def test_each_method_sends_its_parts(tmp_path: Path, method: str) -> None:
    bundle = toys.bundle(tmp_path / "first.bundle")
    strategy = PartsAverage(method, least=1)
    parts, grid = run(strategy, bundle, {1: device(bundle, tmp_path / "1", "dark")}, rounds=1)
    sent = {name for content in grid.seen for name in content[ARRAYS]}
    rows = {"critical-paths": {"dark"}, "fedavg": set(toy.CLASSES), "lg-fedavg": set(toy.CLASSES)}.get(method, set())
    assert sent == {f"head.{kind}@{name}" for name in rows for kind in ("weight", "bias")}
    assert set(parts) == set(initial_parts(Bundle.open(bundle)))
    assert strategy.rounds[0].used == (1 if rows else 0)  # this toy has no body to share: "it sent nothing"


HOSTILE: dict[str, Any] = {
    "nan": lambda parts, n: ({k: np.full_like(v, np.nan) for k, v in parts.items()}, n),
    "shape": lambda parts, n: ({k: np.zeros((7, 7), np.float32) for k in parts}, n),
    "huge": lambda parts, n: ({k: v + 1e6 for k, v in parts.items()}, n),
    "stale": lambda parts, n: (parts, n - 1),
    "flipped": lambda parts, n: ({k: -5 * v - 1 for k, v in parts.items()}, n),
    "foreign": lambda parts, n: ({"encoder": np.zeros((1,), np.float32)}, n),
}


def test_hostile_silent_and_crashing_devices_cost_a_round_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Against the same fleet without them."""

    def crash(message: Message, context: Context) -> Message:
        raise RuntimeError("out of battery")

    bundle = toys.bundle(tmp_path / "first.bundle")
    results = []
    for kind in ("honest", "hostile"):
        devices: dict[int, Any] = {
            n: device(bundle, tmp_path / f"{kind}{n}", "dark", "bright", seed=n) for n in range(8)
        }
        if kind == "hostile":
            devices.update({10 + i: hostile(change) for i, change in enumerate(HOSTILE.values())})
            devices.update({20: None, 21: crash, 22: lambda m, c: Message(content=type(m.content)(), reply_to=m)})
        strategy = PartsAverage(least=3)
        parts, _ = run(strategy, bundle, devices)
        results.append(parts)
    first = strategy.rounds[0]
    assert (first.asked, first.used, first.rejected, first.failed) == (17, 10, 5, 2)
    assert first.clipped >= 1
    for reason in ("not finite", "float32", "round", "no part", "lacks something", "out of battery", "scaled"):
        assert any(reason in record.getMessage() for record in caplog.records), reason
    scale = max(np.abs(p).max() for p in results[0].values())
    for name in results[0]:
        assert np.abs(results[1][name] - results[0][name]).max() < 0.5 * scale, name


def test_importing_is_all_or_nothing(tmp_path: Path) -> None:
    bundle = toys.bundle(tmp_path / "first.bundle")
    with toys.observing(bundle, tmp_path / "1", "dark") as learner:
        before = export_parts(learner)
        assert set(export_parts(learner, ["dark"])) == {"head.weight@dark", "head.bias@dark"}
        good = {name: part + 1 for name, part in before.items()}
        for bad in (
            {"head.weight@dark": np.full((1, toy.FEATURES), np.nan, np.float32)},
            {"head.weight@dark": np.zeros((2, toy.FEATURES), np.float32)},
            {"count": np.zeros(6, np.float32)},
        ):
            with pytest.raises(InputError, match="nothing was changed"):
                import_parts(learner, {**good, **bad})
        assert all(np.array_equal(v, before[n]) for n, v in export_parts(learner).items())
        assert len(import_parts(learner, {**good, "head.weight@unknown": np.zeros((1, 8), np.float32)})) == len(good)
        assert learner.samples.pending.all()
    with Learner.open(bundle, tmp_path / "1") as again:
        assert all(np.array_equal(v, good[n]) for n, v in export_parts(again).items())


def test_new_paths_learn_ten_times_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask of a row is its path's rate."""
    bundle = toys.bundle(tmp_path / "first.bundle")
    seen: list[Any] = []
    step = toy.ToyProgram._step
    monkeypatch.setattr(toy.ToyProgram, "_step", lambda self, v: (seen.append(v["mask.head.weight"]), step(self, v))[1])
    with toys.observing(bundle, tmp_path / "1", "dark", NEW) as learner:
        learner.update(method="enhance")
    assert seen[0][:, 0].tolist() == [1, 1, 10, 10, 10, 10]  # slots without a class have no gradient


def test_a_fleets_device_trains_only_what_it_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Critical paths: those of classes without own images stay as the server gave them; FedAvg trains all."""
    bundle = toys.bundle(tmp_path / "first.bundle")
    seen: list[Any] = []
    step = toy.ToyProgram._step
    monkeypatch.setattr(toy.ToyProgram, "_step", lambda self, v: (seen.append(v["mask.head.weight"]), step(self, v))[1])
    for method, rates in (("critical-paths", [1, 0, 10, 0, 0, 0]), ("fedavg", [1, 1, 10, 10, 10, 10])):
        seen.clear()
        answering = device(bundle, tmp_path / method, "dark", NEW)
        run(PartsAverage(method, least=1), bundle, {1: answering}, rounds=1)
        assert seen[0][:, 0].tolist() == rates
    known = {"enhance", "enhance-in-turns"}  # a bundle without paths
    assert [local_schedule(m, known) for m in ("critical-paths", "fedrep")] == ["enhance", "enhance-in-turns"]


def test_what_devices_say_of_themselves_is_for_people_only(tmp_path: Path) -> None:
    """Of sound answers only, and never a number that is none."""
    bundle = toys.bundle(tmp_path / "first.bundle")
    devices = {1: device(bundle, tmp_path / "1", "dark"), 2: device(bundle, tmp_path / "2", "bright")}
    strategy = PartsAverage(least=2)
    run(strategy, bundle, devices, rounds=1)
    assert 0.5 < (strategy.rounds[0].own_accuracy or 0) <= 1

    def boasting(figure: float) -> Any:
        def answer(message: Message, context: Context) -> Message:
            given = from_arrays(message.content.array_records[ARRAYS])
            return Message(content=reply(given, {"dark": 5}, 1, {NEW_ACCURACY: figure}), reply_to=message)

        return answer

    for figure in (float("nan"), 2.0, -1.0):
        strategy = PartsAverage(least=1)
        run(strategy, bundle, {1: boasting(figure)}, rounds=1)
        assert (strategy.rounds[0].used, strategy.rounds[0].own_accuracy) == (1, None)


def test_paths_in_a_manifest_are_checked(tmp_path: Path) -> None:
    for entry, reason in [
        ({"name": "nothing", "axis": 0, "size": 1}, "no trained tensor"),
        ({"name": "head.weight", "axis": 2, "size": 1}, "divide an axis"),
        ({"name": "head.weight", "axis": 0, "size": 2}, "divide an axis"),
    ]:
        manifest = toy.toy_manifest(6, toy.CLASSES)
        manifest["plan"]["paths"] = [entry]
        with pytest.raises(BundleError, match=reason):
            toys.write_bundle(tmp_path / "bad.bundle", manifest, toy.toy_files(6))
    plain = Bundle.open(toys.bundle(tmp_path / "plain.bundle", paths=False))
    assert b'"paths"' not in plain.manifest.to_json()  # older readers know no such field


@pytest.mark.parametrize("clients", [6, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_fleet_in_a_pool_of_processes(tmp_path: Path, clients: int) -> None:
    """Forked processes, so that they have the toy's runtime too; memory does not grow with the number of devices."""
    import resource

    from pocketstep.data import Dataset
    from pocketstep.federate.simulate import fleet
    from pocketstep.recipe import FleetRecipe

    bundle = Bundle.open(toys.bundle(tmp_path / "first.bundle"))
    names = (*toy.CLASSES, NEW)
    images = [np.concatenate([toy.images(name, 40, seed=s) for name in names]) for s in (1, 2)]
    seen, test = (Dataset(i, np.repeat(np.arange(3), 40), names) for i in images)
    part = FleetRecipe(
        clients=clients, rounds=2, share=1.0, method="critical-paths", classes_per_client=2, images_per_client=20
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = fleet(part, bundle, seen, test, tmp_path, engine="pool")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"server +{grown:.0f} MiB, largest device process {children:.0f} MiB")
    assert [r["used"] + r["rejected"] + r["failed"] for r in result["rounds"]] == [clients] * 2
    assert result["rounds"][0]["used"] >= 0.9 * clients
    assert result["classes"] == list(names)
    assert result["accuracy"][-1] > 0.6
    assert grown < 300
