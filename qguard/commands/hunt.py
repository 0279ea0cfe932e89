"""``qguard hunt``: the texts and pairs that a quantization hurts most."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qguard.commands import add_artifact, add_json, add_precision, add_ray, add_selection, fleet_of, session_of
from qguard.console.visible import say

if TYPE_CHECKING:
    from qguard.hunting.hunt import Hunted, Status


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_precision(parser)
    add_artifact(parser)
    parser.add_argument(
        "--corpus", required=True, metavar="SUITE|PATH", help="texts to search: a suite, or a file or folder in a suite format"
    )
    parser.add_argument(
        "--minutes", type=float, default=5.0, metavar="N", help="total time in minutes, including encoding the corpus (default 5)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed; the same seed tries the same texts in the same order (default 0)",
    )
    parser.add_argument(
        "--keep", type=int, default=32, metavar="N", help="number of texts and pairs to show and write (default 32)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write the texts and pairs found as a suite")
    add_ray(parser, "encode texts")
    add_json(parser)
    add_selection(parser, suite=False)


def run(args: argparse.Namespace) -> int:
    """Hunt, show the worst of the corpus beside the worst that was found, and write them as a suite."""
    from qguard.errors import MeasurementProblem, UsageProblem
    from qguard.files import dump_json, write_atomic
    from qguard.hunting.hunt import encoder_of, hunt
    from qguard.hunting.suite import write_suite
    from qguard.kinds import DENSE, KINDS
    from qguard.precisions import parse_precisions
    from qguard.vectors.similarity import similarity_of

    if args.minutes <= 0 or args.keep < 1:
        raise UsageProblem(f"expected --minutes above 0 and --keep from 1, found {args.minutes:g} and {args.keep}")
    session = session_of(args)
    session.artifact_path = args.artifact
    precisions = parse_precisions(args.precision, session.config.precisions, session.config.own_precisions)
    session.targets(precisions)
    if len(precisions) != 1 or len(session.config.models) != 1:
        raise UsageProblem("a hunt is for one precision of one model: give one --precision and one --model")
    (precision,), (model,) = precisions, session.config.models
    if precision != precision.plain:
        raise UsageProblem(
            f"{precision}: vectors are quantized or cut after the model ran; hunt with --precision {precision.plain}"
        )
    if (kind := session.kind(model)) != DENSE:
        raise UsageProblem(
            f"a hunt compares one vector a text, and model {model!r} gives {KINDS[kind].gives}; generated texts are tried by the "
            f"family robustness: pytest --precision {precision}"
        )
    session.fleet = fleet_of(args)
    texts = _texts(args.corpus, session.config.known_suites)
    encode, similarity = encoder_of(session, precision, model), similarity_of(session.model(model).pipeline)
    with _progress(args.minutes * 60) as status:
        found = hunt(encode, texts, args.minutes * 60, args.seed, status, keep=args.keep, similarity=similarity)
    _show(found, str(precision), similarity.name)
    if args.out:
        write_suite(args.out, found)
        say(
            f"\n{len(found.texts)} texts and {len(found.pairs)} pairs written to {args.out}. To gate them:\n"
            f'  [tool.qguard.suite.hard]\n  path = "{args.out}"\n'
            f'then: qguard golden update --suite hard --reason "…" and pytest --precision {precision} --qguard-suite hard'
        )
    if args.json:
        try:
            write_atomic(args.json, dump_json(found.to_json()))
        except OSError as e:
            raise MeasurementProblem(f"--json {args.json}: cannot be written ({e.strerror or e})") from e
    if (forget := getattr(encode, "forget", None)) is not None:
        forget()
    return 0


def _texts(corpus: str, suites: object) -> tuple[str, ...]:
    from qguard.suites.reader import read_suite
    from qguard.suites.source import Source

    known = suites[corpus] if isinstance(suites, dict) and corpus in suites else None
    return read_suite("corpus", known or Source(corpus, duplicates="keep")).texts


@contextmanager
def _progress(seconds: float) -> Iterator[Callable[[Status], None]]:
    """A line on stderr that a person watches: time, texts, and the worst so far."""
    from qguard.console.progress import progress

    with progress("encoding the corpus", seconds) as advance:

        def say(status: Status) -> None:
            what = f"{status.tried} texts, lowest cosine {status.text.cosine:.4f}, largest move {status.pair.moved:.4f}"
            advance(text=what, to=min(status.seconds, seconds))

        yield say


def _show(found: Hunted, precision: str, similarity: str) -> None:
    worst, pair = found.texts[0], found.pairs[0]
    say(
        f"{precision}: {found.corpus} texts and {found.tried} mutations of them in {found.generations} generations, "
        f"{found.seconds:.0f} s ({found.searching:.0f} s after the corpus was encoded), seed {found.seed}\n"
    )
    counted = "" if similarity == "cosine" else ", lengths counted"
    say(f"lowest cosine to fp32{counted}")
    say(f"  plain  {found.plain_text.cosine:.4f}  {_short(found.plain_text.text)}")
    say(f"  found  {worst.cosine:.4f}  {_short(worst.text)}" + (f"   [{', '.join(worst.made)}]" if worst.made else ""))
    say(f"\nlargest move of a pair's {similarity}" + (", on the scale of cosines" if counted else ""))
    for name, p in (("plain", found.plain_pair), ("found", pair)):
        say(f"  {name}  {p.moved:.4f}  {p.fp32:.4f} → {p.candidate:.4f}  {_short(p.text_a, 60)} | {_short(p.text_b, 60)}")
    say("\nworst texts")
    for t in found.texts[:10]:
        say(f"  {t.cosine:.4f}  {_short(t.text)}")
    say("\nworst pairs")
    for p in found.pairs[:10]:
        say(f"  {p.fp32:.4f} → {p.candidate:.4f}  {_short(p.text_a, 60)} | {_short(p.text_b, 60)}")


def _short(text: str, width: int = 110) -> str:
    return repr(text) if len(text) <= width else f"{text[:width]!r}… ({len(text)} characters)"
