"""A search with models that dies by SIGKILL in the middle of what it writes down, as by a power cut.

``python -m tests.support.killed_llm_run FOLDER URL MODE N``: the N-th write is the last; odd N die before it, even N
after it. N is 0: to the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from designer.arm import Arm
from designer.evaluations import Evaluator, Job, scores_by_seed
from designer.ledger import Ledger, LedgerError
from designer.proposers.llm.message_log import MessageLog
from designer.proposers.llm.proposer import LlmProposer
from designer.sandbox import Sandbox
from designer.sealed import Protocol
from designer.search import Settings, new_ledger, settings_of
from designer.subject import subject_of_specs
from tests.support.scripted_models import cast_settings
from tests.support.small_scenario import small_scenario

MODES: dict[str, dict[str, Any]] = {
    "single": {"mode": "single"},
    "sequential": {"mode": "sequential", "contexts": 2, "experiments_per_context": 2},
    "parallel": {"mode": "parallel", "contexts": 3},
}
TRAIN = (5, 6)
_REFERENCE = "least_loaded+fcfs"


class Countdown:
    """Counts what is written, by whomever."""

    last = 0
    count = 0

    @classmethod
    @contextlib.contextmanager
    def write(cls) -> Any:
        cls.count += 1
        due = cls.count == cls.last
        if due and cls.last % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield
        if due:
            os.kill(os.getpid(), signal.SIGKILL)


class KilledLedger(Ledger):
    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        with Countdown.write():
            super()._write(statement, values)


class KilledLog(MessageLog):
    def sending(self, attempt: Any) -> None:
        with Countdown.write():
            super().sending(attempt)

    def add(self, message: Any) -> None:
        with Countdown.write():
            super().add(message)

    def add_tool_call(self, call: Any) -> None:
        with Countdown.write():
            super().add_tool_call(call)


def settings(url: str, mode: str) -> Settings:
    return Settings(
        proposer="llm",
        budget=6,
        control=False,
        baselines=(_REFERENCE,),
        references=(),
        protocol=Protocol(train_seeds=2, validation_seeds=7, finalists=1, sealed_seeds=9),
        llm=cast_settings(url, **MODES[mode]).model_dump(mode="json"),
    )


class KilledProposer(LlmProposer):
    """Keeps its conversations in a log that may be the death of it."""

    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self._log.close()
        self._log = KilledLog(arguments[1].path)


def main() -> None:
    folder, url, mode, Countdown.last = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    scenario = small_scenario(40)
    with contextlib.suppress(LedgerError):
        new_ledger(folder, scenario, settings(url, mode), secret="not so secret").__exit__(None, None, None)
    with KilledLedger.open(folder) as ledger, Sandbox(scenario, jobs=1) as sandbox:
        evaluator, given = Evaluator(ledger, sandbox, ledger.run().scenario_hash), settings_of(ledger.run())
        reference = evaluator.run("train", [Job(subject_of_specs(_REFERENCE), seed) for seed in TRAIN])
        assert given.llm is not None
        with KilledProposer(given.llm, ledger, sandbox, given.budget) as proposer:
            Arm("search", proposer, given.budget, TRAIN, scores_by_seed(reference), evaluator, ledger).run()
        sys.stdout.write(f"{Countdown.count} writes\n")


if __name__ == "__main__":
    main()
