"""``qguard quantize`` and ``qguard compare`` on the real model."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from qguard.cli import main
from qguard.judging.compare import Row, mark_best
from tests.processes import gate
from tests.test_calibration import needs_nncf

TEXTS = (
    "The tenant pays the rent in advance.",
    "rent",
    "Zahlbar im Voraus, spätestens am dritten Werktag.",
    "so tired of rain " * 30,
)


@pytest.fixture(scope="module")
def written(small, int8, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("written") / "deep" / "minilm-int8"
    assert main(["quantize", "--precision", "int8", "--out", str(out), "--config", str(small)]) == 0
    return out


def by_hand(folder: Path, texts: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Token embeddings and mask of texts, with onnxruntime and tokenizers alone."""
    import onnxruntime as ort
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"])
    encoded = tokenizer.encode_batch(list(texts))
    mask = np.array([e.attention_mask for e in encoded], np.int64)
    feeds = {"input_ids": np.array([e.ids for e in encoded], np.int64), "attention_mask": mask, "token_type_ids": 0 * mask}
    options = ort.SessionOptions()
    for key, value in json.loads((folder / "onnx" / "onnxruntime.json").read_text()).items():  # what docs/recipes.md asks for
        options.add_session_config_entry(key, value)
    session = ort.InferenceSession(str(folder / "onnx" / "model.onnx"), options, providers=["CPUExecutionProvider"])
    (tokens,) = session.run(None, feeds)
    return tokens, mask


def test_the_folder_is_what_other_tools_read(written, int8):
    """Tokens and vectors by hand; pooling and normalization by sentence-transformers' own modules, as modules.json names them."""
    import torch
    from sentence_transformers.models import Normalize, Pooling
    from transformers import AutoConfig, AutoTokenizer

    from qguard.encoders import open_encoder

    modules = json.loads((written / "modules.json").read_text())
    kinds = [m["type"].rsplit(".", 1)[-1] for m in modules]
    assert kinds == ["Transformer", "Pooling", "Normalize"]
    tokens, mask = by_hand(written, TEXTS)
    features = {"token_embeddings": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(mask)}
    for module, kind in zip(modules[1:], (Pooling, Normalize), strict=True):
        features = kind.load(str(written / module["path"]))(features)
    found = features["sentence_embedding"].numpy()
    ours = open_encoder("onnx", int8.folder, int8.pipeline, "int8", int8.file)
    want = ours.encode_ids(ours.tokenizer(TEXTS))
    assert np.abs(found - want).max() < 1e-5
    ids = AutoTokenizer.from_pretrained(str(written))(list(TEXTS), truncation=True, max_length=256)["input_ids"]
    assert ids == ours.tokenizer(TEXTS)
    assert AutoConfig.from_pretrained(str(written)).hidden_size == tokens.shape[-1]


def test_what_is_printed_says_size_share_and_what_comes_next(small, written, int8, capsys):
    assert main(["quantize", "--precision", "int8", "--out", str(written), "--config", str(small), "--force"]) == 0
    out, _ = capsys.readouterr()
    assert f"minilm in int8, {int8.bytes / 1e6:.1f} MB (" in out
    assert "100% of the multiplications" in out
    assert f"pytest --precision int8 --artifact={written}" in out


def test_the_written_folder_passes_the_gate(small, written):
    code, out = gate(small, f"--artifact={written}", precision="int8")
    assert code == 0, out


