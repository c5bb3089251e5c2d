"""Exact draws of a run's target: from the task's list, or accepted draws of the frozen base model.

Where R(Z ⊤) <= p(Z ⊤) for all strings, p their probability under the base model and the policy's limits, a draw of p
that is accepted with probability R / p is an exact draw of the target (von Neumann's rejection). The engine draws from
p behind the context that `Task.prior` gives, the scorer computes R. Masks, lengths and tools need no code of their own.

The split "simulated" holds prompts that come with an exact draw. If the task's target Y is a text, the base model
writes both: Z behind the context X, then Y behind Z; Z is an exact draw of p(Z | X, Y). Otherwise the prompts are those
of training whose draw was accepted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from actors.engine_protocol import SamplingEngine
from actors.rollout import sample
from actors.segments import Sampled
from buffer.errors import ConfigError, RewardError
from buffer.types import IntArray, Prompt
from deploy.driver.preflight import Checked
from deploy.driver.samples import score_each, score_prompt
from rewards.judging.certificate import ExactDraws, Weighed
from rewards.scorer import Scorer
from rewards.task import TRAIN, Sample, Task

SIMULATED = "simulated"
"""Name of the split of prompts that come with an exact draw."""
SLACK = {"float32": 0.05, "float16": 0.5, "bfloat16": 1.0}
"""Nats by which log R may exceed log p: engine and scorer compute p in this precision."""
MAX_ROUNDS = 20
"""Draws of each prompt, on average, after which a simulated split ends incomplete."""
CHUNK = 64
"""Prompts drawn and scored together."""
MAX_LISTED = 2000
"""Strings drawn of a list that has so many or more; a shorter one is used whole."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Exact draws by rejection, and their cost."""

    draws: Mapping[str, Sequence[Sample]]
    """Prompt id -> accepted draws; `log_q` is the base model's."""
    tries: int
    tokens: int
    """Tokens of all responses Z that were tried, the stop tokens included."""

    @property
    def number(self) -> int:
        """Accepted draws of all prompts."""
        return sum(map(len, self.draws.values()))


def obstacle(checked: Checked, temperature: float) -> str | None:
    """The reason why there are no exact draws of R^(1/T), T = `temperature`, in words; None if there may be."""
    rewards, task = checked.config.rewards, checked.task
    if task.support():
        return None
    if any(task.prior(prompt) is None for prompt in checked.prompts):
        return "the task names no context whose draws dominate the reward (Task.prior)"
    if temperature > 1.0:
        return f"the target is tempered, T = {temperature:.3g}"
    if rewards.adapter is not None:
        return "rewards.adapter makes the reward's model another one than the engine's"
    if any(weight < 1.0 for name, weight in rewards.weights.items() if name not in task.largest_terms):
        return "rewards.weights lowers a term"
    if rewards.beta > 1.0 and not task.largest_terms:
        return "rewards.beta lowers a term"
    if rewards.length_penalty < 0.0 or any(weight < 0.0 for weight in rewards.weights.values()):
        return "rewards.length_penalty or a weight is negative"
    return None


def listed_draws(checked: Checked, prompt: Prompt, temperature: float) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Strings of the task's list and their probabilities under R^(1/T); None if the task lists none for a prompt."""
    listed = checked.task.support().get(prompt.id)
    if not listed:
        return None
    log_p = np.array([log_r for _, log_r in listed]) / temperature
    p = np.exp(log_p - np.logaddexp.reduce(log_p))
    if len(p) < MAX_LISTED:
        return [token_ids for token_ids, _ in listed], p
    chosen = np.random.default_rng(0).choice(len(p), size=MAX_LISTED, p=p)
    return [listed[k][0] for k in chosen], np.full(MAX_LISTED, 1.0 / MAX_LISTED)


def accepted_draws(
    checked: Checked,
    engine: SamplingEngine,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    tries: int,
    temperature: float,
    seed: int,
) -> Accepted:
    """Draw `tries` strings of the base model for each prompt and accept exact draws of R^(1/T)."""
    rng, draws, tokens = np.random.default_rng(seed), dict[str, list[Sample]](), 0
    for prompt, drawn in zip(prompts, _draw_prior(checked.task, engine, prompts, tries), strict=True):
        tokens += _tokens(drawn)
        scored = score_prompt(checked, scorer, prompt, drawn)
        draws[prompt.id] = [s for s in scored if accept(checked, s, temperature, rng)]
    return Accepted(draws, tries * len(prompts), tokens)


