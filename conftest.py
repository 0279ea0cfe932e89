"""Top level, so that the tests can be run from here; fixtures are in tests/conftest.py."""
