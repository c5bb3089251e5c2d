"""The certificate of a sampler for the prompts of an evaluation: two-sided bounds, calibration, coverage, a verdict.

Two log q are compared as well: that of the engine that drew the samples, and that of the learner's code for the same
strings. They are the same function, so a difference beyond the canary's tolerance means that other weights were served.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from buffer.tool import actions_of
from buffer.types import IntArray, Prompt, Trajectory, given_trajectory
from deploy.driver.adapter_log_q import LogQ
from deploy.driver.exact_draws import Accepted, exact_of_list, listed_draws
from deploy.driver.preflight import Checked
from deploy.driver.samples import Samples
from learner.config import CANARY_TOLERANCE
from rewards.judging import certificate, coverage
from rewards.judging.bootstrap import Interval
from rewards.judging.bound import Bound
from rewards.judging.calibration import Calibration, rank
from rewards.judging.certificate import Array, ExactDraws, Weighed, certificate_figures
from rewards.judging.coverage import Coverage, Evidence
from rewards.judging.verdict import Verdict, verdict_with_exact_draws, verdict_without_exact_draws, wrong_weights
from rewards.task import Figure

EXPLANATIONS: Mapping[str, str] = {
    **certificate.EXPLANATIONS,
    **coverage.EXPLANATIONS,
    "calibration": "P-value of the ranks of exact draws, by log R.",
    "calibration_length": "The same by length.",
    "engine_difference": "Mean |log q of engine - of learner|, nats a token.",
}
"""Every figure of a certificate, in its order."""
MAX_RECHECKED = 64
"""Samples of all prompts whose log q the learner's code computes again."""


@dataclass(frozen=True, slots=True)
class Strings:
    """The strings that an evaluation knows, prompt id -> strings with log R."""

    base: Samples
    """Draws of the base model, with its log q."""
    trained: Samples
    """Draws of the trained policy, with its log q."""
    exact: Accepted | None = None
    """Exact draws by rejection; None where the target has none, or lists its strings."""
    obstacle: str | None = None
    """The reason why there are no exact draws, in words."""
    others: Mapping[str, Sequence[tuple[IntArray, float]]] = field(default_factory=dict)
    """(token ids, log R) of demonstrations, hot draws and the buffer's best strings."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The result for one sampler."""

    verdict: Verdict
    figures: Mapping[str, Figure]
    source: str
    """Where exact draws come from and what they cost, or why there are none; one sentence."""
    calibration: Calibration | None = None
    """Ranks of log R."""

    def as_dict(self) -> dict[str, Any]:
        """In plain values, for evaluation.json."""
        intervals = {k: [f.low, f.high] for k, f in self.figures.items() if isinstance(f, Interval)}
        return {
            "verdict": self.verdict.kind,
            "text": self.verdict.text,
            "exact_draws": self.source,
            "figures": {k: f.value if isinstance(f, (Interval, Bound)) else f for k, f in self.figures.items()},
            "intervals": intervals,
            "rank_counts": self.calibration.counts if self.calibration else None,
            "rank_band": self.calibration.band if self.calibration else None,
        }


def certify(
    checked: Checked, prompts: Sequence[Prompt], strings: Strings, temperature: float, log_q: LogQ, base_model: bool
) -> Certificate:
    """The certificate of the trained policy, or of the base model, against R^(1/T), T = `temperature`."""
    drawn = strings.base if base_model else strings.trained
    judged = [prompt for prompt in prompts if len(drawn.get(prompt.id, ())) >= 2]
    of_prompts = [_PromptStrings.collect(checked, prompt, strings, drawn, temperature) for prompt in judged]
    unknown = [trajectory for of_prompt in of_prompts for trajectory in of_prompt.unknown]
    values = iter(log_q(unknown, base_model).tolist() if unknown else [])
    for of_prompt in of_prompts:
        of_prompt.fill([next(values) for _ in of_prompt.unknown])
    covered = [of_prompt.coverage(checked) for of_prompt in of_prompts]
    exact = [(p.drawn, p.exact) for p in of_prompts if p.exact is not None]
    figures: dict[str, Figure] = {}
    ranks = None
    if exact:
        two_sided = certificate_figures(exact)
        figures |= two_sided
        ranks = {name: _calibrate(of_prompts, name) for name in ("log_target", "length")}
        figures |= {
            "calibration": ranks["log_target"].p_value,
            "calibration_length": ranks["length"].p_value,
        }
        listed = all(e.listed for _, e in exact)
        verdict = verdict_with_exact_draws(two_sided, 0 if listed else sum(len(e.strings) for _, e in exact), covered)
    else:
        verdict = verdict_without_exact_draws(_kl_at_least(of_prompts), covered)
    figures |= _means(covered)
    figures["engine_difference"] = difference = _engine_difference(checked, judged, drawn, log_q, base_model)
    if difference > CANARY_TOLERANCE[checked.spec.dtype]:
        verdict = wrong_weights(difference)
    return Certificate(
        verdict, figures, _source(strings, exact, judged), ranks["log_target"] if ranks is not None else None
    )


