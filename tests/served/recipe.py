"""The recipe: nothing is built, and what is served is to be judged as int8 is."""

from qguard.precisions import NOT_BUILT, Recipe
from qguard.precisions.bounds import DEFAULT_BOUNDS

RECIPES = [
    Recipe(
        "int8", runtime, make=NOT_BUILT, description="What another process keeps.", weights="I8", fp32="fp32@onnx",
        bounds=DEFAULT_BOUNDS["int8"],
    )
    for runtime in ("served", "served-ids")
]  # fmt: skip
