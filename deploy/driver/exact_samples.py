"""Samples of a run, corrected until they follow the target: `tributary sample --exact`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from buffer.errors import ConfigError, RewardError
from buffer.types import AdapterFiles, Prompt, Trajectory
from deploy.driver.adapter_log_q import load_log_q
from deploy.driver.certificate import writable
from deploy.driver.preflight import Checked
from deploy.driver.samples import Samples
from rewards.judging.correction import Corrected, Method, metropolis, reject, resample
from rewards.task import Sample

PROPOSALS = 4
"""Draws of the policy for each requested sample."""


@dataclass(frozen=True, slots=True)
class Exact:
    """Corrected samples of some prompts."""

    samples: Samples
    corrections: Sequence[Corrected]
    """One per prompt."""
    tokens: int
    """Tokens of all proposals, the stop tokens included."""
    proposals: int

    def summary(self, method: Method) -> str:
        """Acceptance, effective sample size, bound and cost, in one sentence."""
        acceptance, ess, bound = (
            float(np.mean([getattr(c, name) for c in self.corrections])) for name in ("acceptance", "ess", "bound")
        )
        exact = "exact" if method == "rejection" else "exact only in the limit of many proposals"
        one = self.tokens / self.proposals
        cost = one / max(acceptance if method == "rejection" else ess, 1e-9)
        return (
            f"{method}, {exact}: {acceptance:.1%} accepted, effective sample size {ess:.1%} of {self.proposals:,} "
            f"proposals, log of the largest weight over their mean {bound:.2f} nats; {cost:.1f} tokens for an exact "
            f"sample, where one proposal takes {one:.1f}."
        )


def method_of(checked: Checked, name: str) -> Method:
    """The method with this name; "": rejection where the task lists its strings, so that a bound is known, else
    Metropolis-Hastings. ConfigError for one that does not exist or needs a list."""
    listed = bool(checked.task.support())
    methods: dict[str, Method] = {m: m for m in get_args(Method)}
    if not name:
        return "rejection" if listed else "metropolis"
    if name not in methods:
        raise ConfigError(f"--method {name} is not a method. Choose one of: {', '.join(methods)}.")
    if name == "rejection" and not listed:
        raise ConfigError(
            "--method rejection needs a bound of the weights, which is known only where the task lists its strings. "
            "Use metropolis or resampling."
        )
    return methods[name]


def correct(
    checked: Checked,
    files: AdapterFiles,
    prompts: Sequence[Prompt],
    proposals: Samples,
    n: int,
    method: Method,
    temperature: float,
    seed: int,
) -> Exact:
    """n samples of R^(1/T), T = `temperature`, for each prompt, of at least n scored proposals; fewer by rejection."""
    rng = np.random.default_rng(seed)
    largest = _largest_u(checked, files, prompts, temperature) if method == "rejection" else {}
    samples: dict[str, list[Sample]] = {}
    corrections = []
    for prompt in prompts:
        drawn = proposals[prompt.id]
        if not drawn:
            raise RewardError(f"no draw of prompt {prompt.id!r} could be scored, so there is nothing to correct.")
        u = np.array([s.log_reward / temperature - s.log_q for s in drawn])
        if method == "rejection":
            corrected = reject(u, max(largest[prompt.id], float(u.max())), rng)
        else:
            corrected = (metropolis if method == "metropolis" else resample)(u, min(n, len(u)), rng)
        corrections.append(corrected)
        samples[prompt.id] = [drawn[k] for k in corrected.chosen[:n]]
    tokens = sum(len(s.token_ids) + 1 for drawn in proposals.values() for s in drawn)
    return Exact(samples, corrections, tokens, sum(map(len, proposals.values())))


def _largest_u(
    checked: Checked, files: AdapterFiles, prompts: Sequence[Prompt], temperature: float
) -> Mapping[str, float]:
    """Prompt id -> maximum of u over the strings of the task's list, nats."""
    log_q, largest = load_log_q(checked, files), {}
    for prompt in prompts:
        listed = checked.task.support()[prompt.id]
        rows: list[Trajectory] = []
        log_r = []
        for token_ids, value in listed:
            if (row := writable(checked, prompt, token_ids.tobytes())) is not None:
                rows.append(row)
                log_r.append(value / temperature)
        largest[prompt.id] = float((np.array(log_r) - log_q(rows, False)).max())
    return largest
