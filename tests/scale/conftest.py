"""A Ray of this machine, which the tests share. Where Ray is not installed, they are skipped."""

import os

import pytest


@pytest.fixture(scope="session")
def ray():
    """Ray with two CPUs, a bounded object store, no dashboard, and nothing sent anywhere."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'ctxembed[ray]', or make test-scale")
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    ray.init(num_cpus=2, object_store_memory=200 << 20, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()
