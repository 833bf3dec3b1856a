"""Simulated fleets with LiteRT devices: processes of its own, so slow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Flower's simulation engine is an extra: pip install 'pocketstep[fleet]'")


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "clients", "share"), [("pool", 4, 1.0), ("flower", 4, 1.0), ("pool", 1000, 0.1)])
def test_a_simulated_fleet(
    bundle_path: Path, digits: Any, tmp_path: Path, engine: str, clients: int, share: float
) -> None:
    """Nearly all that are asked answer (a device may refuse its update); the next bundle knows the class they found."""
    from pocketstep.federate.simulate import fleet
    from pocketstep.recipe import load_recipe
    from pocketstep_device.bundle import Bundle

    part = load_recipe("digits-paths").fleet
    assert part
    part = replace(part, clients=clients, share=share, rounds=1, classes_per_client=3, images_per_client=20)
    result = fleet(part, Bundle.open(bundle_path), *digits, tmp_path, engine=engine)
    done = result["rounds"][0]
    assert done["asked"] == round(clients * share)
    assert done["used"] >= 0.9 * done["asked"]
    assert result["accuracy"][-1] > 0.5
    assert result["classes"] == [str(n) for n in range(10)]
