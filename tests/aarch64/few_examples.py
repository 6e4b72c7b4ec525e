"""A pytest plugin: hypothesis tries few examples, since an emulator is slow."""

from hypothesis import settings

settings.register_profile("emulated", max_examples=5, deadline=None, database=None)
settings.load_profile("emulated")
