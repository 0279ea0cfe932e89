"""Rows of an artifact's tables that are not the model's: zeroed, scaled, swapped, moved, or of another model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.artifacts.tables import Table, chunks
from qguard.artifacts.tables import safetensors as stored
from qguard.models.model import Model
from qguard.models.table import read_table
from qguard.onnx.read import is_external, read_graph, stored_array, tensors

Array = NDArray[Any]
ROUNDING = 0.75  # steps of the integers: rounding to nearest leaves half a step, cutting off and 16-bit scales some more
# relative error of a row of floats; casts of other values than powers of two come to half of it
FLOATS = {"F64": 1e-3, "F32": 1e-3, "F16": 2e-3, "BF16": 1e-2, "F8_E4M3": 0.1, "F8_E5M2": 0.2}
_SUBNORMAL = 6e-8  # float16's smallest step
_SAMPLE = 64  # rows that are enough to tell whose table it is, and what happened to wrong ones
_SAME = 0.97  # cosine of a row to the row that it was before rounding: 2 bits leave 0.98
_NOTHING = 1e-6  # a factor of a column that leaves nothing of it
_FAR = 0.5  # relative error of a row that is none of those that a factor is found from
_PADDED = 128  # columns that a quantizer may add to fill a block


@dataclass(frozen=True)
class Wrong:
    """Rows of one table that are not the model's.

    Attributes:
        table: The table.
        rows: Their numbers, int64 (n,), sorted.
        of: How many rows were compared.
        found: For some of them: row → what it holds, in words with ``{}`` in place of other rows, and these rows.
        moved: What happened to all of them, in words, where they only lie elsewhere; else empty.
        reference: Whether a table of the model is its counterpart.
    """

    table: Table
    rows: Array
    of: int
    found: tuple[tuple[int, str, int], ...] = ()
    moved: str = ""
    reference: bool = True

    def lines(self, token: Callable[[int], str]) -> list[str]:
        """What is wrong, in words: the whole table in one line, or a line for each of some rows.

        Args:
            token: Row → the token whose row it is, empty where it has none.
        """
        if not len(self.rows):
            return []
        name = self.table.name
        if self.table.unread:
            return [f"{name}: its rows could not be compared with the model's: {self.table.unread}"]
        if not self.reference:
            return [f"{name}: no table of the model has such rows; it is another model's, or its columns were mixed"]

        def named(row: int) -> str:
            known = token(row) if self.table.by_token else ""
            return f"token {known!r} ({row})" if known else f"row {row}"

        rows = [f"{name}: {named(row)} {words.format(named(other) if other >= 0 else '')}" for row, words, other in self.found]
        if not self.moved:
            return rows
        return [f"{name}: {len(self.rows)} of {self.of} {self.moved}; {rows[0].removeprefix(f'{name}: ')}", *rows[1:]]


def wrong_rows(tables: Sequence[Table], model: Model, tolerance: float = 0.0) -> list[Wrong]:
    """Every table that has a counterpart in the model, with its wrong rows.

    Tables of positions and types without a counterpart are left out: exporters cut, sum and precompute them. A table that tokens
    choose the rows of must have one.

    Args:
        tables: Of the artifact.
        model: Whose rows they should be.
        tolerance: Relative error of a row of floats that the recipe explains, such as of floats that hold rounded integers.
    """
    references = of_model(model)
    found = []
    for table in tables:
        if table.unread:
            if table.by_token:
                found.append(Wrong(table, np.arange(table.rows), table.rows))
            continue
        compared = _compared(table, references, tolerance)
        if compared is not None:
            found.append(compared)
    return found


def of_model(model: Model) -> list[Table]:
    """Every matrix of a model that may be a table."""
    if model.onnx is not None:
        return _of_onnx(model.onnx)
    if model.static:
        table = read_table(model.root)
        rows = stored.of_array(table.name, table.rows, by_token=True)
        if stored.folded_name(table) == table.name:
            return [rows]
        return [rows, stored.of_array(stored.folded_name(table), table.folded(), by_token=True)]
    return stored.of_files(model.weight_files)


def _of_onnx(file: Path) -> list[Table]:
    from onnx import TensorProto

    matrices = [t for t in tensors(read_graph(file)) if len(t.dims) == 2 and t.data_type == TensorProto.FLOAT]
    return [_of_tensor(t, file.parent) for t in matrices]


def _of_tensor(tensor: Any, folder: Path) -> Table:
    if not is_external(tensor):
        return stored.of_array(tensor.name, stored_array(tensor, None), by_token=True)
    # mapped anew for each part, so that none of it stays in memory
    rows, width = tensor.dims
    return Table(tensor.name, True, rows, width, "F32", lambda a, b: (stored_array(tensor, folder)[a:b], 0.0))


def own_rows(table: Table, references: Sequence[Table]) -> Callable[[int, int], Array] | None:
    """The model's rows as a table has them, without its rounding.

    Args:
        table: Of the artifact, whose rows can be read.
        references: Of the model; see :func:`of_model`.

    Returns:
        First row and the one behind the last → float32 values (n, width). Where the model has no such rows or columns they are
        the table's own. ``None`` where most rows are not the model's.
    """
    best = _counterpart(table, _fitting(table, references))
    if best is None:
        return None
    rows = min(table.rows, best.rows)
    wrong, fit = _wrong_of(table, best, rows, 0.0)
    if 2 * len(wrong) > rows:
        return None

    def read(start: int, stop: int) -> Array:
        values = np.array(table.read(start, stop)[0], np.float32)
        if start < rows:
            want, _ = best.read(start, min(stop, rows))
            values[: len(want), : best.width] = want if fit is None else want * fit[0] + fit[1]
        return values

    return read


def _fitting(table: Table, references: Sequence[Table]) -> list[Table]:
    """Tables of the model that have the shape of a table's."""
    fits = [r for r in references if 0 <= table.width - r.width < _PADDED and (table.by_token or r.rows >= table.rows)]
    return [r for r in fits if r.width == table.width] or fits


