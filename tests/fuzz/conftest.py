"""How long hypothesis looks: seconds a test in the suite, the same each time; long and at random by `make fuzz`."""

import os

from hypothesis import HealthCheck, settings

SHARED = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", max_examples=60, derandomize=True, database=None, **SHARED)
settings.register_profile("long", max_examples=4000, print_blob=True, **SHARED)
settings.load_profile("long" if os.environ.get("FUZZ") else "suite")
