"""What surrounds an artifact's weights is the model's, whether or not a suite's texts show it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest

from qguard.artifacts.artifact import PROVENANCE, open_artifact
from qguard.attest.subjects import digests
from qguard.config import load_config
from qguard.encoders.consumers import TokenizerFiles, differences
from qguard.errors import GoldenProblem
from qguard.judging.session import Session
from qguard.judging.surroundings import difference, prove
from qguard.models.model import resolve
from qguard.models.modules import Normalize, Router
from qguard.precisions import parse_precision

CONFIG = "config_sentence_transformers.json"
PYTHON = "Transformers and sentence-transformers"
A_WORD = {"id": 5000, "content": "qu"} | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)


def linked(source, target):
    """A copy of a folder whose ONNX files are links: nothing is written into them."""
    return shutil.copytree(
        source, target, copy_function=lambda a, b: os.link(a, b) if a.endswith(".onnx") else shutil.copyfile(a, b)
    )


def edited(file, change):
    value = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    change(value)
    file.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def artifact(int8, tmp_path):
    """The sound artifact as another tool would have written it, without provenance."""
    folder = linked(int8.folder, tmp_path / "a")
    (folder / PROVENANCE).unlink()
    return folder


@pytest.fixture
def judged(small):
    """Token ids of an artifact, or the words with which the gate refuses it."""

    def judge(path):
        session = Session(load_config(small), path)
        (target,) = session.targets([parse_precision("int8")])
        try:
            session.token_ids(target)
        except GoldenProblem as e:
            return str(e)
        return ""

    return judge


def _swap(value):
    words = value["model"]["vocab"]
    words["paris"], words["zoology"] = words["zoology"], words["paris"]


CASES = {
    "case": ("tokenizer_config.json", lambda v: v.update(do_lower_case=False),
             f"do_lower_case in tokenizer_config.json is false, the model's true; in {PYTHON}, 'Paris is the capital of France' "
             "becomes '[CLS] [UNK] is the capital of [UNK] [SEP]'"),
    "accents": ("tokenizer_config.json", lambda v: v.update(strip_accents=False),
                "'café' becomes '[CLS] [UNK] [SEP]' instead of"),
    "ideographs": ("tokenizer_config.json", lambda v: v.update(tokenize_chinese_chars=False),
                   "'中文字' becomes '[CLS] [UNK] [SEP]'"),
    "start dropped, stored": ("tokenizer.json", lambda v: v["truncation"].update(direction="Left"),
                              "truncation.direction in tokenizer.json is left, the model's right; in tokenizers, the start of "
                              "long texts is dropped"),
    "start dropped, stated": ("tokenizer_config.json", lambda v: v.update(truncation_side="left"),
                              f"truncation_side in tokenizer_config.json is \"left\", the model's right; in {PYTHON}, the start"),
    "padded left, stored": ("tokenizer.json", lambda v: v["padding"].update(direction="Left"), "texts are padded on the left"),
    "padded left, stated": ("tokenizer_config.json", lambda v: v.update(padding_side="left"), "texts are padded on the left"),
    "cut, stored": ("tokenizer.json", lambda v: v["truncation"].update(max_length=64),
                    "truncation.max_length in tokenizer.json is 64, the model's 128; in tokenizers, texts are cut to 64 tokens, "
                    "and the model takes 256"),
    "cut, stated": ("tokenizer_config.json", lambda v: v.update(model_max_length=64),
                    "in Transformers and Transformers.js, texts are cut to 64 tokens"),
    "padded": ("tokenizer.json", lambda v: v["padding"].update(strategy={"Fixed": 200}), "every text is padded to 200 tokens"),
    "other frame": ("tokenizer_config.json", lambda v: v.update(cls_token="[MASK]"),
                    'cls_token in tokenizer_config.json is "[MASK]"'),
    "two words": ("tokenizer.json", _swap, "model.vocab of 'paris', 'zoology' in tokenizer.json is"),
    "control characters": ("tokenizer.json", lambda v: v["normalizer"].update(clean_text=False),
                           "normalizer.clean_text in tokenizer.json is false, the model's true"),
    "a word of its own": ("tokenizer.json", lambda v: v["added_tokens"].append(A_WORD), "added_tokens in tokenizer.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_setting_that_some_library_obeys_is_the_models(artifact, judged, case):
    name, change, words = CASES[case]
    edited(artifact / name, change)
    found = judged(artifact)
    assert "the artifact's tokenizer is not the model's: " in found
    assert words in found
    assert "Copy tokenizer.json, tokenizer_config.json" in found


def _newer(value):
    """What Transformers 5 writes where version 4 wrote less."""
    value.update(backend="tokenizers", is_local=True, padding_side="right", truncation_side="right", add_prefix_space=False)


def test_a_token_that_only_transformers_adds(artifact, judged):
    def add(value):
        value["added_tokens_decoder"] = {"30522": {**A_WORD, "content": "paris"}, "100": {**A_WORD, "content": "[UNK]"}}

    edited(artifact / "tokenizer_config.json", add)
    assert "added_tokens_decoder in tokenizer_config.json is with 'paris', the model's without" in judged(artifact)


HARMLESS = {
    "as it is": ("tokenizer.json", lambda v: None),
    "neither truncated nor padded": ("tokenizer.json", lambda v: v.update(truncation=None, padding=None)),
    "cut where the model cuts": ("tokenizer.json", lambda v: v["truncation"].update(max_length=256)),
    "padded to the longest": ("tokenizer.json", lambda v: v["padding"].update(strategy="BatchLongest")),
    "accents spelled out": ("tokenizer.json", lambda v: v["normalizer"].update(strip_accents=True)),
    "more is stated": ("tokenizer_config.json", _newer),
    "less is stated": ("tokenizer_config.json", lambda v: [v.pop(k) for k in list(v)]),
    "the class that reads the file": ("tokenizer_config.json", lambda v: v.update(tokenizer_class="PreTrainedTokenizerFast")),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_a_setting_without_effect_is_no_difference(artifact, judged, case):
    name, change = HARMLESS[case]
    edited(artifact / name, change)
    assert judged(artifact) == ""


@pytest.mark.parametrize("place", ["beside", "onnx"])
def test_a_tokenizer_beside_a_bare_file_is_the_artifacts(int8, minilm, judged, tmp_path, place):
    file = tmp_path / ("onnx/model.onnx" if place == "onnx" else "model.onnx")
    file.parent.mkdir(exist_ok=True)
    os.link(int8.file, file)
    assert judged(file) == ""  # the model's, which is all that there is
    assert list(digests(file)) == ["model.onnx"]
    shutil.copyfile(minilm.root / "tokenizer.json", tmp_path / "tokenizer.json")
    assert judged(file) == ""
    edited(tmp_path / "tokenizer.json", lambda v: v["normalizer"].update(lowercase=False))
    assert "normalizer.lowercase in tokenizer.json is false" in judged(file)
    assert "normalizer.lowercase in tokenizer.json is false" in judged(tmp_path)
    assert open_artifact(file, minilm).sha256 != int8.sha256
    assert list(digests(file)) == [file.relative_to(tmp_path).as_posix(), "tokenizer.json"]


def test_the_tokenizer_that_transformers_builds_is_known_without_it(minilm, tmp_path):
    """What is said of Transformers is what it does."""
    from transformers import AutoTokenizer

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(minilm.root / name, tmp_path / name)
    for change in ({"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}):
        edited(tmp_path / "tokenizer_config.json", lambda v, change=change: v.update(change))
        loaded = AutoTokenizer.from_pretrained(str(tmp_path))
        ours = TokenizerFiles.read(tmp_path).as_loaded
        for text in ("Paris, Café 中文字", "plain words", "ÜBER"):
            assert loaded(text)["input_ids"] == ours.encode(text).ids


def test_a_static_model_is_cut_by_its_own_file(minilm):
    own = TokenizerFiles.read(minilm.root)
    value = json.loads(own.content)
    value["truncation"]["max_length"] = 500
    cut = TokenizerFiles(json.dumps(value).encode(), own.config)
    assert list(differences(own, cut, 2**31 - 1)) == []
    assert [d.setting for d in differences(own, cut, 2**31 - 1, exact=True)] == ["truncation.max_length"]


PROMPTS = {"query": "search: ", "document": "text: ", "classification": "label: "}


@pytest.fixture
def prompted(minilm, tmp_path):
    """MiniLM with prompts, its weights linked."""

    def put(a, b):
        (os.link if a.endswith(".safetensors") else shutil.copyfile)(a, b)

    folder = shutil.copytree(minilm.folder, tmp_path / "model", copy_function=put)
    edited(folder / "config_sentence_transformers.json", lambda v: v.update(prompts=PROMPTS))
    return folder


def refusal(folder, model):
    try:
        prove(open_artifact(folder, model), model)
    except GoldenProblem as e:
        return str(e)
    return ""


LOST = {
    "emptied": (lambda v: v.update(prompts={}),
        "prompt 'classification' in config_sentence_transformers.json is missing, the model's 'label: '"),
    "an empty text": (lambda v: v["prompts"].update(query=""),
        "prompt 'query' in config_sentence_transformers.json is missing, the model's 'search: '"),
    "another text": (lambda v: v["prompts"].update(document="text:"),
        "prompt 'document' in config_sentence_transformers.json is 'text:', the model's 'text: '"),
    "a default": (lambda v: v.update(default_prompt_name="query"), "default_prompt_name in config_sentence_transformers.json is"),
    "another for documents": (lambda v: v["prompts"].update(passage="x: ") or v["prompts"].pop("document"),
        "prompt 'document' in"),
    "another ranking": (lambda v: v.update(similarity_fn_name="manhattan"),
        "similarity_fn_name in config_sentence_transformers.json is manhattan, the model's cosine"),
}  # fmt: skip


@pytest.mark.parametrize("case", LOST)
def test_prompts_are_the_models_though_no_text_of_the_suite_has_a_role(artifact, prompted, case):
    model = resolve("m", str(prompted))
    change, words = LOST[case]
    edited(artifact / CONFIG, lambda v: v.update(prompts={**PROMPTS, "another": "unused: "}))
    assert refusal(artifact, model) == ""
    edited(artifact / CONFIG, change)
    found = refusal(artifact, model)
    assert "the artifact declares other settings than the model: " in found
    assert words in found


def test_a_prompt_is_pooled_as_in_the_model(artifact, prompted):
    edited(artifact / CONFIG, lambda v: v.update(prompts=PROMPTS))
    edited(artifact / "1_Pooling" / "config.json", lambda v: v.update(include_prompt=False))
    assert "include_prompt of the pooling is false, the model's true" in refusal(artifact, resolve("m", str(prompted)))


def test_a_router_is_the_models(artifact, minilm):
    """Of a suite without queries, the modules of queries show in no vector."""
    sound = open_artifact(artifact, minilm)
    route = Router("2_Router", (("query", (Normalize("a"),)), ("document", ())), ((None, "document"), ("query", "query")))
    other = replace(route, routes=(("query", ()), ("document", ())))
    for mine, theirs, words in (
        ((), (route,), "modules.json has a Router, and the model none"),
        ((route,), (), "modules.json has no Router, and the model has one"),
        ((route,), (other,), "the Router gives texts of some role other modules than the model"),
        ((route,), (replace(route, path="elsewhere"),), ""),
    ):
        model = replace(minilm)
        model.__dict__["pipeline"] = replace(minilm.pipeline, head=(*minilm.pipeline.head, *mine))
        found = difference(replace(sound, pipeline=replace(sound.pipeline, head=(*sound.pipeline.head, *theirs))), model)
        assert words in found
        assert bool(words) == bool(found)


def test_prompts_are_lost_with_their_file(artifact, prompted):
    (artifact / CONFIG).unlink()
    assert "prompt 'classification'" in refusal(artifact, resolve("m", str(prompted)))


def test_prompts_beside_a_bare_file_are_the_artifacts(int8, prompted, tmp_path):
    model, folder = resolve("m", str(prompted)), tmp_path / "bare"
    folder.mkdir()
    os.link(int8.file, folder / "model.onnx")
    assert refusal(folder, model) == ""  # it declares none: the model's are put in front
    (folder / CONFIG).write_text('{"prompts": {}}')
    assert "prompt 'query' in config_sentence_transformers.json is missing" in refusal(folder, model)


def test_prompts_that_the_project_states_are_no_artifacts(artifact, prompted):
    assert refusal(artifact, resolve("m", str(prompted), settings={"prompts": {"query": "q: "}})) == ""


@pytest.mark.parametrize("length", [64, 512, None])
def test_a_length_is_the_models_though_no_text_is_so_long(artifact, judged, length):
    edited(artifact / "sentence_bert_config.json", lambda v: v.update(max_seq_length=length))
    assert f"max_seq_length in sentence_bert_config.json is {length or 512}, the model's 256" in judged(artifact)


def test_lower_case_of_an_uncased_model_changes_nothing(artifact, judged):
    edited(artifact / "sentence_bert_config.json", lambda v: v.update(do_lower_case=True))
    assert judged(artifact) == ""
