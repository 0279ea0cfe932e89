"""Writes docs/reference/ from the code: ``python docs/generate.py``. A test checks that it was run."""

from __future__ import annotations

import argparse
import inspect
import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py from the code. -->\n\n"
# exit codes that all commands share; what a command says of its own stands in its description
CODES = "Exit codes: 0 holds, 1 a regression or a refusal, 2 usage or configuration, 3 could not be measured.\n"


def pages() -> dict[str, str]:
    """File name → content."""
    from qguard.report.shape import ReportShape

    schema = json.dumps(ReportShape.model_json_schema(), indent=1, ensure_ascii=False) + "\n"
    made = {"pytest.md": pytest_page(), "qguard.md": qguard_page(), "configuration.md": configuration(), "report.md": report()}
    return {name: NOTE + text for name, text in made.items()} | {"report.schema.json": schema}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    cells = [[c.replace("|", "\\|") for c in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *cells)) + "\n"


class Recorder:
    """Takes the options that a plugin adds."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []

    def getgroup(self, name: str, description: str = "") -> Recorder:
        """Itself: there is one group."""
        return self

    def addoption(self, name: str, **how: Any) -> None:
        """One option."""
        value = how.get("metavar") or "|".join(how.get("choices", ()))
        self.rows.append([f"`{name}{'=' if value else ''}{value}`", how["help"]])


def pytest_page() -> str:
    """Options, fixtures and the marker of the plugin."""
    from qguard import plugin

    recorder = Recorder()
    plugin.pytest_addoption(recorder)  # type: ignore[arg-type]
    fixtures = [[f"`{n}`", summary(inspect.getdoc(getattr(plugin, n, None)) or TARGET)] for n in plugin.FIXTURES]
    return (
        "# pytest's options\n\n`--precision` is short for `--qguard-precision`, where no other plugin owns it. "
        "Without it no gate runs.\n\n"
        + table(["option", ""], recorder.rows)
        + "\n## Fixtures\n\n"
        + table(["fixture", ""], fixtures)
    )


TARGET = "One precision of one model on one suite: a test that asks for it runs once for each."


def qguard_page() -> str:
    """Every command with its options."""
    from qguard.cli import parser
    from qguard.commands import COMMANDS

    parts = ["# The `qguard` command\n", CODES]
    parts.append(table(["command", ""], [[f"`qguard {name}`", text] for name, text in COMMANDS.items()]))
    parts.append(
        "## Shell completion\n\n`pip install 'qguard[completion]'`, then once:\n\n"
        "    mkdir -p ~/.local/share/bash-completion/completions\n"
        "    qguard --print-completion bash > ~/.local/share/bash-completion/completions/qguard\n\n"
        "zsh reads `_qguard` in a folder of `$fpath` (`qguard --print-completion zsh`), fish\n"
        "`~/.config/fish/completions/qguard.fish` (`qguard --print-completion fish`). Commands, options, files, precisions,\n"
        "faults and parts of goldens are completed; what a project names itself is not.\n"
    )
    for name, command in commands(parser()):
        parts.append(f"## `{name}`\n\n{command.description}\n")
        rows = [[spelled(a), clean(a.help or "")] for a in command._actions if a.dest not in ("help", argparse.SUPPRESS)]
        parts.append(table(["argument", ""], rows))
    return "\n".join(parts)


def commands(of: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    """Each command that runs, with the words that call it."""
    below = [a for a in of._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        return [(of.prog, of)]
    return [found for command in below[0].choices.values() for found in commands(command)]


def spelled(action: argparse.Action) -> str:
    """An argument as it is typed."""
    value = action.metavar or "|".join(action.choices or ())
    if not action.option_strings:
        return f"`{value}`"
    word = ", ".join(action.option_strings)
    return f"`{word}`" if action.nargs == 0 else f"`{word} {value}`"


def clean(text: str) -> str:
    """A help text without argparse's escapes."""
    return text.replace("%%", "%")


