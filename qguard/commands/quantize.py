"""``qguard quantize``: the artifact that the gate judges, as files."""

from __future__ import annotations

import argparse
from pathlib import Path

from qguard.commands import add_precision, add_selection, session_of
from qguard.console.visible import say
from qguard.errors import UsageProblem


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_precision(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder to write: new or empty, or with --force an existing artifact",
    )
    parser.add_argument("--force", action="store_true", help="replace the artifact in DIR")
    parser.add_argument(
        "--calibration", metavar="SUITE|PATH", help="texts from your domain to calibrate on, for a calibrated precision"
    )
    parser.add_argument("--samples", type=int, metavar="N", help="number of texts to draw for calibration (default 300)")
    parser.add_argument("--seed", type=int, metavar="N", help="random seed of that draw (default 0)")
    add_selection(parser, suite=False)


def run(args: argparse.Namespace) -> int:
    """Build the artifact, and write it."""
    from qguard.precisions import parse_precision
    from qguard.quantize import calibrated, check_target, describe, write

    check_target(args.out, args.force)
    session = session_of(args)
    config = session.config
    if len(config.models) > 1:
        raise UsageProblem(f"several models are configured; give --model, one of {', '.join(config.models)}")
    (name,) = config.models
    precision = parse_precision(args.precision, config.own_precisions)
    precision = calibrated(precision, config, args.calibration, args.samples, args.seed)
    for suite in config.suites if precision.sample else ():
        session.refuse_overlap(precision, name, suite)
    artifact = session.artifact(precision, name)
    write(artifact, args.out, force=args.force)
    say(describe(artifact, session.model(name), precision, args.out))
    return 0
