"""A batch program as the part of a module a person would have written."""

from __future__ import annotations

from designer.proposers.batching import (
    BATCH_QUANTITIES,
    CONSTANTS,
    BatchProgram,
    Order,
    Term,
    constants,
    parameter_name,
)
from designer.proposers.sections import WIDTH, Parameter, Section, method


def batch_section(program: BatchProgram) -> Section:
    """Its methods and its words."""
    found = constants(program)
    return Section(
        title=f"In the engine, first {_words(program.waiting, 'priority', 'the least', 'come first served')}",
        rules=(_rules(program),),
        why=why_batch(program),
        methods=(
            _key("waiting", program.waiting, "Smallest is admitted first."),
            _key("victim", program.victim, "Largest is preempted first."),
            _prefill_budget(program),
        ),
        parameters=tuple(
            Parameter(parameter_name(key, constant), constant.value, CONSTANTS[constant.kind].words)
            for key, constant in found.items()
        ),
        contract=frozenset({"BatchEngine", "BatchRequest"}),
    )


def why_batch(program: BatchProgram) -> str:
    """The reason to expect an effect, from the parts the program has."""
    reasons = []
    by_size = [
        t for t in program.waiting.terms if not t.less and t.name in ("num_prompt_tokens", "num_tokens_to_compute")
    ]
    if by_size:
        reasons.append("with short prompts admitted first most requests pass the few long ones")
    if any(term.name == "arrival_time" and not term.less for term in program.waiting.terms):
        reasons.append("waiting counts in favour of a request, so a long one is not passed over for ever")
    if program.victim.terms:
        reasons.append("who is preempted decides what is computed again, and who waits for it")
    if program.budget != "full":
        reasons.append("a step with less prefill in it is shorter, so requests that decode beside it go on sooner")
    text = "; ".join(reasons or ["what came first is served first, and what came last gives way"])
    return f"{text[0].upper()}{text[1:]}."


def _rules(program: BatchProgram) -> str:
    first = _words(program.waiting, "the highest priority", "the least", "the earliest arrival")
    victim = _words(program.victim, "the lowest priority", "the most", "the latest arrival")
    return (
        f"Engine: admitted first is the request with {first}, preempted first the one with {victim}; among equals "
        f"arrival decides. {_budget_words(program)}"
    )


_OPPOSITE = {"the least": "the most", "the most": "the least"}


def _words(order: Order, priority: str, which: str, arrival: str) -> str:
    """A sum that is all subtracted reads as the other end of what it adds up to."""
    turned = all(term.less for term in order.terms)
    signs = ["plus" if turned or not term.less else "minus" for term in order.terms]
    signed = " ".join(f"{sign} {_weighed(term)}" for sign, term in zip(signs, order.terms, strict=True))
    extreme = _OPPOSITE[which] if turned else which
    by = f"{extreme} of {signed.removeprefix('plus ')}" if signed else arrival
    return f"{priority}, then {by}" if order.priority_first else by


def _weighed(term: Term) -> str:
    words = BATCH_QUANTITIES[term.name].words
    return words if term.weight is None else f"{term.weight.value:g} times {words}"


def _budget_words(program: BatchProgram) -> str:
    values = {constant.kind: constant.value for constant in program.limits}
    share = f"at most {values.get('prefill_share', 1.0):g} of the tokens of a step"
    match program.budget:
        case "full":
            return "Prompts may take whole steps."
        case "share":
            return f"Prompts take {share}."
        case "share_when_busy":
            return f"While {values['busy_requests']:g} requests or more run, prompts take {share}."
        case "share_when_scarce":
            return f"While less than {values['scarce_share']:g} of the blocks are free, prompts take {share}."


def _key(side: str, order: Order, doc: str) -> str:
    lines, parts = [], ["-request.priority"] if order.priority_first else []
    sums = [BATCH_QUANTITIES[term.name] for term in order.terms if " + " in BATCH_QUANTITIES[term.name].code]
    lines += [f"{quantity.name} = {quantity.code}" for quantity in sums]
    codes = [_term(side, n, term) for n, term in enumerate(order.terms)]
    if len(codes) > 1:
        line = f"tokens = {' '.join(codes)}"
        lines += [line] if len(line) <= WIDTH - 8 else ["tokens = (", *(f"    {code}" for code in codes), ")"]
    parts += ["tokens"] if len(codes) > 1 else codes
    parts.append("request.arrival_time")
    returned = f"({', '.join(parts)})" if len(parts) > 1 else f"({parts[0]},)"
    return method(f"{side}_key(self, request: BatchRequest) -> tuple[float, ...]", [*lines, f"return {returned}"], doc)


def _term(side: str, n: int, term: Term) -> str:
    quantity = BATCH_QUANTITIES[term.name]
    code = quantity.name if " + " in quantity.code else quantity.code
    code = code if term.weight is None else f"self._{side}_{term.weight.kind} * {code}"
    if n == 0:
        return f"-{code}" if term.less else code
    return f"- {code}" if term.less else f"+ {code}"


def _prefill_budget(program: BatchProgram) -> str:
    most = "engine.max_num_batched_tokens"
    shared = f"return max(1, int(self._prefill_share * {most}))"
    unless = {
        "share_when_busy": "engine.num_running < self._busy_requests",
        "share_when_scarce": "engine.num_free_blocks >= self._scarce_share * engine.num_blocks",
    }.get(program.budget)
    body = [f"if {unless}:", f"    return {most}", shared] if unless else [shared]
    if program.budget == "full":
        body = [f"return {most}"]
    return method("prefill_budget(self, engine: BatchEngine) -> int", body, "Prompt tokens of the next step.")
