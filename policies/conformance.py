"""What every policy must keep, whoever wrote it: rules on its source, and rules on what it does.

``check_source`` reads; ``check_policy`` runs the policy through thousands of generated situations. Neither limits
time or memory: run ``python -m policies.conformance POLICY…`` in a process that can be killed for code not trusted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies import loader
from policies.contract import Candidate, Pool, Request, Slot
from policies.loader import LoadedPolicy, PolicyLoadError, PolicySpec
from policies.situations import World, empty_pools, engine_views, situations
from policies.source_file import read_source
from policies.static_rules import Violation, check_text
from policies.watched import Watched

__all__ = ["Violation", "check", "check_policy", "check_source"]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is tried."""

    num_situations: int = 1500
    num_steps: int = 1000
    """Of the small world in which the policy's answers have consequences."""
    seed: int = 0
    subprocess: bool = True
    """Repeat the decisions in another process with another hash seed; it must be allowed to start one."""


def check(spec: PolicySpec | str, effort: Effort | None = None) -> list[Violation]:
    """``check_source``, then ``check_policy`` if the source is in order.

    Raises:
        PolicyLoadError: the text names no policy, or more than one.
    """
    parsed = loader.parse_specs(spec) if isinstance(spec, str) else (spec,)
    if len(parsed) != 1:
        raise PolicyLoadError(f"{spec}: check one policy at a time")
    path, _ = loader.resolve(parsed[0].source)
    return check_source(path) or check_policy(parsed[0], effort)


def check_source(source: Path | str | bytes) -> list[Violation]:
    """Violations of the static rules in a file (a ``Path``) or in source text; a built-in must cite its source.

    Raises:
        PolicyLoadError: the file cannot be read.
    """
    if not isinstance(source, Path):
        return check_text(source if isinstance(source, str) else source.decode("utf-8", "replace"))
    try:
        text = read_source(source).decode("utf-8", "replace")
    except OSError as error:
        raise PolicyLoadError(f"{source}: {error.strerror}; name a readable .py file") from None
    return check_text(text, builtin=loader.resolve(f"{source}")[1] in loader.builtin_names())


def check_policy(policy: PolicySpec | LoadedPolicy, effort: Effort | None = None) -> list[Violation]:
    """Violations of the dynamic rules, up to the first call that shows one: a wrong answer, an exception, an argument
    changed or kept; then keys that do not compare, and decisions that differ from run to run or with the hash seed."""
    effort = effort or Effort()
    try:
        first = _fresh(policy, effort.seed)
    except PolicyLoadError as error:
        return [Violation(1, "load", str(error))]
    trial = Trial(first, effort)
    digest = trial.run()
    if trial.violations:
        return trial.violations
    again = Trial(_fresh(first, effort.seed), effort, watch_arguments=False).run()
    if again != digest:
        return [Violation(1, "determinism", "the same seed and events gave other decisions the second time")]
    if effort.subprocess and _digest_elsewhere(first, effort) != digest:
        return [Violation(1, "determinism", "decisions depend on the hash seed or on the process; use no hash order")]
    return []


