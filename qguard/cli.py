"""The ``qguard`` command: the same functions as the pytest plugin, without pytest."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qguard import __version__
from qguard.errors import QguardError, UsageProblem

INIT = """# qguard: accuracy gates for the quantized forms of an embedding model.
[tool.qguard]
suites = ["core"]        # built in; add your own under [tool.qguard.suite.NAME]
precisions = ["int8"]    # what --precision all stands for
golden = "golden"        # recorded fp32 outputs; commit this folder

[tool.qguard.models]
{name} = {ref}

# [tool.qguard.suite.contracts]       # a .jsonl file of texts or pairs, or a folder
# path = "eval/contracts.jsonl"
# [tool.qguard.gates.int8]            # override a default gate; [*] bounds each slice
# "ranking.overlap@10" = ">= 0.9"
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 holds, 1 regression, 2 usage or configuration, 3 could not be measured.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except QguardError as e:
        print(f"qguard: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("qguard", description="Regression gates for quantized sentence-embedding models.")
    parser.add_argument("--version", action="version", version=f"qguard {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    init = commands.add_parser("init", help="write a commented configuration and a first golden")
    init.add_argument("ref", metavar="MODEL", help="hub id, folder, or package:NAME/PATH")
    init.add_argument("--name", help="name of the model in the configuration")
    init.set_defaults(run=_init)
    calibrate = commands.add_parser("calibrate", help="what this machine can tell apart in latency")
    calibrate.add_argument("--config", type=Path, default=Path(), help="configuration file or its folder")
    calibrate.add_argument("--model", action="append", default=[])
    calibrate.add_argument("--suite", action="append", default=[])
    calibrate.add_argument("--precision", default="int8", metavar="NAME[@RUNTIME]")
    calibrate.add_argument("--tokens", type=int, default=64)
    calibrate.add_argument("--batch", type=int, default=1)
    calibrate.add_argument("--minutes", type=float, default=3.0, help="how long to measure (default 3)")
    calibrate.set_defaults(run=_calibrate)
    accept = commands.add_parser("accept", help="store the latency ratios of a passing report as accepted on this machine")
    accept.add_argument("report", type=Path, metavar="REPORT.json", help="from pytest --precision … --qguard-report=REPORT.json")
    accept.add_argument("--reason", default="", help="why; for the reviewers")
    accept.add_argument("--config", type=Path, default=Path(), help="configuration file or its folder")
    accept.set_defaults(run=_accept)
    golden = commands.add_parser("golden", help="record, check or show fp32 goldens").add_subparsers(
        required=True, metavar="ACTION"
    )
    for action, run, text in (
        ("update", _update, "record goldens that changed"),
        ("check", _check, "every golden is whole and current"),
        ("show", _show, "print the manifests"),
    ):
        sub = golden.add_parser(action, help=text)
        sub.add_argument("--config", type=Path, default=Path(), help="configuration file or its folder")
        sub.add_argument("--model", action="append", default=[])
        sub.add_argument("--suite", action="append", default=[])
        if action == "update":
            sub.add_argument("--reason", default="", help="why; for the reviewers")
            sub.add_argument("--golden-update-in-ci", action="store_true")
        sub.set_defaults(run=run)
    return parser


def _harness(args: argparse.Namespace) -> tuple[object, list[tuple[str, str]]]:
    from qguard.config import load_config
    from qguard.harness import Harness

    harness = Harness(load_config(args.config).select(args.model, args.suite))
    harness.targets([])  # says how to configure a model when there is none
    return harness, [(m, s) for m in harness.config.models for s in harness.config.suites]


def _update(args: argparse.Namespace) -> int:
    from qguard import golden
    from qguard.harness import Harness

    golden.refuse_in_ci(args.golden_update_in_ci)
    harness, which = _harness(args)
    assert isinstance(harness, Harness)
    for model, suite in which:
        print(f"{model}/{suite}: recording fp32 by sentence-transformers …", file=sys.stderr)
        summary = golden.record(harness.model(model), harness.suite(suite), harness.config.golden_root, args.reason)
        moved = "".join(
            f", {k.replace('_', ' ')} {v:g}" for k, v in summary.items() if k in ("largest_change", "moved_neighbours")
        )
        print(f"{model}/{suite}: {'written' if summary['changed'] else 'unchanged'}{moved}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from qguard.harness import Harness

    harness, which = _harness(args)
    assert isinstance(harness, Harness)
    status = 0
    for model, suite in which:
        try:
            golden = harness.golden(model, suite)
            print(
                f"{model}/{suite}: current ({len(golden.vectors)} texts, {golden.manifest['date']}: {golden.manifest['reason']})"
            )
        except UsageProblem:
            raise
        except QguardError as e:
            print(f"{model}/{suite}: {e}", file=sys.stderr)
            status = e.exit_code
    return status


def _show(args: argparse.Namespace) -> int:
    from qguard import golden
    from qguard.harness import Harness

    harness, which = _harness(args)
    assert isinstance(harness, Harness)
    for model, suite in which:
        print(golden.describe(golden.read(golden.golden_folder(harness.config.golden_root, model, suite))))
    return 0


def _accept(args: argparse.Namespace) -> int:
    from qguard.accepted import accept
    from qguard.config import load_config
    from qguard.files import read_json

    lines = accept(read_json(args.report, UsageProblem), load_config(args.config).golden_root, args.reason)
    print("\n".join(lines) or "the report holds no latency")
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    from qguard.gates import parse_bound
    from qguard.harness import Harness
    from qguard.latency.calibrate import calibrate
    from qguard.latency.check import Bucket, fingerprint, spec_of
    from qguard.precisions import parse_precision

    harness, which = _harness(args)
    assert isinstance(harness, Harness)
    model, suite = which[0]
    if args.tokens < 3 or args.batch < 1 or args.minutes <= 0:
        raise UsageProblem("expected --tokens 3 or more, --batch 1 or more and --minutes above 0")
    settings, precision = harness.config.latency, parse_precision(args.precision).plain
    margin = parse_bound("latency.regression", settings.regression)[1] - 1
    batch = Bucket(args.tokens, args.batch).fill(harness.golden(model, suite).token_ids)
    spec = spec_of(harness.artifact(precision, model), precision, settings.threads)
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{precision} against itself", total=1.0)
        found = calibrate(
            spec, batch, args.tokens, minutes=args.minutes, budget=settings.budget, margin=margin,
            done=lambda share: progress.update(task, completed=share),
        )  # fmt: skip
    out = Console(highlight=False)
    cpu = fingerprint(settings.threads)
    out.print(f"{model} {precision}, {args.tokens} tokens x {args.batch}, {settings.threads} thread(s), {cpu['cpu']}")
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


def _init(args: argparse.Namespace) -> int:
    import json
    import re

    from qguard import golden
    from qguard.config import load_config
    from qguard.harness import Harness
    from qguard.models import resolve

    name = args.name or re.sub(r"[^A-Za-z0-9_-]+", "-", args.ref.removeprefix("package:").rstrip("/").split("/")[-1]).strip("-")
    resolve(name, args.ref)  # a wrong reference leaves nothing behind
    file = Path("pyproject.toml")
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    if "[tool.qguard" in old:
        raise UsageProblem("pyproject.toml already has [tool.qguard]; edit it, or remove it and run again")
    text = INIT.format(name=json.dumps(name), ref=json.dumps(args.ref))
    file.write_text(old + ("\n" if old else "") + text, encoding="utf-8")
    print(f"pyproject.toml: [tool.qguard] written for {name}")
    harness = Harness(load_config(Path()))
    summary = golden.record(
        harness.model(name), harness.suite("core"), harness.config.golden_root, "First golden, by qguard init"
    )
    print(f"golden/{name}/core: {'written' if summary['changed'] else 'unchanged'}\nnext: pytest --precision int8")
    return 0
