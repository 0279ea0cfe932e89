"""``qguard sample``: a small suite from many texts, such as a log of production."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from qguard.commands import add_config, config_of
from qguard.console.visible import cell, say

if TYPE_CHECKING:
    from qguard.judging.session import Session
    from qguard.sampling.draw import Sample
    from qguard.sampling.survey import Personal
    from qguard.suites.source import Source


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--from", dest="source", required=True, metavar="SUITE|PATH",
        help="texts to draw from: a suite, or a file or folder in a suite format",
    )  # fmt: skip
    parser.add_argument("--n", type=int, default=1000, metavar="N", help="texts, pairs or queries to draw (default 1000)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the suite to: new or empty")
    parser.add_argument("--force", action="store_true", help="replace the sample in DIR")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed; the same seed and source give the same files (default 0)"
    )
    parser.add_argument(
        "--documents", type=int, metavar="N", help="documents for the drawn queries to search (default: 5 for each query)"
    )
    parser.add_argument(
        "--personal", choices=("drop", "keep", "refuse"), default="drop",
        help="what to do with texts that hold personal data or secrets: leave them out (drop, the default), write them and say "
        "so (keep), or write nothing (refuse)",
    )  # fmt: skip
    parser.add_argument(
        "--region",
        default="US",
        metavar="CC",
        help="country whose phone numbers are also found without +, such as DE (default US)",
    )
    parser.add_argument(
        "--pool", type=int, default=5, metavar="N", help="texts for each drawn one that the model encodes, 1 to 20 (default 5)"
    )
    parser.add_argument(
        "--artifact", type=Path, metavar="PATH", help="ONNX artifact of the model that finds topics and hardness (default: fp32)"
    )
    parser.add_argument("--no-model", action="store_true", help="find topics by words, and no hardness, without running a model")
    add_config(parser)
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="the model, by name or reference")


def run(args: argparse.Namespace) -> int:
    """Survey the source, draw, write the suite, and show what is in it."""
    from qguard.sampling.draw import Settings, draw
    from qguard.sampling.encode import encode_of
    from qguard.sampling.lengths import Count, tokens, words
    from qguard.sampling.production import Production
    from qguard.sampling.suite import check_target, write_suite
    from qguard.tolerances.toml import header

    args.region = args.region.upper()
    _check(args)
    check_target(args.out, args.force)
    session, source = _session(args), _source(args)
    count: Count = words
    encode, how = None, "words; topics by words; no hardness"
    if session is not None:
        (model,) = session.config.models
        count, encode = tokens(session.reference_tokenizer(model)), encode_of(session, model, args.artifact)
        by = f"artifact {args.artifact.name}" if args.artifact else "fp32"
        how = f"tokens of {model}; topics and hardness by its {by}"
    settings = Settings(args.n, args.seed, args.documents, args.pool, args.personal, args.region)
    sample = draw(Production(args.source, source), settings, count, encode, lambda found: _tell(found, settings.personal))
    write_suite(args.out, sample, source, args.force)
    _show(sample, how)
    name = args.out.absolute().name
    scores = f"\n  scores = {list(source.scores)}" if source.scores else ""
    say(
        f"\nwritten to {args.out}. To judge on it:\n  {header(('tool', 'qguard', 'suite', name))}\n"
        f"  path = {json.dumps(str(args.out), ensure_ascii=False)}{scores}\n"
        f'then: qguard golden update --suite {quote(name)} --reason "…" and pytest --precision int8 --qguard-suite {quote(name)}'
    )
    return 0


def _check(args: argparse.Namespace) -> None:
    from qguard.errors import UsageProblem, unknown
    from qguard.sampling.personal import regions

    least = {"--n": (args.n, 1, None), "--documents": (args.documents, 1, None), "--pool": (args.pool, 1, 20)}
    for option, (value, low, high) in least.items():
        if value is not None and (value < low or (high is not None and value > high)):
            upto = f" to {high}" if high else " or more"
            raise UsageProblem(f"{option}: expected {low}{upto}, found {value}")
    if args.region not in (known := regions()):
        raise unknown("country of --region", args.region, known)
    if args.no_model and (args.model or args.artifact):
        raise UsageProblem("--no-model runs no model; leave out --model and --artifact")


def _session(args: argparse.Namespace) -> Session | None:
    """Of the one model that is used; ``None`` where none is configured or asked for."""
    from qguard.errors import UsageProblem
    from qguard.judging.session import Session

    if args.no_model:
        return None
    config = config_of(args).select(args.model, [])
    if not config.models:
        if args.artifact:
            raise UsageProblem("--artifact: no model is configured; give the model that it was made of with --model")
        return None
    if len(config.models) > 1:
        raise UsageProblem(f"several models are configured; give --model, one of {', '.join(config.models)}, or --no-model")
    return Session(config)


def _source(args: argparse.Namespace) -> Source:
    from qguard.suites.source import Source

    known = config_of(args).known_suites.get(args.source, args.source)
    return known if isinstance(known, Source) else Source(str(known))


def _tell(found: Personal, how: str) -> None:
    """Say where personal data is, never what it is."""
    from qguard.errors import DataProblem

    if not found.rows:
        return
    kinds = ", ".join(f"{count} with {_a(kind)}" for kind, count in found.kinds.items())
    where = "\n".join(f"  {at}  {one.kind}  {one.masked}" for at, one in found.shown)
    more = "\n  …" if found.rows > len({at for at, _ in found.shown}) else ""
    told = f"{found.rows} texts look as if they held personal data or secrets: {kinds}\n{where}{more}"
    if how == "refuse":
        raise DataProblem(f"{told}\nnothing was written. Remove them from the source, or leave them out: --personal drop")
    queries = f", and {found.withheld} queries that need a document with such data" if found.withheld else ""
    what = {
        "drop": f"They are left out{queries}. If they may be published, write them with --personal keep",
        "keep": "They may be drawn. Look for rows with the column \"personal\" before you commit the sample",
    }  # fmt: skip
    say(f"{told}\n{what[how]}\n", sys.stderr)


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiouI' else 'a'} {kind}"


def _show(sample: Sample, how: str) -> None:
    from rich.console import Console
    from rich.table import Table

    counts: dict[object, int] = {}
    parts: dict[str, int] = {}
    for d in sample.drawn:
        counts[d.stratum] = counts.get(d.stratum, 0) + 1
        for name in (None if d.cluster is None else f"topic {d.cluster}", d.hardness):
            if name is not None:
                parts[name] = parts.get(name, 0) + 1
    rows, kinds = sum(sample.rows.values()), ", ".join(f"{n:,} {kind}" for kind, n in sample.rows.items())
    say(
        f"{rows:,} rows ({kinds}); {sample.exact:,} repeat another exactly and {sample.near:,} but for case and "
        f"spaces, each counted once; lengths in {how}; seed {sample.settings.seed}\n"
    )
    table = Table(box=None, pad_edge=False)
    for name in ("rows", "slice"):
        table.add_column(name)
    for name in ("source", "share", "sample", "share", "each stands for"):
        table.add_column(name, justify="right")
    totals: dict[str, int] = {}
    drawn: dict[str, int] = {}
    for stratum, size in sample.sizes.items():
        totals[stratum.kind] = totals.get(stratum.kind, 0) + size
        drawn[stratum.kind] = drawn.get(stratum.kind, 0) + counts.get(stratum, 0)
    for stratum, size in sorted(sample.sizes.items()):
        n = counts.get(stratum, 0)
        shares = f"{size / totals[stratum.kind]:.1%}", f"{n / max(1, drawn[stratum.kind]):.1%}"
        each = f"{size / n:,.1f}" if n else ""
        table.add_row(stratum.kind, cell(stratum.slice), f"{size:,}", shares[0], f"{n:,}", shares[1], each)
    total = sum(n for name, n in parts.items() if name.startswith("topic"))
    for name, share in sample.shares.items():
        n = parts.get(name, 0)
        table.add_row("", name, "", f"{share:.1%}", f"{n:,}", f"{n / max(1, total):.1%}", "")
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)
