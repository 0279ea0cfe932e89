"""``qguard models``: which models and precisions are supported here, or how one model is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from qguard.commands import add_json
from qguard.console.visible import say

if TYPE_CHECKING:
    from qguard.models.model import Model
    from qguard.precisions import Precision


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "ref", nargs="?", metavar="MODEL", help="hub id, folder or package:NAME/PATH: how this one is supported (default: all)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print what is supported; for a model that is refused, why, with exit code 3."""
    from qguard.files import dump_json, write_atomic
    from qguard.models.model import resolve

    found = _of_all() if args.ref is None else _of_one(resolve(_name(args.ref), args.ref))
    say("\n".join(found.pop("lines")))
    if args.json:
        write_atomic(args.json, dump_json(found))
    return 0


def _name(ref: str) -> str:
    return ref.rstrip("/").replace(":", "/").rsplit("/", 1)[-1]


def _of_all() -> dict[str, Any]:
    from qguard.precisions import support

    lines = ["tested architectures (model_type): precisions that work here"]
    blocked = _blocked()
    rows = []
    for a in support.matrix():
        works = [p for p, c in a.cells.items() if c.status == support.WORKS]
        here = [p for p in works if p not in blocked]
        refused = {p: c.words for p, c in a.cells.items() if c.status == support.REFUSED}
        rows.append({"name": a.name, "model_type": a.model_type, "models": a.models, "works_here": here, "refused": refused})
        lines.append(f"  {a.name} ({a.model_type}): {', '.join(here) or 'none'}")
        lines += [f"    {p}: {why}" for p, why in refused.items()]
    if blocked:
        lines += ["not here:", *_grouped(blocked)]
    versions = _versions()
    lines += [*versions.pop("lines"), "another architecture: qguard models MODEL   (also: folder, package:NAME/PATH)"]
    return {"lines": lines, "architectures": rows, "not_here": blocked, **versions}


def _of_one(model: Model) -> dict[str, Any]:
    """The lines on one model.

    Raises:
        ModelProblem: where it is refused.
    """
    from qguard.errors import QguardError
    from qguard.kinds import DENSE, in_words
    from qguard.models.admission import refuse_unknown_type
    from qguard.models.pipeline import read_optional
    from qguard.precisions import support

    kind = str(read_optional(model.root / "config.json").get("model_type", ""))
    rows = support.of_type(kind)
    if model.static:
        first = f"{model.name}: a static model, one embedding table without a transformer"
    elif model.onnx is not None:
        first = f"{model.name}: an ONNX file ({model.onnx.name}), which is judged as it is"
    elif rows:
        of = "" if model.kind == DENSE else " of dense models"
        first = f"{model.name}: {rows[0].name} ({kind}), a tested architecture{of}"
    else:
        refuse_unknown_type(model.root)
        first = (
            f"{model.name}: type {kind!r}, which is not among the tested architectures. The installed transformers has it; "
            "qguard compares each export with torch before it judges anything, and says so if they differ"
        )
    cells = rows[0].cells if rows and model.onnx is None and not model.static else {}
    lines, precisions = [first], {}
    if model.kind != DENSE:
        lines.append(f"  kind: {in_words(model.kind)}")
    for precision in _precisions():
        try:
            precision.check(model)
            cell = cells.get(str(precision))
            why = support.obstacle(precision) or (cell.words if cell and cell.status == support.REFUSED else "")
        except QguardError as e:
            why = str(e)
        precisions[str(precision)] = why.replace(precision.recipe.name, "it")
    works = [p for p, why in precisions.items() if not why]
    lines.append(f"  precisions: {', '.join(works)}")
    lines += _grouped(precisions)
    lines.append(f"next: qguard init {model.ref}")
    facts = {"model": model.name, "kind": model.kind, "model_type": kind, "tested": bool(rows), "precisions": precisions}
    return {"lines": lines, **facts}


def _grouped(reasons: dict[str, str]) -> list[str]:
    """A line for each reason, after the precisions that it keeps from working."""
    groups: dict[str, list[str]] = {}
    for name, why in reasons.items():
        if why:
            groups.setdefault(why, []).append(name)
    return [f"  {', '.join(names)}: {why}" for why, names in groups.items()]


def _precisions() -> list[Precision]:
    from qguard.precisions import RECIPES, precision_of

    return [precision_of(r) for r in RECIPES.values()]


def _blocked() -> dict[str, str]:
    from qguard.precisions import support

    return {str(p): why for p in _precisions() if (why := support.obstacle(p))}


def _versions() -> dict[str, Any]:
    from qguard.machine.versions import installed
    from qguard.precisions import support

    tested = support.tested_with()
    here = installed(*tested)
    other = {k: v for k, v in here.items() if v not in (tested[k], "absent")}
    lines = [f"tested with {', '.join(f'{k} {v}' for k, v in tested.items())}"]
    if other:
        lines.append(f"installed here in another version: {', '.join(f'{k} {v}' for k, v in other.items())}")
    return {"lines": lines, "tested_with": tested, "installed": here}
