"""``qguard serve``: the reference server."""

from __future__ import annotations

import argparse
import sys

from qguard.commands import add_artifact, add_precision, add_selection, session_of
from qguard.console.visible import say
from qguard.errors import UsageProblem


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_precision(parser, default="")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=_port, default=8080, metavar="N", help="port to listen at; 0 takes a free one (default: 8080)"
    )
    parser.add_argument(
        "--until-eof", action="store_true", help="also stop when standard input ends, so as not to outlive the calling process"
    )
    add_artifact(parser)
    add_selection(parser, suite=False)


def run(args: argparse.Namespace) -> int:
    """Serve until the process is told to stop."""
    from qguard.console.progress import no_progress
    from qguard.precisions import parse_precision
    from qguard.serving import need_extra

    need_extra()
    from qguard.serving.app import application
    from qguard.serving.listening import listen, loopback, url
    from qguard.serving.listening import run as serve
    from qguard.serving.model import ServedModel

    session = session_of(args)
    session.artifact_path = args.artifact
    if len(session.config.models) > 1:
        raise UsageProblem(f"several models are configured; give --model, one of {', '.join(session.config.models)}")
    (name,) = session.config.models
    precision = parse_precision(args.precision or session.config.precisions[0], session.config.own_precisions)
    if precision != precision.plain:
        raise UsageProblem(
            f"{precision}: whole float vectors are served; give --precision {precision.plain}, and clients ask for dimensions"
        )
    session.targets([precision])
    with listen(args.host, args.port) as listening:
        served = ServedModel(name, str(precision), session.encoder(precision, name), session.artifact(precision, name).pipeline)
        if not loopback(listening):
            say(
                f"warning: {args.host} can be reached from other machines. This server is for tests and demos: it has no users, "
                "no keys and no TLS",
                sys.stderr,
            )
        say(f"serving {precision} of {name} at {url(listening)}  (stop with Ctrl-C)")
        with no_progress():
            serve(application(served), listening, sys.stdin if args.until_eof else None)
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, found {text!r}")
    return int(text)
