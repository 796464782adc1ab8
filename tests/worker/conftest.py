from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nursery import Nursery

from holdfast.linux.process import PR_SET_CHILD_SUBREAPER, prctl


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    """A zygote's surroundings; the test process is the parent of every worker, as a supervisor is."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    result = Nursery(tmp_path)
    yield result
    result.close()
    prctl(PR_SET_CHILD_SUBREAPER, 0)