class Trial:
    """One run of a policy through every situation; its digest covers every decision."""

    def __init__(self, loaded: LoadedPolicy, effort: Effort, *, watch_arguments: bool = True) -> None:
        self.violations: list[Violation] = []
        self._policy: Any = loaded.policy
        self._slots = loaded.slots
        self._path = loaded.path
        self._effort = effort
        self._watch_arguments = watch_arguments
        self._digest = hashlib.sha256()
        self._keys: dict[str, list[Any]] = {}
        self._holds = "routing" in self._slots and hasattr(type(self._policy), "may_go")

    def run(self) -> str:
        try:
            self._situations()
            self._world()
            self._pools()
            self._engines()
            self._compare_keys()
        except _TrialEndedError:
            pass
        return self._digest.hexdigest()

    def _situations(self) -> None:
        for situation in situations(self._effort.seed, self._effort.num_situations):
            self._schedule(situation.request, situation.pool)
            self._route(situation.request, situation.candidates, situation.pool)

    def _world(self) -> None:
        """Held requests are asked again, as the runner does; a short queue is enough to see that."""
        world, held = World(self._effort.seed), list[Request]()
        stuck: tuple[str, set[str]] | None = None  # what was held last, among which workers
        for _ in range(self._effort.num_steps):
            for event in world.move_on():
                self._observe(event)
            if len(held) < 20:
                held.append(world.arrive())
                self._schedule(held[-1], world.situation(held[-1]).pool)
            situation = world.situation(held[0])
            here = {candidate.worker.worker_id for candidate in situation.candidates}
            stays = stuck == (held[0].request_id, here) and not self._may_go(held[0], situation.candidates)
            chosen = self._route(situation.request, situation.candidates, situation.pool)
            self._scale(situation.pool)
            stuck = (held[0].request_id, here) if chosen is None else None
            if chosen is not None:
                if stays:
                    self._report("may_go", "was False of every worker for a held request that route then sent to one")
                    raise _TrialEndedError
                self._observe(world.dispatch(held.pop(0), chosen))

    def _pools(self) -> None:
        for pool in empty_pools():
            self._scale(pool)

    def _engines(self) -> None:
        if "batch" not in self._slots:
            return
        for engine, request in engine_views(self._effort.seed, self._effort.num_situations):
            self._ask("waiting_key", (request,), self._judge_key)
            self._ask("victim_key", (request,), self._judge_key)
            self._ask("prefill_budget", (engine,), _judge_budget)

    def _route(self, request: Request, candidates: list[Candidate], pool: Pool) -> str | None:
        """The worker's id; for a policy that does not route, any."""
        if "routing" not in self._slots:
            return candidates[0].worker.worker_id
        place = self._ask("route", (request, candidates, pool), lambda answer: _judge_route(answer, candidates))
        if not isinstance(place, int):
            self._may_go(request, candidates)
            return None
        return candidates[place].worker.worker_id

    def _may_go(self, request: Request, candidates: list[Candidate]) -> bool:
        """Whether the policy would be asked again about what it holds, had every worker given something back."""
        if not self._holds:
            return True
        answers = [self._ask("may_go", (request, c.worker), _judge_bool) for c in candidates]
        return any(answers)

    def _schedule(self, request: Request, pool: Pool) -> None:
        if "scheduling" in self._slots:
            self._ask("admit", (request, pool), _judge_bool)
            self._ask("key", (request,), self._judge_key)

    def _scale(self, pool: Pool) -> None:
        if "autoscaling" in self._slots:
            self._ask("desired_replicas", (pool,), lambda answer: _judge_replicas(answer, pool))

    def _observe(self, event: object) -> None:
        if "observer" in self._slots:
            self._ask("observe", (event,), _judge_nothing)

    def _judge_key(self, answer: Any) -> object:
        if not _is_key(answer):
            raise _WrongAnswerError(f"a key must be a number or a tuple, without NaN, not {_shown(answer)}")
        return answer

    def _compare_keys(self) -> None:
        for method, keys in self._keys.items():
            try:
                sorted(keys)
            except TypeError as error:
                self._report(method, f"its keys cannot be compared with each other: {error}")

    def _ask(self, method: str, arguments: tuple[Any, ...], judge: Callable[[Any], object]) -> object:
        """Call, judge the answer, and look whether the arguments came through unchanged and were let go."""
        watched = Watched(arguments) if self._watch_arguments else None
        outcome = self._answer(method, arguments, judge)
        for complaint in watched.complaints() if watched is not None else ():
            self._report(method, complaint)
            raise _TrialEndedError
        if method.endswith("key"):
            self._keys.setdefault(method, []).append(outcome)
        self._digest.update(f"{method}={outcome!r};".encode())
        return outcome

    def _answer(self, method: str, arguments: tuple[Any, ...], judge: Callable[[Any], object]) -> object:
        try:
            return judge(getattr(self._policy, method)(*arguments))
        except _WrongAnswerError as wrong:
            self._report(method, str(wrong))
        except Exception as error:  # noqa: BLE001 - the boundary to code that is not ours
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == self._path and frame.lineno]
            self._report(method, f"raised {type(error).__name__}: {error}", lines[-1] if lines else 1)
        raise _TrialEndedError

    def _report(self, method: str, message: str, line: int = 1) -> None:
        self.violations.append(Violation(line, method, message))


class _TrialEndedError(Exception):
    """Nothing that follows would mean anything."""


class _WrongAnswerError(Exception):
    """The answer is not of the right kind."""


