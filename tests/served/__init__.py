"""A package of somebody else's, with a model that a process of its own keeps: what it takes to judge one is ``recipe.py`` and
``runtime.py``. ``server.py`` is the process, which knows neither qguard nor the tests.
"""
