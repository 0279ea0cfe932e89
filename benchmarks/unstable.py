"""Which products turn the text that int8 turns most, and how much of their rounding that text stands.

One graph stands for fp32, for int8 and for all between: each rounding is multiplied by a share, 0 for fp32 and 1 for int8. There
is one share for each table, for each tensor that is quantized as an input of products, and for the weights of each product. All
cosines are to fp32, for one text alone.

usage: python benchmarks/unstable.py [--config FOLDER] [--model NAME] [--suite core] [--text N] [--only PART,…]

--text is the text's number in the suite; without it, it is the one with the least cosine by int8, which needs all texts encoded.
Parts are fewer, shares, layers, products and words; the last is about other texts, of one word repeated to the same length.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from qguard.config import load_config
from qguard.encoders import Encoder
from qguard.encoders.onnx import OnnxRuntime
from qguard.judging.session import Session
from qguard.onnx.edit import Graph
from qguard.precisions import parse_precision
from qguard.precisions.attention import standard_attention
from qguard.precisions.integer import find_sites
from qguard.precisions.products import plain_products
from qguard.vectors.cosine import cosine

FP32, INT8 = parse_precision("fp32@onnx"), parse_precision("int8@onnx")
SHARES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
FEWER = (1, 2, 4, 8, 16, 32, 64)
WORDS = [
    "so",
    "no",
    "yes",
    "good",
    "bad",
    "the",
    "dog",
    "ha",
    "la",
    "buffalo",
    "test",
    "please",
    "data",
    "never",
    "money",
    "water",
    "love",
    "stop",
    "run",
    "lol",
]
PARTS = ("fewer", "shares", "layers", "products", "words")
INPUT = "shares"


class Mixed:
    """The graph with shares.

    Attributes:
        names: What has a share: a product's name, or ``inputs of`` the first product that reads a tensor, or ``table NAME``.
        graph: It computes fp32 where all shares are 0, and what the int8 file computes where all are 1.
    """

    def __init__(self, fp32: Path, int8: Path) -> None:
        source = Graph.read(fp32)
        standard_attention(source)
        plain_products(source)
        self.source, self.graph, self.names = source, Graph.read(int8), list[str]()
        self.stored = {p.name: (site.home, p.stored[0]) for site in find_sites(source) for p in site.products}
        if any(n.op_type == "QAttention" for n in self.graph.nodes):
            sys.exit("this is for models whose query, key and value are products of their own")
        kinds = {"QuantizeLinear": self._input, "MatMulIntegerToFloat": self._product, "GatherBlockQuantized": self._lookup}
        self.graph.rewrite(lambda node: kinds[node.op_type](node) if node.op_type in kinds else None)
        self.graph.put(INPUT, np.zeros(len(self.names), np.float32))  # a default, so that a session need not be given them
        self.graph.model.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [len(self.names)]))
        self.graph.drop_unread()

    def _shared(self, name: str, error: str, exact: str, out: str) -> list[Any]:
        """Nodes for ``out = exact + share * error``."""
        at = self.graph.put(f"{out}/at", np.array(len(self.names), np.int64))
        self.names.append(name)
        return [
            helper.make_node("Gather", [INPUT, at], [f"{out}/share"]),
            helper.make_node("Mul", [error, f"{out}/share"], [f"{out}/part"]),
            helper.make_node("Add", [exact, f"{out}/part"], [out]),
        ]

    def _input(self, node: Any) -> list[Any]:
        x, scale, zero = node.input
        out = node.output[0]
        return [
            helper.make_node("QuantizeLinear", [x, scale, zero], [f"{out}/rounded"]),
            helper.make_node("DequantizeLinear", [f"{out}/rounded", scale, zero], [f"{out}/back"]),
            helper.make_node("Sub", [f"{out}/back", x], [f"{out}/error"]),
            *self._shared(f"inputs of {out.removesuffix('/x')}", f"{out}/error", x, out),
        ]

    def _product(self, node: Any) -> list[Any]:
        x, values, _, scale, _, _, *bias = node.input
        home, stored = self.stored[node.name]
        weight = self.source.array(stored).astype(np.float64)
        if f"{home}/factor" in self.graph.initializers:
            weight /= self.graph.array(f"{home}/factor").astype(np.float64)[:, None]
        if f"{home}/outliers" in self.graph.initializers:
            weight[self.graph.array(f"{home}/outliers")] = 0
        error = self.graph.array(values).astype(np.float64) * self.graph.array(scale) - weight
        out, product = node.output[0], f"{node.name}/both" if any(bias) else node.output[0]
        exact, wrong = (
            self.graph.put(f"{node.name}/{k}", v.astype(np.float32)) for k, v in (("exact", weight), ("wrong", error))
        )
        return [
            helper.make_node("MatMul", [x, exact], [f"{out}/exact"]),
            helper.make_node("MatMul", [x, wrong], [f"{out}/error"]),
            *self._shared(node.name, f"{out}/error", f"{out}/exact", product),
            *([helper.make_node("Add", [product, bias[0]], [out])] if any(bias) else []),
        ]

    def _lookup(self, node: Any) -> list[Any]:
        table, out = node.input[0].removesuffix("_quantized"), node.output[0]
        exact = self.graph.put(f"{table}/exact", self.source.array(table))
        node.output[0] = f"{out}/rounded"
        return [
            node,
            helper.make_node("Gather", [exact, node.input[1]], [f"{out}/exact"]),
            helper.make_node("Sub", [f"{out}/rounded", f"{out}/exact"], [f"{out}/error"]),
            *self._shared(f"table {table}", f"{out}/error", f"{out}/exact", out),
        ]


class Runtime(OnnxRuntime):
    """Runs the graph with shares that can be changed."""

    shares: Any

    def _run(self, feeds: dict[str, Any]) -> Any:
        return self.session.run([self.interface.output.port.name], {**feeds, INPUT: self.shares})[0]


def layer_of(name: str) -> str:
    """The first number between dots or slashes in a product's name."""
    found = re.search(r"[./](\d+)[./]", name)
    return found[1] if found else ""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table in Markdown."""
    head = list(head)
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, default=Path())
    parser.add_argument("--model")
    parser.add_argument("--suite", default="core")
    parser.add_argument("--text", type=int)
    parser.add_argument("--only", default=",".join(PARTS))
    args = parser.parse_args()
    session = Session(load_config(args.config))
    model = args.model or next(iter(session.config.models))
    fp32, suite = session.encoder(FP32, model), session.whole_suite(args.suite)
    ids, number = fp32.tokenizer(suite.texts, suite.roles), args.text
    if number is None:
        number = int(np.argmin(cosine(fp32.encode_ids(ids), session.encoder(INT8, model).encode_ids(ids))))
    row = ids[number]
    truth = fp32.encode_ids([row])
    files = [session.artifact(p, model).file for p in (FP32, INT8)]
    with TemporaryDirectory() as work:
        mixed = Mixed(*files)
        mixed.graph.save(Path(work) / "mixed.onnx")
        names = mixed.names
        del mixed
        runtime = Runtime(Path(work) / "mixed.onnx", feeding=session.artifact(FP32, model).feeding)
        encoder = Encoder(fp32.tokenizer, runtime, fp32.head)

        def kept(shares: Any) -> float:
            runtime.shares = np.broadcast_to(np.float32(shares), len(names)).astype(np.float32)
            return float(cosine(truth, encoder.encode_ids([row]))[0])

        def only(*chosen: str) -> Any:
            return np.isin(names, chosen)

        int8 = float(cosine(truth, session.encoder(INT8, model).encode_ids([row]))[0])
        print(f"text {number}, {len(row)} tokens: {suite.texts[number][:60]!r}")
        print(f"int8 {int8:.5f}, the graph with all roundings {kept(1):.5f}, with none {kept(0):.7f}\n")
        parts = args.only.split(",")
        if "fewer" in parts:
            cells = (((f"{n}", f"{cosine(truth, fp32.encode_ids([row[: -1 - n] + row[-1:]]))[0]:.4f}")) for n in FEWER)
            table(["tokens left out before the last", "fp32"], (c for n, c in zip(FEWER, cells, strict=True) if n < len(row) - 2))
        if "shares" in parts:
            tables = np.array([n.startswith("table ") for n in names])
            table(
                ["share", "of all", "of all but the tables"],
                ([f"{s}", f"{kept(s):.4f}", f"{kept(s * ~tables):.4f}"] for s in SHARES),
            )
        layers = list(dict.fromkeys(filter(None, map(layer_of, names))))
        of = {layer: np.array([layer_of(n) == layer for n in names]) for layer in layers}
        if "layers" in parts:
            found = {"tables": np.array([n.startswith("table ") for n in names])} | of
            table(["rounded", "this alone", "all but this"], ([k, f"{kept(w):.4f}", f"{kept(~w):.4f}"] for k, w in found.items()))
        if "products" in parts:
            kinds = list(
                dict.fromkeys(
                    n.replace(f".{layer}/", ".#/") for layer in layers for n, w in zip(names, of[layer], strict=True) if w
                )
            )
            table(
                ["layer", *(k.rpartition(".#/")[2].join(("inputs of " * k.startswith("inputs"), "")) for k in kinds)],
                ([layer, *(f"{kept(only(k.replace('.#/', f'.{layer}/'))):.4f}" for k in kinds)] for layer in layers),
            )
        if "words" in parts:
            rows = fp32.tokenizer([" ".join([w] * len(row)) for w in WORDS])
            exact, shorter = fp32.encode_ids(rows), fp32.encode_ids([r[:-9] + r[-1:] for r in rows])
            found = cosine(exact, session.encoder(INT8, model).encode_ids(rows)), cosine(exact, shorter)
            table(
                ["word", "int8", "fp32 without eight tokens"],
                ([w, *map("{:.4f}".format, c)] for w, *c in zip(WORDS, *found, strict=True)),
            )


if __name__ == "__main__":
    main()
