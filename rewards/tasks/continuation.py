"""Next sentence: sample continuations by their likelihood, tempered (Hu et al., arXiv 2310.04363, section 4.1).

prompt   "The ferry to the outer islands leaves twice a day in summer and only once a week in winter."
string   " Tickets can be bought on board"    log R = log p_LM(Z "." | X) = −27.06 nats with SmolLM2-135M-Instruct
target   q(Z ⊤ | X) ∝ p_LM(Z ⊤ | X)^(1/T): T is the recipe's learner.reward_temperature_end, below 1 for likelier text

The prompt ends with its full stop and Z begins with a space, which belongs to its first word: with the space at the
prompt's end the same string, now without it, has −33.99 nats, and over prompts some 7 nats less.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from rewards.judging.bootstrap import Interval, bootstrap_mean
from rewards.judging.diversity import distinct_n, diversity
from rewards.task import TRAIN, BaseLogProbs, Figure, Sample, Task, Terms, Yardsticks
from rewards.tasks.text_files import choose, read_lines, refuse_repeats


class ContinueTask(Task):
    """R = p_LM(Z ⊤ | X) for prompts X of a text file; every string is possible, so there is no floor."""

    explanations: ClassVar[Mapping[str, str]] = {
        "log_likelihood": "nats, log p_LM(Z stop | X), mean over samples, then over prompts",
        "max_log_likelihood": "nats, of each prompt's likeliest sample; compare equal numbers of samples only",
        "log_likelihood_per_token": "nats a token, the stop token counted",
        "tokens": "of a sample, without the stop token",
        "diversity": "1 - mean cosine of two samples of a prompt, by sentence embeddings",
        "distinct_1": "different tokens as a share of all, of each prompt's samples together",
        "distinct_2": "different pairs of neighbouring tokens as a share of all, likewise",
        "distinct": "different strings as a share of each prompt's samples",
        "samples": "drawn",
    }

    def __init__(
        self, tokenizer: Tokenizer, prompts: str = "", first: int = 1, count: int = 0, held_out: int = 0
    ) -> None:
        """`prompts`: a UTF-8 text file, one X a line; "" is the shipped one. `count` lines from the `first` on (0: all
        of them), the last `held_out` of which are the split "test". ValueError for what can't be read or repeats."""
        lines = choose(read_lines(prompts), first, count, held_out)
        refuse_repeats([(line.number, line.text) for split in lines.values() for line in split], "text")
        self.splits = tuple(lines)
        self._tokenizer = tokenizer
        self._prompts = {
            split: [text_prompt(tokenizer, f"line-{line.number}", line.text) for line in chosen]
            for split, chosen in lines.items()
        }

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """The lines of a split, in the file's order; their ids are line-1, line-2, ..."""
        return of_split(self._prompts, split)

    def log_reward(self, prompt: Prompt, token_ids: IntArray, said: Sequence[BaseLogProbs]) -> Terms:
        """One term, `base` [T+1]: log p_LM(z ⊤ | X)."""
        return {"base": said[0].stopped}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], yardsticks: Yardsticks) -> Mapping[str, Figure]:
        """Figures of `explanations`, all but the last with an interval over prompts."""
        return {
            "log_likelihood": over_samples(samples, lambda sample: sample.terms["base"]),
            "max_log_likelihood": over_prompts(samples, lambda drawn: max(sample.terms["base"] for sample in drawn)),
            "log_likelihood_per_token": over_samples(samples, lambda s: s.terms["base"] / (len(s.token_ids) + 1)),
            **spread_figures(samples, lambda sample: text_of(self._tokenizer, sample.token_ids), yardsticks),
        }


def text_prompt(tokenizer: Tokenizer, name: str, text: str) -> Prompt:
    """A prompt of that text, with whatever special tokens the model wants in front."""
    return Prompt(name, text, np.array(tokenizer.encode(text).ids, dtype=np.int32))


def of_split(prompts: Mapping[str, Sequence[Prompt]], split: str) -> Sequence[Prompt]:
    """The prompts of a split. ValueError for a split that is not there."""
    if split not in prompts:
        raise ValueError(f"split {split!r} is not there, only {', '.join(prompts)}: held_out > 0 makes a split 'test'")
    return prompts[split]


def text_of(tokenizer: Tokenizer, token_ids: IntArray) -> str:
    """A response [T] as text, special tokens shown, without white space around it."""
    text: str = tokenizer.decode(token_ids.tolist(), skip_special_tokens=False)
    return text.strip()


def over_prompts(samples: Mapping[str, Sequence[Sample]], figure: Callable[[Sequence[Sample]], float]) -> Interval:
    """The mean over prompts of `figure` of each one's samples, with a bootstrap interval; NaN is left out."""
    return mean_of_means([[figure(drawn)] for drawn in samples.values() if drawn])


def over_samples(samples: Mapping[str, Sequence[Sample]], figure: Callable[[Sample], float]) -> Interval:
    """The mean of `figure` over the samples of each prompt, then over prompts, with a bootstrap interval."""
    return mean_of_means([[figure(sample) for sample in drawn] for drawn in samples.values()])


def mean_of_means(values: Sequence[Sequence[float]]) -> Interval:
    """Of one list a prompt: the bootstrap draws prompts, since samples of one prompt are not independent."""
    means = [float(np.mean(of_prompt)) for of_prompt in values if of_prompt]
    return bootstrap_mean([mean for mean in means if not math.isnan(mean)], np.random.default_rng(0))


def spread_figures(
    samples: Mapping[str, Sequence[Sample]], text: Callable[[Sample], str], yardsticks: Yardsticks
) -> dict[str, Figure]:
    """How different the samples of a prompt are, how long, and how many: what every task of free text is asked.

    `diversity` only where there is a model that embeds.
    """
    found: dict[str, Figure] = {"tokens": over_samples(samples, lambda sample: float(len(sample.token_ids)))}
    if embed := yardsticks.embed:
        found["diversity"] = over_prompts(samples, lambda drawn: diversity(embed([text(sample) for sample in drawn])))
    tokens = [[sample.token_ids.tolist() for sample in drawn] for drawn in samples.values()]
    found["distinct_1"] = mean_of_means([[distinct_n(of_prompt, 1)] for of_prompt in tokens])
    found["distinct_2"] = mean_of_means([[distinct_n(of_prompt, 2)] for of_prompt in tokens])
    found["distinct"] = over_prompts(samples, lambda drawn: len({s.token_ids.tobytes() for s in drawn}) / len(drawn))
    found["samples"] = float(sum(map(len, samples.values())))
    return found
