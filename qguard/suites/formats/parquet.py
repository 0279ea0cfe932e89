"""Parquet and Arrow files, through pyarrow (``pip install 'qguard[data]'``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from qguard.console.progress import progress
from qguard.errors import DataProblem
from qguard.suites.formats import Row
from qguard.suites.formats.files import PATIENCE

BATCH = 1000  # rows that are held at once


def rows(path: Path, stream: bool = False) -> Iterator[Row]:
    """Rows in their order, numbered from 1.

    Args:
        path: The file.
        stream: Arrow's stream, which ``datasets`` writes with ``save_to_disk``; else parquet.

    Raises:
        DataProblem: without pyarrow, and for a file that is damaged or something else.
    """
    try:
        import pyarrow as pa
    except ImportError as e:
        raise DataProblem(f"{path.name}: reading parquet and arrow needs pyarrow: pip install 'qguard[data]'") from e
    try:
        yield from enumerate(_values(path, stream), 1)
    except (pa.ArrowException, OSError) as e:
        raise DataProblem(f"cannot read {path.name}: {str(e).splitlines()[0]}") from e


def _values(path: Path, stream: bool) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        advance = stack.enter_context(progress(f"reading {path.name}", path.stat().st_size, PATIENCE))
        if stream:
            # mapped, not copied; datasets writes batches of 1,000 rows
            batches = pa.ipc.open_stream(stack.enter_context(pa.memory_map(str(path))))
        else:
            batches = stack.enter_context(pq.ParquetFile(path)).iter_batches(BATCH)
        for batch in batches:
            yield from batch.to_pylist()
            advance(batch.nbytes)
