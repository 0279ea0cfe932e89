"""``qguard bisect``: which release, commit or pin made a metric worse."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qguard.commands import add_artifact, add_json, add_precision, add_selection
from qguard.console.visible import say

if TYPE_CHECKING:
    from qguard.bisecting.bisection import Answer
    from qguard.bisecting.question import Question


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.description = (
        "Find the release of a package, the commit or the pin of a lock file that made a metric worse. "
        "Exit codes: 0 both ends agree and neither fails, 1 the change was found, 2 usage error, 3 an end could not be judged."
    )
    parser.add_argument("--package", metavar="NAME", help="search the releases of this package, from --good to --bad")
    parser.add_argument("--good", metavar="VERSION", help="a release that is good")
    parser.add_argument("--bad", metavar="VERSION", help="a release that is bad")
    parser.add_argument("--good-commit", metavar="REV", help="search the commits of this repository, from this good one")
    parser.add_argument("--bad-commit", metavar="REV", help="a commit that is bad")
    parser.add_argument("--good-lock", type=Path, metavar="FILE", help="find the pins that did it: a lock file that is good")
    parser.add_argument("--bad-lock", type=Path, metavar="FILE", help="a lock file that is bad")
    text = "the metric, also of a slice: ranking.overlap@10, ranking.overlap@10[legal], latency.regression[64x1]"
    parser.add_argument("--metric", required=True, metavar="NAME", help=text)
    add_precision(parser, default="")
    add_artifact(parser)
    text = "where the gate does not tell the ends apart: by how much they have to differ (default: as far as second runs do)"
    parser.add_argument("--change", type=float, metavar="NUMBER", help=text)
    parser.add_argument("--all", action="store_true", help="judge every version, to see changes that were taken back")
    parser.add_argument("--pre", action="store_true", help="also judge pre-releases")
    parser.add_argument("--refresh", action="store_true", help="make environments anew that are in the cache")
    add_json(parser)
    add_selection(parser)


def run(args: argparse.Namespace) -> int:
    """Search and say what was found; 1 where a change was found."""
    from qguard.bisecting.report import lines, to_json
    from qguard.errors import UsageProblem
    from qguard.files import dump_json, write_atomic

    answer = _answer(args)
    for line in lines(answer):
        say(line)
    say(f"{len(answer.readings) + len(answer.extra)} of {len(answer.names)} judged in {answer.seconds:.0f} s", file=sys.stderr)
    if args.json:
        try:
            write_atomic(args.json, dump_json(to_json(answer)))
        except OSError as e:
            raise UsageProblem(f"cannot write {args.json}: {e.strerror or e}") from e
    return 0 if answer.found is None else 1


def _answer(args: argparse.Namespace) -> Answer:
    from qguard.bisecting.bisection import Options, by_commits, by_locks, by_releases
    from qguard.errors import UsageProblem

    def tell(line: str) -> None:
        say(line, file=sys.stderr)

    ways = {
        "--package, --good and --bad": (args.package, args.good, args.bad),
        "--good-commit and --bad-commit": (args.good_commit, args.bad_commit),
        "--good-lock and --bad-lock": (args.good_lock, args.bad_lock),
    }
    given = {names: values for names, values in ways.items() if any(v is not None for v in values)}
    if len(given) != 1 or any(v is None for values in given.values() for v in values):
        raise UsageProblem(
            f"expected one of {'; '.join(ways)}; found {'; '.join(given) or 'none'}{' in part' if len(given) == 1 else ''}"
        )
    if args.change is not None and not args.change > 0:
        raise UsageProblem(f"--change: expected a number above 0, found {args.change:g}")
    question, options = _question(args), Options(args.pre, args.all, args.change, args.refresh, tell)
    if args.package is not None:
        return by_releases(question, args.package, args.good, args.bad, options)
    if args.good_commit is not None:
        return by_commits(question, args.good_commit, args.bad_commit, options)
    return by_locks(question, args.good_lock, args.bad_lock, options)


def _question(args: argparse.Namespace) -> Question:
    from qguard.bisecting.question import Question
    from qguard.commands import config_of
    from qguard.encoders.runtimes import ENDPOINT
    from qguard.errors import UsageProblem
    from qguard.judging.session import Session
    from qguard.precisions import parse_precision

    config = config_of(args).select(args.model, args.suite)
    named = args.precision or next(iter(config.precisions), "int8")
    precision = parse_precision(named, config.own_precisions)
    session = Session(config, args.artifact)
    targets = session.targets([precision])
    if len(targets) != 1:
        raise UsageProblem("bisect is for one model and one suite: give --model and --suite")
    if precision.runtime == ENDPOINT:
        raise UsageProblem(f"{precision} is a server, whose releases are not installed here; bisect what it runs")
    return Question.of(session, targets[0], args.metric, args.artifact)
