"""Writes docs/reference/ from the code: ``python docs/generate.py``. A test checks that it was run."""

from __future__ import annotations

import argparse
import inspect
import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from qguard.plugin.options import Option

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py from the code. -->\n\n"
# exit codes that all commands share; what a command says of its own stands in its description
CODES = "Exit codes: 0 passed, 1 a regression or a refusal, 2 a usage or configuration error, 3 could not be measured.\n"


def pages() -> dict[str, str]:
    """File name → content."""
    from qguard.report.shape import ReportShape

    schema = json.dumps(ReportShape.model_json_schema(), indent=1, ensure_ascii=False) + "\n"
    made = {"pytest.md": pytest_page(), "qguard.md": qguard_page(), "configuration.md": configuration(), "report.md": report()}
    made["metrics.md"] = metrics_page()
    made["api.md"] = api_page()
    made["precisions.md"] = precisions_page()
    return {name: NOTE + text for name, text in made.items()} | {"report.schema.json": schema}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    cells = [[c.replace("|", "\\|") for c in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *cells)) + "\n"


def spelling(option: Option) -> str:
    """The names of an option of the plugin, the short one first."""
    value = option.how.get("metavar") or "|".join(option.how.get("choices", ()))
    names = [option.short_name, option.name] if option.short else [option.name]
    return ", ".join(f"`{name}`" for name in [f"{names[0]}{'=' if value else ''}{value}", *names[1:]])


def pytest_page() -> str:
    """Options, fixtures and the marker of the plugin."""
    from qguard import plugin
    from qguard.plugin.options import OPTIONS

    rows = [[spelling(o), o.help] for o in OPTIONS]
    fixtures = [[f"`{n}`", summary(inspect.getdoc(getattr(plugin, n, None)) or TARGET)] for n in plugin.FIXTURES]
    return (
        "# pytest options\n\nAn option with two names has the short one unless another plugin owns it; the header of a run "
        "says so. Without `--precision` no gate runs.\n\n"
        + table(["option", "effect"], rows)
        + "\n## Fixtures\n\n"
        + table(["fixture", "value"], fixtures)
    )


TARGET = "One precision of one model on one suite. A test that requests it runs once for each combination."


def qguard_page() -> str:
    """Every command with its options."""
    from qguard.cli import parser
    from qguard.commands import COMMANDS

    parts = ["# The `qguard` command\n", CODES]
    parts.append(table(["command", "effect"], [[f"`qguard {name}`", text] for name, text in COMMANDS.items()]))
    parts.append(
        "## Shell completion\n\nInstall the extra with `pip install 'qguard[completion]'`. Then run once:\n\n"
        "    mkdir -p ~/.local/share/bash-completion/completions\n"
        "    qguard --print-completion bash > ~/.local/share/bash-completion/completions/qguard\n\n"
        "For zsh, write the output of `qguard --print-completion zsh` to a file `_qguard` in a folder of `$fpath`.\n"
        "For fish, write the output of `qguard --print-completion fish` to `~/.config/fish/completions/qguard.fish`.\n"
        "The script completes commands, options, files, precisions, faults and parts of goldens.\n"
        "It does not complete names that a project chooses itself.\n"
    )
    for name, command in commands(parser()):
        parts.append(f"## `{name}`\n\n{command.description}\n")
        rows = [[spelled(a), clean(a.help or "")] for a in command._actions if a.dest not in ("help", argparse.SUPPRESS)]
        parts.append(table(["argument", "meaning"], rows))
    return "\n".join(parts)


