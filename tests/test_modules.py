"""Modules of sentence-transformers: what a folder declares, and the same vectors in NumPy."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from qguard.encoders import open_encoder
from qguard.errors import MeasurementProblem, ModelProblem
from qguard.goldens.reference import confirm, fp32_outputs
from qguard.models.model import resolve
from qguard.models.modules import REFUSED, Dense, Normalize, Pooling
from qguard.models.modules.activations import COMPUTED
from qguard.models.modules.dense import ACTIVATIONS
from qguard.models.pipeline import Pipeline
from qguard.precisions import parse_precision
from qguard.suites import Suite
from tests import families

WIDE = families.WIDE
LONG = "the lease ends in march and the form has to be sent before that " * 12  # beyond the limit of tokens
TEXTS = ("The Lease ends in March.", "lease", "", "where do I send the signed form", LONG)
PROMPTS = {"query": "query: ", "document": "passage of the lease: "}

# recorded with the release that first had goldens: a golden holds this hash, and stays valid as long as nothing changes
HASHES = {
    "b6749f73881df9862b2648e9adb23d0ddc324feb21b2e483a2965260320d64e0": Pipeline(),
    "9ab04296376261d2c3a40f47438df07cdd49abcda4880cb7e79a88a64b07cf9f": Pipeline(
        (Pooling("1_Pooling"), Normalize("2_Normalize")), max_seq_length=256
    ),
    "7be1ecaab41d1aeaae27e407419d6cdc8c7df928acad5da2fa85ac0541e657be": Pipeline(
        (
            Pooling("1_Pooling", ("cls", "mean")),
            Dense("2_Dense", activation="Tanh"),
            Dense("3_Dense", activation="Identity", bias=False),
            Normalize("4_Normalize"),
        ),
        max_seq_length=384,
        do_lower_case=True,
        prompts={"a": "x: ", "query": "q: "},
        default_prompt="a",
        transformer="0_Transformer",
    ),
    "126e088b4bd96f6a7b521afc4223a20283791727e600becb0c18603dcefe2dbf": Pipeline((Pooling("", ("lasttoken",), False),)),
}


@pytest.mark.parametrize("digest", HASHES)
def test_the_hash_of_a_pipeline_stays(digest):
    assert HASHES[digest].sha256() == digest


def test_what_the_old_form_does_not_tell_has_another_hash():
    pooling, dense = Pooling("1_Pooling"), Dense("2_Dense")
    told = Pipeline((pooling, dense))
    others = [
        Pipeline((pooling, Normalize("2_Normalize"), dense)),
        Pipeline((Dense("2_Dense", source="token_embeddings", target="token_embeddings"), pooling)),
        Pipeline((pooling, Dense("2_Dense", residual="input"))),
        Pipeline((pooling, dense), first="StaticEmbedding"),
    ]
    assert "modules" not in told.declared()
    assert len({p.sha256() for p in (told, *others)}) == 5


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_torchs(name):
    import torch

    x = np.concatenate([np.linspace(-30, 30, 240), [0, -0.5, 0.5, -3, 3, 100, -100, 1e-8]]).astype(np.float32).reshape(2, -1)
    activation = getattr(torch.nn, name)().eval()
    want = activation(torch.from_numpy(x)).detach().numpy()
    found = np.where(x > 0, x, 0.25 * x) if name == "PReLU" else COMPUTED[name](x)  # PReLU's slope is a weight
    assert found.dtype == np.float32 or name == "PReLU"
    np.testing.assert_allclose(found, want, rtol=2e-6, atol=1e-6)


def test_no_activation_of_torch_is_forgotten():
    """Threshold and MultiheadAttention need arguments, and Softmax2d images: no folder of sentence-transformers can use them."""
    import torch.nn.modules.activation as there

    assert {*ACTIVATIONS} == {*there.__all__, "Identity"} - {"Threshold", "MultiheadAttention", "Softmax2d"}
    assert {*ACTIVATIONS} == {*COMPUTED, "PReLU"}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("prompt", [0, 3, 9])
def test_pooling_leaves_out_a_prompt_as_sentence_transformers_does(side, prompt):
    """Also where nothing is left of a text, as of one that is cut inside its prompt."""
    import torch

    from qguard.encoders.tokenizer import Tokens

    rng = np.random.default_rng(0)
    tokens, lengths = rng.normal(0, 1, (4, 10, 8)).astype(np.float32), np.array([10, 9, 4, 2])
    at = np.arange(10)[None]
    mask = (at < lengths[:, None] if side == "right" else at >= 10 - lengths[:, None]).astype(np.int64)
    features = {
        "token_embeddings": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(mask), "prompt_length": prompt,
    }  # fmt: skip
    theirs = _pooled(ALL_MODES, 8, include_prompt=False)(features)["sentence_embedding"].numpy()
    rows = [Tokens([1] * n, None, prompt) for n in lengths]
    ours = {"token_embeddings": tokens, "attention_mask": mask, "rows": rows}
    Pooling("", ALL_MODES, False)(ours, {})
    np.testing.assert_allclose(ours["sentence_embedding"], theirs, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """A tiny BERT, shared: what stands behind it is what is tested."""
    from sentence_transformers.sentence_transformer.modules import Transformer

    return Transformer(str(families.write("bert", tmp_path_factory.mktemp("tower"))))


def _stirred(*modules):
    """Modules with random weights everywhere: neither gains of one nor biases of zero."""
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        for module in modules:
            for tensor in module.parameters():
                tensor.add_(0.2 * torch.randn_like(tensor))
    return list(modules)


def _behind(kind, **settings):
    from sentence_transformers.sentence_transformer import modules

    return getattr(modules, kind)(**settings)


def _pooled(mode="mean", wide=WIDE, **settings):
    return _behind("Pooling", embedding_dimension=wide, pooling_mode=mode, **settings)


def _linear(wide, out, activation="Tanh", **settings):
    import torch

    return _behind("Dense", in_features=wide, out_features=out, activation_function=getattr(torch.nn, activation)(), **settings)


def _on_tokens(wide, out, activation="Tanh", **settings):
    return _linear(wide, out, activation, module_input_name="token_embeddings", **settings)


ALL_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
BUILDS = {
    "all poolings": lambda: [_pooled(ALL_MODES)],
    "without the prompt": lambda: [_pooled(ALL_MODES, include_prompt=False)],
    "two dense, as EmbeddingGemma": lambda: [
        _pooled(), _linear(WIDE, 96, "Identity", bias=False), _linear(96, WIDE, "Identity", bias=False), _behind("Normalize"),
    ],
    "dense with a residual": lambda: [_pooled(), _linear(WIDE, WIDE, "GELU", use_residual=True)],
    "dense with a projected residual": lambda: [_pooled(), _linear(WIDE, 24, "SiLU", use_residual=True)],
    "dense on tokens": lambda: [_on_tokens(WIDE, 40, "Mish", use_residual=True), _pooled(("mean", "max"), 40)],
    "dense from tokens to nothing that is pooled": lambda: [_pooled("max"), _linear(WIDE, 16, "PReLU")],
    "layer norm": lambda: [_pooled(), _behind("LayerNorm", dimension=WIDE)],
    "normalize anywhere": lambda: [
        _behind("Normalize", module_input_name="token_embeddings"), _pooled(), _behind("Normalize"), _linear(WIDE, 32, "GELU"),
        _behind("LayerNorm", dimension=32), _behind("Dropout"), _behind("Normalize"),
    ],
    "a router behind the pooling": lambda: [
        _pooled(), _router(query=[_linear(WIDE, 32)], document=[_linear(WIDE, 32, "ReLU"), _behind("Normalize")]),
    ],
}  # fmt: skip


def _router(**routes):
    return _behind("Router", sub_modules=routes, default_route="document")


def _saved(modules, folder, prompts=PROMPTS):
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(folder), create_model_card=False)
    return _opened(folder)


def _opened(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True).float()


def _compare(folder, reference):
    model = resolve("m", str(folder))
    ours = open_encoder("torch", folder, model.pipeline, "fp32")
    ways = {None: reference.encode, "query": reference.encode_query, "document": reference.encode_document}
    seen = []
    for role, encode in ways.items():
        want, found = encode(list(TEXTS)), ours.encode(TEXTS, role)
        assert found.shape == want.shape
        assert np.abs(found - want).max() < 1e-5 * max(1, np.abs(want).max())
        seen.append(want)
    return seen


@pytest.mark.parametrize("name", BUILDS)
def test_modules_compute_what_sentence_transformers_computes(name, tower, tmp_path):
    plain, query, document = _compare(tmp_path / "m", _saved([tower, *_stirred(*BUILDS[name]())], tmp_path / "m"))
    # the roles differ, or they would not be tested
    assert np.abs(plain - query).max() > 1e-3
    assert np.abs(document - query).max() > 1e-3


@pytest.fixture(scope="module")
def routed(tower, tmp_path_factory):
    """Queries and documents through one transformer, and modules of their own behind it."""
    folder = tmp_path_factory.mktemp("routed") / "m"
    query, document = _stirred(_linear(WIDE, 32), _linear(WIDE, 32, "GELU"))
    router = _router(query=[tower, _pooled("cls"), query], document=[tower, _pooled("mean", include_prompt=False), document])
    return folder, _saved([router, _behind("Normalize")], folder)


SUITE = Suite("t", TEXTS, ("query", None, "document", "query", "document"), queries=(0, 3), documents=(2, 4))


def test_routes_that_share_a_transformer(routed):
    folder, reference = routed
    _compare(folder, reference)
    model = resolve("m", str(folder))
    assert model.pipeline.transformer == "query_0_Transformer"
    found = fp32_outputs(model, SUITE)  # as a golden is recorded
    for text, role, vector in zip(TEXTS, SUITE.roles, found.vectors, strict=True):
        encode = {None: reference.encode, "query": reference.encode_query, "document": reference.encode_document}[role]
        assert np.abs(encode([text])[0] - vector).max() < 1e-5
    assert list(confirm(model, SUITE, found.vectors, found.token_ids)) == ["as declared"]


def test_an_artifact_keeps_the_routes_and_the_place_of_the_transformer(routed):
    folder, reference = routed
    artifact = parse_precision("fp32").build(resolve("m", str(folder)))
    assert artifact.file == artifact.folder / "query_0_Transformer" / "onnx" / "model.onnx"
    ours = open_encoder("onnx", artifact.folder, artifact.pipeline, "fp32", artifact.file)
    for role, encode in (("query", reference.encode_query), ("document", reference.encode_document)):
        assert np.abs(ours.encode(TEXTS, role) - encode(list(TEXTS))).max() < 1e-5


def test_a_head_that_depends_on_roles_is_never_run_without(routed):
    folder, _ = routed
    ours = open_encoder("torch", folder, resolve("m", str(folder)).pipeline, "fp32")
    with pytest.raises(MeasurementProblem, match="expected token ids with their roles"):
        ours.encode_ids([[2, 7, 3]])


def test_a_route_for_texts_among_others_is_the_whole_model(tower, tmp_path):
    """Without roles, the texts of a model that takes images too go one way."""
    router = _behind("Router", sub_modules={"text": [tower, _pooled()]}, route_mappings={(None, "text"): "text"})
    reference = _saved([router], tmp_path / "m")
    _compare(tmp_path / "m", reference)
    assert resolve("m", str(tmp_path / "m")).pipeline.head == (Pooling("text_1_Pooling"),)


def test_towers_are_refused_and_each_is_a_model_of_its_own(tower, tmp_path):
    other = type(tower)(str(families.write("bert", tmp_path / "other", seed=1)))
    router = _router(query=[tower, _pooled()], document=[other, _pooled("cls")])
    reference = _saved([router, _behind("Normalize")], tmp_path / "m")
    words = "different first modules .*query_0_Transformer for 'query' and document_0_Transformer for 'document'"
    with pytest.raises(ModelProblem, match=words) as raised:
        resolve("m", str(tmp_path / "m"))
    code = str(raised.value).partition('python -c "')[2].rpartition('"')[0]
    assert "sub_modules['query']" in code
    code = code.replace("FOLDER", str(tmp_path / "m")).replace("COPY", str(tmp_path / "query"))
    exec(code, {})
    model = resolve("query", str(tmp_path / "query"))
    found = open_encoder("torch", model.folder, model.pipeline, "fp32").encode(TEXTS, "query")
    assert np.abs(found - reference.encode_query(list(TEXTS))).max() < 1e-5


def test_routes_of_asym_are_mapped_to_roles(tower, tmp_path):
    """Release 2 named routes at will and its file config.json; the message says how a role finds its route."""
    folder = tmp_path / "m"
    routes = {"QRY": _stirred(_linear(WIDE, 32)), "POS": _stirred(_linear(WIDE, 32, "GELU"))}
    _saved([tower, _pooled(), _behind("Router", sub_modules=routes)], folder, {})
    inner = folder / "2_Router"
    declared = json.loads((inner / "router_config.json").read_text())
    (inner / "router_config.json").unlink()
    (folder / "modules.json").write_text(
        (folder / "modules.json").read_text().replace("base.modules.router.Router", "models.Asym")
    )
    declared["parameters"] = {"allow_empty_key": True}
    (inner / "config.json").write_text(json.dumps(declared))
    words = re.escape(
        """for a query, but QRY, POS; say which it takes in its parameters: "route_mappings": {"('query', None)": "QRY"}"""
    )
    with pytest.raises(ModelProblem, match=words):
        resolve("m", str(folder))
    declared["parameters"]["route_mappings"] = {"('query', None)": "QRY", "('document', None)": "POS"}
    (inner / "config.json").write_text(json.dumps(declared))
    plain, query, document = _compare(folder, _opened(folder))
    assert np.array_equal(plain, query)  # the first route is the default
    assert np.abs(document - query).max() > 1e-3


def _edit(file: Path, **values: object) -> None:
    old = json.loads(file.read_text()) if file.exists() else {}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**old, **values}))


def _declare(folder: Path, *kinds: str) -> None:
    """modules.json as older releases wrote it."""
    entries = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))


def _dense(folder: Path, tensors=("linear.weight", "linear.bias"), **config: object) -> None:
    import torch
    from safetensors.torch import save_file

    _declare(folder, "Transformer", "Pooling", "Dense")
    _edit(folder / "2_Dense" / "config.json", in_features=WIDE, out_features=8, **config)
    shapes = {"linear.weight": (8, WIDE), "linear.bias": (8,)}
    torch.manual_seed(0)
    save_file({n: torch.randn(shapes[n]).to(torch.bfloat16) for n in tensors}, folder / "2_Dense" / "model.safetensors")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return families.write("bert", tmp_path_factory.mktemp("plain") / "m")


@pytest.fixture
def folder(plain, tmp_path) -> Path:
    return shutil.copytree(plain, tmp_path / "model")


def test_weights_in_bfloat16_are_read(folder):
    _dense(folder)
    _compare(folder, _opened(folder))


def test_an_artifact_is_another_one_with_another_head(folder):
    _dense(folder)
    artifact = parse_precision("fp16@torch").build(resolve("m", str(folder)))
    before = artifact.sha256
    file = artifact.folder / "2_Dense" / "model.safetensors"
    data = file.read_bytes()
    try:
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert artifact.sha256 != before
    finally:
        file.write_bytes(data)  # the cache is shared
    assert artifact.sha256 == before


def test_the_layout_of_release_1(folder):
    """The transformer in a folder of its own, with settings named after its class."""
    inner = folder / "0_Transformer"
    inner.mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / file).rename(inner / file)
    (folder / "sentence_bert_config.json").unlink()
    _edit(inner / "sentence_distilbert_config.json", max_seq_length=16, do_lower_case=False)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_cls_token": True, "word_embedding_dimension": WIDE})
    )
    reference = _opened(folder)
    model = resolve("m", str(folder), None, {"max_seq_length": 12})
    artifact = parse_precision("fp16@torch").build(model)
    assert artifact.pipeline.max_seq_length == 12
    assert json.loads((artifact.folder / "0_Transformer" / "sentence_bert_config.json").read_text()) == {
        "max_seq_length": 12, "do_lower_case": False,
    }  # fmt: skip
    model = resolve("m", str(folder))
    assert model.pipeline.max_seq_length == 16
    found = open_encoder("torch", folder, model.pipeline, "fp32").encode(TEXTS)
    assert np.abs(found - reference.encode(list(TEXTS))).max() < 1e-5


def _routes(folder, structure, **parameters):
    _declare(folder, "Router")
    kinds = {name: name.partition("_")[2] for names in structure.values() for name in names}
    types = {name: f"sentence_transformers.models.{kind}" for name, kind in kinds.items()}
    _edit(folder / "router_config.json", types=types, structure=structure, parameters=parameters)


REFUSALS = {
    "another activation": (lambda f: _dense(f, activation_function="torch.nn.modules.activation.Threshold"), "Threshold"),
    "foreign activation": (lambda f: _dense(f, activation_function="somewhere.Tanh"), "has the activation 'somewhere.Tanh'"),
    "softmax of tokens": (
        lambda f: _dense(f, activation_function="torch.nn.modules.activation.Softmax", module_input_name="token_embeddings"),
        "Softmax on token embeddings, which torch computes over the texts of a batch",
    ),
    "another array": (lambda f: _dense(f, module_input_name="pooler"), "2_Dense reads or gives 'pooler'; expected"),
    "a tensor is missing": (lambda f: _dense(f, ("linear.weight",)), "has no tensor linear.bias"),
    "pickled head": (
        lambda f: (_dense(f), (f / "2_Dense" / "model.safetensors").rename(f / "2_Dense" / "pytorch_model.bin")),
        r"module 'Dense' in 2_Dense has only pytorch_model.bin.*safe_serialization=True",
    ),
    "damaged head": (
        lambda f: (_dense(f), (f / "2_Dense" / "model.safetensors").write_bytes(b"12345678{}")),
        "2_Dense/model.safetensors .*copy",
    ),
    "nothing pooled": (lambda f: _declare(f, "Transformer", "Normalize"), "'Normalize' in 1_Normalize reads sentence_embedding"),
    "unknown": (lambda f: _declare(f, "Transformer", "Pooling", "Brain"), "'Brain' in 2_Brain cannot be reproduced: qguard rep"),
    "no route": (
        lambda f: _routes(f, {"QRY": ["QRY_Transformer"], "POS": ["QRY_Transformer"]}),
        "router_config.json has no route for a query, but QRY, POS; say which",
    ),
    "damaged routes": (lambda f: _routes(f, {"query": []}), "declares no routes that can be followed"),
    "code in a route": (
        lambda f: (
            _routes(f, {"query": ["q_Transformer"]}), _edit(f / "router_config.json", types={"q_Transformer": "own.Transformer"})
        ),
        "has a module 'own.Transformer', which is code that comes with it",
    ),
    "another task": (
        lambda f: _edit(f / "sentence_bert_config.json", transformer_task="fill-mask"), "transformer_task = 'fill-mask'"
    ),
    "pooled by itself": (
        lambda f: _edit(
            f / "sentence_bert_config.json", module_output_name="sentence_embedding",
            modality_config={"text": {"method": "forward", "method_output_name": "pooler_output"}},
        ),
        "something else than the last hidden states of its texts .*pooler_output",
    ),
    "length by role": (lambda f: _edit(f / "sentence_bert_config.json", query_length=8), "query_length = 8"),
    "cut elsewhere": (
        lambda f: _edit(f / "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 9}}), "processing_kwargs"
    ),
    **{kind: (lambda f, kind=kind: _declare(f, "Transformer", kind), f"module '{kind}' in 1_{kind} cannot") for kind in REFUSED},
    **{f"{kind} first": (lambda f, kind=kind: _declare(f, kind), f"module '{kind}'") for kind in ("WordEmbeddings", "BoW")},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_reproduced_is_named(name, folder):
    change, words = REFUSALS[name]
    change(folder)
    with pytest.raises(ModelProblem, match=words):
        open_encoder("torch", folder, resolve("m", str(folder)).pipeline, "fp32")


def test_routes_of_different_width_are_refused_where_they_meet(tower, tmp_path):
    router = _router(query=[_linear(WIDE, 32)], document=[_linear(WIDE, 16)])
    _saved([tower, _pooled(), router], tmp_path / "m")
    model = resolve("m", str(tmp_path / "m"))
    ours = open_encoder("torch", model.folder, model.pipeline, "fp32")
    with pytest.raises(ModelProblem, match="give sentence_embedding of 32 and 16 dimensions"):
        ours.encode_rows(ours.rows(TEXTS, SUITE.roles))
