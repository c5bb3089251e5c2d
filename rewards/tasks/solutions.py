"""All correct answers: samples uniformly from every way to write a number as a sum of two.

prompt   "12=5+7. 30=11+19. 8=6+2. 57="
good     "23+34"   log R = 0              58 strings for 57 ("0+57" to "57+0"), so log Z = log 58 up to the floor
other    "23+33"   log R = log ε + log p_LM("23+33" ⊤ | X): all others together have at most the mass ε

The reward is 1 or 0, as for a checked answer in GRPO; all answers are listed, so what a policy misses is counted.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from lm.tokens import encode_behind, encode_prompt
from rewards.judging.pass_at_k import pass_at_k
from rewards.judging.text_metrics import mean_of_means
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, Task, Terms
from rewards.tasks.text import prompts_of_split

PROMPT = "12=5+7. 30=11+19. 8=6+2. {n}="
PASS_K = 8


class SolutionsTask(Task):
    """R = 1 on each canonical "a+b" that equals the prompt's number; elsewhere a floor relative to the base model."""

    explanations: ClassVar[Mapping[str, str]] = {
        "correct": "Share of samples that are a correct answer.",
        "recall": "Share of all correct answers that are among the samples; mean over prompts.",
        "pass_at_8": "Probability that one of 8 samples is correct.",
        "samples": "Number of samples.",
    }

    def __init__(
        self,
        tokenizer: Tokenizer,
        targets: Sequence[int] = (57,),
        held_out: Sequence[int] = (),
        log_epsilon: float = -5.0,
        prompt: str = PROMPT,
    ) -> None:
        """`targets`: numbers that the prompts ask for; `held_out`: those of the split "test". `prompt` holds "{n}".

        `log_epsilon` (nats, < 0) bounds the log mass of all wrong strings. Raise ValueError for options that don't fit.
        """
        if not log_epsilon < 0:
            raise ValueError(
                f"log_epsilon = {log_epsilon} must be below 0: it is the log of the mass that wrong strings may have"
            )
        if "{n}" not in prompt:
            raise ValueError(f"prompt = {prompt!r} must hold {{n}}, where the number goes")
        numbers = [*targets, *held_out]
        if not targets or min(numbers) < 0 or len(set(numbers)) < len(numbers):
            raise ValueError(
                f"targets = {list(targets)} and held_out = {list(held_out)} must name at least one number to train "
                "on, none below 0, each once"
            )
        self._log_epsilon = log_epsilon
        texts = {TRAIN: targets} | ({"test": held_out} if held_out else {})
        self.splits = tuple(texts)
        self._prompts = {
            split: [
                Prompt(str(n), text := prompt.replace("{n}", str(n)), encode_prompt(tokenizer, text), {"n": n})
                for n in of_split
            ]
            for split, of_split in texts.items()
        }
        self._answers = {
            str(n): frozenset(tuple(encode_behind(tokenizer, f"{a}+{n - a}").tolist()) for a in range(n + 1))
            for n in numbers
        }

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """One for each number; its id is the number."""
        return prompts_of_split(self._prompts, split)

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """`answer` [T+1]: 0 for a correct answer, else log ε + log p_LM(z ⊤ | X)."""
        answers, ids = self._answers[prompt.id], token_ids.tolist()
        correct = np.array([tuple(ids[:i]) in answers for i in range(len(ids) + 1)])
        return {"answer": np.where(correct, 0.0, self._log_epsilon + base_scores[0].log_p_stop)}

    def labels(self, prompt: Prompt, token_ids: IntArray) -> Mapping[str, float]:
        """correct: 1 for a correct answer."""
        return {"correct": float(tuple(token_ids.tolist()) in self._answers[prompt.id])}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures as in `explanations`, means over prompts."""
        drawn = {name: [tuple(s.token_ids.tolist()) for s in of_prompt] for name, of_prompt in samples.items()}
        correct = {name: [z for z in strings if z in self._answers[name]] for name, strings in drawn.items()}
        return {
            "correct": mean_of_means([[float(z in self._answers[k]) for z in strings] for k, strings in drawn.items()]),
            "recall": float(np.mean([len(set(z)) / len(self._answers[k]) for k, z in correct.items()])),
            "pass_at_8": float(np.mean([pass_at_k(len(drawn[k]), len(z), PASS_K) for k, z in correct.items()])),
            "samples": float(sum(map(len, drawn.values()))),
        }

    def support(self) -> Mapping[str, Sequence[tuple[IntArray, float]]]:
        """The correct answers, each with log R = 0."""
        return {
            prompt_id: [(np.array(ids, dtype=np.int32), 0.0) for ids in sorted(answers)]
            for prompt_id, answers in self._answers.items()
        }

    def log_mass(self) -> tuple[float, float]:
        """log of the number of answers, NaN where it differs between prompts; log ε: p_LM sums to at most 1."""
        counts = {len(answers) for answers in self._answers.values()}
        return (math.log(counts.pop()) if len(counts) == 1 else math.nan), self._log_epsilon
