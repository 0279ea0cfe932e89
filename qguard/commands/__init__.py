"""The commands of ``qguard``: one file each, and one line here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard.console.visible import say

if TYPE_CHECKING:
    from qguard.config import Config
    from qguard.fleet import Fleet
    from qguard.judging.session import Session

# name → what it does; each is a module here with add(parser) and run(args) → exit code
COMMANDS = {
    "init": "write a commented configuration and record the first golden",
    "models": "show which models and precisions are supported here, or how one model is",
    "compare": "compare several precisions in one table: accuracy, size, speed and verdict",
    "quantize": "write the quantized model to a folder, ready to deploy",
    "serve": "serve one precision over HTTP, as a reference server for tests and demos",
    "selftest": "inject known real-world faults into your model and show which ones your gate catches",
    "tolerances": "propose gates from your own suite, using a bootstrap and repeated runs",
    "diagnose": "find the stage and the layers where an artifact loses accuracy, and which layers to keep in fp32",
    "tune": "search for the fastest or the smallest artifact that holds the gates",
    "bisect": "find the release, the commit or the pin of a lock file that made a metric worse",
    "hunt": "search a corpus and mutations of it for the texts and pairs that quantization hurts most",
    "sample": "draw a suite from many texts, such as those of production, in which every kind of text is represented",
    "plan": "tell how many queries or texts the gates need to detect a drop of a given size",
    "calibrate": "measure the smallest slowdown that this machine can detect",
    "latency": "add what a load tool states of a server to a report",
    "index": "find the index of a vector database that holds a recall at the least cost",
    "golden": "record, check or show fp32 goldens",
    "report": "convert a saved JSON report to another format, such as HTML",
    "merge": "merge reports from several jobs or machines; the result passes only if every report passes",
    "history": "show past reports over time, and tell which steps changed a value, and what fell slowly",
    "verify": "check before deploying that exactly these files passed the current gates on the current golden",
    "accept": "store passing scores and latency ratios; a later run that falls below them fails",
}


def add_commands(commands: Any) -> None:
    """The parser of each command."""
    for name, text in COMMANDS.items():
        module = import_module(f"qguard.commands.{name}")
        parser = add_command(commands, name, text)
        parser.set_defaults(run=getattr(module, "run", None), command=name)
        module.add(parser)


def add_command(commands: Any, name: str, text: str) -> Any:
    """The parser of one command, or of an action of one; what it does stands in the list and above its own options."""
    return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")


def add_config(parser: argparse.ArgumentParser) -> None:
    """The option that chooses the project."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help="configuration file or its folder (default: the nearest pyproject.toml, upwards from here)",
    )


def add_precision(parser: argparse.ArgumentParser, default: str | None = None, several: bool = False) -> None:
    """``--precision``; required where there is no default; ``""`` stands for the first configured one."""
    metavar, what = "NAME[@RUNTIME]", "the precision to use"
    if several:
        metavar, what = "NAME[:DIMS][@RUNTIME][+VECTORS],…", "precisions, separated by commas; 'all' means every configured one"
    if default is not None:
        what += f" (default: {default or 'the first configured one'})"
    parser.add_argument("--precision", required=default is None, default=default, metavar=metavar, help=what)


def add_artifact(parser: argparse.ArgumentParser) -> None:
    """``--artifact``, what is examined instead of an artifact that is built."""
    text = "artifact folder, .onnx file, or file of a folder (DIR#FILE), from any tool (default: the one that qguard builds)"
    parser.add_argument("--artifact", type=Path, metavar="PATH", help=text)


def add_endpoint(parser: argparse.ArgumentParser, text: str, metavar: str = "URL") -> None:
    """``--endpoint`` and what goes with a URL."""
    from qguard.endpoints.settings import PROTOCOLS

    parser.add_argument("--endpoint", metavar=metavar, help=text)
    parser.add_argument(
        "--endpoint-protocol",
        choices=PROTOCOLS,
        help="protocol of the server at that URL: openai (default), tei, ollama or cohere",
    )
    parser.add_argument(
        "--endpoint-model", metavar="NAME", help="model that requests to that URL name (default: the judged model's)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``, for machines."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")


def add_ray(parser: argparse.ArgumentParser, what: str) -> None:
    """``--ray``: the machines that do the work.

    Args:
        parser: Of the command.
        what: What they do.
    """
    text = f"{what} on this Ray cluster: HOST:PORT of its head, or auto on one of its machines (docs/ray.md)"
    parser.add_argument("--ray", metavar="ADDRESS", help=text)
    parser.add_argument("--ray-alike", action="store_true", help="with --ray: leave out nodes that differ from this machine")


def fleet_of(args: argparse.Namespace) -> Fleet | None:
    """The fleet that ``--ray`` names; ``None`` without.

    Raises:
        UsageProblem: for ``--ray-alike`` alone, and as :func:`qguard.fleet.connect`.
    """
    from qguard.errors import UsageProblem

    if args.ray is None:
        if args.ray_alike:
            raise UsageProblem("--ray-alike is about the nodes of a cluster; give --ray ADDRESS too")
        return None
    from qguard.fleet import connect

    found = connect(args.ray, args.ray_alike)
    said = found.facts
    out = f", {said['left_out']} left out" if said["left_out"] else ""
    say(f"{said['engine']}: {said['nodes']} nodes with {said['cpus']} CPUs, all like this machine{out}", sys.stderr)
    return found


def fleet_facts(session: Session) -> dict[str, Any]:
    """What ``--json`` says of the machines of ``--ray``; nothing without."""
    return {"fleet": session.fleet.facts} if session.fleet is not None else {}


def add_selection(parser: argparse.ArgumentParser, suite: bool = True) -> None:
    """The options that choose the configuration, the models and the suites."""
    add_config(parser)
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME", help="use only this model, by name or reference; repeatable"
    )
    if suite:
        parser.add_argument("--suite", action="append", default=[], metavar="NAME", help="use only this suite; repeatable")
    else:
        parser.set_defaults(suite=[])


def config_of(args: argparse.Namespace) -> Config:
    """The configuration that ``--config`` names; else the nearest one upwards, as the pytest plugin finds it.

    Raises:
        UsageProblem: for a configuration that cannot be used.
    """
    from qguard.config import load_config, project_folder

    return load_config(args.config or project_folder())


def session_of(args: argparse.Namespace) -> Session:
    """The session of the selected models and suites.

    Raises:
        UsageProblem: for a configuration that cannot be used, or without a model.
    """
    from qguard.judging.session import Session

    session = Session(config_of(args).select(args.model, args.suite))
    session.targets([])  # says how to configure a model when there is none
    return session


def selected(session: Session) -> Iterator[tuple[str, str]]:
    """All pairs of model and suite."""
    return ((m, s) for m in session.config.models for s in session.config.suites)
