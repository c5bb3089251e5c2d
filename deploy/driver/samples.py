"""Samples of a run's models outside of Ray: choose prompts, draw responses from an engine, score them, print them."""

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from actors.behaviour import Behaviour
from actors.engine import Engine
from actors.rollout import ON_POLICY, sample
from actors.segments import Sampled
from buffer.errors import ConfigError
from buffer.types import AdapterFiles, AdapterVersion, Prompt
from deploy.cluster.scratch_folder import ScratchFolder
from deploy.driver.preflight import Checked
from deploy.driver.reporting_engine import ReportingEngine
from rewards.load_scorer import load_scorer
from rewards.scorer import Score, Scorer, sample_terms
from rewards.task import TRAIN, Sample

T = TypeVar("T")
Drawn = Mapping[str, Sequence[Sampled]]
"""Prompt id -> responses that an engine drew."""
Samples = Mapping[str, Sequence[Sample]]
"""Prompt id -> responses with log R."""


def judged_prompts(checked: Checked, split: str = TRAIN, limit: int | None = None) -> list[Prompt]:
    """At most `limit` prompts of a split (default: evaluation.prompts; 0: all), evenly spaced.

    ConfigError for a split that the task does not have.
    """
    if split not in checked.task.splits:
        raise ConfigError(
            f"--split {split} is not a split of task {checked.config.task.name!r}. Choose one of: "
            f"{', '.join(checked.task.splits)}; tributary evaluate also takes simulated."
        )
    prompts = list(checked.task.prompts(split))
    n = (checked.config.evaluation.prompts if limit is None else limit) or len(prompts)
    return prompts if n >= len(prompts) else [prompts[k * len(prompts) // n] for k in range(n)]


def samples_a_prompt(checked: Checked, wanted: int | None) -> int:
    """The number of samples of each prompt: `wanted`, or the recipe's. ConfigError where the recipe has none."""
    number = wanted or checked.config.evaluation.samples
    if not number:
        raise ConfigError("the recipe has evaluation.samples = 0: give --samples N, such as 200.")
    return number


def named_prompts(checked: Checked, split: str, ids: Sequence[str]) -> list[Prompt]:
    """The prompts of a split with these ids, in this order. ConfigError for an unknown id."""
    by_id = {prompt.id: prompt for prompt in judged_prompts(checked, split, limit=0)}
    if unknown := [name for name in ids if name not in by_id]:
        shown = ", ".join(list(by_id)[:10]) + (f", ... ({len(by_id):,} in all)" if len(by_id) > 10 else "")
        raise ConfigError(f"--prompt {unknown[0]} is not a prompt of split {split!r}. Choose from: {shown}.")
    return [by_id[name] for name in ids]


def with_engine(checked: Checked, seed: int, use: Callable[[Engine], T], say: Callable[[str], None]) -> T:
    """The result of `use`, called with an engine of the recipe that is freed afterwards. `say` tells how far it is."""
    with ScratchFolder() as scratch:
        engine = ReportingEngine(checked, scratch.path, seed, say)
        engine.set_threads(checked.config.evaluation.cores)
        result = use(engine)
        del engine
    gc.collect()  # whoever comes next needs its memory
    return result


def draw(
    checked: Checked,
    prompts: Sequence[Prompt],
    adapter: tuple[AdapterVersion, AdapterFiles],
    n: int,
    base_too: bool,
    seed: int,
    say: Callable[[str], None],
    behaviour: Behaviour = ON_POLICY,
) -> list[Drawn]:
    """n responses of each prompt, from one engine: from the base model (if `base_too`), then the adapter.

    Checks the adapter's digest and canary first (AdapterError). The engine is freed before it returns.
    `say` tells how far it is.
    """

    def use(engine: Engine) -> list[Drawn]:
        engine.serve(*adapter)
        return [
            sample(engine, prompts, n, use_base, behaviour) for use_base in ([True, False] if base_too else [False])
        ]

    return with_engine(checked, seed, use, say)


def scorer_of(checked: Checked) -> Scorer:
    """A scorer of the recipe's task; loads the frozen base model if the task needs it."""
    config, base = checked.config, None
    if checked.task.needs_base_model:
        base = load_scorer(checked.spec, config.rewards, config.actors.max_model_len, config.actors.kv_cache_gib)
    return Scorer(checked.task, base, config.rewards)


def score_samples(
    checked: Checked, prompts: Sequence[Prompt], drawn: Sequence[Drawn], scorer: Scorer | None = None
) -> list[Samples]:
    """The responses of `draw` with log R; those that can't be scored are omitted."""
    scorer = scorer or scorer_of(checked)
    return [
        {prompt.id: score_prompt(checked, scorer, prompt, of_model[prompt.id]) for prompt in prompts}
        for of_model in drawn
    ]


def score_prompt(checked: Checked, scorer: Scorer, prompt: Prompt, drawn: Sequence[Sampled]) -> list[Sample]:
    """Responses to one prompt with log R; those that can't be scored are omitted."""
    return [sample for sample in score_each(checked, scorer, [prompt] * len(drawn), drawn) if sample is not None]


def score_each(
    checked: Checked, scorer: Scorer, prompts: Sequence[Prompt], drawn: Sequence[Sampled]
) -> list[Sample | None]:
    """Each response, to its prompt, with log R; None for one that can't be scored."""
    scores = scorer.score(prompts, [sampled.token_ids for sampled in drawn], whole_strings=True)
    return [
        Sample(sampled.token_ids, sampled.log_q, *sample_terms(score, checked.config.rewards.term_weights))
        if isinstance(score, Score)
        else None
        for sampled, score in zip(drawn, scores, strict=True)
    ]


def sample_rows(checked: Checked, samples: Samples) -> Iterator[dict[str, Any]]:
    """Each sample in plain values: prompt (its id), text, log_q, log_reward, terms; nats."""
    for prompt_id, prompt_samples in samples.items():
        for s in prompt_samples:
            yield {
                "prompt": prompt_id,
                "text": checked.tokenizer.decode(s.token_ids.tolist(), skip_special_tokens=False),
                "log_q": s.log_q,
                "log_reward": s.log_reward,
                "terms": dict(s.terms),
            }


def sample_lines(checked: Checked, samples: Samples) -> Iterator[str]:
    """`sample_rows` as JSON objects in ASCII."""
    return (json.dumps(row) for row in sample_rows(checked, samples))
