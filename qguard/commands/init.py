"""``qguard init``: from a model reference to a configuration and a first golden."""

from __future__ import annotations

import argparse
from pathlib import Path

from qguard.commands import tolerances
from qguard.console.visible import say
from qguard.errors import UsageProblem
from qguard.models.pipeline import POOLING_MODES

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
    from qguard.config import load_config
    from qguard.judging.session import Session
    from qguard.models.model import resolve
    from qguard.precisions import parse_precision

    last = re.split(r"[/:]", args.ref.rstrip("/"))[-1]
    name = args.name or re.sub(r"[^A-Za-z0-9_-]+", "-", last).strip("-")
    keys = ("tokenizer", "pooling", "normalize", "max_seq_length")
    settings = {k: v for k in keys if (v := getattr(args, k)) is not None}
    file = Path("pyproject.toml")
    before = file.read_bytes() if file.exists() else None
    old = file.read_text(encoding="utf-8") if before is not None else ""
    if "[tool.qguard" in old:
        raise UsageProblem("pyproject.toml already has [tool.qguard]; edit it, or remove it and run again")
    wanted, found = parse_precision(args.precision or "int8"), resolve(name, args.ref, None, settings)
    if args.precision or found.onnx is None:  # of a large ONNX file, fp32 and other tools' files can be judged
        wanted.check(found)
    table = ", ".join(f"{k} = {json.dumps(v)}" for k, v in {"ref": args.ref, **settings}.items())
    model, precision = f"{{ {table} }}" if settings else json.dumps(args.ref), args.precision or "int8"
    text = INIT.format(name=json.dumps(name), model=model, precision=json.dumps(precision))
    try:
        file.write_text(f"{old}\n{text}" if old else text, encoding="utf-8")
        session = Session(load_config(Path()))
        review = golden.record(
            session.model(name), session.suite("core"), session.config.golden_root, "First golden, by qguard init",
            show=lambda r: None if r.new else say(r.words),
        )  # fmt: skip
        without = review.without if review.new else ()
        say("\n".join([f"golden/{name}/core: {'written' if review.changed else 'unchanged'}", *(f"  {w}" for w in without)]))
        if args.precision:
            reason = "first gates, by qguard init"
            tolerances.run(argparse.Namespace(config=Path(), model=[], suite=[], precision=precision, write=True, reason=reason))
    except BaseException:  # Ctrl-C too: half a configuration would refuse the next try
        if before is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(before)
        raise
    say(f"pyproject.toml: [tool.qguard] written for {name}")
    if not args.precision:
        standing = session.standing(name)
        moved = f"moved by its golden of core: {standing.words}" if standing else "those chosen on all-MiniLM-L6-v2"
        say(f"gates are the defaults, {moved}")
        say(f"for gates from your own texts: qguard tolerances --precision {precision} --write")
    say(f"next: pytest --precision {precision}")
    return 0
