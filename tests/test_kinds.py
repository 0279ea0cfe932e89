"""The tiny models of ``tests/kinds.py`` do what their kinds do, when sentence-transformers opens them."""

import json

import pytest
import torch

from tests import kinds

PAIRS = [(q, t) for q in kinds.QUERIES for t in kinds.TEXTS]


@pytest.mark.parametrize("labels", [1, 3])
def test_tiny_cross_encoder(tmp_path, labels):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(kinds.tiny_cross_encoder(tmp_path / "m", labels)), device="cpu")
    scores = model.predict(PAIRS, convert_to_tensor=True)
    assert scores.shape == ((12,) if labels == 1 else (12, 3))
    assert scores.isfinite().all()
    assert scores.std(dim=0).min() > 1e-3
    assert type(model.activation_fn).__name__ == ("Sigmoid" if labels == 1 else "Identity")
    features = model.preprocess(PAIRS[:2])
    ids, types = features["input_ids"][0].tolist(), features["token_type_ids"]
    first, filled = ids.index(model.tokenizer.sep_token_id) + 1, int(features["attention_mask"][0].sum())
    assert types[0].tolist() == [0] * first + [1] * (filled - first) + [0] * (len(ids) - filled)
    with torch.no_grad():
        told, untold = (model({**features, "token_type_ids": t})["scores"] for t in (types, torch.zeros_like(types)))
    assert (told - untold).abs().max() > 1e-3  # a runtime that loses the types gives other scores


def test_tiny_sparse(tmp_path):
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(kinds.tiny_sparse(tmp_path / "m")), device="cpu")
    vectors = model.encode(list(kinds.TEXTS)).to_dense()
    assert vectors.shape == (4, model[0].model.config.vocab_size)
    assert vectors.isfinite().all()
    assert (vectors >= 0).all()
    active = (vectors > 0).sum(dim=1)
    assert (active > 0).all()
    assert (active < 0.5 * vectors.shape[1]).all()


def test_tiny_multi_vector(tmp_path):
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(str(kinds.tiny_multi_vector(tmp_path / "m")), device="cpu")
    queries, documents = model.encode_query(list(kinds.QUERIES)), model.encode_document(list(kinds.TEXTS))
    assert [q.shape for q in queries] == [(kinds.QUERY_LENGTH, kinds.PROJECTED)] * 3
    # [CLS], the mark, the words without punctuation, [SEP]
    assert len(documents[0]) == 3 + 8
    for vectors in (*queries, *documents):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    scores = model.similarity(queries, documents)
    assert scores.isfinite().all()
    assert scores.std() > 1e-3
    asked = model.preprocess([kinds.QUERIES[0]], prompt=model.prompts["query"], task="query")
    words = model.tokenizer.convert_ids_to_tokens(asked["input_ids"][0])
    assert words[:3] == ["[CLS]", "[unused0]", "when"]
    assert words.count("[MASK]") == kinds.QUERY_LENGTH - int(asked["attention_mask"].sum()) > 0


def test_each_says_its_kind(tmp_path):
    made = {
        "CrossEncoder": kinds.tiny_cross_encoder(tmp_path / "c"),
        "SparseEncoder": kinds.tiny_sparse(tmp_path / "s"),
        "MultiVectorEncoder": kinds.tiny_multi_vector(tmp_path / "v"),
    }
    for kind, folder in made.items():
        assert json.loads((folder / "config_sentence_transformers.json").read_text())["model_type"] == kind
        assert not list(folder.rglob("*.bin"))
