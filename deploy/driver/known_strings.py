"""The strings that a certificate rests on: draws of base model and policy, exact draws, all others."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from actors.behaviour import Behaviour
from actors.engine_protocol import SamplingEngine
from actors.rollout import sample
from buffer.errors import RewardError
from buffer.types import AdapterFiles, AdapterVersion, IntArray, Prompt
from deploy.artifacts.best_strings import read_best_strings
from deploy.artifacts.run_folder import RunFolder
from deploy.driver.certificate import Strings
from deploy.driver.exact_draws import Accepted, accept, accepted_draws, context_of, obstacle, simulate
from deploy.driver.preflight import Checked
from deploy.driver.samples import Samples, score_prompt, scorer_of, with_engine
from rewards.scorer import Score, Scorer, sample_terms

HOT = Behaviour("hot", 2.0, suppress_stop=False)
MAX_HOT = 64
"""Draws of each prompt at temperature 2: they reach strings that the policy hardly draws."""
Others = dict[str, list[tuple[IntArray, float]]]
"""Prompt id -> (token ids [T], log R [nats])."""


class Collected(NamedTuple):
    """The prompts of an evaluation and their strings."""

    prompts: Sequence[Prompt]
    strings: Strings


def collect(
    checked: Checked,
    folder: RunFolder,
    adapter: tuple[AdapterVersion, AdapterFiles],
    prompts: Sequence[Prompt] | int,
    n: int,
    tries: int,
    temperature: float,
    seed: int,
    say: Callable[[str], None],
) -> Collected:
    """Draw and score n strings of each prompt from the base model and from the adapter, and all that a certificate
    against R^(1/T), T = `temperature`, needs in addition.

    `prompts` may be the number of prompts to simulate. `tries` of the base model are made for exact draws of each given
    prompt. Checks the adapter's digest and canary first (AdapterError). `say` tells how far it is.
    """

    def use(engine: SamplingEngine) -> Collected:
        engine.serve(*adapter)
        scorer = scorer_of(checked)
        problem = obstacle(checked, temperature)
        chosen, exact = prompts, None
        if isinstance(chosen, int):
            chosen, exact = simulate(checked, engine, scorer, chosen, temperature, seed, say)
        elif problem is None and not checked.task.support():
            try:
                exact = accepted_draws(checked, engine, scorer, chosen, tries, temperature, seed)
            except RewardError as error:
                problem = str(error)
        base, trained, hot = (
            {p.id: score_prompt(checked, scorer, p, drawn[p.id]) for p in chosen}
            for drawn in (
                sample(engine, chosen, n, use_base_model=True),
                sample(engine, chosen, n, use_base_model=False),
                sample(engine, chosen, min(n, MAX_HOT), use_base_model=False, behaviour=HOT),
            )
        )
        others = _others(checked, folder, chosen, scorer)
        for prompt_id, drawn in hot.items():
            others[prompt_id] += [(s.token_ids, s.log_reward) for s in drawn]
        return Collected(chosen, Strings(base, trained, exact, problem, others))

    return with_engine(checked, seed, use, say)


def strings_of_run(checked: Checked, folder: RunFolder, base: Samples, trained: Samples, temperature: float) -> Strings:
    """The strings at the end of a run, without an engine: the samples of both evaluations and the best strings."""
    prompts = [prompt for prompt in checked.prompts if prompt.id in trained]
    problem, exact, rng = obstacle(checked, temperature), None, np.random.default_rng(0)
    if problem is None and not checked.task.support():
        if all(np.array_equal(context_of(checked.task, prompt), prompt.token_ids) for prompt in prompts):
            tokens = sum(len(s.token_ids) + 1 for drawn in base.values() for s in drawn)
            try:
                draws = {k: [s for s in drawn if accept(checked, s, temperature, rng)] for k, drawn in base.items()}
                exact = Accepted(draws, sum(map(len, base.values())), tokens)
            except RewardError as error:
                problem = str(error)
        else:
            problem = f"they need another prompt; see tributary evaluate --run {folder.path}"
    return Strings(base, trained, exact, problem, _others(checked, folder, prompts, None))


def _others(checked: Checked, folder: RunFolder, prompts: Sequence[Prompt], scorer: Scorer | None) -> Others:
    """The best strings of the run's buffer and, given a scorer, the demonstrations."""
    others: Others = {prompt.id: [] for prompt in prompts}
    for prompt_id, token_ids, log_r in read_best_strings(folder.path):
        if prompt_id in others:
            others[prompt_id].append((token_ids, log_r))
    by_id = {prompt.id: prompt for prompt in prompts}
    shown = [d for d in checked.demonstrations if d.prompt_id in by_id] if scorer else []
    if scorer and shown:
        of_shown = [by_id[d.prompt_id] for d in shown]
        scores = scorer.score(of_shown, [d.token_ids for d in shown], whole_strings=True)
        for demonstration, score in zip(shown, scores, strict=True):
            if isinstance(score, Score):
                log_r = sample_terms(score, checked.config.rewards.term_weights)[0]
                others[demonstration.prompt_id].append((demonstration.token_ids, log_r))
    return others
