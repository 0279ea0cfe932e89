"""The commands of ``qguard``: one file each, and one line here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qguard.harness import Harness

# name → what it does; each is a module here with add(parser) and run(args) → exit code
COMMANDS = {
    "init": "write a commented configuration and a first golden",
    "compare": "several precisions in one table: accuracy, size, speed, verdict",
    "quantize": "write the quantized model into a folder, to be deployed",
    "selftest": "inject faults into the model and show which of them the gate catches",
    "tolerances": "propose gates from a suite, its bootstrap and repeated runs",
    "diagnose": "where an artifact loses accuracy: the stage, the layer, and which layers to exclude",
    "hunt": "the texts and pairs of a corpus, and of mutations of it, that a quantization hurts most",
    "calibrate": "what this machine can tell apart in latency",
    "golden": "record, check or show fp32 goldens",
    "report": "a saved JSON report in another format, such as HTML",
    "merge": "reports of several jobs and machines into one, with a table of precisions and hosts",
    "verify": "whether a verdict is of these very files, and of the gates in force now",
    "accept": "store passing scores and latency ratios; what falls below them later fails",
}


def add_commands(commands: Any) -> None:
    """The parser of each command."""
    for name, text in COMMANDS.items():
        module = import_module(f"qguard.commands.{name}")
        parser = commands.add_parser(name, help=text)
        parser.set_defaults(run=getattr(module, "run", None))
        module.add(parser)


def add_selection(parser: argparse.ArgumentParser, suite: bool = True) -> None:
    """The options that choose the configuration, the models and the suites."""
    parser.add_argument("--config", type=Path, default=Path(), help="configuration file or its folder")
    parser.add_argument("--model", action="append", default=[], metavar="NAME")
    if suite:
        parser.add_argument("--suite", action="append", default=[], metavar="NAME")
    else:
        parser.set_defaults(suite=[])


def harness_of(args: argparse.Namespace) -> Harness:
    """The harness of the selected models and suites.

    Raises:
        UsageProblem: for a configuration that cannot be used, or without a model.
    """
    from qguard.config import load_config
    from qguard.harness import Harness

    harness = Harness(load_config(args.config).select(args.model, args.suite))
    harness.targets([])  # says how to configure a model when there is none
    return harness


def selected(harness: Harness) -> Iterator[tuple[str, str]]:
    """All pairs of model and suite."""
    return ((m, s) for m in harness.config.models for s in harness.config.suites)
