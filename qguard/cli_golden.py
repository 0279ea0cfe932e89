"""``qguard golden`` and ``qguard accept``: what is recorded and what is agreed to, each with its reason."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard.errors import QguardError, UsageProblem

if TYPE_CHECKING:
    from qguard.golden.review import Review
    from qguard.harness import Harness


def add_golden(commands: Any) -> None:
    """The parser of ``qguard golden``."""
    golden = commands.add_parser("golden", help="record, check or show fp32 goldens").add_subparsers(
        required=True, metavar="ACTION"
    )
    for action, run, text in (
        ("update", _update, "show what moves, and record goldens that changed"),
        ("check", _check, "every golden is whole, current and used, and nothing else lies beside it"),
        ("show", _show, "print what the goldens hold"),
    ):
        sub = golden.add_parser(action, help=text)
        _selection(sub)
        if action == "update":
            sub.add_argument("--reason", default="", help="why; for the reviewers")
            sub.add_argument("--dry-run", action="store_true", help="show what moves and what would be refused; store nothing")
            sub.add_argument(
                "--accept-change", action="append", default=[], metavar="PART",
                help="this change is intended, of weights, tokenizer, pipeline, stack or quality; may be repeated",
            )  # fmt: skip
            sub.add_argument("--golden-update-in-ci", action="store_true")
        if action == "show":
            sub.add_argument("--json", action="store_true", help="the manifests")
            sub.add_argument("--texts", action="store_true", help="also one line for each text")
        sub.set_defaults(run=run)


def add_accept(commands: Any) -> None:
    """The parser of ``qguard accept``."""
    accept = commands.add_parser("accept", help="store passing scores and latency ratios; what falls below them later fails")
    accept.add_argument("report", type=Path, nargs="?", metavar="REPORT.json", help="of pytest --qguard-report=REPORT.json")
    accept.add_argument("--precision", metavar="NAME[@RUNTIME],…", help="run the accuracy gates now instead, without latency")
    accept.add_argument("--reason", default="", help="why; for the reviewers")
    accept.add_argument("--lower", action="store_true", help="also replace accepted scores by worse ones")
    _selection(accept)
    accept.set_defaults(run=_accept)


def _selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path(), help="configuration file or its folder")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--suite", action="append", default=[])


def _harness(args: argparse.Namespace) -> tuple[Harness, list[tuple[str, str]]]:
    from qguard.config import load_config
    from qguard.harness import Harness

    harness = Harness(load_config(args.config).select(args.model, args.suite))
    harness.targets([])  # says how to configure a model when there is none
    return harness, [(m, s) for m in harness.config.models for s in harness.config.suites]


def show_review(review: Review) -> str:
    """What moves, one line each below the golden's name."""
    return "\n".join([f"{review.name}:", *(f"  {line}" for line in review.lines)])


def _update(args: argparse.Namespace) -> int:
    from qguard import golden

    if not args.dry_run:
        golden.refuse_in_ci(args.golden_update_in_ci)
    harness, which = _harness(args)
    status = 0
    for model, suite in which:
        print(f"{model}/{suite}: recording fp32 …", file=sys.stderr)
        try:
            review = golden.record(
                harness.model(model), harness.suite(suite), harness.config.golden_root, args.reason,
                accept_change=args.accept_change, dry_run=args.dry_run, show=lambda r: print(show_review(r), flush=True),
            )  # fmt: skip
        except UsageProblem:
            raise
        except QguardError as e:  # one refusal does not keep the other goldens from being recorded
            print(f"qguard: {e}", file=sys.stderr)
            status = e.exit_code
            continue
        done = "would be written (--dry-run)" if args.dry_run else "written"
        print(f"{model}/{suite}: {done if review.changed else 'unchanged'}")
    return status


def _check(args: argparse.Namespace) -> int:
    from qguard import accepted
    from qguard.golden import audit, golden_folder

    harness, which = _harness(args)
    config = harness.config
    root = config.golden_root
    calibration = config.vectors.calibration
    suites = {*config.suites, *config.suite, *([calibration] if calibration else [])}
    findings: list[audit.Finding] = []
    if not args.model and not args.suite:
        which += [(m, calibration) for m in config.models if calibration and (m, calibration) not in which]
        findings += audit.stray(root, {(m, s) for m in config.models for s in suites})
    for model, suite in which:
        folder = golden_folder(root, model, suite)
        try:
            golden = harness.golden(model, suite)
            findings += audit.unfit(golden, accepted.read(folder)["scores"])
            print(
                f"{model}/{suite}: current ({len(golden.vectors)} texts, {golden.manifest['date']}: {golden.manifest['reason']})"
            )
        except UsageProblem:
            raise
        except QguardError as e:
            findings.append(audit.Finding(f"{model}/{suite}", str(e), e.exit_code))
        findings += audit.unsigned(root, folder)
    for finding in findings:
        print(finding, file=sys.stderr)
    return max((f.exit_code for f in findings), default=0)


def _show(args: argparse.Namespace) -> int:
    from qguard import golden

    harness, which = _harness(args)
    for model, suite in which:
        found = golden.read(golden.golden_folder(harness.config.golden_root, model, suite))
        print(golden.describe(found) if args.json else golden.words(found, args.texts))
    return 0


def _accept(args: argparse.Namespace) -> int:
    from qguard.accepted import accept
    from qguard.config import load_config
    from qguard.files import read_json

    if (args.report is None) == (args.precision is None):
        raise UsageProblem("expected either REPORT.json or --precision: what is accepted must have been measured")
    if args.report is not None:
        report, root = read_json(args.report, UsageProblem), load_config(args.config).golden_root
    else:
        from qguard.accepted.measured import measure_now
        from qguard.precisions import parse_precisions

        harness, _ = _harness(args)
        config = harness.config
        precisions = parse_precisions(args.precision, config.precisions, config.own_precisions)
        if not args.reason.strip():
            raise UsageProblem('accepting needs a reason for its reviewers: --reason "…"')  # before minutes of measuring
        report, root = measure_now(harness, precisions, lambda what: print(f"{what} …", file=sys.stderr)), config.golden_root
    lines = accept(report, root, args.reason, args.lower)
    print("\n".join(lines) or "nothing new: every value is the accepted one, or the report holds none that can be accepted")
    return 0
