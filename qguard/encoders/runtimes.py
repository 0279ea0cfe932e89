"""The registry of runtimes. A runtime computes vectors; its record says what it takes, what it needs and what can be measured.

qguard's own runtimes read ONNX files, safetensors or GGUF files and take token ids. A runtime of another package may also take
texts. It may have no files at all, for example if a server keeps the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from qguard.registry import Registry, function_of, is_function

TOKEN_IDS, TEXTS = "token_ids", "texts"
ONNX, SAFETENSORS, GGUF, NO_FILES = "onnx", "safetensors", "gguf", "none"
ENDPOINT = "endpoint"  # the runtime of servers
_CPU = ("cpu",)


@dataclass(frozen=True)
class RuntimeRecord:
    """One runtime.

    Attributes:
        name: The name in ``--precision NAME@RUNTIME``.
        open: A callable, or its name as ``module:Class``, which is imported when it is needed. It is called as
            ``(source, precision, threads)``; a runtime with several devices also gets ``device``. ``source`` is the
            :class:`~pathlib.Path` of an ONNX or GGUF file, or of the folder of the transformer with its safetensors. For a
            runtime without files it is the fp32 :class:`~qguard.models.model.Model`, whose name, reference and revision identify
            the model.
        takes: :data:`TOKEN_IDS` or :data:`TEXTS`. :class:`qguard.encoders.Runtime` and
            :class:`qguard.encoders.TextRuntime` describe how qguard calls the opened runtime.
        files: What it reads: :data:`ONNX`, :data:`SAFETENSORS`, :data:`GGUF`, or :data:`NO_FILES`.
        devices: Where it computes, the default first: ``cpu``, ``cuda``, or a name of its own for another machine.
        libraries: Distributions whose versions decide its results. The first one is the one that computes.
        batch: A batch size that suits it, in padded tokens or in texts.
        workers: Number of batches that it computes in parallel; 0 means one per core.
        timed: Whether its latency and memory may be measured in this process. This needs token ids and files.
        no_memory: Of a runtime that is timed, why its memory cannot be measured; empty if it can.
        prompts: Whether a runtime that takes texts adds the prompts itself. If not, qguard puts the prompt in front of each
            text.
        whole: Whether ``open`` also gets ``whole``, a :class:`qguard.encoders.whole.Whole`: all that a runtime needs that reads
            files and takes texts.
        tells: Whether the opened runtime tells the token ids that its own tokenizer gives, by its method ``token_ids``. They are
            then judged in the family ``tokenizer``. Those of a runtime that takes texts are what it computes with, as it cuts
            them; those of one that takes token ids are of whole texts, without special tokens around them.
        scripted: Whether ``open`` also gets ``javascript``, a :class:`qguard.javascript.settings.JavaScript`.
        drift: How far a value of its fp32 may lie from the golden's, relative to the length of the vector, because it computes
            otherwise and not because something is wrong.
        feeds: Whether ``open`` also gets ``feeding``, a :class:`qguard.encoders.feeding.Feeding` or ``None``: what an ONNX file
            does not say of its inputs and outputs.
    """

    name: str
    open: str | Callable[..., Any] = ""
    takes: str = ""
    files: str = ""
    devices: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    batch: int = 0
    workers: int = 1
    timed: bool | None = None
    prompts: bool = False
    whole: bool = False
    tells: bool = False
    scripted: bool = False
    drift: float = 1e-4
    feeds: bool = False
    no_memory: str = ""

    def lacks(self) -> Iterable[str]:
        """See :class:`qguard.registry.Record`."""
        if not self.name or set(self.name) & set("@+, "):
            yield f"name: expected a word without @, + and commas, found {self.name!r}"
        if not is_function(self.open):
            yield f"open: expected 'module:Class' or something to call, found {self.open!r}"
        if self.takes not in (TOKEN_IDS, TEXTS):
            yield f"takes: expected {TOKEN_IDS!r} or {TEXTS!r}, found {self.takes!r}"
        if self.files not in (ONNX, SAFETENSORS, GGUF, NO_FILES):
            yield f"files: expected {ONNX!r}, {SAFETENSORS!r}, {GGUF!r} or {NO_FILES!r}, found {self.files!r}"
        if not _words(self.devices):
            yield f"devices: expected where it computes, such as ('cpu',), found {self.devices!r}"
        if not _words(self.libraries):
            yield (
                "libraries: expected the distributions whose versions decide its results, at least the package that provides it, "
                f"found {self.libraries!r}"
            )
        if not _whole(self.batch, 1):
            yield f"batch: expected a batch size that suits it, in padded tokens or in texts, found {self.batch!r}"
        if not _whole(self.workers, 0):
            yield f"workers: expected the number of parallel batches, or 0 for one per core, found {self.workers!r}"
        if not isinstance(self.timed, bool):
            yield f"timed: expected True or False, whether it may be timed in this process, found {self.timed!r}"
        elif self.timed and (self.takes == TEXTS or self.files == NO_FILES):
            yield "timed: batches of token ids are timed, of a runtime that opens files; expected False, found True"
        if self.prompts and self.takes == TOKEN_IDS:
            yield f"prompts: token ids have their prompts in them; expected False with takes = {TOKEN_IDS!r}, found True"
        if self.whole and (self.takes == TOKEN_IDS or self.files == NO_FILES):
            yield "whole: it is for a runtime that takes texts and reads files; expected False, found True"

    @property
    def parallel(self) -> int:
        """Number of batches that it computes in parallel on this machine."""
        from qguard.machine.cpu import cores

        return self.workers or cores()

    def opener(self) -> Callable[..., Any]:
        """The callable that opens it; if only its name is given, its module is imported."""
        return function_of(self.open)

    def device(self, asked: str) -> str:
        """The device that it computes on: ``asked`` if it supports that device, otherwise its default device."""
        return asked if asked in self.devices else self.devices[0]

    def left_out(self) -> dict[str, str]:
        """What cannot be measured on this runtime, and why.

        Returns:
            ``tokenizer``, a metric family, or the stem of metrics (``invariance.padding`` is also that of its quantile), each
            with its reason.
        """
        found = {}
        if self.takes == TEXTS and not self.tells:
            found["tokenizer"] = (
                f"{self.name} takes texts: the model's own tokenizer gives the golden's token ids, but this one's is not proved"
            )
        if self.files == NO_FILES:
            found["artifact"] = f"{self.name} has no files, so that nothing shows what it computes in"
        if self.takes == TEXTS:
            found |= dict.fromkeys(_OF_TOKEN_IDS[self.tells :], f"{self.name} takes texts, and this needs token ids")
        if self.name == ENDPOINT:  # whose latency is measured from outside
            found["memory"] = "a server computes elsewhere"
        elif not self.timed:
            found |= dict.fromkeys(("latency", "memory"), f"{self.name} is not timed in this process")
        elif self.no_memory:
            found["memory"] = self.no_memory
        return found

    def cannot_measure(self, metric: str) -> str:
        """Why a metric cannot be measured on this runtime; empty if it can."""
        if self.takes == TOKEN_IDS and metric.startswith("tokenizer."):
            return f"{self.name} takes token ids, which are proved to be the golden's before anything is measured"
        stems = (why for stem, why in self.left_out().items() if metric == stem or metric.startswith((f"{stem}.", f"{stem}_")))
        return next(stems, "")


# the first one needs no more than that they are told
_OF_TOKEN_IDS = ("robustness.token_mismatches", "invariance.padding", "invariance.equal_length", "robustness.padding")


def _words(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(x, str) and x for x in value)


def _whole(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _own() -> Iterator[RuntimeRecord]:
    # 256 a thread: what a batch leaves behind between two layers still fits the second-level cache
    yield RuntimeRecord(
        "onnx", "qguard.encoders.onnx:OnnxRuntime", TOKEN_IDS, ONNX, _CPU, ("onnxruntime",), batch=256, workers=0, timed=True,
        feeds=True,
    )  # fmt: skip
    # 512 of one request; 2,048 take a fifth more CPU time, 4,096 half more
    yield RuntimeRecord(
        "openvino", "qguard.encoders.openvino:OpenvinoRuntime", TOKEN_IDS, ONNX, _CPU, ("openvino",), batch=512, workers=0,
        timed=True, feeds=True,
    )  # fmt: skip
    # torch itself spreads a batch over the cores
    yield RuntimeRecord(
        "torch", "qguard.encoders.torch:TorchRuntime", TOKEN_IDS, SAFETENSORS, ("cpu", "cuda"), ("torch", "transformers"),
        batch=2048, timed=True,
    )  # fmt: skip
    # the device computes one batch at a time
    yield RuntimeRecord(
        "onnx-cuda", "qguard.encoders.onnx_cuda:OnnxCudaRuntime", TOKEN_IDS, ONNX, ("cuda",), ("onnxruntime", "onnxruntime-gpu"),
        batch=2048, timed=True, feeds=True, no_memory="ONNX Runtime does not tell how much memory it takes on a CUDA device",
    )  # fmt: skip
    # batch and requests at the same time are those of the endpoint's settings
    yield RuntimeRecord(
        ENDPOINT, "qguard.endpoints.runtime:EndpointRuntime", TEXTS, NO_FILES, ("server",), ("httpx",), batch=32, workers=4,
        timed=False,
    )  # fmt: skip
    # ONNX Runtime itself spreads a batch over the cores
    for name, runtime in (("node", "NodeRuntime"), ("browser", "BrowserRuntime")):
        yield RuntimeRecord(
            name, f"qguard.encoders.javascript:{runtime}", TEXTS, ONNX, _CPU, ("qguard",), batch=16, timed=False, whole=True,
            tells=True, scripted=True,
        )  # fmt: skip
    # a request to a worker, which computes its texts one by one
    yield RuntimeRecord(
        "llamacpp", "qguard.encoders.llamacpp:LlamacppRuntime", TOKEN_IDS, GGUF, _CPU, ("gguf",), batch=4096, timed=True,
        tells=True, scripted=True, drift=4e-3,
    )  # fmt: skip


RUNTIMES = Registry("runtime", "qguard.runtimes", RuntimeRecord, _own)


def libraries(*, timed: bool = False) -> list[str]:
    """The distributions that compute, one of each registered runtime; ``timed``: of those that are timed in this process."""
    return list(dict.fromkeys(r.libraries[0] for r in RUNTIMES.values() if r.timed or not timed))