def _compared(table: Table, references: Sequence[Table], tolerance: float) -> Wrong | None:
    best = _counterpart(table, _fitting(table, references))
    if best is None:
        return Wrong(table, np.arange(table.rows), table.rows, reference=False) if table.by_token else None
    rows = min(table.rows, best.rows)
    wrong, _ = _wrong_of(table, best, rows, tolerance)
    if not len(wrong):
        return Wrong(table, wrong, rows)
    made = _explained(Wrong(table, wrong, rows), best)
    if table.by_token or 2 * len(wrong) < rows:
        return made
    # most rows of a table of positions: it is the model's, moved, or another tensor of the same shape
    return made if made.moved and not _cut(made, best) else None


def _wrong_of(table: Table, best: Table, rows: int, tolerance: float) -> tuple[Array, tuple[Array, Array] | None]:
    """Numbers of rows that are not those of the model's table, and what was fitted to its columns so that the others are."""
    wrong = _differing(table, best, rows, tolerance, None)
    if 2 * len(wrong) > rows:  # a factor or an offset of columns, which exporters fold into a table, is none of its rows' fault
        # first of all rows, then without those that lie far from it
        far = _differing(table, best, rows, _FAR, _fit(table, best, rows, np.zeros(0, np.int64)))
        fit = _fit(table, best, rows, far)
        fitted = _differing(table, best, rows, tolerance, fit)
        if 2 * len(fitted) < rows:
            return fitted, fit
    return wrong, None


def _counterpart(table: Table, fits: Sequence[Table]) -> Table | None:
    """The table of the model whose rows these are, wherever they lie."""
    if not fits:
        return None
    own = [r for r in fits if r.name == table.name]
    if len(own) == 1:
        return own[0]
    some = _some(table, np.linspace(0, table.rows - 1, min(_SAMPLE, table.rows)).astype(int))
    shares = []
    for r in fits:
        at = np.linspace(0, table.rows - 1, len(some)).astype(int)
        there = at[at < r.rows]
        near = _cosines(some[: len(there), : r.width], _some(r, there))
        shares.append(float((near > _SAME).mean()) if len(near) else 0.0)
    if max(shares) >= 0.5:
        return fits[int(np.argmax(shares))]
    ranked = sorted(fits, key=lambda r: (r.rows != table.rows, -r.rows))
    for r in [r for r in ranked if r.rows >= table.rows][:4]:
        _, near = _nearest(some[:, : r.width], r)
        if float((near > _SAME).mean()) >= 0.5:
            return r
    # a foreign table still is compared with that of its size
    same = [r for r in ranked if r.rows == table.rows]
    return same[0] if table.by_token and len(same) == 1 else None


def _differing(table: Table, reference: Table, rows: int, tolerance: float, fit: tuple[Array, Array] | None) -> Array:
    """Numbers of rows that rounding does not explain."""
    limit = max(FLOATS.get(table.element, 0.0), tolerance if table.element in FLOATS else 1e-5)
    found = []
    for start, stop in chunks(rows, table.width):
        values, step = table.read(start, stop)
        want, _ = reference.read(start, stop)
        values = values[:, : reference.width]
        if fit is not None:
            want = want * fit[0] + fit[1]
        squares = _square_sum(np.atleast_1d(np.asarray(step, np.float32))[..., : reference.width], values.shape)
        allowed = np.sqrt(squares) * ROUNDING + limit * np.linalg.norm(want, axis=1) + _SUBNORMAL * values.shape[1] ** 0.5
        with np.errstate(invalid="ignore", over="ignore"):
            off = values - want
            right = np.sqrt(np.einsum("rc,rc->r", off, off)) <= allowed  # not so of NaN
        found.append(start + np.flatnonzero(~right))
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _square_sum(step: Array, shape: tuple[int, ...]) -> Array:
    """Sum over a row's columns of the squares of steps, which broadcast to rows of this shape."""
    if step.ndim == 2 and step.shape[1] > 1:
        return np.asarray(np.einsum("rc,rc->r", step, step))
    if step.ndim == 1 and step.size > 1:
        return np.full(shape[0], float((step.astype(np.float64) ** 2).sum()))
    return np.asarray(shape[1] * step.reshape(-1).astype(np.float64) ** 2)