@dataclass(slots=True)
class _PromptStrings:
    """All strings of one prompt; log q of those in `unknown` is filled in later."""

    drawn: Weighed
    lengths: Array
    """[K] tokens of the draws."""
    log_target: dict[bytes, float]
    """Token ids of each distinct string -> log R^(1/T)."""
    log_q: dict[bytes, float]
    unknown: list[Trajectory]
    base: Array
    exact_ids: list[bytes]
    exact_weights: Array
    listed: bool

    @classmethod
    def collect(
        cls, checked: Checked, prompt: Prompt, strings: Strings, drawn: Samples, temperature: float
    ) -> "_PromptStrings":
        """The strings of one prompt."""
        own = drawn[prompt.id]
        log_target, log_q = dict[bytes, float](), dict[bytes, float]()
        exact_of_prompt = strings.exact.draws.get(prompt.id, ()) if strings.exact else ()
        for s in (*strings.base.get(prompt.id, ()), *strings.trained.get(prompt.id, ()), *exact_of_prompt):
            log_target[s.token_ids.tobytes()] = s.log_reward / temperature
        for token_ids, log_r in strings.others.get(prompt.id, ()):
            log_target.setdefault(token_ids.tobytes(), log_r / temperature)
        exact_ids = [s.token_ids.tobytes() for s in exact_of_prompt]
        weights = np.full(len(exact_ids), 1.0 / max(len(exact_ids), 1))
        listed = listed_draws(checked, prompt, temperature)
        if listed is not None:
            support = {ids.tobytes(): log_r for ids, log_r in checked.task.support()[prompt.id]}
            log_target |= {key: log_r / temperature for key, log_r in support.items()}
            exact_ids, weights = [ids.tobytes() for ids in listed[0]], listed[1]
        log_q |= {s.token_ids.tobytes(): s.log_q for s in own}
        unknown = [t for key in log_target if key not in log_q if (t := writable(checked, prompt, key)) is not None]
        base = np.array([s.log_reward / temperature - s.log_q for s in strings.base.get(prompt.id, ())])
        log_rewards = np.array([s.log_reward for s in own])
        weighed = Weighed(log_rewards / temperature, np.array([s.log_q for s in own]))
        lengths = np.array([float(len(s.token_ids)) for s in own])
        return cls(weighed, lengths, log_target, log_q, unknown, base, exact_ids, weights, listed is not None)

    def fill(self, log_q: Sequence[float]) -> None:
        """log q of the strings in `unknown`, in their order; those that the policy can't write are forgotten."""
        self.log_q |= {t.token_ids.tobytes(): q for t, q in zip(self.unknown, log_q, strict=True)}
        self.log_target = {key: r for key, r in self.log_target.items() if key in self.log_q}

    @property
    def exact(self) -> ExactDraws | None:
        """Exact draws, weighed."""
        if not self.exact_ids:
            return None
        weighed = self._weighed(self.exact_ids)
        return exact_of_list(weighed, self.exact_weights) if self.listed else ExactDraws(weighed, self.exact_weights)

    def coverage(self, checked: Checked) -> Coverage:
        """Contrary evidence of other strings."""
        keys = list(self.log_target)
        names = _Names(checked, keys)
        return coverage.coverage(Evidence(self.drawn, self._weighed(keys), names, self.base))

    def statistics(self, name: str) -> tuple[list[float], Array]:
        """(of the exact draws, of the draws [K]): log R^(1/T), or the length."""
        if name == "length":
            return [float(len(np.frombuffer(key, dtype=np.int32))) for key in self.exact_ids], self.lengths
        return [self.log_target[key] for key in self.exact_ids], self.drawn.log_target

    def _weighed(self, keys: Sequence[bytes]) -> Weighed:
        return Weighed(np.array([self.log_target[k] for k in keys]), np.array([self.log_q[k] for k in keys]))


