"""``qguard calibrate``: what slowdown this machine can tell from noise."""

from __future__ import annotations

import argparse

from qguard.commands import add_precision, add_selection, selected, session_of
from qguard.console.visible import cell
from qguard.errors import UsageProblem


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_precision(parser, default="int8")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="length of each text in tokens (default 64)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="texts per batch (default 1)")
    parser.add_argument("--minutes", type=float, default=3.0, metavar="N", help="measurement time in minutes (default 3)")
    add_selection(parser)


def run(args: argparse.Namespace) -> int:
    """Measure the candidate against itself, and print what this machine can tell apart."""
    from rich.console import Console
    from rich.table import Table

    from qguard.console.progress import progress
    from qguard.latency.calibrate import calibrate
    from qguard.latency.check import Bucket, fingerprint, spec_of
    from qguard.precisions import parse_precision

    session = session_of(args)
    model, suite = next(selected(session))
    if args.tokens < 3 or args.batch < 1 or args.minutes <= 0:
        raise UsageProblem("expected --tokens 3 or more, --batch 1 or more and --minutes above 0")
    settings = session.config.latency
    precision = parse_precision(args.precision, session.config.own_precisions).plain
    margin = settings.regression.number - 1
    batch = Bucket(args.tokens, args.batch).fill(session.golden(model, suite).token_ids)
    spec = spec_of(session.artifact(precision, model), precision, settings.threads, device=session.config.device)
    with progress(f"{precision} against itself", 1.0) as advance:
        found = calibrate(
            spec, batch, args.tokens, minutes=args.minutes, budget=settings.budget, margin=margin,
            done=lambda share: advance(to=share),
        )  # fmt: skip
    out = Console(highlight=False)
    machine = fingerprint(settings.threads, spec.device, spec.runtime)
    where = machine.get("device", machine["cpu"])
    out.print(f"{cell(model)} {precision}, {args.tokens} tokens x {args.batch}, {settings.threads} thread(s), {where}")
    table = Table("measured on this machine", "value")
    table.add_row("null trials, of which failed", f"{found.trials}, {found.false_alarms}")
    table.add_row("interrupted runs", f"{found.dropped:.1%}")
    table.add_row("spread of one pair", f"{found.spread:.1%}")
    table.add_row("luck of one pair of sessions", f"{found.session_bias:.1%}")
    table.add_row("median time to a verdict", f"{found.seconds:.1f} s")
    out.print(table)
    power = Table("true slowdown", f"found (gate {settings.regression})")
    for effect, share in found.power.items():
        power.add_row(f"{effect - 1:+.0%}", f"{share:.0%}")
    out.print(power)
    if found.smallest is None or found.margin is None:
        out.print(
            f"This machine is too noisy for a budget of {settings.budget:g} s: no slowdown is found reliably. Raise budget, or"
        )
        out.print('set mode = "report" under \\[tool.qguard.latency].')
        return 1
    out.print(f"Smallest slowdown found in 99 % of trials: {found.smallest - 1:+.0%}. Settings for this machine:")
    out.print(f'\\[tool.qguard.latency]\nregression = "<= {1 + found.margin:.2f}"\nbudget = {settings.budget:g}')
    return 0
