"""Contrastive text: sentences that fit this passage and few others (named by Hu et al., arXiv 2310.04363).

prompt   "The ferry to the outer islands leaves twice a day in summer and only once a week in winter."
string   " The ferry leaves at noon from the pier"    log R = 1.5 · (−32.25) − 0.5 · (−49.60) = −23.57 nats
string   " The weather was nice"                      log R = 1.5 · (−24.12) − 0.5 · (−21.10) = −25.64 nats
         SmolLM2-135M-Instruct likes the second better, by 8 nats; it would follow any text, so R likes the first
target   q(Z ⊤ | X) ∝ p_LM(Z ⊤ | X)^α · p_LM(Z ⊤)^β, β < 0 < α
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from rewards.judging.text_metrics import over_samples, spread_figures
from rewards.task import BaseLogProbs, Figure, Judges, Sample, ScoreRequest, Terms
from rewards.tasks.continuation import ContinueTask
from rewards.tasks.text import text_of

BACKGROUND = "Here is some text."


class ContrastiveTask(ContinueTask):
    """R = p_LM(Z ⊤ | X)^α · p_LM(Z ⊤ | background)^β for the prompts of `continue`; no string is impossible."""

    explanations: ClassVar[Mapping[str, str]] = {
        "log_likelihood": "nats, log p_LM(Z stop | X), mean over samples, then over prompts",
        "background_log_likelihood": "nats, log p_LM(Z stop | background), likewise",
        "information_per_token": "nats a token, their difference: what the passage tells about the string",
    } | {
        name: ContinueTask.explanations[name]
        for name in ("tokens", "diversity", "distinct_1", "distinct_2", "distinct", "samples")
    }

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: str = "",
        first: int = 1,
        count: int = 0,
        held_out: int = 0,
        alpha: float = 1.5,
        beta: float = -0.5,
        background: str = BACKGROUND,
    ) -> None:
        """The first four as in `continue`.

        Where a string no longer depends on X its tokens have the weight p^(α + β), temperature 1/(α + β): below
        α + β = 1 that is flatter than the model itself, and noise has most of the mass (at 1 and −0.5 the sum over
        the next token is e^4 with SmolLM2-135M, and the samples are strings of odd words).

        `background` stands for no passage at all. A model has no log p of a first token without something in front,
        and Z begins with a space like any sentence that follows another; so it is a short sentence that says nothing.
        """
        if not beta < 0 < alpha:
            raise ValueError(
                f"alpha = {alpha}, beta = {beta}: beta must be below 0 and alpha above, or nothing is contrasted; "
                "`continue` is the task without background"
            )
        if not alpha + beta > 0:
            raise ValueError(
                f"alpha + beta = {alpha + beta:g} must be above 0: else, where the passage does not matter, a string "
                "is worth more the less likely it is, and the mass of long strings has no bound. Raise alpha or beta; "
                "a sum of 1 or more keeps noise out"
            )
        super().__init__(tokenizer, prompts, first, count, held_out)
        self._background = np.array(tokenizer.encode(background).ids, dtype=np.int32)
        if not len(self._background):
            raise ValueError(
                f"background = {background!r} has no token: the model needs one or more in front of a string. Give a "
                f"short neutral text, such as {BACKGROUND!r}"
            )
        self._alpha, self._beta = float(alpha), float(beta)

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        """Z behind the passage, and behind the background."""
        return [ScoreRequest(prompt.token_ids), ScoreRequest(self._background)]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """`given` [T+1]: α log p_LM(z ⊤ | X), and `background` [T+1]: β log p_LM(z ⊤ | background)."""
        return {"given": self._alpha * base_scores[0].log_p_stop, "background": self._beta * base_scores[1].log_p_stop}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures of `explanations`, all but the last with an interval over prompts."""
        return {
            "log_likelihood": over_samples(samples, self._given),
            "background_log_likelihood": over_samples(samples, self._alone),
            "information_per_token": over_samples(samples, self._information),
            **spread_figures(samples, lambda sample: text_of(self._tokenizer, sample.token_ids), judges),
        }

    def _given(self, sample: Sample) -> float:
        return sample.terms["given"] / self._alpha

    def _alone(self, sample: Sample) -> float:
        return sample.terms["background"] / self._beta

    def _information(self, sample: Sample) -> float:
        """Pointwise mutual information of X and Z over the number of tokens, the stop counted; nats a token."""
        return (self._given(sample) - self._alone(sample)) / (len(sample.token_ids) + 1)
