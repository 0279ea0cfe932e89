"""``qguard golden``: what is recorded, with its reason."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from qguard.commands import add_command, add_endpoint, add_ray, add_selection, fleet_of, selected, session_of
from qguard.console.visible import say
from qguard.errors import QguardError, UsageProblem

if TYPE_CHECKING:
    from qguard.config import Config
    from qguard.goldens.from_server import Server


def add(parser: argparse.ArgumentParser) -> None:
    """Its actions and their options."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for action, run, text in (
        ("update", _update, "show what changes and record the goldens that changed"),
        ("check", _check, "check that every golden is complete, current and in use, and that its folder holds nothing else"),
        ("show", _show, "show where each golden comes from and what it contains"),
    ):
        sub = add_command(actions, action, text)
        add_selection(sub)
        if action == "update":
            sub.add_argument("--reason", default="", metavar="TEXT", help="reason for reviewers")
            sub.add_argument("--dry-run", action="store_true", help="show what would change or be refused; store nothing")
            sub.add_argument(
                "--accept-change", action="append", default=[], metavar="PART",
                help="declare a change intended: weights, tokenizer, pipeline, stack or quality; repeatable",
            )  # fmt: skip
            sub.add_argument("--golden-update-in-ci", action="store_true", help="allow recording where CI is set")
            trusted = "record from this trusted fp32 server, by its name in the configuration or its URL; the golden says so"
            add_endpoint(sub, trusted, "NAME|URL")
            add_ray(sub, "encode and search large suites")
            sub.add_argument(
                "--unconfirmed", action="store_true",
                help="with --endpoint: do not compare the server with fp32 of the model's files, which may not run here",
            )  # fmt: skip
        if action == "show":
            sub.add_argument("--json", action="store_true", help="print the manifests as JSON instead")
            sub.add_argument("--texts", action="store_true", help="also print one line for each text")
        sub.set_defaults(run=run)


def _update(args: argparse.Namespace) -> int:
    from qguard import goldens as golden

    if not args.dry_run:
        golden.refuse_in_ci(args.golden_update_in_ci)
    from qguard.judging.nodes import afar

    session = session_of(args)
    server, status = _server(session.config, args), 0
    fleet = fleet_of(args)
    if fleet is not None and server is not None:
        raise UsageProblem("--ray: a server is asked by one machine; leave --ray or --endpoint out")
    for model, suite in selected(session):
        say(f"{model}/{suite}: recording fp32{f' from {server.endpoint.shown}' if server else ''} …", file=sys.stderr)
        try:
            review = golden.record(
                session.model(model), session.recorded_suite(suite, model), session.config.golden_root, args.reason,
                accept_change=args.accept_change, dry_run=args.dry_run, show=lambda r: say(r.words), server=server,
                afar=afar(session, model, fleet) if fleet is not None else None,
            )  # fmt: skip
        except UsageProblem:
            raise
        except QguardError as e:  # one refusal does not keep the other goldens from being recorded
            say(f"qguard: {e}", sys.stderr)
            status = e.exit_code
            continue
        done = "would be written (--dry-run)" if args.dry_run else "written"
        say(f"{model}/{suite}: {done if review.changed else 'unchanged'}")
    return status


def _server(config: Config, args: argparse.Namespace) -> Server | None:
    """The server that is recorded from; ``None`` for the model's own files."""
    if args.endpoint is None:
        for option, given in (("--unconfirmed", args.unconfirmed), ("--endpoint-protocol", args.endpoint_protocol)):
            if given:
                raise UsageProblem(f"{option} is of the server that --endpoint names; give it too")
        config.served(None, None, args.endpoint_model)
        return None
    from qguard.goldens.from_server import Server

    return Server(config.server(args.endpoint, args.endpoint_protocol, args.endpoint_model), not args.unconfirmed)


def _check(args: argparse.Namespace) -> int:
    from qguard import accepted
    from qguard.goldens import audit, golden_folder
    from qguard.goldens.marked import said

    session = session_of(args)
    which = list(selected(session))
    config = session.config
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
            golden = session.golden(model, suite)
            findings += audit.unfit(golden, accepted.read(folder)["scores"])
            manifest, source = golden.manifest, said(golden.manifest)
            say(f"{model}/{suite}: current ({len(golden.vectors)} texts, {manifest['date']}: {manifest['reason']})")
            if source:
                say(f"  recorded from: {source}")
        except UsageProblem:
            raise
        except QguardError as e:
            findings.append(audit.Finding(f"{model}/{suite}", str(e), e.exit_code))
        findings += audit.unsigned(root, folder)
    for finding in findings:
        say(finding, sys.stderr)
    return max((f.exit_code for f in findings), default=0)


def _show(args: argparse.Namespace) -> int:
    from qguard import goldens as golden

    session = session_of(args)
    for model, suite in selected(session):
        found = golden.read(golden.golden_folder(session.config.golden_root, model, suite))
        print(golden.describe(found)) if args.json else say(golden.words(found, args.texts))
    return 0