@pytest.mark.parametrize("kind", ["file", "full", "link", "not ours"])
def test_nothing_of_the_users_is_overwritten(small, written, tmp_path, capsys, kind):
    out, force = tmp_path / "out", []
    if kind == "file":
        out.write_text("mine")
    elif kind == "full":
        shutil.copytree(written, out)
    elif kind == "link":
        out.symlink_to(written)
        force = ["--force"]
    else:
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
        force = ["--force"]
    before = sorted(p.name for p in tmp_path.rglob("*"))
    assert main(["quantize", "--precision", "int8", "--out", str(out), "--config", str(small), *force]) == 2
    assert "--out" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_the_old_artifact(written, int8, tmp_path, monkeypatch):
    from qguard import quantize
    from qguard.errors import ArtifactProblem

    out = tmp_path / "out"
    shutil.copytree(written, out)
    (out / "mark").write_text("old")

    def full(source, target):
        target.mkdir()
        (target / "modules.json").write_text("[")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quantize, "copy_files", full)
    with pytest.raises(ArtifactProblem, match="No space left"):
        quantize.write(int8, out, force=True)
    assert (out / "mark").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--precision", "int8-dynamic", "--samples", "5"], "int8-dynamic is not calibrated"),
        (["--precision", "int9"], "did you mean int8"),
        (["--precision", "int8-static", "--samples", "0"], "--samples: expected 1 or more"),
        (["--precision", "int8-static", "--calibration", "nowhere.jsonl"], "no file or folder of that name"),
        (["--precision", "int8-static", "--calibration", "own"], "among them, for example"),
    ],
)
def test_what_cannot_be_quantized_is_said_at_once(small, tmp_path, capsys, args, message):
    assert main(["quantize", *args, "--out", str(tmp_path / "out"), "--config", str(small)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@needs_nncf
def test_quantize_calibrates_on_a_file_of_ones_own(small, tmp_path, monkeypatch, capfd):
    """And leaves output and logging alone, which NNCF would not."""
    lines = [json.dumps({"text": f"Clause {i}: the lessee insures the machine against loss number {i}."}) for i in range(30)]
    (tmp_path / "legal.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    args = ["--precision", "int8-static", "--calibration", "legal.jsonl", "--samples", "8", "--seed", "2"]
    assert main(["quantize", *args, "--out", "out", "--config", str(small)]) == 0
    out, error = capfd.readouterr()
    assert "calibrated on 8 of 30 texts of legal.jsonl, seed 2, SHA-256 " in out
    assert (len(out.splitlines()), error) == (5, "")  # what was written, its share, its attention, its texts, and how to judge it
    assert logging.getLoggerClass() is logging.Logger
    assert logging.root.manager.disable == 0
    record = json.loads((tmp_path / "out" / "qguard.json").read_text())["key"]["calibration"]
    assert (record["source"], record["samples"], record["seed"], len(record["sha256"])) == ("legal.jsonl", 8, 2, 64)
    tokens, _ = by_hand(tmp_path / "out", TEXTS)
    assert np.isfinite(tokens).all()


@pytest.mark.long
def test_compare_shows_every_precision_and_its_verdict(small, int8, tmp_path, capsys, monkeypatch):
    """One precision cannot be measured here; the others are shown all the same, and the exit code says so."""
    monkeypatch.setattr("qguard.judging.compare.SECONDS", 0.2)
    config = tmp_path / "c.toml"
    own = "[tool.qguard.precision.seen]\nrecipe = 'int8'\ncalibration = 'own'\n"
    strict = "[tool.qguard.gates.int8]\n'ranking.overlap@10' = '>= 0.999'\n"
    config.write_text((small / "pyproject.toml").read_text() + own + strict)
    for name in ("own.jsonl", "golden"):
        (tmp_path / name).symlink_to(small / name)
    file = tmp_path / "rows.json"
    code = main(["compare", "--precision", "fp32,int8,fp16@onnx,seen", "--config", str(config), "--json", str(file)])
    out, _ = capsys.readouterr()
    assert code == 3
    rows = {r["precision"]: r for r in json.loads(file.read_text())["rows"]}
    assert {k: r["verdict"] for k, r in rows.items()} == {
        "fp32": "pass",
        "int8": "fail",
        "fp16@onnx": "pass",
        "seen": "unmeasured",
    }
    assert rows["fp32"]["speed"] == {"64x1": 1.0, "64x32": 1.0}
    assert rows["int8"]["speed"]["64x32"] > 1
    assert rows["int8"]["bytes"] < rows["fp16@onnx"]["bytes"] < rows["fp32"]["bytes"]
    assert rows["fp32"]["values"]["ranking.overlap@10"] > rows["int8"]["values"]["ranking.overlap@10"]
    alike = rows["fp16@onnx"]["values"]["ranking.overlap@10"] == rows["fp32"]["values"]["ranking.overlap@10"]
    assert rows["fp32"]["best"] or rows["fp32"]["busy"] or alike  # the smaller of two that give the same
    assert rows["int8"]["best"] or rows["int8"]["busy"]  # its speed counts where it could be measured
    assert not rows["seen"]["best"]
    assert "overlap@10" in out
    assert "gate >= 0.999" in out
    assert "that judge it are among them" in out


def row(name: str, overlap: float, size: int, speed: float) -> Row:
    return Row(name, "onnx", "m", "s", {"ranking.overlap@10": overlap}, size, 1536, {"a": speed}, verdict="pass")


def test_the_front_is_what_no_other_beats():
    rows = [row("exact", 1.0, 90, 1.0), row("fast", 0.9, 23, 2.0), row("slow", 0.9, 23, 1.5), row("large", 0.95, 91, 0.9)]
    rows.append(row("as fast", 0.9, 23, 1.97))  # within what a short trial tells apart
    rows.append(replace(row("broken", 1.0, 1, 9.0), error="no golden", verdict="unmeasured"))
    assert {r.precision for r in mark_best(rows) if r.best} == {"exact", "fast", "as fast"}
    assert mark_best([*rows, replace(row("short", 0.9, 23, 2.0), vector_bytes=384)])[-1].best
    elsewhere = replace(row("other suite", 0.5, 99, 0.1), suite="t")
    assert mark_best([*rows, elsewhere])[-1].best


@pytest.mark.skipif(find_spec("nncf") is not None, reason="NNCF is installed")
def test_without_nncf_compare_shows_the_others(small, int8, capsys):
    assert main(["compare", "--precision", "int8,int8-static", "--config", str(small)]) == 3
    assert "pip install 'qguard[static]'" in capsys.readouterr().out
