"""What several tests look at and none changes."""

import os
import tempfile

import pytest

from retina_kp import Registrar

# Notebooks replayed by nbval build on nobody's runs, and leave theirs where the machine sweeps
os.environ.setdefault("RETINA_KP_RUNS", tempfile.mkdtemp(prefix="retina_kp_runs_"))


@pytest.fixture(scope="session")
def registrar() -> Registrar:
    """With the shipped weights, on the CPU."""
    return Registrar.from_pretrained("lite", device="cpu")
