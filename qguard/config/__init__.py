"""Configuration: ``[tool.qguard]`` as frozen, validated objects. Unknown keys are errors."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, PrivateAttr, ValidationError, field_validator

from qguard.config.tables import (
    PARTS,
    STRICT,
    EndpointConfig,
    GateConfig,
    IndexConfig,
    JavaScriptConfig,
    LatencyConfig,
    ModelConfig,
    PrecisionConfig,
    RobustnessConfig,
    ServiceConfig,
    SuiteConfig,
    VectorsConfig,
)
from qguard.endpoints.settings import OPENAI, SERVED, Endpoint, check_protocol, check_urls
from qguard.errors import ModelProblem, UsageProblem, unknown

if TYPE_CHECKING:
    from qguard.indexes.settings import Index
    from qguard.javascript.settings import JavaScript
    from qguard.precisions import Precision
    from qguard.precisions.calibration import Calibration
    from qguard.suites.source import Source


class Config(BaseModel):
    """The keys of ``[tool.qguard]``.

    Attributes:
        models: Name → model to gate. A string is short for ``{ref = "…"}``.
        suites: The suites to judge on: built-in ones and those of ``[tool.qguard.suite.NAME]``.
        precisions: The precisions that ``--precision all`` means.
        golden: Folder of the recorded fp32 outputs.
        device: Device that torch precisions run on.
        suite: Name → one of the project's own suites.
        precision: Name → one of the project's own precisions.
        endpoint: Name → a server that keeps the model; it is judged as the precision of that name.
        index: Name → an index of a vector database that ``--index`` searches.
        gates: Precision (``int8``, ``int8@torch``, ``int8:256``, ``+binary``) → metric → bound; overrides the defaults. A string
            is short for ``{bound = "…"}``; ``metric[SLICE]`` bounds one slice and ``metric[*]`` every slice.
        latency: How latency is measured and which bounds apply.
        robustness: How generated texts are tested.
        service: What is asked of servers beside the texts of suites.
        vectors: How embeddings are quantized.
        javascript: Where Node.js, npm packages and a browser are found.
        strict: Fail when something could not be measured; defaults to true where ``CI`` is set.
        folder: Folder of the configuration file; it is not a key.
    """

    model_config = STRICT

    models: dict[str, ModelConfig] = {}
    suites: tuple[str, ...] = ("core",)
    precisions: tuple[str, ...] = ("int8",)
    golden: str = "golden"
    device: Literal["cpu", "cuda"] = "cpu"
    suite: dict[str, SuiteConfig] = {}
    precision: dict[str, PrecisionConfig] = {}
    endpoint: dict[str, EndpointConfig] = {}
    index: dict[str, IndexConfig] = {}
    gates: dict[str, dict[str, GateConfig]] = {}
    latency: LatencyConfig = LatencyConfig()
    robustness: RobustnessConfig = RobustnessConfig()
    service: ServiceConfig = ServiceConfig()
    vectors: VectorsConfig = VectorsConfig()
    javascript: JavaScriptConfig = JavaScriptConfig()
    strict: bool | None = None
    folder: Path = Path()
    _left_out: dict[str, ModelConfig] = PrivateAttr(default_factory=dict)
    _file: Path | None = PrivateAttr(None)

    @property
    def file(self) -> Path | None:
        """The configuration file; ``None`` without one."""
        return self._file

    @field_validator("models", mode="before")
    @classmethod
    def _plain_reference(cls, value: Any) -> Any:
        """``minilm = "hub/id"`` is short for ``minilm = {ref = "hub/id"}``."""
        return {k: {"ref": v} if isinstance(v, str) else v for k, v in value.items()} if isinstance(value, dict) else value

    @field_validator("gates", mode="before")
    @classmethod
    def _plain_bound(cls, value: Any) -> Any:
        """``"ranking.top1" = ">= 0.9"`` is short for ``"ranking.top1" = {bound = ">= 0.9"}``."""
        if not isinstance(value, dict):
            return value
        return {
            name: {k: {"bound": v} if isinstance(v, str) else v for k, v in gates.items()} if isinstance(gates, dict) else gates
            for name, gates in value.items()
        }

    @field_validator("models", "suite")
    @classmethod
    def _file_names(cls, value: Any) -> Any:
        for name in value:
            if not name or name.startswith(".") or set(name) & set("/\\:"):
                raise ValueError(f"{name!r} must be usable as a folder name")
        return value

    @field_validator("index")
    @classmethod
    def _index_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                raise ValueError(f"{name!r} cannot name an index; expected letters, digits, '_', '.' and '-'")
        return value

    @field_validator("precision", "endpoint")
    @classmethod
    def _precision_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or name == "all":
                raise ValueError(f"{name!r} cannot name a precision; expected letters, digits, '_', '.' and '-', and not 'all'")
        return value

    @field_validator("suites")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("no suite is selected; an empty gate would pass without a measurement")
        return value

    @property
    def golden_root(self) -> Path:
        """The folder of all goldens."""
        return self.folder / self.golden

    @property
    def javascript_settings(self) -> JavaScript:
        """Where JavaScript is found; a relative path is relative to the configuration file."""
        return self.javascript.settings(self.folder)

    @property
    def suite_sources(self) -> dict[str, Source]:
        """The project's own suites by name."""
        return {name: s.source(self.folder) for name, s in self.suite.items()}

    @property
    def own_precisions(self) -> dict[str, Precision]:
        """Name → precision of ``[tool.qguard.precision]`` and ``[tool.qguard.endpoint]``.

        :data:`~qguard.endpoints.settings.SERVED` is always one of them: gates may bound what ``--endpoint`` names later.

        Raises:
            UsageProblem: for an unknown recipe, settings that it does not have, calibration texts that are not there, or a name
                that both tables have.
        """
        from qguard.precisions import Precision, default_runtime, known, parse_precision, precision_at
        from qguard.precisions.tuning import Tuning

        own = {}
        for name, table in self.precision.items():
            if table.recipe is None and default_runtime(name) is None:
                raise UsageProblem(f'precision.{name}: expected recipe = "NAME", the built-in precision that it is made as')
            base = parse_precision(table.recipe or name)
            foreign = table.model_fields_set - {"recipe", *table.tuning}
            if foreign and not base.recipe.calibrated:
                raise UsageProblem(f"precision.{name}: {base} is not calibrated, it has no {', '.join(sorted(foreign))}")
            calibration = self.calibration(table.calibration, table.samples, table.seed, table.overlap) if foreign else None
            if table.tuning and not base.recipe.tunable:
                tunable = ", ".join(known(lambda r: r.tunable))
                raise UsageProblem(
                    f"precision.{name}: {base} has no {', '.join(sorted(table.tuning))}; recipes that have: {tunable}"
                )
            tuning = Tuning(**table.tuning) if table.tuning else None
            own[name] = Precision(name, base.runtime, base=base.base, calibration=calibration, tuning=tuning)
        own.setdefault(SERVED, precision_at(None))
        for name, served in self.endpoint.items():
            if name in self.precision:
                raise UsageProblem(f"endpoint.{name}: [tool.qguard.precision.{name}] has that name too; rename one of them")
            own[name] = precision_at(served.endpoint(name), served.precision)
        return own

    def served(
        self, url: str | None, protocol: str | None = None, model: str | None = None, replicas: tuple[str, ...] = ()
    ) -> Config:
        """This configuration with the server of ``--endpoint`` as :data:`~qguard.endpoints.settings.SERVED`.

        Args:
            url: Where it answers; ``None`` changes nothing.
            protocol: Its protocol; by default that of ``[tool.qguard.endpoint.served]``, whose other settings apply too.
            model: The model that requests name.
            replicas: URLs of other replicas of it; by default those of that table.

        Raises:
            UsageProblem: for a URL or protocol that cannot be used, and for the others without a URL.
        """
        given: dict[str, Any] = {"protocol": protocol, "model": model, "replicas": replicas or None}
        if url is None:
            options = {"protocol": "--endpoint-protocol", "model": "--endpoint-model", "replicas": "--endpoint-replica"}
            if option := next((options[name] for name, value in given.items() if value), None):
                raise UsageProblem(f"{option} is of the server that --endpoint URL names; give it too")
            return self
        check_urls((url, *replicas))
        check_protocol(protocol or OPENAI)
        update = {name: value for name, value in {"url": url, **given}.items() if value is not None}
        known = self.endpoint.get(SERVED) or EndpointConfig(url=url)
        return self.model_copy(update={"endpoint": {**self.endpoint, SERVED: known.model_copy(update=update)}})

    def index_settings(self, name: str) -> Index:
        """The index of a name of ``[tool.qguard.index]``.

        Raises:
            UsageProblem: for a name that is not configured.
        """
        if name in self.index:
            return self.index[name].index(name, self.folder)
        if not self.index:
            raise UsageProblem(
                f"--index {name}: no index is configured; add [tool.qguard.index.{name}] with store and type (docs/indexes.md)"
            )
        raise unknown("index", name, self.index)

    def server(self, named: str, protocol: str | None = None, model: str | None = None) -> Endpoint:
        """The server of ``--endpoint NAME|URL``.

        Args:
            named: A name of ``[tool.qguard.endpoint]``, or a URL, as :meth:`served` has it.
            protocol: See :meth:`served`; only with a URL.
            model: See :meth:`served`; only with a URL.

        Raises:
            UsageProblem: for a name that is not configured, and as :meth:`served`.
        """
        if "://" in named:
            return self.served(named, protocol, model).endpoint[SERVED].endpoint(SERVED)
        if named not in self.endpoint:
            raise (
                unknown("endpoint", named, self.endpoint)
                if self.endpoint
                else UsageProblem(
                    f"--endpoint {named!r}: no endpoint is configured; give its URL, or [tool.qguard.endpoint.{named}]"
                )
            )
        if protocol or model:
            raise UsageProblem(f"--endpoint {named}: its table says protocol and model; leave the options out")
        return self.endpoint[named].endpoint(named)

    def calibration(
        self, source: str | None, samples: int = 300, seed: int = 0, overlap: Literal["refuse", "allow"] = "refuse"
    ) -> Calibration:
        """Where calibration texts come from.

        Args:
            source: A suite's name, or a file or folder, relative to the configuration; ``None`` for the shipped texts.
            samples: Texts to draw.
            seed: Of the draw.
            overlap: Whether texts that calibrate may also judge.

        Raises:
            UsageProblem: when there is no such suite or file.
        """
        from qguard.precisions.calibration import SHIPPED, Calibration

        if source is None:
            return Calibration(SHIPPED, "qguard", samples, seed, overlap)
        path = self.located("calibration", source)
        return Calibration(path, source if source in self.known_suites else path.name, samples, seed, overlap)

    def located(self, purpose: str, source: str) -> Path | Source:
        """A suite by name, or a file or folder like a suite's, relative to the configuration.

        Args:
            purpose: What its texts are for.
            source: The name or path.

        Raises:
            UsageProblem: when there is no such suite or file.
        """
        suites = self.known_suites
        path = suites.get(source, self.folder / source)
        if not path.exists():
            near = unknown("suite", source, suites)
            raise UsageProblem(f"{purpose} {source!r}: no file or folder of that name, and {near}")
        return path

    @property
    def known_suites(self) -> dict[str, Path | Source]:
        """The built-in suites and the project's own, which win, by name."""
        from qguard.suites import BUILTIN

        return {**BUILTIN, **self.suite_sources}

    def select(self, models: list[str], suites: list[str]) -> Config:
        """This configuration with only the named models and suites; a model may also be a bare reference.

        Raises:
            UsageProblem: for a name that is not configured.
        """
        chosen: dict[str, ModelConfig] = {}
        for name in models:
            if name in self.models:
                chosen[name] = self.models[name]
            elif "/" in name or ":" in name:
                chosen[name.removeprefix("package:").rstrip("/").split("/")[-1]] = ModelConfig(ref=name)
            else:
                raise unknown("model", name, self.models)
        for suite in suites or self.suites:
            if suite not in self.known_suites:
                raise unknown("suite", suite, self.known_suites)
        made = self.model_copy(update={"models": chosen or self.models, "suites": tuple(suites) or self.suites})
        made._left_out = {name: model for name, model in self.configured.items() if name not in made.models}
        return made

    @property
    def configured(self) -> dict[str, ModelConfig]:
        """Every model by name, also those that :meth:`select` left out: gates and candidates may be theirs."""
        return {**self.models, **self._left_out}

    def model_ref(self, name: str) -> str:
        """The reference of a model; relative paths are relative to the configuration file."""
        return self._located(self.configured[name].ref)

    def model_settings(self, name: str) -> dict[str, Any]:
        """The settings of a model, its tokenizer's reference as of :meth:`model_ref`."""
        settings = self.configured[name].settings
        return settings | {k: self._located(settings[k]) for k in ("tokenizer",) if k in settings}

    def fp32_folder(self, name: str) -> Path | None:
        """The folder in which fp32 of a model is given."""
        given = self.configured[name].fp32
        return None if given is None else self.folder / given

    def _located(self, ref: str) -> str:
        if ref.startswith(("package:", "hf:")):
            return ref
        local = self.folder / ref
        if local.exists():
            return str(local)
        if local.parent != self.folder and local.parent.exists():
            raise ModelProblem(
                f"{ref}: the folder {Path(ref).parent} beside the configuration holds no {Path(ref).name}, and the hub is not "
                f"asked for what looks like a path; for a hub id of that name: hf:{ref}"
            )
        return ref