def _judge_route(answer: Any, candidates: Sequence[Candidate]) -> int | None:
    if answer is None:
        return None
    for place, candidate in enumerate(candidates):
        if candidate is answer:
            return place
    raise _WrongAnswerError(f"must return one of the candidates it was given, or None, not {_shown(answer)}")


def _judge_bool(answer: Any) -> bool:
    if not isinstance(answer, bool):
        raise _WrongAnswerError(f"must return True or False, not {_shown(answer)}")
    return answer


def _judge_replicas(answer: Any, pool: Pool) -> list[tuple[str, int]]:
    if not isinstance(answer, Mapping):
        raise _WrongAnswerError(f"must return a mapping from variant to replicas, not {_shown(answer)}")
    for name, size in answer.items():
        if name not in pool.variants:
            raise _WrongAnswerError(f"named {_shown(name)}, which is no variant of the pool")
        if type(size) is not int or size < 0:
            raise _WrongAnswerError(f"wants {_shown(size)} replicas of {name}; give an int of at least 0")
    return sorted(answer.items())


def _judge_budget(answer: Any) -> int:
    if type(answer) is not int or answer < 0:
        raise _WrongAnswerError(f"must return an int of at least 0, not {_shown(answer)}")
    return answer


def _judge_nothing(answer: Any) -> None:
    if answer is not None:
        raise _WrongAnswerError(f"must return None, not {_shown(answer)}")


def _is_key(answer: Any) -> bool:
    if isinstance(answer, tuple):
        return all(isinstance(part, str) or _is_key(part) for part in answer)
    return isinstance(answer, int | float) and answer == answer


def _shown(answer: Any) -> str:
    return f"{answer!r:.60}" if isinstance(answer, int | float | str | None) else f"a {type(answer).__name__}"


def _fresh(policy: PolicySpec | LoadedPolicy, seed: int) -> LoadedPolicy:
    rng = random.Random(f"conformance/{seed}")
    if isinstance(policy, PolicySpec):
        return loader.load_policy(policy, rng)
    spec = PolicySpec(policy.path, slots=policy.slots, params=policy.params)
    return loader.load_source(policy.source.encode(), spec, rng, path=policy.path, name=policy.name)


def _digest_elsewhere(policy: LoadedPolicy, effort: Effort) -> str:
    """The digest of the same trial in a process with another hash seed; "" when that process fails."""
    job = {
        "source": policy.source,
        "path": policy.path,
        "slots": policy.slots,
        "params": dict(policy.params),
        "effort": [effort.num_situations, effort.num_steps, effort.seed],
    }
    environment = {
        "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    done = subprocess.run(
        [sys.executable, "-m", "policies.conformance", "--digest"],
        input=json.dumps(job),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def _digest_here(job: Mapping[str, Any]) -> str:
    slots: tuple[Slot, ...] = tuple(job["slots"])
    spec = PolicySpec(job["path"], slots=slots, params=job["params"])
    num_situations, num_steps, seed = job["effort"]
    effort = Effort(num_situations, num_steps, seed, subprocess=False)
    rng = random.Random(f"conformance/{seed}")
    loaded = loader.load_source(job["source"].encode(), spec, rng, path=job["path"], name="policy")
    return Trial(loaded, effort, watch_arguments=False).run()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m policies.conformance",
        description="Check policies against the contract; one line for each violation, exit status 1 if there is any.",
        epilog="example: python -m policies.conformance head_room:ageing=0 ./my_policy.py",
    )
    parser.add_argument("policies", nargs="*", metavar="POLICY", help="a built-in name or a path, with :key=value,…")
    parser.add_argument("--static", action="store_true", help="read the source only, run nothing")
    parser.add_argument("--digest", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.digest:
        sys.stdout.write(_digest_here(json.load(sys.stdin)) + "\n")
        return 0
    if not options.policies:
        parser.error("name at least one policy")
    lines = [line for text in options.policies for line in _lines(text, static=options.static)]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 1 if lines else 0


def _lines(text: str, *, static: bool) -> list[str]:
    try:
        (spec,) = loader.parse_specs(text)
        path, _ = loader.resolve(spec.source)
        found = check_source(path) if static else check(spec)
    except (PolicyLoadError, ValueError) as error:
        return [str(error)]
    return [violation.message if violation.rule == "load" else f"{path}:{violation}" for violation in found]


if __name__ == "__main__":
    sys.exit(main())
