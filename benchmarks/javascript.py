"""One ONNX file in Python, in Node.js and in Chromium: how far its numbers agree, and how long it takes.

The file is the artifact of ``PRECISION@browser``, which all three read, on one thread. They compute the same batches. Two
things are compared with Python: what the network gives for each token, and finished vectors, which also differ by how pooling and
normalization are summed up. Times are of the network alone, the fastest of all runs, the arms taking turns.

usage: python benchmarks/javascript.py [--config FOLDER] [--model NAME] [--suite NAME] [--precisions a,b] [--texts N] [--rounds N]
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from qguard.config import load_config
from qguard.encoders import Encoder, batches_of, open_runtime, padded
from qguard.encoders.javascript import MODEL, BrowserRuntime, NodeRuntime
from qguard.encoders.pooling import Head
from qguard.javascript import layout
from qguard.judging.session import Session, Target
from qguard.precisions import parse_precision

ARMS = {"Node.js": NodeRuntime, "Chromium": BrowserRuntime}
SHAPES = ((64, 1), (64, 32))  # tokens and texts of a batch
PLAIN = {"pooling": "none", "normalize": False, "close": True}
RUNS = 5  # of a batch in each round


def main() -> None:
    """Print a table of agreement and one of times for each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path())
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--suite", default="core")
    parser.add_argument("--precisions", default="int8")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    session = Session(load_config(args.config))
    for name in args.precisions.split(","):
        compare(session, Target(parse_precision(f"{name}@browser"), args.model, args.suite), args.texts, args.rounds)


def compare(session: Session, target: Target, count: int, rounds: int) -> None:
    """All arms on the file of one precision."""
    a, base = session.artifact(target.precision, target.model), session.model(target.model)
    whole = session._whole(a, base)
    javascript = replace(a.javascript, close=True)
    runtime = open_runtime("onnx", a.file, "", 1, feeding=a.feeding)
    tokenizer = session.tokenizer(target.precision, target.model)
    encoder = Encoder(tokenizer, runtime, Head.open(a.folder, a.pipeline))
    every = session.suite(target.suite, target.model).texts
    texts = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, count).astype(int))]
    ids = tokenizer(texts)
    batches = batches_of(texts, 8)
    want = encoder.encode_batches(ids, batches)
    tokens = [runtime(*padded([ids[i] for i in batch])) for batch in batches]
    shapes = [(["word " * (length - 2)] * n, padded(tokenizer(["word " * (length - 2)] * n))) for length, n in SHAPES]

    opened = {arm: kind(whole.file, "", 1, whole, javascript) for arm, kind in ARMS.items()}
    best = {(arm, k): float("inf") for arm in ("Python", *opened) for k in range(len(shapes))}
    for _ in range(rounds):
        for k, (words, batch) in enumerate(shapes):
            for _ in range(RUNS):
                start = time.perf_counter()
                runtime(*batch)
                best["Python", k] = min(best["Python", k], 1e3 * (time.perf_counter() - start))
            for arm, one in opened.items():
                best[arm, k] = min(best[arm, k], float(one.times(words, RUNS, 1, alone=True).min()))
    print(f"\n{target.precision.name}, {len(texts)} texts of {target.suite} in batches of 8\n")
    print(
        "| runtime | outputs of the network equal | largest difference | vectors equal | largest difference | least cosine | ",
        end="",
    )
    print(" | ".join(f"{length} x {n}, ms" for length, n in SHAPES), "|\n" + "|---" * (6 + len(SHAPES)) + "|")
    times = " | ".join(f"{best['Python', k]:.2f}" for k in range(len(shapes)))
    print(f"| Python | | | | | | {times} |")
    for arm, one in opened.items():
        found = np.empty_like(want)
        for batch in batches:
            found[batch] = one([texts[i] for i in batch], [None] * len(batch))
        one._how, (stem, dtype) = PLAIN, layout.named(whole.file.name)
        one._opened(Path(one._folder.name, MODEL), {"dtype": dtype, "model_file_name": stem}, 1)
        alike, most = 0, 0.0
        for batch, mine in zip(batches, tokens, strict=True):
            theirs = one([texts[i] for i in batch], [None] * len(batch))
            for row, i in enumerate(batch):
                x, y = theirs[row, : len(ids[i])], mine[row, : len(ids[i])]
                alike += np.array_equal(x, y)
                most = max(most, float(np.abs(x - y).max()))
        same = int((found == want).all(1).sum())
        cosine = (found.astype(float) * want).sum(1) / np.linalg.norm(found.astype(float), axis=1) / np.linalg.norm(want, axis=1)
        times = " | ".join(f"{best[arm, k]:.2f}" for k in range(len(shapes)))
        n, far = len(texts), np.abs(found - want).max()
        print(f"| {arm} | {alike} of {n} | {most:.2g} | {same} of {n} | {far:.2g} | {cosine.min():.7f} | {times} |")
        one.close()


if __name__ == "__main__":
    main()
