"""``qguard diagnose``: the stage, then the layer, that loses what a gate misses, and which layers to exclude."""

from __future__ import annotations

import argparse
import sys

from qguard.commands import add_artifact, add_json, add_precision, add_selection, selected, session_of
from qguard.diagnosis import TEXTS


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
    found = Examination(session, Target(precision, model, suite), args.texts).run(layers_only=args.layers_only)
    if args.json:
        write_atomic(args.json, dump_json(to_json(found)))
    show(found, Console(highlight=False, width=None if sys.stdout.isatty() else 160), args.all)
    return int(found.fault)
