"""A golden as files: data under its own hash, and the manifest that names and seals it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard.console.visible import visible_json
from qguard.encoders.tokenizer import Tokens
from qguard.errors import GoldenProblem, first_line
from qguard.files import cache_folder, dump_json, read_json, sha256_json, staged, sync_folder, write_atomic
from qguard.goldens.marked import said
from qguard.goldens.retrieved import Retrieved
from qguard.kinds import DENSE
from qguard.outputs import finite, stored

if TYPE_CHECKING:
    from qguard.suites import Suite

SCHEMA = 1
MANIFEST = "manifest.json"
SUMMARY = "summary.md"
ACCEPTED = "accepted.json"  # beside a golden: what later runs are held to; see qguard.accepted


@dataclass(frozen=True)
class Golden:
    """Recorded fp32 outputs.

    Attributes:
        vectors: float32 (texts, dim); of a model of another kind its outputs (:mod:`qguard.outputs`).
        token_ids: One list per text, special tokens included; of pairs with their token type ids, where the model reads them.
        manifest: What it was recorded from; see DESIGN in the documentation.
        retrieved: Of a large suite, what its queries found in the whole corpus; else ``None``.
        tokenizer: ``tokenizer.json`` of the tokenizer that gave the token ids; ``None`` where that is the model's own file.
    """

    folder: Path
    vectors: Any
    token_ids: list[list[int]]
    manifest: dict[str, Any]
    retrieved: Retrieved | None = None
    tokenizer: bytes | None = None

    @property
    def kind(self) -> str:
        """Of its model, a name in :data:`qguard.kinds.KINDS`."""
        return _kind(self.manifest)

    @property
    def left_out(self) -> dict[int, str]:
        """Texts of the suite that it holds no vector of, by index, and why: mostly that they have no token."""
        return {int(i): str(why) for i, why in self.manifest.get("left_out", [])}

    def judged(self, suite: Suite) -> Suite:
        """The suite that it was recorded on, without the texts that it leaves out."""
        return suite.without(self.left_out)

    @cached_property
    def summary(self) -> bytes | None:
        """The text of the summary that the manifest names; ``None`` where it names none, or the file is not that one."""
        wanted = self.manifest.get("summary_sha256")
        try:
            data = (self.folder / SUMMARY).read_bytes() if wanted else b""
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == wanted else None

    @property
    def summary_is_whole(self) -> bool:
        """That the summary is the manifest's own. Goldens without one are whole too: older versions wrote none."""
        return self.summary is not None or "summary_sha256" not in self.manifest


def _kind(manifest: Mapping[str, Any]) -> str:
    """Of the model; goldens of older versions hold the pipeline's hash alone."""
    declared = manifest.get("pipeline")
    return str(declared.get("kind", DENSE)) if isinstance(declared, dict) else DENSE


def update_command(model: str, suite: str) -> str:
    """The command that records a golden anew."""
    return f'qguard golden update --model {model} --suite {suite} --reason "…"'


def golden_folder(root: Path, model: str, suite: str) -> Path:
    """``root/<model>/<suite>``."""
    return root / model / suite


def public_ref(ref: str) -> str:
    """A local folder is recorded by its last part only: absolute paths say where somebody lives."""
    return Path(ref).name if Path(ref).is_absolute() else ref


def was_folder(root: Path, model: str, ref: str) -> bool:
    """Whether a golden of this model was recorded when its reference was a folder or file of the recording machine.

    Args:
        root: The golden folder of the project.
        model: The model's name.
        ref: Its reference today.
    """
    for file in sorted((root / model).glob(f"*/{MANIFEST}")):
        try:
            said = read_json(file, GoldenProblem).get("model")
        except GoldenProblem:  # whoever needs this golden says what is wrong with it
            continue
        if isinstance(said, dict) and said.get("folder") is True and Path(str(said.get("ref"))).name == Path(ref).name:
            return True
    return False


