"""fp32 and int8 of every architecture in ONNX Runtime at the width of a base model: what int8 saves, beyond MiniLM.

Models of 768 (12 heads) with random weights, made from the Transformers configuration: their vectors mean nothing, their time is
a real model's. Layers beyond the first few cost what these cost. Random token ids, no padding. Both files take turns in one
process on one thread, whose CPU time is measured, so that other processes don't count; the ratio is that of medians. "fused"
counts attention operators.

usage: python benchmarks/speed_families.py [--families a,b] [--layers 4] [--folder KEEP] [--profile]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from qguard.errors import QguardError
from qguard.models.model import resolve
from qguard.onnx.edit import Graph
from qguard.precisions import parse_precision
from qguard.precisions.calibration import Calibration
from qguard.precisions.fusion import attention_fused
from tests import families

WIDE, HEADS, LENGTH = 768, 12, 64
BATCHES = ((1, 60), (32, 7))  # texts, rounds
SAMPLES = 24  # texts to calibrate on: they decide ranges, not speed
T5 = {"d_model": WIDE, "d_kv": WIDE // HEADS, "num_heads": HEADS, "relative_attention_num_buckets": 32}
GROUPED = {"num_key_value_heads": 4, "head_dim": WIDE // HEADS}
# what a family's base model has beside width, heads and four times as much inside
OWN: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 128},
    "deberta-v2": {"position_buckets": 256, "max_position_embeddings": 512},
    # its own shape: a bottleneck of 128 in layers of 512
    "mobilebert": {
        "hidden_size": 512, "num_attention_heads": 4, "intermediate_size": 512, "embedding_size": 128,
        "intra_bottleneck_size": 128, "num_feedforward_networks": 4,
    },
    "electra": {"embedding_size": WIDE},
    "modernbert": {"intermediate_size": 1152, "global_attn_every_n_layers": 3, "local_attention": 128},
    "t5": {**T5, "d_ff": 4 * WIDE}, "t5-gated": {**T5, "d_ff": 2048},
    "mistral": GROUPED, "qwen3": GROUPED, "llama": GROUPED, "eurobert": {"num_key_value_heads": 12},
    "gemma3": {**GROUPED, "num_attention_heads": 12, "intermediate_size": 1152},
}  # fmt: skip


def settings(family: str, layers: int) -> dict[str, Any]:
    """The configuration of a family at the width of a base model."""
    if family == "distilbert":
        return {"dim": WIDE, "n_layers": layers, "n_heads": HEADS, "hidden_dim": 4 * WIDE}
    if family.startswith("t5"):
        return {"num_layers": layers, **OWN[family]}
    usual = {
        "hidden_size": WIDE,
        "num_attention_heads": HEADS,
        "num_hidden_layers": layers,
        "intermediate_size": 4 * WIDE,
        "max_position_embeddings": 512,
    }
    if family == "gemma3":
        usual |= {"layer_types": ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(layers)]}  # type: ignore[dict-item]
    return usual | OWN.get(family, {})


def build(family: str, folder: Path, layers: int) -> tuple[Path, Path]:
    """The files of fp32 and int8."""
    if not (folder / "modules.json").exists():
        families.write(family, folder, normalize=False, **settings(family, layers))
        modules = [m for m in json.loads((folder / "modules.json").read_text()) if not m["type"].endswith("Dense")]
        (folder / "modules.json").write_text(json.dumps(modules))
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
        wide = 512 if family == "mobilebert" else WIDE
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({**pooling, "word_embedding_dimension": wide}))
    model = resolve(family, str(folder))
    files = []
    for name in ("fp32", "int8"):
        precision = parse_precision(name)
        if precision.recipe.calibrated:
            precision = replace(precision, calibration=Calibration(samples=SAMPLES))
        file = precision.build(model).file
        assert file is not None
        files.append(file)
    return files[0], files[1]


def session(file: Path, *, profile: bool = False) -> Any:
    """One thread, as the latency gate times."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(file.parent / "profile")
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def feeds(made: Any, batch: int) -> dict[str, Any]:
    """Random tokens without padding."""
    ids = np.random.default_rng(0).integers(5, families.VOCABULARY - 100, (batch, LENGTH))
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {i.name: given[i.name].astype(np.int64 if "64" in i.type else np.int32) for i in made.get_inputs()}


def timed(files: tuple[Path, Path]) -> list[tuple[float, float]]:
    """Median milliseconds of CPU of both files for each batch."""
    sessions = [session(f) for f in files]
    found = []
    for batch, rounds in BATCHES:
        given = [feeds(s, batch) for s in sessions]
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(rounds + 1):
            for made, feed, kept in zip(sessions, given, times, strict=True):
                start = time.process_time()
                made.run(None, feed)
                if turn:  # the first warms up
                    kept.append((time.process_time() - start) * 1e3)
        found.append((statistics.median(times[0]), statistics.median(times[1])))
    return found


def profile(file: Path, batch: int, rounds: int = 5) -> str:
    """Where the time goes, by operator, in milliseconds a batch."""
    made = session(file, profile=True)
    feed = feeds(made, batch)
    for _ in range(rounds):
        made.run(None, feed)
    log = Path(made.end_profiling())
    spent: Counter[str] = Counter()
    for event in json.loads(log.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    log.unlink()
    whole = sum(spent.values())
    return f"{whole / rounds / 1e3:.2f} ms: " + ", ".join(f"{k} {v / rounds / 1e3:.2f}" for k, v in spent.most_common(12))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(f for f in families.FAMILIES if f != "clip-text"))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where models are kept; a temporary folder by default")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    print("| family | fused | 64 x 1 fp32 ms | int8 ms | speedup | 64 x 32 fp32 ms | int8 ms | speedup |\n|" + "---|" * 8)
    with tempfile.TemporaryDirectory() as temporary:
        for family in args.families.split(","):
            try:
                files = build(family, (args.folder or Path(temporary)) / family, args.layers)
            except QguardError as e:
                print(f"| {family} | {e} |" + " |" * 6, flush=True)
                continue
            fused, every = attention_fused(Graph.read(files[0]))
            cells = [f"{a:.2f} | {b:.2f} | {a / b:.2f} x" for a, b in timed(files)]
            print(f"| {family} | {fused} of {every} | " + " | ".join(cells) + " |", flush=True)
            if args.profile:
                for batch, _ in BATCHES:
                    for name, file in zip(("fp32", "int8"), files, strict=True):
                        print(f"    {LENGTH} x {batch} {name} {profile(file, batch)}", flush=True)


if __name__ == "__main__":
    main()