def precisions_page() -> str:
    """Every recipe that comes with qguard, and what a record of another package says."""
    from qguard.encoders.runtimes import RUNTIMES
    from qguard.extras import extra_of, install
    from qguard.precisions import NOT_BUILT, Recipe, precision_of
    from qguard.precisions.own import RECIPES

    rows = []
    for r in RECIPES:
        packages = [*r.packages, *(() if r.make == NOT_BUILT else RUNTIMES.find(r.runtime).libraries)]
        needs = f"`{install(*sorted({p for p in packages if extra_of(p)}))}`" if any(map(extra_of, packages)) else ""
        cells = [f"`{precision_of(r)}`", r.runtime, r.description, f"`{r.weights}`", f"{r.width.least_cosine:g}"]
        rows.append([*cells, f"`{r.speedup}`" if r.speedup else "", needs])
    head = ["precision", "runtime", "model", "weights", "least mean cosine", "promised speed-up", "needs"]
    record = [[f"`{name}`", words] for name, words in attributes(Recipe).items()]
    return (
        "# Precisions\n\nRounding does not explain a failure below the least mean cosine: the file computes something else. "
        "The default gates are in `qguard/precisions/bounds.py`; "
        "[the golden of a model moves them](../tolerances.md#default-gates).\n\n"
        + table(head, rows)
        + "\n## A recipe of another package\n\n"
        "A `Recipe` under the entry-point group `qguard.recipes`: see [Extending](../extending.md).\n\n"
        + table(["field", "meaning"], record)
    )


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
        ("[tool.qguard.endpoint.NAME]", t.EndpointConfig),
        ("[tool.qguard.endpoint.NAME.load]", t.LoadConfig),
        ("[tool.qguard.endpoint.NAME.load.stated]", t.StatedConfig),
        ("[tool.qguard.index.NAME]", t.IndexConfig),
        ("[tool.qguard.gates.PRECISION]", t.GateConfig),
        ("[tool.qguard.latency]", t.LatencyConfig),
        ("[tool.qguard.robustness]", t.RobustnessConfig),
        ("[tool.qguard.service]", t.ServiceConfig),
        ("[tool.qguard.vectors]", t.VectorsConfig),
    ]
    made = (
        "# Configuration\n\nqguard reads `[tool.qguard]` from `pyproject.toml`, or the same tables from the top level "
        "of a separate file (`--qguard-config`, `--config`). Unknown keys are errors. "
        'A gate is `"METRIC" = {…}` or `"METRIC" = "BOUND"`.\n'
    )
    return made + "".join(f"\n## `{title}`\n\n{intro(part)}\n\n{fields(part, {'folder'})}" for title, part in parts)


def report() -> str:
    """Every field of the JSON report."""
    from qguard.report import shape as s

    made = (
        "# The JSON report\n\n`--qguard-report=r.json` writes schema 2. The JSON Schema is "
        "[report.schema.json](report.schema.json). A report may contain fields that are not listed here. "
        "Fields with a default may be missing from reports of older versions. Reports of schema 1, whose bounds and causes are "
        "text, are read too.\n"
    )
    parts = [
        s.ReportShape, s.RunShape, s.CheckShape, s.BoundShape, s.CauseShape, s.FactsShape,
        s.TrialShape, s.LoadShape, s.IndexShape, s.Files, s.Details, s.Histogram, s.WorstText, s.Points,
        s.MovedPair, s.Neighbours, s.Query, s.Provenance, s.GateShape,
    ]  # fmt: skip
    return made + "".join(f"\n## {p.__name__.removesuffix('Shape')}\n\n{intro(p)}\n\n{fields(p)}" for p in parts)


def metrics_page() -> str:
    """Every family with its metrics."""
    from qguard.families import FAMILIES, NEEDS

    parts = [
        '# Metrics\n\nA gate bounds a metric: `[tool.qguard.gates.int8]`, `"ranking.overlap@10" = ">= 0.96"`. '
        "Each family of metrics answers one question, and one test of the gate judges it.\n"
    ]
    for f in FAMILIES.values():
        needs = "; ".join(NEEDS[n] for n in f.needs)
        bounds = ", ".join(f"`{k} {b}`" for k, b in f.bounds.items()) or f.bounded_by
        parts.append(f"## {f.name}\n\n{f.question} Test: `{f.test}`. It needs {needs}. Bounds: {bounds}.\n")
        rows = [
            [f"`{m.name}`", m.description, m.unit, "higher" if m.higher_is_better else "lower", m.source]
            for m in f.metrics
        ]  # fmt: skip
        parts.append(table(["metric", "", "unit", "better", "formula"], rows))
    return "\n".join(parts)


def api_page() -> str:
    """Every public name of Python."""
    import qguard

    names = [n for n in qguard.__all__ if n != "__version__"]
    rows = []
    for name in names:
        thing = getattr(qguard, name)
        said = inspect.getdoc(thing) if inspect.isclass(thing) or inspect.isfunction(thing) else SAID[name]
        rows.append([f"`{name}`", summary(said or "")])
    return (
        "# The public interface\n\n`from qguard import NAME`. [Stability](../stability.md) says what these names promise. "
        "[Extending qguard](../extending.md) shows how they are used.\n\n" + table(["name", "description"], rows)
    )


SAID = {
    "DEFAULT_BOUNDS": "The default gates of qguard's own precisions, by name: `int8`, `int8@onnx`, `+binary`.",
    "NOT_BUILT": "A recipe's `make` if qguard builds nothing: the runtime keeps the model, or `--artifact` gives the files.",
    "RECIPES": "The registry of recipes: qguard's own, and those of other packages.",
}


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
    return table(["key", "type", "default", "meaning"], rows)


def attributes(part: type) -> dict[str, str]:
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
    return {"boolean": "boolean", "string": "string"}.get(field.get("type", ""), field.get("type", "any"))


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for file, content in pages().items():
        (REFERENCE / file).write_text(content, encoding="utf-8")
