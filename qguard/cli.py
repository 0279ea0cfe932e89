"""The ``qguard`` command: the same functions as the pytest plugin, without pytest."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from qguard import __version__
from qguard.cli_golden import add_accept, add_golden, show_review
from qguard.errors import QguardError, UsageProblem
from qguard.pipeline import POOLING_MODES

INIT = """# qguard: accuracy gates for the quantized forms of an embedding model.
[tool.qguard]
suites = ["core"]        # built in; add your own under [tool.qguard.suite.NAME]
precisions = [{precision}]    # what --precision all stands for
golden = "golden"        # recorded fp32 outputs; commit this folder

[tool.qguard.models]
{name} = {model}

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
    init.add_argument("--precision", metavar="NAME[@RUNTIME]", help="also derive its gates, as qguard tolerances does (a minute)")
    only = init.add_argument_group("a model that comes as ONNX alone, where its folder does not say it")
    only.add_argument("--tokenizer", metavar="REF", help="hub id, folder, or package:NAME/PATH with a tokenizer.json")
    only.add_argument("--pooling", choices=POOLING_MODES)
    only.add_argument("--normalize", action="store_true", default=None, help="embeddings are scaled to unit length")
    only.add_argument("--max-seq-length", type=int, metavar="TOKENS", help="longest input, special tokens included")
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
    add_accept(commands)
    quantize = commands.add_parser("quantize", help="write the quantized model into a folder, to be deployed")
    quantize.add_argument("--precision", required=True, metavar="NAME[@RUNTIME]")
    quantize.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty; or an artifact, with --force")
    quantize.add_argument("--force", action="store_true", help="replace the artifact in DIR")
    quantize.add_argument("--calibration", metavar="SUITE|PATH", help="texts of your domain, for a calibrated precision")
    quantize.add_argument("--samples", type=int, help="texts to draw from them (default 300)")
    quantize.add_argument("--seed", type=int, help="of the draw (default 0)")
    quantize.add_argument("--model", action="append", default=[], metavar="NAME")
    quantize.add_argument("--config", type=Path, default=Path(), help="configuration file or its folder")
    quantize.set_defaults(run=_quantize, suite=[])
    compare = commands.add_parser("compare", help="several precisions in one table: accuracy, size, speed, verdict")
    compare.add_argument("--precision", required=True, metavar="NAME[@RUNTIME],…", help="'all' = every configured one")
    compare.add_argument("--model", action="append", default=[], metavar="NAME")
    compare.add_argument("--suite", action="append", default=[], metavar="NAME")
    compare.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    compare.add_argument("--config", type=Path, default=Path(), help="configuration file or its folder")
    compare.set_defaults(run=_compare)
    _tolerances_parser(commands)
    add_golden(commands)
    return parser


def _tolerances_parser(commands: Any) -> None:
    tolerances = commands.add_parser("tolerances", help="propose gates from a suite, its bootstrap and repeated runs")
    tolerances.add_argument("--precision", metavar="NAME[@RUNTIME],…", default="all", help="default: every configured one")
    tolerances.add_argument("--model", action="append", default=[], metavar="NAME")
    tolerances.add_argument("--suite", action="append", default=[], metavar="NAME")
    tolerances.add_argument("--write", action="store_true", help="put the gates into the configuration file")
    tolerances.add_argument("--reason", default="", help="why gates become looser; for the reviewers")
    tolerances.add_argument("--config", type=Path, default=Path(), help="configuration file or its folder")
    tolerances.set_defaults(run=_tolerances)


def _harness(args: argparse.Namespace) -> tuple[object, list[tuple[str, str]]]:
    from qguard.config import load_config
    from qguard.harness import Harness

    harness = Harness(load_config(args.config).select(args.model, args.suite))
    harness.targets([])  # says how to configure a model when there is none
    return harness, [(m, s) for m in harness.config.models for s in harness.config.suites]


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
    settings = harness.config.latency
    precision = parse_precision(args.precision, harness.config.own_precisions).plain
    margin = parse_bound("latency.regression", settings.regression)[1] - 1
    batch = Bucket(args.tokens, args.batch).fill(harness.golden(model, suite).token_ids)
    spec = spec_of(harness.artifact(precision, model), precision, settings.threads, device=harness.config.device)
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{precision} against itself", total=1.0)
        found = calibrate(
            spec, batch, args.tokens, minutes=args.minutes, budget=settings.budget, margin=margin,
            done=lambda share: progress.update(task, completed=share),
        )  # fmt: skip
    out = Console(highlight=False)
    machine = fingerprint(settings.threads, spec.device)
    where = machine.get("device", machine["cpu"])
    out.print(f"{model} {precision}, {args.tokens} tokens x {args.batch}, {settings.threads} thread(s), {where}")
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


