"""Settings that every test needs."""

import pytest
from hypothesis import settings

# Asserts of theirs say what they compared, too.
pytest.register_assert_rewrite("tests.proxy.memory", "tests.proxy.peers", "tests.proxy.rig")

# A slow machine is no bug: what has to be linear is counted, not timed.
settings.register_profile("sseflow", deadline=None, print_blob=True)
settings.load_profile("sseflow")
