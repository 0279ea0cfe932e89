"""The recipe: nothing is built, and what is served is to be judged as int8."""

from qguard.precisions import RECIPES, Recipe

for runtime in ("served", "served-ids"):
    RECIPES["int8", runtime] = Recipe("", "I8")
