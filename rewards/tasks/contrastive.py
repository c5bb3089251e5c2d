"""Contrastive text: sentences that fit this passage and few others (suggested by Hu et al., arXiv 2310.04363).

prompt   "The ferry to the outer islands leaves twice a day in summer and only once a week in winter."
string   " The ferry leaves at noon from the pier"    log R = 1.5 · (−32.25) − 0.5 · (−49.60) = −23.57 nats
string   " The weather was nice"                      log R = 1.5 · (−24.12) − 0.5 · (−21.10) = −25.64 nats
         SmolLM2-135M-Instruct prefers the second by 8 nats because it is generic, so R ranks the first higher
target   q(Z ⊤ | X) ∝ p_LM(Z ⊤ | X)^α · p_LM(Z ⊤)^β, β < 0 < α
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from lm.tokens import encode_prompt
from rewards.judging.text_metrics import TEXT_EXPLANATIONS, mean_over_samples, text_figures
from rewards.task import BaseLogProbs, Figure, Judges, Sample, ScoreRequest, Terms
from rewards.tasks.continuation import ContinueTask
from rewards.tasks.text import decode_text

BACKGROUND = "Here is some text."


class ContrastiveTask(ContinueTask):
    """R = p_LM(Z ⊤ | X)^α · p_LM(Z ⊤ | background)^β for the prompts of `continue`; no string is impossible."""

    explanations: ClassVar[Mapping[str, str]] = {
        "log_likelihood": "Mean log p_LM(Z stop | X), in nats.",
        "background_log_likelihood": "Mean log p_LM(Z stop | background), in nats.",
        "information_per_token": "Difference of the two per token, in nats: what X tells about the string.",
        **TEXT_EXPLANATIONS,
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
        """The options prompts, first, count and held_out are those of `continue`.

        Where a string no longer depends on X, its tokens have the weight p^(α + β), which is temperature 1/(α + β).
        Below α + β = 1 the target is flatter than the model itself, and noise gets most of the mass: with SmolLM2-135M
        at α = 1 and β = −0.5 the weights of the next token sum to e^4, and the samples are strings of odd words.

        `background` stands for the absence of a passage. A model needs at least one token before the first token of Z,
        and Z begins with a space like any sentence that follows another, so `background` is a short neutral sentence.
        """
        if not beta < 0 < alpha:
            raise ValueError(
                f"alpha = {alpha}, beta = {beta}: beta must be below 0 and alpha above it, or nothing is contrasted. "
                "For text without a background, use the task `continue`"
            )
        if not alpha + beta > 0:
            raise ValueError(
                f"alpha + beta = {alpha + beta:g} must be above 0: otherwise, where the passage does not matter, "
                "unlikely strings get the larger reward, and the mass of long strings is unbounded. Raise alpha or "
                "beta; a sum of 1 or more suppresses noise"
            )
        super().__init__(tokenizer, prompts, first, count, held_out)
        self._background = encode_prompt(tokenizer, background)
        if not len(self._background):
            raise ValueError(
                f"background = {background!r} has no token: the model needs at least one before a string. Give a short "
                f"neutral text, such as {BACKGROUND!r}"
            )
        self._alpha, self._beta = float(alpha), float(beta)

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        """Z after the passage, and Z after the background."""
        return [ScoreRequest(prompt.token_ids), ScoreRequest(self._background)]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """`given` [T+1]: α log p_LM(z ⊤ | X), and `background` [T+1]: β log p_LM(z ⊤ | background)."""
        return {"given": self._alpha * base_scores[0].log_p_stop, "background": self._beta * base_scores[1].log_p_stop}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures as in `explanations`; all but the last have an interval over prompts."""
        return {
            "log_likelihood": mean_over_samples(samples, self._log_p_given_x),
            "background_log_likelihood": mean_over_samples(samples, self._log_p_background),
            "information_per_token": mean_over_samples(samples, self._information),
            **text_figures(samples, lambda sample: decode_text(self._tokenizer, sample.token_ids), judges),
        }

    def _log_p_given_x(self, sample: Sample) -> float:
        return sample.terms["given"] / self._alpha

    def _log_p_background(self, sample: Sample) -> float:
        return sample.terms["background"] / self._beta

    def _information(self, sample: Sample) -> float:
        """Pointwise mutual information of X and Z per token, nats; the stop token counts."""
        return (self._log_p_given_x(sample) - self._log_p_background(sample)) / (len(sample.token_ids) + 1)
