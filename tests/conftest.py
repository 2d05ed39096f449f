"""Settings that every test needs."""

from hypothesis import settings

# A slow machine is no bug: what has to be linear is counted, not timed.
settings.register_profile("sseflow", deadline=None, print_blob=True)
settings.load_profile("sseflow")