def read(folder: Path) -> Golden:
    """Read a golden and check that it is whole.

    A writer may replace the data file between our two reads; then the manifest has changed too, and we read again.

    Raises:
        GoldenProblem: when it is missing, truncated, edited, or of another schema.
    """
    where = f"golden {folder.parent.name}/{folder.name}"
    mend = update_command(folder.parent.name, folder.name)
    if not (folder / MANIFEST).exists():
        raise GoldenProblem(f"{where} does not exist; record it with: {mend}")
    manifest: dict[str, Any] = {}
    data: bytes | None = None
    name = ""
    unchanged = 0
    for _ in range(100):
        manifest = read_json(folder / MANIFEST, GoldenProblem)
        name = str(manifest.get("data_file", ""))
        try:
            data = (folder / name).read_bytes() if name and Path(name).name == name else None
            break
        except OSError:
            # two writers in turn may put the very same manifest back between our reads: missing is what stays missing
            unchanged = unchanged + 1 if read_json(folder / MANIFEST, GoldenProblem) == manifest else 0
            if unchanged == 10:
                break
            time.sleep(0.005)
    if manifest.get("schema") != SCHEMA:
        raise GoldenProblem(f"{where}: schema {manifest.get('schema')!r}, expected {SCHEMA}; record it again: {mend}")
    if manifest != seal(manifest):
        raise GoldenProblem(
            f"{where}: manifest.json was edited by hand (its manifest_sha256 does not fit); restore it from version control, "
            f"or: {mend}"
        )
    if data is None:
        raise GoldenProblem(f"{where}: its data file {name!r} is missing; restore it from version control, or: {mend}")
    if hashlib.sha256(data).hexdigest() != manifest.get("data_sha256"):
        raise GoldenProblem(
            f"{where}: {name} ({len(data)} bytes) is truncated or was edited: its SHA-256 is not the manifest's; "
            f"restore both from version control, or: {mend}"
        )
    from safetensors.numpy import load

    try:
        arrays = load(data)
        offsets, flat = arrays["token_offsets"], arrays["token_ids"].tolist()
        ids: list[list[int]] = [flat[a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
        if "token_types" in arrays:
            types, starts = arrays["token_types"].tolist(), offsets[:-1].tolist()
            ids = [Tokens(row, types=types[a : a + len(row)]) for a, row in zip(starts, ids, strict=True)]
        retrieved = Retrieved.of(arrays, manifest.get("suite", {}))
        vectors = stored(arrays, _kind(manifest), int(manifest.get("dim", 0)))
        golden = Golden(folder, vectors, ids, manifest, retrieved, _tokenizer(folder, manifest, where, mend))
        whole = set(manifest["hashes"]) == {"weights", "tokenizer", "pipeline", "suite"}
    except GoldenProblem:
        raise
    except Exception as e:  # the binding has its own error types
        raise GoldenProblem(f"{where} is damaged ({first_line(e)}); restore it from version control, or: {mend}") from e
    if not whole or len(ids) != len(golden.vectors) or not finite(golden.vectors).all():
        raise GoldenProblem(f"{where} is damaged: its parts do not fit together; restore it, or: {mend}")
    return golden


def _tokenizer(folder: Path, manifest: Mapping[str, Any], where: str, mend: str) -> bytes | None:
    named = manifest.get("tokenizer_file")
    if named is None:
        return None
    name, want = str(named), str(manifest.get("tokenizer_sha256"))
    try:
        content = (folder / Path(name).name).read_bytes()
    except OSError as e:
        raise GoldenProblem(f"{where}: its tokenizer {name!r} is missing; restore it from version control, or: {mend}") from e
    if hashlib.sha256(content).hexdigest() != want:
        raise GoldenProblem(
            f"{where}: {name} is truncated or was edited: its SHA-256 is not the manifest's; "
            f"restore it from version control, or: {mend}"
        )
    return content


def tokenizer_facts(content: bytes | None) -> dict[str, str]:
    """What a manifest says of the tokenizer that is stored beside it; nothing without one."""
    if content is None:
        return {}
    digest = hashlib.sha256(content).hexdigest()
    return {"tokenizer_file": f"tokenizer-{digest[:16]}.json", "tokenizer_sha256": digest}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time."""
    from filelock import FileLock, Timeout

    # in the cache: a lock file beside the golden would end up in version control
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    lock = FileLock(cache_folder() / "locks" / f"golden-{name}.lock", timeout=120)
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        with lock:
            yield
    except Timeout as e:
        raise GoldenProblem(f"another process has been updating {folder.name} for two minutes; try again when it is done") from e


def store(
    folder: Path, data: bytes, manifest: dict[str, Any], summary: bytes | None = None, tokenizer: bytes | None = None
) -> None:
    """Data under its own hash first, then the manifest that names it in one rename: a kill leaves the old or the new pair.

    The summary has a name of its own, so that version control shows its lines change. It is renamed just before the manifest;
    a kill between the two leaves a golden that is whole and a summary that ``qguard golden check`` reports.
    """
    name = f"golden-{manifest['data_sha256'][:16]}.safetensors"
    write_atomic(folder / name, data)
    kept = [name]
    if tokenizer is not None:
        kept.append(str(manifest["tokenizer_file"]))
        write_atomic(folder / kept[-1], tokenizer)
    beside = staged(folder / SUMMARY, summary) if summary is not None else None
    try:
        last = staged(folder / MANIFEST, dump_json(seal({**manifest, "data_file": name})))
    except BaseException:
        if beside is not None:
            beside.unlink(missing_ok=True)
        raise
    if beside is not None:
        beside.replace(folder / SUMMARY)
    last.replace(folder / MANIFEST)
    sync_folder(folder)
    for old in [*folder.glob("golden-*.safetensors"), *folder.glob("tokenizer-*.json"), *folder.glob(".*.tmp")]:
        if old.name not in kept:
            old.unlink(missing_ok=True)


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the SHA-256 of everything else in it, so that an edit by hand is seen."""
    rest = {k: v for k, v in manifest.items() if k != "manifest_sha256"}
    return {**rest, "manifest_sha256": sha256_json(rest)}


def describe(golden: Golden) -> str:
    """The manifest as JSON; whatever a prompt or a reason holds, no terminal and no CI service obeys it."""
    return visible_json(golden.manifest)


def words(golden: Golden, texts: bool = False) -> str:
    """Where a golden comes from and its summary, for people.

    Args:
        golden: What is stored.
        texts: Also the summary's table of texts.
    """
    m = golden.manifest
    lines = [
        f"{m['model']['name']}/{m['suite']['name']}: recorded {m['date']}: {m['reason']}",
        "hashes: " + ", ".join(f"{part} {value[:8]}" for part, value in sorted(m["hashes"].items())),
        "versions: " + ", ".join(f"{name} {version}" for name, version in sorted(m.get("versions", {}).items())),
        *([f"recorded from: {source}"] if (source := said(m)) else []),
    ]
    if golden.summary is None:
        state = "not the one that the manifest seals" if "summary_sha256" in m else "none, an older version recorded it"
        return "\n".join([*lines, f"{len(golden.vectors)} texts, {golden.vectors.shape[1]} dimensions; {SUMMARY}: {state}"])
    text = golden.summary.decode("utf-8")
    return "\n".join([*lines, "", text.rstrip() if texts else text.partition("\n## Texts")[0].rstrip(), ""])
