"""Random integers: sample uniformly from the strings "0" .. "100" (Hu et al., arXiv 2310.04363, section 2).

prompt   "The following is a random integer drawn uniformly between 0 and 100: "
good     "42"    log R = 0              exactly 101 strings, so log Z = log 101 = 4.615 up to the floor
other    "420"   log R = log ε + log p_LM("420" ⊤ | prompt): all others together weigh at most ε, with any vocabulary
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from rewards.judging.bootstrap import bootstrap_mean
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, Task, Terms

PROMPT = "The following is a random integer drawn uniformly between 0 and 100: "


class IntegerTask(Task):
    """R = 1 on the canonical strings of 0..largest, a floor relative to the frozen model elsewhere."""

    explanations: ClassVar[Mapping[str, str]] = {
        "valid": "share of samples that are an integer in range",
        "kl_uniform": "nats, of the valid samples to uniform",
        "kl_noise_floor": "nats, what a perfect sampler would show with as many valid samples",
        "distinct": "different integers among them",
        "samples": "drawn",
    }

    def __init__(
        self, tokenizer: Tokenizer, largest: int = 100, log_epsilon: float = -5.0, prompt: str = PROMPT
    ) -> None:
        """`log_epsilon` (nats, < 0) bounds the log mass of everything that is no integer in range."""
        if largest < 1:
            raise ValueError(f"largest = {largest} must be at least 1")
        if not log_epsilon < 0:
            raise ValueError(
                f"log_epsilon = {log_epsilon} must be negative: it is the log of the mass that other strings may have"
            )
        self._log_epsilon = log_epsilon
        self._number = {tuple(tokenizer.encode(str(k), add_special_tokens=False).ids): k for k in range(largest + 1)}
        self._prompt = Prompt(
            id="integer", text=prompt, token_ids=np.array(tokenizer.encode(prompt).ids, dtype=np.int32)
        )

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """The one prompt."""
        return [self._prompt]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """One term, `integer` [T+1]: 0 for a number in range, log ε + log p_LM(z ⊤) else."""
        is_number = np.array([tuple(token_ids[:i].tolist()) in self._number for i in range(len(token_ids) + 1)])
        return {"integer": np.where(is_number, 0.0, self._log_epsilon + base_scores[0].log_p_stop)}

    def labels(self, prompt: Prompt, token_ids: IntArray) -> Mapping[str, float]:
        """valid: 1 for a number in range."""
        return {"valid": float(tuple(token_ids.tolist()) in self._number)}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures of `explanations`. K integers, N valid samples: kl_uniform is plug-in, kl_noise_floor (K−1)/2N."""
        drawn = samples[self._prompt.id]
        counts = self.histogram(drawn)
        valid = [float(tuple(sample.token_ids.tolist()) in self._number) for sample in drawn]
        n_valid, size = int(counts.sum()), len(counts)
        shares = counts[counts > 0] / max(n_valid, 1)
        return {
            "valid": bootstrap_mean(valid, np.random.default_rng(0)),
            "kl_uniform": float((shares * np.log(shares * size)).sum()) if n_valid else math.nan,
            "kl_noise_floor": (size - 1) / (2 * n_valid) if n_valid else math.nan,
            "distinct": float((counts > 0).sum()),
            "samples": float(len(drawn)),
        }

    def histogram(self, samples: Sequence[Sample]) -> NDArray[np.int_]:
        """[largest+1] how often each integer was drawn; other strings are left out."""
        drawn = Counter(self._number.get(tuple(sample.token_ids.tolist())) for sample in samples)
        return np.array([drawn[k] for k in range(len(self._number))])

    def support(self) -> Mapping[str, Sequence[tuple[IntArray, float]]]:
        """The integers, each with log R = 0."""
        return {self._prompt.id: [(np.array(ids, dtype=np.int32), 0.0) for ids in self._number]}

    def log_mass(self) -> tuple[float, float]:
        """log of the number of integers, and log ε: p_LM sums to at most 1 over all strings."""
        return math.log(len(self._number)), self._log_epsilon