def _quantize(args: argparse.Namespace) -> int:
    from qguard.harness import Harness
    from qguard.precisions import parse_precision
    from qguard.quantize import calibrated, check_target, describe, write

    check_target(args.out, args.force)
    harness, _ = _harness(args)
    assert isinstance(harness, Harness)
    config = harness.config
    if len(config.models) > 1:
        raise UsageProblem(f"several models are configured; give --model, one of {', '.join(config.models)}")
    (name,) = config.models
    precision = parse_precision(args.precision, config.own_precisions)
    precision = calibrated(precision, config, args.calibration, args.samples, args.seed)
    for suite in config.suites if precision.sample else ():
        harness.refuse_overlap(precision, name, suite)
    artifact = harness.artifact(precision, name)
    write(artifact, args.out, force=args.force)
    print(describe(artifact, harness.model(name), precision, args.out))
    return 0


def _compare(args: argparse.Namespace) -> int:
    from rich.console import Console

    from qguard.compare import BUCKETS, compare, table, to_json
    from qguard.errors import MeasurementProblem
    from qguard.files import dump_json, write_atomic
    from qguard.harness import Harness
    from qguard.precisions import parse_precisions

    harness, _ = _harness(args)
    assert isinstance(harness, Harness)
    config = harness.config
    precisions = parse_precisions(args.precision, config.precisions, config.own_precisions)
    rows = compare(harness, precisions, lambda what: print(f"{what} …", file=sys.stderr))
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    out.print(table(rows))
    tokens = ", ".join(f"{b.tokens} tokens x {b.batch}" for b in BUCKETS)
    out.print(
        f"*: no other precision is as good in overlap@10, speed and size. Speed: fp32@onnx = 1, {tokens}, "
        f"{config.latency.threads} thread(s), a short trial; the gate is pytest --precision."
    )
    for row in rows:
        for text in (row.error,) if row.error else row.failed:
            out.print(f"{row.precision} {row.model} {row.suite}: {text}", markup=False)
    if args.json:
        try:
            write_atomic(args.json, dump_json(to_json(rows)))
        except OSError as e:
            raise MeasurementProblem(f"--json {args.json}: cannot be written ({e.strerror or e})") from e
    return 3 if any(row.error for row in rows) else 0


def _tolerances(args: argparse.Namespace) -> int:
    from rich.console import Console

    from qguard import tolerances
    from qguard.harness import Harness
    from qguard.precisions import parse_precisions
    from qguard.tolerances.toml import header, line, write_table

    harness, _ = _harness(args)
    assert isinstance(harness, Harness)
    config = harness.config
    file = args.config / "pyproject.toml" if args.config.is_dir() else args.config
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    for precision in parse_precisions(args.precision, config.precisions, config.own_precisions):
        name = tolerances.name_of(precision)
        found = tolerances.proposals_for(harness, precision, lambda done: print(done, file=sys.stderr))
        out.print(f"{precision}: margins from repeated runs and from a bootstrap over items", markup=False)
        out.print(tolerances.table(found))
        for idle in (p.idle for p in found if p.idle):
            out.print(idle, markup=False)
        lines = tolerances.lines_for(found, args.reason)
        text = "\n".join([header(("tool", "qguard", "gates", name)), *(line(k, *v) for k, v in lines.items())])
        out.print(text if lines else "every gate is as the data would have it", markup=False, soft_wrap=True)
        if args.write and lines:
            tolerances.refuse_unexplained(found, args.reason)
            write_table(file, name, lines)
            out.print(f"{file.name}: {len(lines)} gates of {name} written", markup=False)
    return 0


def _init(args: argparse.Namespace) -> int:
    import json
    import re

    from qguard import golden
    from qguard.config import load_config
    from qguard.harness import Harness
    from qguard.models import resolve
    from qguard.precisions import parse_precision

    name = args.name or re.sub(r"[^A-Za-z0-9_-]+", "-", args.ref.removeprefix("package:").rstrip("/").split("/")[-1]).strip("-")
    keys = ("tokenizer", "pooling", "normalize", "max_seq_length")
    settings = {k: v for k in keys if (v := getattr(args, k)) is not None}
    if args.precision:
        parse_precision(args.precision)
    resolve(name, args.ref, None, settings)  # a wrong reference leaves nothing behind
    file = Path("pyproject.toml")
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    if "[tool.qguard" in old:
        raise UsageProblem("pyproject.toml already has [tool.qguard]; edit it, or remove it and run again")
    table = ", ".join(f"{k} = {json.dumps(v)}" for k, v in {"ref": args.ref, **settings}.items())
    model, precision = f"{{ {table} }}" if settings else json.dumps(args.ref), args.precision or "int8"
    text = INIT.format(name=json.dumps(name), model=model, precision=json.dumps(precision))
    file.write_text(old + ("\n" if old else "") + text, encoding="utf-8")
    print(f"pyproject.toml: [tool.qguard] written for {name}")
    harness = Harness(load_config(Path()))
    review = golden.record(
        harness.model(name), harness.suite("core"), harness.config.golden_root, "First golden, by qguard init",
        show=lambda r: None if r.new else print(show_review(r)),
    )  # fmt: skip
    print(f"golden/{name}/core: {'written' if review.changed else 'unchanged'}")
    if args.precision:
        reason = "first gates, by qguard init"
        _tolerances(argparse.Namespace(config=Path(), model=[], suite=[], precision=precision, write=True, reason=reason))
    else:
        print(f"gates are those of all-MiniLM-L6-v2; for your own: qguard tolerances --precision {precision} --write")
    print(f"next: pytest --precision {precision}")
    return 0