def configuration() -> str:
    """Every key of ``[tool.qguard]``."""
    from qguard.config import Config
    from qguard.config import tables as t

    parts = [
        ("[tool.qguard]", Config),
        ("[tool.qguard.models.NAME]", t.ModelConfig),
        ("[tool.qguard.suite.NAME]", t.SuiteConfig),
        ("[tool.qguard.precision.NAME]", t.PrecisionConfig),
        ("[tool.qguard.gates.PRECISION]", t.GateConfig),
        ("[tool.qguard.latency]", t.LatencyConfig),
        ("[tool.qguard.robustness]", t.RobustnessConfig),
        ("[tool.qguard.vectors]", t.VectorsConfig),
    ]
    made = (
        "# Configuration\n\n`[tool.qguard]` in `pyproject.toml`, or the same tables at the top of a file of their own "
        '(`--qguard-config`, `--config`). Unknown keys are errors. A gate is `"METRIC" = {…}` or `"METRIC" = "BOUND"`.\n'
    )
    return made + "".join(f"\n## `{title}`\n\n{intro(part)}\n\n{fields(part, {'folder'})}" for title, part in parts)


def report() -> str:
    """Every field of the JSON report."""
    from qguard.report import shape as s

    made = (
        "# The JSON report\n\nSchema 2, as `--qguard-report=r.json` writes it; as a JSON schema: "
        "[report.schema.json](report.schema.json). Fields that are not named here may stand beside these. "
        "Fields with a default are missing in reports of older versions. Reports of schema 1, whose bounds and causes are text, "
        "are read too.\n"
    )
    parts = [
        s.ReportShape, s.RunShape, s.CheckShape, s.BoundShape, s.CauseShape, s.FactsShape,
        s.TrialShape, s.Files, s.Details, s.Histogram, s.WorstText, s.Points,
        s.MovedPair, s.Neighbours, s.Query, s.Provenance, s.GateShape,
    ]  # fmt: skip
    return made + "".join(f"\n## {p.__name__.removesuffix('Shape')}\n\n{intro(p)}\n\n{fields(p)}" for p in parts)


def intro(part: type[BaseModel]) -> str:
    """What a docstring says before its attributes, for readers of Markdown."""
    text = inspect.getdoc(part) or ""
    return plain(text.partition("\n\nAttributes:")[0].replace("\n", " "))


def fields(part: type[BaseModel], but: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    """A table of the fields of a model; each must be described."""
    schema, said = part.model_json_schema(), attributes(part)
    required = schema.get("required", [])
    rows = []
    for name, field in schema["properties"].items():
        if name in but:
            continue
        if name not in said:
            raise SystemExit(f"{part.__name__}.{name} is not described in its docstring")
        default = "" if name in required else f"`{json.dumps(field.get('default'))}`"
        default = "its own defaults" if "{" in default and default != "`{}`" else default
        rows.append([f"`{name}`", kind(field), "required" if name in required else default.replace("`null`", ""), said[name]])
    return table(["key", "kind", "default", ""], rows)


def attributes(part: type[BaseModel]) -> dict[str, str]:
    """Field → what the docstring says of it."""
    text = (inspect.getdoc(part) or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: plain(re.sub(r"\s*\n\s*", " ", words)) for name, words in found}


def plain(text: str) -> str:
    """Markdown of a docstring: code in single backquotes, references as code."""
    text = re.sub(r":\w+:`[~]?([^`]+)`", r"`\1`", text).replace("``", "`")
    return re.sub(r"\bdocs/(\w+\.md)", r"[\1](../\1)", text)


def summary(text: str) -> str:
    """The first sentence."""
    return plain(text.split("\n\n", maxsplit=1)[0].replace("\n", " "))


def kind(field: dict[str, Any]) -> str:
    """A JSON schema's type, in a word or two."""
    if "$ref" in field:
        return field["$ref"].rsplit("/", 1)[-1].removesuffix("Shape").removesuffix("Config").lower()
    if "anyOf" in field:
        return " or ".join(k for part in field["anyOf"] if (k := kind(part)) != "null")
    if "enum" in field:
        return " or ".join(f"`{json.dumps(v)}`" for v in field["enum"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if field.get("type") == "array":
        inner = kind(field["items"]) if field.get("items") else ""
        return f"list of {inner}" if inner else "list"
    if field.get("type") == "object":
        values = field.get("additionalProperties")
        return f"table of {kind(values)}" if isinstance(values, dict) and values else "table"
    return {"boolean": "true or false", "string": "text"}.get(field.get("type", ""), field.get("type", "any"))


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for file, content in pages().items():
        (REFERENCE / file).write_text(content, encoding="utf-8")
