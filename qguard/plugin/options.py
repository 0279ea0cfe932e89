"""The options of the pytest plugin. Each has a name of qguard's own; some also have a short one, which others may own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: Begins with ``--qguard-`` or ``--no-qguard-``.
        help: What it does.
        how: More arguments of ``addoption``.
        short: Whether the name without ``qguard-`` means the same, unless another plugin owns it.
    """

    name: str
    help: str
    how: dict[str, Any]
    short: bool = False

    @property
    def short_name(self) -> str:
        """Its name without ``qguard-``."""
        return self.name.replace("--qguard-", "--")

    @property
    def dest(self) -> str:
        """Where pytest keeps its value."""
        return self.how.get("dest", self.name.removeprefix("--").replace("-", "_"))  # type: ignore[no-any-return]


def _given(text: str) -> str:
    """An option's value: an empty one, of a variable that is not set, must not turn into a run without the option."""
    if not text.strip():
        raise argparse.ArgumentTypeError(
            "expected a value, found an empty one; set the variable that it comes from, or leave it out"
        )
    return text


def _value(metavar: str = "PATH", **more: Any) -> dict[str, Any]:
    return {"type": _given, "metavar": metavar, **more}


def _values(metavar: str) -> dict[str, Any]:
    return _value(metavar, action="append", default=[])


def _one_of(*choices: str) -> dict[str, Any]:
    return {"choices": choices}


_FLAG = {"action": "store_true", "default": False}
OPTIONS = (
    Option(
        "--qguard-precision",
        "precisions to gate, separated by commas; 'all' means every configured one",
        {"metavar": "NAME[:DIMS][@RUNTIME][+VECTORS],…"},
        short=True,
    ),
    Option(
        "--qguard-artifact",
        "judge this artifact folder, .onnx file or file of a folder (DIR#FILE) instead of quantizing the model",
        _value(),
        short=True,
    ),
    Option(
        "--qguard-endpoint",
        "judge the server at this URL as the precision 'served'; give --precision served",
        _value("URL"),
        short=True,
    ),
    Option(
        "--qguard-endpoint-protocol",
        "protocol of that server: openai (default), tei, ollama or cohere",
        _one_of("openai", "tei", "ollama", "cohere"),
        short=True,
    ),
    Option(
        "--qguard-endpoint-model",
        "model that requests to that server name (default: the name of the judged model)",
        _value("NAME"),
        short=True,
    ),
    Option(
        "--qguard-endpoint-replica",
        "another replica of that server, which has to give the same; repeatable",
        _values("URL"),
        short=True,
    ),
    Option(
        "--qguard-index",
        "search the candidate's vectors in these indexes of the configuration too, separated by commas",
        _value("NAME,…"),
        short=True,
    ),
    Option(
        "--qguard-cpu",
        "also compute a part of the suite on these CPUs, which QEMU emulates, separated by commas, such as haswell,milan",
        _value("NAME,…"),
        short=True,
    ),
    Option(
        "--qguard-cpu-texts",
        "how many texts are computed on each CPU of --cpu, which is slow; 'all' for the whole suite (default 48)",
        _value("N|all"),
    ),
    Option("--qguard-model", "use only this model, by name or reference; repeatable", _values("NAME")),
    Option("--qguard-suite", "use only this suite; repeatable", _values("NAME")),
    Option(
        "--qguard-report",
        "write the report to PATH, whose suffix is .json, .html, .md or .codequality.json; repeatable",
        _values("PATH"),
    ),
    Option(
        "--qguard-vectors",
        "keep the candidate's vectors of the suite in this folder, for qguard merge --across-hosts",
        _value("DIR"),
    ),
    Option("--qguard-attest", "write the verdict as an in-toto statement that is bound to the artifact's bytes", _value()),
    Option(
        "--qguard-latency",
        "gate latency (default), report it without failing, or skip it",
        _one_of("gate", "report", "off"),
    ),
    Option(
        "--qguard-robustness",
        "gate robustness on generated texts (default), report it without failing, or skip it",
        _one_of("gate", "report", "off"),
    ),
    Option(
        "--qguard-service",
        "gate what a server does with requests (default), report it without failing, or skip it",
        _one_of("gate", "report", "off"),
    ),
    Option("--qguard-baseline-artifact", "artifact deployed now; latency.regression compares with it", _value(), short=True),
    Option(
        "--qguard-baseline-python",
        "Python interpreter of another environment; latency.regression and the metrics regression.* compare with it",
        _value(),
        short=True,
    ),
    Option(
        "--qguard-baseline-endpoint",
        "server that a judged server is timed against in turn (latency.regression): an endpoint of the configuration, or a URL",
        _value("NAME|URL"),
        short=True,
    ),
    Option(
        "--qguard-ray",
        "encode and search large suites on this Ray cluster: HOST:PORT of its head, or auto on one of its machines",
        _value("ADDRESS"),
        short=True,
    ),
    Option("--qguard-ray-alike", "with --ray: leave out nodes that differ from this machine", _FLAG, short=True),
    Option("--qguard-device", "device that torch precisions run on (default cpu)", _one_of("cpu", "cuda")),
    Option("--qguard-config", "read this file instead of pyproject.toml", _value()),
    Option(
        "--qguard-strict",
        "fail when something could not be measured (default where CI is set)",
        {"action": "store_true", "default": None},
    ),
    Option(
        "--no-qguard-strict",
        "report what could not be measured without failing",
        {"action": "store_false", "dest": "qguard_strict"},
    ),
    Option("--qguard-golden-update", "record fp32 goldens instead of running gates", _FLAG, short=True),
    Option(
        "--qguard-golden-reason", "why the goldens are recorded, for reviewers", {"metavar": "TEXT", "default": ""}, short=True
    ),
    Option(
        "--qguard-golden-accept-change",
        "declare a change of the goldens intended: weights, tokenizer, pipeline, stack or quality; repeatable",
        _values("PART"),
        short=True,
    ),
    Option("--qguard-golden-update-in-ci", "allow --golden-update where CI is set", _FLAG, short=True),
)


def add_options(parser: pytest.Parser) -> None:
    """Register every name of qguard's own."""
    group = parser.getgroup("qguard", "quantized embedding models (qguard)")
    for option in OPTIONS:
        group.addoption(option.name, help=option.help, **{**option.how, "dest": option.dest})


def add_short(parser: pytest.Parser) -> list[str]:
    """Register every short name that nobody owns; returns the others."""
    group, taken = parser.getgroup("qguard"), []
    for option in (o for o in OPTIONS if o.short):
        try:
            group.addoption(option.short_name, help=f"short form of {option.name}", **{**option.how, "dest": option.dest})
        except (ValueError, argparse.ArgumentError):  # the latter since pytest 9
            taken.append(option.short_name)
    return taken


def without_short(args: Sequence[str]) -> list[str]:
    """Arguments of the command line without short names and their values."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in (o for o in OPTIONS if o.short):
        if option.how is _FLAG:
            parser.add_argument(option.short_name, action="store_true")
        else:
            parser.add_argument(option.short_name, nargs="?")
    try:
        return parser.parse_known_args(list(args))[1]
    except argparse.ArgumentError:  # such as --golden-update=1, which pytest refuses
        return list(args)