def project_folder(start: Path = Path()) -> Path:
    """The nearest folder with a ``pyproject.toml``, upwards from ``start``; without one, ``start`` itself."""
    whole = start.absolute()
    return next((d for d in (start, *whole.parents) if (d / "pyproject.toml").exists()), start)


def load_config(path: Path) -> Config:
    """Read ``[tool.qguard]`` of a ``pyproject.toml``, or a file that holds those tables at its top.

    Args:
        path: The file, or a folder that may have a ``pyproject.toml``; without one the defaults apply.

    Raises:
        UsageProblem: for unreadable TOML, unknown keys or values of the wrong kind, each named.
    """
    file = path / "pyproject.toml" if path.is_dir() else path
    if not file.exists():
        if path.is_dir():
            return Config(folder=path)
        raise UsageProblem(f"no configuration file at {path}")
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:  # not UTF-8, not TOML, or a number of more digits than Python reads
        raise UsageProblem(f"{file.name} cannot be read: {e}") from e
    own = "tool" in data or file.name == "pyproject.toml"
    table: Any = data
    for key in ("tool", "qguard") if own else ():
        table = table.get(key, {})
        if not isinstance(table, dict):
            raise UsageProblem(f"{file.name}: expected a table [tool.qguard], found {key} = {table!r}")
    if "folder" in table:
        raise unknown("configuration key", "folder", set(Config.model_fields) - {"folder"})
    try:
        config = Config(**table, folder=file.resolve().parent)
    except ValidationError as e:
        lines = []
        for error in e.errors():
            where = ".".join(str(p) for p in error["loc"])
            if error["type"] == "extra_forbidden":
                known = (
                    set(Config.model_fields) - {"folder"}
                    if len(error["loc"]) == 1
                    else {f for part in PARTS[str(error["loc"][0])] for f in part.model_fields}
                )
                lines.append(str(unknown("key", where, known)))
            else:
                lines.append(f"{where}: {error['msg']}")
        raise UsageProblem(f"{file.name} [tool.qguard]: " + "; ".join(lines)) from e
    config._file = file.resolve()
    _check_names(config)
    return config


def _check_names(config: Config) -> None:
    """Gates and precisions are checked when the file is read, not when they are first needed."""
    from qguard.gates import parse_gate
    from qguard.precisions import parse_precision

    own = config.own_precisions
    for name in config.precisions:
        parse_precision(name, own)
    for name, gates in config.gates.items():
        # "+binary" alone bounds those vectors of any precision, and ":256" those dimensions
        judged = parse_precision(f"fp32{name}" if name.startswith(("+", ":")) else name, own)
        for key, bound in gates.items():
            parse_gate(key, bound, judged.vectors, bool(judged.dims))
    if config.robustness.replay is not None:
        config.located("robustness.replay", config.robustness.replay)
    config.select([], [*config.suites, config.vectors.calibration or config.suites[0]])
