"""Every default gate, as ``tests/data/default_gates.json`` has it: ``python -m tests.test_default_gates`` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path

from qguard.gates import gates_for
from qguard.precisions import RECIPES, Precision
from qguard.vectors.quantized import FLOAT, KINDS

FILE = Path(__file__).parent / "data" / "default_gates.json"


def found() -> list[dict[str, object]]:
    """The gates of every recipe and kind of vectors, those that are equal under one list of names."""
    groups: dict[str, list[str]] = {}
    for recipe in RECIPES.values():
        for vectors in (FLOAT, *KINDS):
            precision = Precision(recipe.precision, recipe.runtime, vectors)
            gates, free = (gates_for(precision, {}, normalized=n) for n in (True, False))
            made = {
                "gates": [f"{g.key} {g.bound}" for g in gates],
                "only of unit length": [g.metric for g in gates if g not in free],
                "speedup": recipe.speedup and str(recipe.speedup),
            }
            assert set(free) <= set(gates)
            counted = {g.metric: g.bound for g in gates_for(precision, {}, normalized=False, by_length=True) if g not in gates}
            assert set(counted) <= {"embedding.norm_error"}
            if vectors == FLOAT:  # a vector of twice its length is a fault, whatever the precision
                assert counted["embedding.norm_error"].number < 0.7
            groups.setdefault(json.dumps(made), []).append(f"{recipe.name}+{vectors}")
    return [{"precisions": names, **json.loads(made)} for made, names in groups.items()]


KEPT = json.loads(FILE.read_text()) if FILE.exists() else []


def test_every_default_gate_is_as_it_was():
    assert found() == KEPT


if __name__ == "__main__":
    FILE.write_text(json.dumps(found(), indent=1) + "\n")
