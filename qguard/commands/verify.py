"""``qguard verify``: the gate of a deployment."""

from __future__ import annotations

import argparse
import datetime
import re
from pathlib import Path
from typing import TYPE_CHECKING

from qguard.commands import add_config, add_endpoint, add_json, config_of
from qguard.console.visible import say
from qguard.errors import RefusedProblem, UsageProblem

if TYPE_CHECKING:
    from qguard.attest.shape import Verdict
    from qguard.config import Config
    from qguard.precisions import Precision

_UNPROVED = "nothing proves who wrote it, or that its values, counts, versions and host are those of a run"
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.description = (
        "Check before deploying that exactly these files passed the current gates on the current golden. Of a server: that it "
        "answers as the one that passed. "
        "Exit codes: 0 they did, 1 refused (every reason is printed), 2 usage error, 3 something could not be read."
    )
    add = parser.add_argument
    add("verdict", type=Path, metavar="VERDICT.json", help="written by pytest --qguard-attest; bare or in a DSSE envelope")
    add("--artifact", type=Path, metavar="PATH", help="folder or .onnx file to deploy")
    add_endpoint(parser, "server that users are sent to, by its URL; one of the configuration is named by --require alone")
    add(
        "--require",
        required=True,
        metavar='"PRECISION pass"',
        help='required result, for example "int8 pass" or "int8@openvino pass"',
    )
    add("--max-age", metavar="AGE", help="refuse verdicts older than this: 90m, 12h, 7d, 4w")
    add("--golden", type=Path, metavar="DIR", help="folder of the goldens (default: the project's)")
    add_config(parser)
    add("--model", metavar="NAME", help="model to verify; needed only where several are configured")
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--key",
        type=Path,
        metavar="PUBLIC.pem",
        help="refuse a verdict that this key did not sign (needs pip install 'qguard[sign]')",
    )
    who.add_argument(
        "--unsigned",
        action="store_true",
        help="check a verdict without its signature, which does not prove who wrote it, nor that anything was measured",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print every reason to refuse; nothing to deploy on is not a pass."""
    from qguard.attest import Asked, read, verdict_of, verify
    from qguard.attest.served import is_served
    from qguard.endpoints.settings import SERVED
    from qguard.files import dump_json, write_atomic
    from qguard.judging.session import Session

    config = config_of(args).served(args.endpoint, args.endpoint_protocol, args.endpoint_model)
    if args.golden is not None:
        if not args.golden.is_dir():
            raise UsageProblem(f"--golden {args.golden}: expected the folder of the goldens, found none")
        config = config.model_copy(update={"golden": str(args.golden.resolve())})
    model, precision = _model(config, args.model), _required(args.require, config)
    if (args.artifact is None) != is_served(precision):
        what = "a server, so there is no --artifact" if is_served(precision) else "files; give them: --artifact PATH"
        raise UsageProblem(f"--require {args.require!r}: {precision} is of {what}")
    if args.endpoint is not None and precision.name != SERVED:
        raise UsageProblem(f"--endpoint URL is the precision {SERVED}, and {precision} is required")
    age = None if args.max_age is None else _age(args.max_age)
    found = read(args.verdict, args.key)
    if not (found.authentic or args.unsigned):
        what = "its signature was not checked" if found.enveloped else "it is not signed"
        raise RefusedProblem(
            f"{args.verdict}: {what}, so {_UNPROVED}. Give the signer's key: --key PUBLIC.pem (docs/deploy.md says how to sign); "
            "or say that you know, as where another tool has checked it: --unsigned"
        )
    verdict = verdict_of(found.statement)
    session = Session(config.select([model], []))
    asked = Asked(session, model, precision, args.artifact, age, datetime.datetime.now(datetime.UTC))
    refusals = verify(verdict, asked)
    if args.json is not None:
        parts = [{"part": r.part, "expected": r.expected, "found": r.found, "mend": r.mend} for r in refusals]
        try:
            write_atomic(
                args.json, dump_json({"schema": 1, "holds": not refusals, "authentic": found.authentic, "refusals": parts})
            )
        except OSError as e:
            raise UsageProblem(f"--json {args.json}: cannot be written: {e.strerror or e}") from e
    for mend in dict.fromkeys(r.mend for r in refusals):
        say("\n".join([*(f"REFUSED {r}" for r in refusals if r.mend == mend), f"  to fix it: {mend}"]))
    if refusals:
        return 1
    signed = "signed by the given key" if found.authentic else f"--unsigned: {_UNPROVED}"
    say(
        f"holds: {_what(verdict, precision)} of the {verdict.model_facts.kind} model {model} passed {precision} on "
        f"{', '.join(session.config.suites)}, "
        f"{verdict.tool.date:%Y-%m-%d %H:%M} UTC ({signed})"
    )
    return 0


def _what(verdict: Verdict, precision: Precision) -> str:
    return f"{len(verdict.subjects)} files" if precision.endpoint is None else f"the server at {precision.endpoint.shown}"


def _model(config: Config, name: str | None) -> str:
    from qguard.errors import unknown

    if name is not None and name not in config.models:
        raise unknown("model", name, config.models)
    if name is None and len(config.models) != 1:
        found = ", ".join(config.models) or "none"
        raise UsageProblem(f"expected the configuration to name one model, found {found}; give --model NAME or --config PATH")
    return name or next(iter(config.models))


def _required(text: str, config: Config) -> Precision:
    from qguard.precisions import parse_precision

    words = text.split()
    if len(words) != 2 or words[1] != "pass":
        raise UsageProblem(f'--require {text!r}: expected a precision and "pass", for example --require "int8 pass"')
    return parse_precision(words[0], config.own_precisions)


def _age(text: str) -> datetime.timedelta:
    match = re.fullmatch(r"(\d{1,5})([mhdw])", text)
    if not match:
        raise UsageProblem(f"--max-age {text!r}: expected a number of minutes, hours, days or weeks, such as 90m, 12h, 7d or 4w")
    return datetime.timedelta(**{_UNITS[match[2]]: int(match[1])})
