"""``qguard diagnose``: the stage, then the layer, that loses what a gate misses, and which layers to exclude."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qguard.commands import add_artifact, add_json, add_precision, add_selection, selected, session_of
from qguard.console.visible import say
from qguard.diagnosis import TEXTS

if TYPE_CHECKING:
    from qguard.artifacts.artifact import Artifact


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_precision(parser)
    add_artifact(parser)
    parser.add_argument(
        "--texts", type=int, default=TEXTS, metavar="N", help=f"number of texts that the layers are measured on (default {TEXTS})"
    )
    parser.add_argument(
        "--layers-only", action="store_true", help="examine only stages and layers; run no gates and try no layer in fp32"
    )
    parser.add_argument("--all", action="store_true", help="list every layer")
    text = "also write the artifact with the layers in fp32 that the gates need, where leaving layers in fp32 helps"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)
    add_json(parser)
    add_selection(parser)


def run(args: argparse.Namespace) -> int:
    """Diagnose one artifact on one suite; 1 where something is wrong."""
    from rich.console import Console

    from qguard.diagnosis import refuse
    from qguard.diagnosis.report import show, to_json
    from qguard.errors import UsageProblem
    from qguard.files import dump_json, write_atomic
    from qguard.judging.session import Target
    from qguard.precisions import parse_precision
    from qguard.quantize import check_target

    if args.out is not None:
        check_target(args.out, force=False)
        if args.layers_only:
            raise UsageProblem("--out writes what comes of leaving layers in fp32, which --layers-only does not try")
    if args.texts < 2:
        raise UsageProblem(f"--texts: expected 2 or more, found {args.texts}")
    session = session_of(args)
    session.artifact_path = args.artifact
    precision = parse_precision(args.precision, session.config.own_precisions)
    refuse(precision, session)
    pairs = list(selected(session))
    if len({model for model, _ in pairs}) > 1:
        raise UsageProblem(f"several models are configured; give --model, one of {', '.join(session.config.models)}")
    from qguard.diagnosis.examination import Examination

    model, suite = pairs[0]
    keep = None if args.out is None else partial(_keep, args.out)
    found = Examination(session, Target(precision, model, suite), args.texts, keep).run(layers_only=args.layers_only)
    if args.json:
        write_atomic(args.json, dump_json(to_json(found)))
    show(found, Console(highlight=False, width=None if sys.stdout.isatty() else 160), args.all)
    if args.out is not None:
        written = args.out.exists() and any(args.out.iterdir())
        say(f"judge it: pytest --precision {precision} --artifact={args.out}" if written else f"nothing to write to {args.out}")
    return int(found.fault)


def _keep(out: Path, artifact: Artifact, file: Path) -> None:
    """The artifact's folder with another file in place of its own, without the record of how that was made."""
    from qguard.errors import ArtifactProblem
    from qguard.quantize import replaced

    try:
        replaced(artifact, file, out)
    except OSError as e:
        raise ArtifactProblem(f"--out {out}: cannot be written ({e.strerror or e})") from e