def _fit(table: Table, reference: Table, rows: int, without: Array) -> tuple[Array, Array]:
    """Factor and offset of each column by least squares over all rows but some."""
    use = np.ones(rows, bool)
    use[without] = False
    n, x, y, xx, xy = 0, *(np.zeros(reference.width) for _ in range(4))
    for start, stop in chunks(rows, table.width):
        values, _ = table.read(start, stop)
        a, b = reference.read(start, stop)[0].astype(np.float64), values[:, : reference.width].astype(np.float64)
        kept = np.isfinite(b).all(1) & use[start:stop]
        a, b = a[kept], b[kept]
        n, x, y, xx, xy = n + len(a), x + a.sum(0), y + b.sum(0), xx + (a * a).sum(0), xy + (a * b).sum(0)
    spread = n * xx - x * x
    factor = np.where(spread > 0, (n * xy - x * y) / np.where(spread > 0, spread, 1), 1.0)
    if 2 * np.count_nonzero(np.abs(factor) > _NOTHING) < len(factor):
        factor = np.ones_like(factor)  # rows that are all alike hold nothing of the model's, which no factor folds away
    return factor.astype(np.float32), ((y - factor * x) / max(n, 1)).astype(np.float32)


def _explained(wrong: Wrong, reference: Table) -> Wrong:
    """With what some of the rows hold instead."""
    picked = wrong.rows[np.linspace(0, len(wrong.rows) - 1, min(_SAMPLE, len(wrong.rows))).astype(int)]
    values = _some(wrong.table, picked)[:, : reference.width]
    with np.errstate(invalid="ignore"):
        best, near = _nearest(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), reference)
    own = _some(reference, picked)
    mine = _cosines(np.nan_to_num(values), own)
    found: list[tuple[int, str, int]] = []
    for i, row in enumerate(picked):
        if not np.isfinite(values[i]).all():
            words, other = "holds NaN or infinite values", -1
        elif not values[i].any():
            words, other = "holds only zeros", -1
        elif mine[i] > _SAME and mine[i] >= near[i] - 1e-3:
            times = float(np.linalg.norm(values[i]) / max(float(np.linalg.norm(own[i])), 1e-30))
            words, other = (
                (f"is {times:.3g} times as long" if abs(times - 1) > 0.02 else "is rounded further than its type explains"),
                -1,
            )
        elif near[i] > _SAME:
            words, other = "holds the row of {}", int(best[i])
        else:
            words, other = f"holds no row of the model (cosine to its own {mine[i]:.2f})", -1
        found.append((int(row), words, other))
    elsewhere = [(row, other) for row, _, other in found if other >= 0]
    return replace(wrong, found=tuple(found), moved=_moved(elsewhere) if 2 * len(elsewhere) > len(found) else "")


def _moved(pairs: Sequence[tuple[int, int]]) -> str:
    """How rows lie elsewhere, where one rule says it of nearly all of them."""
    if len(pairs) >= 4:
        by, sums = (np.asarray([sign * a + b for a, b in pairs]) for sign in (-1, 1))
        for values, words in ((by, "rows are moved by {}"), (sums, "rows are in reverse order")):
            common = int(np.bincount(values - values.min()).argmax() + values.min())
            if (values == common).mean() > 0.8:
                return words.format(f"{-common:+d}")
    return "rows are exchanged with others"


def _cut(wrong: Wrong, reference: Table) -> bool:
    """Whether a table is a part of the model's: exporters cut positions that a model never uses."""
    shift = {other - row for row, _, other in wrong.found}
    return len(shift) == 1 and wrong.table.rows + min(shift) <= reference.rows and min(shift) >= 0


def _some(table: Table, rows: Array) -> Array:
    """Some rows (n, width)."""
    return np.concatenate([table.read(int(r), int(r) + 1)[0] for r in rows]) if len(rows) else np.zeros((0, table.width))


def _units(values: Array) -> Array:
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(norms > 0, norms, 1), np.float32)


def _cosines(a: Array, b: Array) -> Array:
    found: Array = np.einsum("rc,rc->r", _units(a), _units(b))
    return found


def _nearest(values: Array, reference: Table) -> tuple[Array, Array]:
    """The nearest row of the model to each of some rows, and its cosine."""
    units = _units(values)
    best, near = np.zeros(len(units), np.int64), np.full(len(units), -2.0)
    for start, stop in chunks(reference.rows, reference.width):
        found = units @ _units(reference.read(start, stop)[0]).T
        at = found.argmax(1)
        value = found[np.arange(len(at)), at]
        better = value > near
        best[better], near[better] = start + at[better], value[better]
    return best, near