class _Names(Sequence[str]):
    """Strings as text, decoded on access."""

    def __init__(self, checked: Checked, keys: Sequence[bytes]) -> None:
        self._tokenizer, self._keys = checked.tokenizer, keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: Any) -> Any:
        ids = np.frombuffer(self._keys[index], dtype=np.int32)
        return self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)


def writable(checked: Checked, prompt: Prompt, key: bytes) -> Trajectory | None:
    """A string as a trajectory; None if the policy can't write it."""
    token_ids = np.frombuffer(key, dtype=np.int32)
    try:
        is_action = actions_of(token_ids, checked.task.tool)
    except ValueError:
        return None
    scored = np.zeros((1, len(token_ids) + 1), dtype=np.float32)
    trajectory = given_trajectory(prompt, token_ids, "given", scored, ("none",), is_action)
    return None if checked.stored_policy.problem(trajectory) else trajectory


def _calibrate(of_prompts: Sequence[_PromptStrings], name: str) -> Calibration:
    """Ranks of the exact draws; of a list, as many as it has strings are drawn."""
    rng, ranks = np.random.default_rng(0), []
    for of_prompt in of_prompts:
        of_exact, of_drawn = of_prompt.statistics(name)
        if of_prompt.listed:
            of_exact = [of_exact[k] for k in rng.choice(len(of_exact), size=len(of_exact), p=of_prompt.exact_weights)]
        ranks += [rank(value, of_drawn, rng) for value in of_exact]
    return Calibration(ranks)


def _kl_at_least(of_prompts: Iterable[_PromptStrings]) -> float:
    """Mean over prompts of log-mean-exp minus mean of u, nats: less than KL(q ‖ target) on average."""
    gaps = [float(certificate.log_mean_exp(p.drawn.u)) - float(p.drawn.u.mean()) for p in of_prompts]
    return float(np.mean(gaps)) if gaps else math.nan


def _means(covered: Sequence[Coverage]) -> dict[str, Figure]:
    """Means over the prompts that have a figure; NaN if none has."""
    figures: dict[str, Figure] = {}
    for name in coverage.EXPLANATIONS:
        values = [c.figures[name] for c in covered if math.isfinite(c.figures[name])]
        figures[name] = float(np.mean(values)) if values else math.nan
    return figures


def _engine_difference(
    checked: Checked, prompts: Sequence[Prompt], drawn: Samples, log_q: LogQ, base_model: bool
) -> float:
    """Mean absolute difference of log q between engine and learner over some samples, nats a token."""
    pairs = [(prompt, s) for prompt in prompts for s in drawn[prompt.id]]
    chosen = [pairs[k] for k in np.random.default_rng(0).permutation(len(pairs))[:MAX_RECHECKED]]
    rows = [(t, s) for prompt, s in chosen if (t := writable(checked, prompt, s.token_ids.tobytes())) is not None]
    if not rows:
        return math.nan
    again = log_q([t for t, _ in rows], base_model)
    return float(np.mean([abs(q - s.log_q) / (len(s.token_ids) + 1) for q, (_, s) in zip(again, rows, strict=True)]))


def _source(strings: Strings, exact: Sequence[tuple[Weighed, ExactDraws]], judged: Sequence[Prompt]) -> str:
    if not exact:
        return f"No exact draws: {strings.obstacle or 'no draw of the base model was accepted'}."
    if strings.exact is None:
        number = sum(len(e.strings) for _, e in exact)
        return f"Exact: the task lists all {number:,} strings of the target."
    accepted = strings.exact
    return (
        f"Exact draws: {accepted.number:,} of {accepted.tries:,} draws of the base model were accepted "
        f"({accepted.number / accepted.tries:.2%}), for {len(exact):,} of {len(judged):,} prompts; "
        f"{accepted.tokens / max(accepted.number, 1):,.0f} tokens each."
    )
