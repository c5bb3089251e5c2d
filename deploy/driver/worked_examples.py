"""Few-shot prompting: worked examples of a task in front of its prompts.

An example is a prompt, a good string, the stop, and a new line. Good strings are the demonstrations of task and recipe,
else strings of the task's list, drawn by their probability under the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from buffer.errors import ConfigError
from buffer.types import IntArray, Prompt
from deploy.driver.exact_draws import listed_draws
from deploy.driver.preflight import Checked
from lm.tokens import encode_behind, without_front


@dataclass(frozen=True, slots=True)
class _Example:
    prompt_id: str
    token_ids: IntArray
    weight: float


def behind_examples(checked: Checked, prompts: Sequence[Prompt], shots: int, seed: int) -> list[Prompt]:
    """The prompts, each behind `shots` examples, of other prompts where these have any.

    ConfigError where the task has neither demonstrations nor a list, or too few of them.
    """
    if not shots:
        return list(prompts)
    examples, rng = _examples(checked), np.random.default_rng(seed)
    if not examples:
        raise ConfigError(
            f"--shots {shots}: task {checked.config.task.name!r} has no demonstrations and lists no strings. Give "
            "demonstrations in the recipe, as task.demonstrations = FILE."
        )
    return [_behind(checked, prompt, examples, shots, rng) for prompt in prompts]


def _examples(checked: Checked) -> list[_Example]:
    behind = np.array([checked.spec.stop_token_id, *encode_behind(checked.tokenizer, "\n")], dtype=np.int32)
    if checked.demonstrations:
        return [
            _Example(d.prompt_id, np.concatenate([d.prompt_token_ids, d.token_ids, behind]), 1.0)
            for d in checked.demonstrations
        ]
    examples = []
    for prompt in checked.prompts:
        strings, weights = listed_draws(checked, prompt, 1.0) or ([], np.empty(0))
        examples += [
            _Example(prompt.id, np.concatenate([prompt.token_ids, string, behind]), float(weight))
            for string, weight in zip(strings, weights, strict=True)
        ]
    return examples


def _behind(
    checked: Checked, prompt: Prompt, examples: Sequence[_Example], shots: int, rng: np.random.Generator
) -> Prompt:
    others = [e for e in examples if e.prompt_id != prompt.id] or examples
    weights = np.array([e.weight for e in others])
    if shots > np.count_nonzero(weights):
        raise ConfigError(f"--shots {shots}: there are {np.count_nonzero(weights)} worked examples for {prompt.id!r}.")
    chosen = rng.choice(len(others), size=shots, replace=False, p=weights / weights.sum())
    first, *more = [*(others[k].token_ids for k in chosen), prompt.token_ids]
    parts = [first, *(without_front(checked.tokenizer, part) for part in more)]
    return replace(prompt, token_ids=np.concatenate(parts))
