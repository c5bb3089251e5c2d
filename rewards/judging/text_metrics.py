"""Figures of free text: means over samples, then over prompts, and the metrics that all text tasks share."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rewards.judging.bootstrap import Interval, bootstrap_mean
from rewards.judging.diversity import distinct_n, diversity
from rewards.task import Figure, Judges, Sample

TEXT_EXPLANATIONS: Mapping[str, str] = {
    "tokens": "Mean number of tokens of a sample, without the stop token.",
    "diversity": "1 - mean cosine similarity of two samples of a prompt, by sentence embeddings.",
    "distinct_1": "Different tokens as a share of all tokens of a prompt's samples.",
    "distinct_2": "Different pairs of neighbouring tokens as a share of all pairs of a prompt's samples.",
    "distinct": "Different strings as a share of a prompt's samples.",
    "samples": "Number of samples.",
}
"""Explanations of `text_figures`."""


def mean_over_prompts(samples: Mapping[str, Sequence[Sample]], metric: Callable[[Sequence[Sample]], float]) -> Interval:
    """The mean over prompts of `metric` of each prompt's samples, with a bootstrap interval; NaN values are omitted."""
    return mean_of_means([[metric(of_prompt)] for of_prompt in samples.values() if of_prompt])


def mean_over_samples(samples: Mapping[str, Sequence[Sample]], metric: Callable[[Sample], float]) -> Interval:
    """The mean of `metric` over the samples of each prompt, then over prompts, with a bootstrap interval."""
    return mean_of_means([[metric(sample) for sample in of_prompt] for of_prompt in samples.values()])


def mean_of_means(values: Sequence[Sequence[float]]) -> Interval:
    """The mean of the means of one list per prompt. The bootstrap resamples prompts, because samples of one prompt are
    not independent."""
    means = [float(np.mean(of_prompt)) for of_prompt in values if of_prompt]
    return bootstrap_mean([mean for mean in means if not math.isnan(mean)], np.random.default_rng(0))


def text_figures(
    samples: Mapping[str, Sequence[Sample]], text: Callable[[Sample], str], judges: Judges
) -> dict[str, Figure]:
    """Length, diversity and number of samples (`TEXT_EXPLANATIONS`). `diversity` is omitted without `judges.embed`."""
    figures: dict[str, Figure] = {"tokens": mean_over_samples(samples, lambda sample: float(len(sample.token_ids)))}
    if embed := judges.embed:
        figures["diversity"] = mean_over_prompts(samples, lambda drawn: diversity(embed([text(s) for s in drawn])))
    tokens = [[sample.token_ids.tolist() for sample in drawn] for drawn in samples.values()]
    figures["distinct_1"] = mean_of_means([[distinct_n(of_prompt, 1)] for of_prompt in tokens])
    figures["distinct_2"] = mean_of_means([[distinct_n(of_prompt, 2)] for of_prompt in tokens])
    figures["distinct"] = mean_over_prompts(
        samples, lambda drawn: len({sample.token_ids.tobytes() for sample in drawn}) / len(drawn)
    )
    figures["samples"] = float(sum(map(len, samples.values())))
    return figures
