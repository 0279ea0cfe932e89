"""``qguard tune``: the fastest, or the smallest, artifact that holds the gates."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qguard.commands import add_selection, selected, session_of
from qguard.console.visible import say, visible

if TYPE_CHECKING:
    from qguard.precisions import Precision
    from qguard.tuning.search import Search, Tuned


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    text = "folder for the artifact, its configuration, the picture and the state of the search"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=text)
    parser.add_argument("--minutes", type=float, default=15.0, metavar="N", help="time for the search (default 15)")
    parser.add_argument("--for", dest="objective", choices=("fastest", "smallest"), default="fastest", help="what to look for")
    text = "recipes to begin with (default: all that can be made and timed here)"
    parser.add_argument("--precision", metavar="NAME[@RUNTIME],…", help=text)
    text = "the precision whose gates of accuracy every candidate has to hold (default: int8)"
    parser.add_argument("--gates", default="int8", metavar="NAME[@RUNTIME]", help=text)
    text = "also try these texts for calibration: a suite, or a file or folder in a suite format; repeatable"
    parser.add_argument("--calibration", action="append", default=[], metavar="SUITE|PATH", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of the two halves of the suite (default 0)")
    parser.add_argument("--ray", metavar="ADDRESS", help=argparse.SUPPRESS)
    add_selection(parser)


def run(args: argparse.Namespace) -> int:
    """Search, write what was chosen, and say what the other half of the suite found; 1 where nothing holds on both halves."""
    from rich.console import Console

    from qguard.errors import UsageProblem
    from qguard.tuning.report import table

    if args.ray is not None:
        raise UsageProblem(
            "--ray: tune times every candidate, and a time needs a machine for itself, the same one for all of them; leave --ray "
            "out. qguard compare --precision … --ray ADDRESS judges precisions on a cluster, and times them here"
        )
    search, begin = _planned(args)
    found = search.run(begin, args.minutes)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(table(found))
    _write(search, found)
    ended = "nothing is left to try" if found.ended else "the time is over"
    say(f"{len(found.candidates)} candidates; {len(search.choosing)} texts chose, {len(search.judging)} others judged; {ended}")
    for check in found.checks:
        if check.outcome == "fail":
            say(f"on the other half: {visible(check.label)} {check.value:.4g}, gate {check.bound}: FAIL")
    if found.chosen is None:
        say("no candidate holds the gates on both halves; give more time, other recipes, or gates that fit your users")
        return 1
    _, row = found.chosen
    metric, here = row.accuracy
    there = next((c.value for c in found.checks if c.name == metric and c.slice is None), None)
    lucky = f", of {found.asked} that were asked" if found.asked > 1 else ""
    say(f"chosen: {row.words}, {row.overall:.2f} x fp32, {row.bytes / 1e6:.1f} MB; the other half holds every gate{lucky}")
    if there is not None:
        say(f"{metric} {here:.4f} where it was chosen, {there:.4f} on the other half")
    say(f"make it again: add the lines of {args.out / 'tuned.toml'} to your configuration")
    say(f"judge it: pytest --precision tuned --artifact={args.out / 'artifact'}")
    return 0


def _planned(args: argparse.Namespace) -> tuple[Search, list[Precision]]:
    from qguard.errors import UsageProblem
    from qguard.precisions import parse_precision, parse_precisions
    from qguard.precisions.recipe import NOT_BUILT
    from qguard.tuning.search import STATE, Search
    from qguard.tuning.space import usual

    if args.minutes < 0:
        raise UsageProblem(f"--minutes: expected 0 or more, found {args.minutes:g}")
    session, out = session_of(args), args.out
    config, pairs = session.config, list(selected(session))
    if len(pairs) != 1:
        raise UsageProblem("tune is for one model and one suite: give --model and --suite")
    (model, suite) = pairs[0]
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / STATE).exists())):
        raise UsageProblem(f"--out {out}: expected an empty folder or one of an earlier search, which holds {STATE}")
    begin = parse_precisions(args.precision, config.precisions, config.own_precisions) if args.precision else usual()
    if odd := next((p for p in begin if p != p.plain or not p.runs_in.timed or p.recipe.make == NOT_BUILT), None):
        raise UsageProblem(f"{odd}: expected precisions that are made and timed here, with whole float32 vectors")
    files = {source: Path(source).resolve() for source in args.calibration if source not in config.known_suites}
    calibrations = [
        config.calibration(str(files[source]) if source in files and files[source].exists() else source)
        for source in args.calibration
    ]
    gates = parse_precision(args.gates, config.own_precisions)
    out.mkdir(parents=True, exist_ok=True)

    def tell(line: str) -> None:
        say(line, file=sys.stderr)

    return Search(session, model, suite, gates, out, args.objective, calibrations, args.seed, tell), begin


def _write(search: Search, found: Tuned) -> None:
    from qguard.errors import MeasurementProblem
    from qguard.files import write_atomic
    from qguard.judging.session import Session
    from qguard.quantize import check_target, write
    from qguard.tuning.report import configuration, picture

    out = search.out
    try:
        write_atomic(out / "pareto.svg", picture(found).encode())
        if found.chosen is not None:
            precision, row = found.chosen
            check_target(out / "artifact", force=True)
            write(Session(search.session.config).artifact(precision, search.model), out / "artifact", force=True)
            write_atomic(out / "tuned.toml", configuration(row).encode())
    except OSError as e:
        raise MeasurementProblem(f"--out {out}: cannot be written ({e.strerror or e})") from e
