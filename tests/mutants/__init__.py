"""Patches that break the promise, each with the tests that notice. See `tests.mutants.__main__`."""
