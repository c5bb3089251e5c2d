"""Figures of a task's samples: means over samples, then over prompts, and what every task of free text is asked."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rewards.judging.bootstrap import Interval, bootstrap_mean
from rewards.judging.diversity import distinct_n, diversity
from rewards.task import Figure, Judges, Sample


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
    samples: Mapping[str, Sequence[Sample]], text: Callable[[Sample], str], judges: Judges
) -> dict[str, Figure]:
    """How different the samples of a prompt are, how long, and how many: what every task of free text is asked.

    `diversity` only where there is a model that embeds.
    """
    found: dict[str, Figure] = {"tokens": over_samples(samples, lambda sample: float(len(sample.token_ids)))}
    if embed := judges.embed:
        found["diversity"] = over_prompts(samples, lambda drawn: diversity(embed([text(sample) for sample in drawn])))
    tokens = [[sample.token_ids.tolist() for sample in drawn] for drawn in samples.values()]
    found["distinct_1"] = mean_of_means([[distinct_n(of_prompt, 1)] for of_prompt in tokens])
    found["distinct_2"] = mean_of_means([[distinct_n(of_prompt, 2)] for of_prompt in tokens])
    found["distinct"] = over_prompts(samples, lambda drawn: len({s.token_ids.tobytes() for s in drawn}) / len(drawn))
    found["samples"] = float(sum(map(len, samples.values())))
    return found
