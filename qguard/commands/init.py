"""``qguard init``: from a model reference to a configuration and a first golden."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from qguard.commands import tolerances
from qguard.console.visible import say
from qguard.errors import UsageProblem
from qguard.kinds import DENSE, KINDS
from qguard.models.location import is_local
from qguard.models.pipeline import POOLING_MODES

T = TypeVar("T")

INIT = """# qguard: accuracy gates for the quantized forms of an embedding model.
[tool.qguard]
suites = ["core"]        # built in; add your own under [tool.qguard.suite.NAME]
precisions = [{precision}]    # what --precision all means
golden = "golden"        # recorded fp32 outputs; commit this folder

[tool.qguard.models]
{name} = {model}

# [tool.qguard.suite.contracts]       # a .jsonl file of texts or pairs, or a folder
# path = "eval/contracts.jsonl"
# [tool.qguard.gates.int8]            # override a default gate; [*] bounds each slice
# "ranking.overlap@10" = ">= 0.9"
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("ref", metavar="MODEL", help="hub id (also hf:ORG/NAME), folder or package:NAME/PATH")
    parser.add_argument("--name", metavar="NAME", help="name of the model in the configuration (default: the last part of MODEL)")
    parser.add_argument(
        "--precision",
        metavar="NAME[@RUNTIME]",
        help="also derive gates for this precision, as qguard tolerances does (takes about a minute)",
    )
    parser.add_argument("--kind", choices=tuple(KINDS), help="what the model gives, if its files do not declare it")
    only = parser.add_argument_group("a model that comes only as ONNX and whose folder does not declare these")
    only.add_argument("--tokenizer", metavar="REF", help="hub id, folder or package:NAME/PATH that contains a tokenizer.json")
    only.add_argument("--pooling", choices=POOLING_MODES, help="how token embeddings become one vector")
    only.add_argument("--normalize", action="store_true", default=None, help="scale embeddings to unit length")
    only.add_argument("--max-seq-length", type=int, metavar="TOKENS", help="maximum input length, including special tokens")


def run(args: argparse.Namespace) -> int:
    """Write the configuration and record a first golden of the suite ``core``."""
    import json
    import re

    from qguard import goldens as golden
    from qguard.config import load_config, project_folder
    from qguard.files import staged, write_atomic
    from qguard.judging.session import Session
    from qguard.models.model import resolve
    from qguard.precisions import parse_precision

    last = re.split(r"[/:]", args.ref.rstrip("/"))[-1]
    name = args.name or re.sub(r"[^A-Za-z0-9_-]+", "-", last).strip("-")
    keys = ("tokenizer", "pooling", "normalize", "max_seq_length", "kind")
    settings = {k: v for k in keys if (v := getattr(args, k)) is not None}
    folder = project_folder()
    file = folder / "pyproject.toml"
    old = _read(file)
    if "[tool.qguard" in old:
        raise UsageProblem(f"{file} already has [tool.qguard]; edit it, or remove it and run again")
    wanted, found = parse_precision(args.precision or "int8"), resolve(name, args.ref, None, settings)
    if args.precision or found.onnx is None:  # of a large ONNX file, fp32 and other tools' files can be judged
        wanted.check(found)
    ref = _from(folder, args.ref)
    if "tokenizer" in settings:
        settings["tokenizer"] = _from(folder, settings["tokenizer"])
    table = ", ".join(f"{k} = {json.dumps(v)}" for k, v in {"ref": ref, **settings}.items())
    model, precision = f"{{ {table} }}" if settings else json.dumps(ref), args.precision or "int8"
    text = INIT.format(name=json.dumps(name), model=model, precision=json.dumps(precision))
    end = "\r\n" if "\r\n" in old else "\n"
    # beside its place until all is done, whatever ends it before: half a configuration would refuse the next try
    written = _writing(file, lambda: staged(file, (f"{old}{end}" if old else "").encode() + text.replace("\n", end).encode()))
    try:
        session = Session(load_config(written))
        review = golden.record(
            session.model(name), session.suite_of("core", name), session.config.golden_root, "First golden, by qguard init",
            show=lambda r: None if r.new else say(r.words),
        )  # fmt: skip
        without = review.without if review.new else ()
        say("\n".join([f"golden/{name}/core: {'written' if review.changed else 'unchanged'}", *(f"  {w}" for w in without)]))
        if args.precision:
            tolerances.derive(session, precision, "first gates, by qguard init", written, file.name)
        _writing(file, lambda: write_atomic(file.resolve(), written.read_bytes()))
    finally:
        written.unlink(missing_ok=True)
    say(f"{file}: [tool.qguard] written for {name}")
    if not args.precision:
        standing = session.standing(name)
        moved = f"moved by its golden of core: {standing.words}" if standing else "those chosen on all-MiniLM-L6-v2"
        if (kind := session.kind(name)) != DENSE:
            moved = f"those of {kind} models"
        say(f"gates are the defaults, {moved}")
        say(f"for gates from your own texts: qguard tolerances --precision {precision} --write")
    say(f"next: pytest --precision {precision}")
    return 0


def _read(file: Path) -> str:
    """The configuration file as it is, its ends of lines too; empty where there is none.

    Raises:
        UsageProblem: when it cannot be read, or is not TOML.
    """
    import tomllib

    try:
        text = file.read_bytes().decode("utf-8") if file.exists() else ""
        tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as e:
        raise UsageProblem(f"{file} cannot be read: {e}") from e
    return text


def _writing(file: Path, write: Callable[[], T]) -> T:
    try:
        return write()
    except OSError as e:
        raise UsageProblem(f"{file} cannot be written ({e.strerror or e})") from e


def _from(folder: Path, ref: str) -> str:
    """A reference as the configuration in ``folder`` has it: paths there are relative to it."""
    import os

    path = Path(ref).expanduser()
    if folder == Path() or not is_local(ref) or path.is_absolute():
        return ref
    here = Path(os.path.relpath(path, folder)).as_posix()
    return here if here.startswith(".") else f"./{here}"
