"""Random integers: samples uniformly from the strings "0" .. "100" (Hu et al., arXiv 2310.04363, section 2).

prompt   "The following is a random integer drawn uniformly between 0 and 100: "
good     "42"    log R = 0              101 strings, so log Z = log 101 = 4.615 up to the floor
other    "420"   log R = log ε + log p_LM("420" ⊤ | prompt): all others together have at most the mass ε, whatever the
                 vocabulary
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from lm.tokens import encode_behind, encode_prompt
from rewards.judging.binomial import binomial_share
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, Task, Terms

PROMPT = "The following is a random integer drawn uniformly between 0 and 100: "


class IntegerTask(Task):
    """R = 1 on the canonical strings of 0..largest; elsewhere a floor relative to the base model."""

    explanations: ClassVar[Mapping[str, str]] = {
        "valid": "Share of samples that are an integer in range.",
        "kl_uniform": "KL divergence of the valid samples from uniform, in nats.",
        "kl_noise_floor": "Expected kl_uniform of a perfect sampler with as many valid samples, in nats.",
        "distinct": "Number of different integers among the valid samples.",
        "samples": "Number of samples.",
    }

    def __init__(
        self, tokenizer: Tokenizer, largest: int = 100, log_epsilon: float = -5.0, prompt: str = PROMPT
    ) -> None:
        """`log_epsilon` (nats, < 0) bounds the log mass of all strings that are not an integer in range."""
        if largest < 1:
            raise ValueError(f"largest = {largest} must be at least 1")
        if not log_epsilon < 0:
            raise ValueError(
                f"log_epsilon = {log_epsilon} must be below 0: it is the log of the mass that other strings may have"
            )
        self._log_epsilon = log_epsilon
        self._numbers = {tuple(encode_behind(tokenizer, str(k)).tolist()): k for k in range(largest + 1)}
        self._prompt = Prompt(id="integer", text=prompt, token_ids=encode_prompt(tokenizer, prompt))

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """The one prompt."""
        return [self._prompt]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """`integer` [T+1]: 0 for a number in range, else log ε + log p_LM(z ⊤ | X)."""
        is_number = np.array([tuple(token_ids[:i].tolist()) in self._numbers for i in range(len(token_ids) + 1)])
        return {"integer": np.where(is_number, 0.0, self._log_epsilon + base_scores[0].log_p_stop)}

    def labels(self, prompt: Prompt, token_ids: IntArray) -> Mapping[str, float]:
        """valid: 1 if the string is a number in range."""
        return {"valid": float(tuple(token_ids.tolist()) in self._numbers)}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures as in `explanations`. kl_uniform is the plug-in estimate; kl_noise_floor is (K−1)/2N, with K integers
        and N valid samples."""
        drawn = samples[self._prompt.id]
        counts = self.histogram(drawn)
        n_valid, size = int(counts.sum()), len(counts)
        shares = counts[counts > 0] / max(n_valid, 1)
        return {
            "valid": binomial_share(n_valid, len(drawn)),
            "kl_uniform": float((shares * np.log(shares * size)).sum()) if n_valid else math.nan,
            "kl_noise_floor": (size - 1) / (2 * n_valid) if n_valid else math.nan,
            "distinct": float((counts > 0).sum()),
            "samples": float(len(drawn)),
        }

    def histogram(self, samples: Sequence[Sample]) -> NDArray[np.int_]:
        """[largest+1] number of draws of each integer; other strings are not counted."""
        drawn = Counter(self._numbers.get(tuple(sample.token_ids.tolist())) for sample in samples)
        return np.array([drawn[k] for k in range(len(self._numbers))])

    def support(self) -> Mapping[str, Sequence[tuple[IntArray, float]]]:
        """The integers, each with log R = 0."""
        return {self._prompt.id: [(np.array(ids, dtype=np.int32), 0.0) for ids in self._numbers]}

    def log_mass(self) -> tuple[float, float]:
        """log of the number of integers, and log ε: p_LM sums to at most 1 over all strings."""
        return math.log(len(self._numbers)), self._log_epsilon
