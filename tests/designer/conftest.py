"""One whole run of the designer, shared by every test of a session that only reads it."""

from dataclasses import replace

import pytest

from designer.ledger import Ledger
from designer.search import RunOutcome
from designer.swap_in import rehearse
from tests.support.finished_run import SETTINGS, finished_run


@pytest.fixture(scope="session")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> RunOutcome:
    made = finished_run(tmp_path_factory.mktemp("runs") / "first", replace(SETTINGS, why_seeds=2))
    with Ledger.open(made.folder) as ledger:
        rehearse(ledger)
    return made
