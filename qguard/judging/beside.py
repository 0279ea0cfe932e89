"""qguard's reference server beside a server that is judged: in a process of its own, on loopback, for as long as it is needed."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qguard.config import load_config
from qguard.endpoints.settings import OPENAI, TEI, Endpoint
from qguard.errors import MeasurementProblem
from qguard.kinds import DENSE
from qguard.latency.fresh import last_words

if TYPE_CHECKING:
    from qguard.judging.session import Session

PRECISION = "fp32"
_URL = re.compile(r" at (http://\S+)")


@contextmanager
def serving(session: Session, model: str) -> Iterator[Endpoint]:
    """fp32 of a model, served until the end of the context, or of this process.

    Raises:
        MeasurementProblem: where it cannot be served.
    """
    config = session.config.file or session.config.folder
    # a model that was chosen by its reference has no name in the file
    asked = model if model in load_config(config).models else session.config.models[model].ref
    command = [sys.executable, "-m", "qguard.cli", "serve", "--precision", PRECISION, "--model", asked, "--config", str(config)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, "--port", "0", "--until-eof"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode("utf-8", "replace")
            if (found := _URL.search(line)) is None:
                process.wait()
                errors.seek(0)
                said = last_words(errors.read().decode("utf-8", "replace"))
                raise MeasurementProblem(f"{PRECISION} of {model!r} could not be served beside the judged server: {said}")
            yield Endpoint(PRECISION, found[1], OPENAI if session.kind(model) == DENSE else TEI, model)
        finally:
            process.kill()
            process.communicate()
