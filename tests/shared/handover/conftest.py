"""The run that the tests of a service share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def made_run(tmp_path_factory):
    from made_service import make_run

    return make_run(tmp_path_factory.mktemp("served") / "run")
