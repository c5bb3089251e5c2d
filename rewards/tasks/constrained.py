"""Text under a constraint c: samples p_LM(Z ⊤ | X) · c(Z), which is the model's own distribution given that c holds.

prompt   "The weather forecast for tomorrow says", stop "."; words ["rain", "snow"], match "any"; log ε = −10
string   " it will rain all day"          log R = −14.41        log p_LM(Z ⊤ | X) with SmolLM2-135M-Instruct
string   " it will be sunny all day"      log R = −16.13 − 10

c is one of rewards/constraints: keywords, a regular expression, a JSON schema, a Python function or a classifier.

hard   log R = log p_LM(Z ⊤ | X) + max(log c(Z), log ε). All strings that fail c have at most the mass ε together. Those
       that meet it have the mass P, the probability that the base model meets c by itself. At the optimum at least the
       share P / (P + ε) of samples meets c, so ε must be far below P; `satisfied` of the base model estimates P.
soft   the same with −penalty in place of log ε: a string may fail c if its text is likely enough.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from buffer.types import FloatArray, IntArray, Prompt
from rewards.constraints import CONSTRAINTS
from rewards.constraints.settings import SATISFIED_LOG_C, prefix_texts, read_table
from rewards.judging.binomial import binomial_share
from rewards.judging.bootstrap import Interval
from rewards.judging.text_metrics import TEXT_EXPLANATIONS, mean_of_means, text_figures
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, ScoreRequest, Task, Terms
from rewards.tasks.text import decode_text, make_text_prompt, prompts_of_split

SATISFIED = "_satisfied"
"""Name of the note that is 1 where c is at least 1/2, else 0."""


class ConstrainedTask(Task):
    """R = p_LM · c. Terms: `base` and `constraint`."""

    explanations: ClassVar[Mapping[str, str]] = {
        "satisfied": "Share of samples that meet the constraint.",
        "log_likelihood": "Mean log p_LM(Z stop | X) of the samples that meet the constraint, in nats.",
        "distinct_satisfying": "Mean number of different strings of a prompt that meet the constraint.",
        **TEXT_EXPLANATIONS,
    }

    def __init__(
        self,
        tokenizer: Tokenizer,
        constraint: Mapping[str, object],
        prompts: Sequence[str],
        held_out: Sequence[str] = (),
        log_epsilon: float = -10.0,
        penalty: float | None = None,
        stop_text: str = "",
        masked: bool = False,
    ) -> None:
        """`constraint`: a table whose `kind` is one of CONSTRAINTS. `held_out`: prompts of the split "test".

        With `penalty` (nats, > 0) the constraint is soft. Without it, it is hard, and `log_epsilon` (nats, < 0) bounds
        the log mass of all strings that fail. `stop_text` is the text of the stop token, appended to the text that c
        reads. `masked`: renormalise p_LM over the policy's allowed tokens. Raise ValueError for options that don't fit.
        """
        self._floor = constraint_floor(log_epsilon, penalty)
        self._soft = penalty is not None
        self._constraint = read_table(CONSTRAINTS, constraint, "constraint").build()
        self._tokenizer = tokenizer
        self._stop_text = stop_text
        self._masked = masked
        texts = {TRAIN: list(prompts)} | ({"test": list(held_out)} if held_out else {})
        self.splits = tuple(texts)
        _check_prompts(texts)
        self._prompts = {
            split: [make_text_prompt(tokenizer, f"{split}-{k}", text) for k, text in enumerate(of_split, start=1)]
            for split, of_split in texts.items()
        }

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """The recipe's texts, in order, with ids train-1, train-2, ..., test-1, ..."""
        return prompts_of_split(self._prompts, split)

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        """Z after the prompt."""
        return [ScoreRequest(prompt.token_ids, masked=self._masked)]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """`base` [T+1]: log p_LM(z ⊤ | X); `constraint` [T+1]: log c of the text of z, at least the floor."""
        log_c = self._constraint(prefix_texts(self._tokenizer, token_ids, self._stop_text))
        return {
            "base": base_scores[0].log_p_stop,
            "constraint": np.maximum(log_c, self._floor),
            SATISFIED: satisfied(log_c),
        }

    def prior(self, prompt: Prompt) -> IntArray:
        """The prompt: c is at most 1, so that no string has more reward than probability."""
        return prompt.token_ids

    def labels(self, prompt: Prompt, token_ids: IntArray) -> Mapping[str, float]:
        """satisfied: 1 if the whole string meets the constraint."""
        text = self._tokenizer.decode(token_ids.tolist(), skip_special_tokens=False) + self._stop_text
        return {"satisfied": float(satisfied(self._constraint([text]))[0])}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures as in `explanations`; all but the last have an interval over prompts."""
        satisfying = {name: [s for s in drawn if s.terms[SATISFIED]] for name, drawn in samples.items()}
        return {
            "satisfied": satisfied_share(samples, SATISFIED),
            "log_likelihood": mean_of_means([[s.terms["base"] for s in drawn] for drawn in satisfying.values()]),
            "distinct_satisfying": mean_of_means(
                [[float(len({s.token_ids.tobytes() for s in drawn}))] for drawn in satisfying.values()]
            ),
            **text_figures(samples, lambda sample: decode_text(self._tokenizer, sample.token_ids), judges),
        }

    def log_mass(self) -> tuple[float, float]:
        """The mass of the strings that meet c is not known; under a hard c the others have at most the mass ε."""
        return math.nan, math.nan if self._soft else self._floor


def constraint_floor(log_epsilon: float, penalty: float | None) -> float:
    """Smallest value of a constraint's term, nats: −penalty if given, else log ε. Raise ValueError unless below 0."""
    if penalty is not None and not penalty > 0:
        raise ValueError(
            f"penalty = {penalty} must be above 0: it is subtracted from log R, in nats, where the constraint fails"
        )
    if not log_epsilon < 0:
        raise ValueError(f"log_epsilon = {log_epsilon} must be below 0: the log of the mass of failing strings")
    return log_epsilon if penalty is None else -penalty


def satisfied(log_c: NDArray[np.float64]) -> FloatArray:
    """[K] 1 where c is at least 1/2, else 0."""
    return np.asarray(log_c >= SATISFIED_LOG_C, dtype=np.float32)


def satisfied_share(samples: Mapping[str, Sequence[Sample]], note: str) -> Interval:
    """Mean over prompts of the share of samples whose `note` is 1, with an exact interval where there is one prompt."""
    notes = [[s.terms[note] for s in drawn] for drawn in samples.values()]
    return binomial_share(int(sum(notes[0])), len(notes[0])) if len(notes) == 1 else mean_of_means(notes)


def _check_prompts(texts: Mapping[str, Sequence[str]]) -> None:
    seen = set[str]()
    for text in (text for of_split in texts.values() for text in of_split):
        if not isinstance(text, str) or not text:
            raise ValueError(f"prompts has {text!r:.80}: each prompt must be a string that is not empty")
        if text in seen:
            raise ValueError(f"prompt {text!r:.80} occurs twice in prompts and held_out. Remove one")
        seen.add(text)
