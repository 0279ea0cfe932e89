"""``qguard compare``: several precisions in one table."""

from __future__ import annotations

import argparse
import sys

from qguard.commands import (
    add_endpoint,
    add_json,
    add_precision,
    add_ray,
    add_selection,
    fleet_facts,
    fleet_of,
    session_of,
)
from qguard.console.visible import say, visible


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_precision(parser, several=True)
    parser.add_argument("--dims", metavar="N,…", help="cut vectors to their first N dimensions; every precision with every N")
    text = "how vectors are stored, such as float32,int8,binary; every precision and number of dimensions with every kind"
    parser.add_argument("--vectors", metavar="KIND,…", help=text)
    add_endpoint(parser, "compare the server at this URL as the precision 'served'")
    add_ray(parser, "judge precisions, models and suites")
    add_json(parser)
    add_selection(parser)


def run(args: argparse.Namespace) -> int:
    """Judge every precision, and print one row each."""
    from rich.console import Console

    from qguard.endpoints.settings import SERVED
    from qguard.errors import MeasurementProblem, UsageProblem
    from qguard.files import dump_json, write_atomic
    from qguard.judging.compare import ALONE, BUCKETS, compare, swept, table, to_json
    from qguard.precisions import parse_precisions

    session = session_of(args)
    session.config = session.config.served(args.endpoint, args.endpoint_protocol, args.endpoint_model)
    config = session.config
    precisions = swept(parse_precisions(args.precision, config.precisions, config.own_precisions), args.dims, args.vectors)
    if args.endpoint and not any(p.name == SERVED for p in precisions):
        raise UsageProblem(f"--endpoint URL is compared as {SERVED}, which is not among the precisions: --precision …,{SERVED}")
    session.fleet = fleet_of(args)
    rows = compare(session, precisions, lambda what: say(f"{what} …", file=sys.stderr))
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    out.print(table(rows))
    tokens = ", ".join(f"{b.tokens} tokens x {b.batch}" for b in BUCKETS)
    of_scores = any("score.p99_error" in row.values for row in rows)
    good = "overlap@10 with whole fp32" + (" (of cross-encoders, rank correlation with fp32)" if of_scores else "")
    out.print(
        f"*: no other row is as good in {good}, speed and both sizes. Speed: fp32@onnx = 1, {tokens}, "
        f"{config.latency.threads} thread(s), a short trial; the gate is pytest --precision."
    )
    if any(row.busy for row in rows):
        out.print("?: speed not measured, machine too busy. Other work interrupted these runs, so such a row takes no part in *.")
    if any(ALONE in row.values for row in rows):
        out.print(
            "overlap@10, cosines and the verdict compare with fp32 cut alike: the loss by quantization. by dimensions: "
            "overlap@10 of fp32 cut with whole fp32. in all: of the candidate with whole fp32."
        )
    for row in rows:
        failed = [f"{c.label} {c.value:.4g}, {c.accepted or f'gate {c.bound}'}" for c in row.failed]
        for text in [row.error] if row.error else failed:
            out.print(visible(f"{row.precision} {row.model} {row.suite}: {text}"), markup=False, soft_wrap=True)
    if args.json:
        try:
            write_atomic(args.json, dump_json(to_json(rows) | fleet_facts(session)))
        except OSError as e:
            raise MeasurementProblem(f"--json {args.json}: cannot be written ({e.strerror or e})") from e
    return 3 if any(row.error for row in rows) else 0
