"""Text that meets a constraint: sample p_LM(Z ⊤ | X) · c(Z), so that it is as the model writes, given that c holds.

prompt   "The weather forecast for tomorrow says", stop "."; words ["rain", "snow"], match "any"; log ε = −10
string   " it will rain all day"          log R = −14.41        log p_LM(Z ⊤ | X) with SmolLM2-135M-Instruct
string   " it will be sunny all day"      log R = −16.13 − 10

c is one of rewards/constraints: keywords, a regular expression, a JSON schema, a Python function or a classifier.

hard   log R = log p_LM(Z ⊤ | X) + max(log c(Z), log ε): all strings where c fails weigh at most ε together. Those where
       it holds weigh P, the chance that the model meets c by itself; of the optimum's samples P / (P + ε) do, or more.
       So ε must be far below P, which `satisfied` of the base model shows.
soft   the same with −penalty for log ε: a string may fail c where the text is likely enough.
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
from rewards.judging.bootstrap import Interval
from rewards.judging.text_metrics import mean_of_means, spread_figures
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, ScoreRequest, Task, Terms
from rewards.tasks.text import of_split, text_of, text_prompt

SATISFIED = "_satisfied"
"""The note: 1 where c holds, or is at least 1/2."""


class ConstrainedTask(Task):
    """R = p_LM · c. Terms: `base` and `constraint`."""

    explanations: ClassVar[Mapping[str, str]] = {
        "satisfied": "share of samples that meet the constraint, mean over prompts",
        "log_likelihood": "nats, log p_LM(Z stop | X) of the samples that meet it, mean over prompts",
        "distinct_satisfying": "different strings that meet it, of a prompt's samples, mean over prompts",
        "tokens": "of a sample, without the stop token",
        "diversity": "1 - mean cosine of two samples of a prompt, by sentence embeddings",
        "distinct_1": "different tokens as a share of all, of each prompt's samples together",
        "distinct_2": "different pairs of neighbouring tokens as a share of all, likewise",
        "distinct": "different strings as a share of each prompt's samples",
        "samples": "drawn",
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

        `penalty` (nats, > 0) makes it soft; else it is hard, and `log_epsilon` (nats, < 0) bounds the log mass of all
        that fails. `stop_text` is what the stop token adds to the text that c reads. `masked`: p_LM is renormalised
        over the policy's allowed tokens too. ValueError for what does not fit.
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
            split: [text_prompt(tokenizer, f"{split}-{k}", text) for k, text in enumerate(some, start=1)]
            for split, some in texts.items()
        }

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """The recipe's texts, in order; their ids are train-1, train-2, ..., test-1, ..."""
        return of_split(self._prompts, split)

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        """Z behind the prompt."""
        return [ScoreRequest(prompt.token_ids, masked=self._masked)]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """`base` [T+1]: log p_LM(z ⊤ | X); `constraint` [T+1]: log c of the text of z, not below the floor."""
        log_c = self._constraint(prefix_texts(self._tokenizer, token_ids, self._stop_text))
        return {
            "base": base_scores[0].log_p_stop,
            "constraint": np.maximum(log_c, self._floor),
            SATISFIED: satisfied(log_c),
        }

    def labels(self, prompt: Prompt, token_ids: IntArray) -> Mapping[str, float]:
        """satisfied: 1 where the whole string meets the constraint."""
        text = self._tokenizer.decode(token_ids.tolist(), skip_special_tokens=False) + self._stop_text
        return {"satisfied": float(satisfied(self._constraint([text]))[0])}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures of `explanations`, all but the last with an interval over prompts."""
        good = {name: [s for s in drawn if s.terms[SATISFIED]] for name, drawn in samples.items()}
        return {
            "satisfied": satisfied_share(samples, SATISFIED),
            "log_likelihood": mean_of_means([[s.terms["base"] for s in drawn] for drawn in good.values()]),
            "distinct_satisfying": mean_of_means(
                [[float(len({s.token_ids.tobytes() for s in drawn}))] for drawn in good.values()]
            ),
            **spread_figures(samples, lambda sample: text_of(self._tokenizer, sample.token_ids), judges),
        }

    def log_mass(self) -> tuple[float, float]:
        """The target's mass, the chance to meet c, is not known; what fails weighs at most ε where c is hard."""
        return math.nan, math.nan if self._soft else self._floor


def constraint_floor(log_epsilon: float, penalty: float | None) -> float:
    """The least value of a constraint's term, nats: −penalty where there is one, else log ε. ValueError from 0 on."""
    if penalty is not None and not penalty > 0:
        raise ValueError(f"penalty = {penalty} must be above 0, nats: it is taken off log R where a constraint fails")
    if not log_epsilon < 0:
        raise ValueError(f"log_epsilon = {log_epsilon} must be below 0: log of the mass that failing strings may have")
    return log_epsilon if penalty is None else -penalty


def satisfied(log_c: NDArray[np.float64]) -> FloatArray:
    """[K] 1 where c holds or is at least 1/2, else 0."""
    return np.asarray(log_c >= SATISFIED_LOG_C, dtype=np.float32)


def satisfied_share(samples: Mapping[str, Sequence[Sample]], note: str) -> Interval:
    """Mean over prompts of the share of samples whose `note` is 1."""
    return mean_of_means([[s.terms[note] for s in drawn] for drawn in samples.values()])


def _check_prompts(texts: Mapping[str, Sequence[str]]) -> None:
    seen = set[str]()
    for text in (text for some in texts.values() for text in some):
        if not isinstance(text, str) or not text:
            raise ValueError(f"prompts has {text!r:.80}: each prompt is a text, and not empty")
        if text in seen:
            raise ValueError(f"prompt {text!r:.80} is there twice, in prompts and held_out together: keep one")
        seen.add(text)