def simulate(
    checked: Checked,
    engine: SamplingEngine,
    scorer: Scorer,
    wanted: int,
    temperature: float,
    seed: int,
    say: Callable[[str], None],
) -> tuple[list[Prompt], Accepted]:
    """Up to `wanted` prompts of the split "simulated", each with one exact draw. ConfigError if none was accepted.
    `say` tells how far it is."""
    rng, tokens, tries = np.random.default_rng(seed), 0, 0
    pool = list(checked.task.prompts(TRAIN))
    accepted_pairs: dict[str, tuple[Prompt, Sample]] = {}
    queue: list[Prompt] = []
    while len(accepted_pairs) < wanted and tries < MAX_ROUNDS * max(len(pool), wanted):
        if not queue:
            left = [prompt for prompt in pool if prompt.id not in accepted_pairs]
            queue = [left[k] for k in rng.permutation(len(left))]
        chosen, queue = queue[:CHUNK], queue[CHUNK:]
        if not chosen:
            break  # every prompt has its draw
        drawn = [of_prompt[0] for of_prompt in _draw_prior(checked.task, engine, chosen, 1)]
        tries, tokens = tries + len(chosen), tokens + _tokens(drawn)
        if writes_targets(checked.task):
            chosen, drawn = _write_targets(checked, engine, chosen, drawn, tries)
        for prompt, scored in zip(chosen, score_each(checked, scorer, chosen, drawn), strict=True):
            if scored is not None and accept(checked, scored, temperature, rng):
                accepted_pairs[prompt.id] = prompt, scored
        say(f"{min(len(accepted_pairs), wanted):,} of {wanted:,} prompts have an exact draw, after {tries:,} draws")
    if not accepted_pairs:
        cause = "its strings have little reward"
        if temperature < 1.0:
            cause = f"the target is R^(1/T) at T = {temperature:g}, and a base model draws R itself at best"
        raise ConfigError(
            f"--split {SIMULATED}: none of {tries:,} draws of the base model was accepted as an exact draw of the "
            f"target, because {cause}. Use another split"
            + (", or train with learner.reward_temperature_end = 1." if temperature < 1.0 else ".")
        )
    kept = list(accepted_pairs.values())[:wanted]
    return [prompt for prompt, _ in kept], Accepted({prompt.id: [draw] for prompt, draw in kept}, tries, tokens)


def writes_targets(task: Task) -> bool:
    """True if the base model may write a target Y of its own."""
    return type(task).simulated is not Task.simulated


def exact_of_list(strings: Weighed, probabilities: np.ndarray) -> ExactDraws:
    """A whole list, or draws of a long one."""
    return ExactDraws(strings, probabilities, listed=len(strings) < MAX_LISTED)


def _draw_prior(task: Task, engine: SamplingEngine, prompts: Sequence[Prompt], n: int) -> list[Sequence[Sampled]]:
    """n draws of the base model behind the prior's context of each prompt."""
    contexts = [replace(prompt, token_ids=context_of(task, prompt)) for prompt in prompts]
    drawn = sample(engine, contexts, n, use_base_model=True)
    return [drawn[prompt.id] for prompt in prompts]


def _write_targets(
    checked: Checked, engine: SamplingEngine, prompts: Sequence[Prompt], drawn: Sequence[Sampled], number: int
) -> tuple[list[Prompt], list[Sampled]]:
    """Let the base model write a target behind each response: the new prompts, numbered from `number` down, and the
    responses with log p of response and target together."""
    stop = np.array([checked.spec.stop_token_id], dtype=np.int32)
    behind = [
        replace(
            prompt, token_ids=np.concatenate([context_of(checked.task, prompt), s.token_ids, stop]).astype(np.int32)
        )
        for prompt, s in zip(prompts, drawn, strict=True)
    ]
    texts = sample(engine, behind, 1, use_base_model=True)
    written = []
    for k, (prompt, response) in enumerate(zip(prompts, drawn, strict=True)):
        [text] = texts[prompt.id]
        target = np.concatenate([stop, text.token_ids, stop]).astype(np.int32)
        simulated = checked.task.simulated(prompt, number - k, response.token_ids, target)
        if simulated is not None:
            log_pterm = response.log_pterm.copy()
            log_pterm[-1] += text.log_q
            written.append((simulated, replace(response, log_pterm=log_pterm)))
    return [prompt for prompt, _ in written], [response for _, response in written]


def context_of(task: Task, prompt: Prompt) -> IntArray:
    """[C] the prior's context of a prompt that has one."""
    context = task.prior(prompt)
    assert context is not None
    return context


def accept(checked: Checked, drawn: Sample, temperature: float, rng: np.random.Generator) -> bool:
    """True with probability R^(1/T) / p. RewardError if the bound does not hold."""
    weights, largest = checked.config.rewards.term_weights, checked.task.largest_terms
    log_bound = sum(max(weights[name], 0.0) * value for name, value in largest.items())
    excess = (drawn.log_reward - log_bound) / temperature - drawn.log_q
    if excess > SLACK[checked.spec.dtype]:
        raise RewardError(
            f"task {checked.config.task.name!r}: a string has log R = {drawn.log_reward:.3f} and log p = "
            f"{drawn.log_q:.3f} under the base model, but `prior` promises that R is at most p. Return None there."
        )
    return math.log(1.0 - rng.random()) < excess


def _tokens(drawn: Sequence[Sampled]) -> int:
    return sum(len(s.token_ids) + 1 for s in drawn)
