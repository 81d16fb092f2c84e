"""What several tests look at and none changes."""

import pytest

from retina_kp import Registrar


@pytest.fixture(scope="session")
def registrar() -> Registrar:
    """With the shipped weights, on the CPU."""
    return Registrar.from_pretrained("lite", device="cpu")
