"""All correct answers: samples uniformly from every way to write a number as a sum of two.

prompt   "12=5+7. 30=11+19. 8=6+2. 57="
good     "23+34"   log R = 0         58 strings for 57 ("0+57" to "57+0"), so log Z = log 58 up to the wrong ones
near     "23+33"   log R = −7        off by one; −7 log2(1 + d) where the sum is off by d
other    "23+"     log R = −70 + log p_LM("23+" ⊤ | X): no sum

All answers are listed, so what a policy misses is counted. The reward is 1 or almost 0, as for a checked answer in
GRPO, and sums that are nearly right have partial credit: it is nothing at T = 1, where all wrong sums have 0.2 % of the
mass, and shows the way at T = 7, where those off by one have 37 % of a right one. With the same floor under all of
them, a first number whose first sums are wrong loses its mass before one of them is right.
"""

import math
import re
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
SUM = re.compile(r"(0|[1-9]\d*)\+(0|[1-9]\d*)", re.ASCII)
NO_SUM = 1023
"""A string that is no sum counts as one that is off by this much, times its probability."""
PASS_K = 8


class SolutionsTask(Task):
    """R = 1 on each canonical "a+b" that equals the prompt's number, less the more another sum is off."""

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
        off_by_one: float = -7.0,
        prompt: str = PROMPT,
    ) -> None:
        """`targets`: numbers that the prompts ask for; `held_out`: those of the split "test". `prompt` holds "{n}".

        `off_by_one`: log R of a sum that is off by one, nats, < 0. Raise ValueError for options that don't fit.
        """
        if not off_by_one < 0:
            raise ValueError(f"off_by_one = {off_by_one} must be below 0, the log R of a right sum")
        if "{n}" not in prompt:
            raise ValueError(f"prompt = {prompt!r} must hold {{n}}, where the number goes")
        numbers = [*targets, *held_out]
        if not targets or min(numbers) < 0 or len(set(numbers)) < len(numbers):
            raise ValueError(
                f"targets = {list(targets)} and held_out = {list(held_out)} must name at least one number to train "
                "on, none below 0, each once"
            )
        self._tokenizer, self._off_by_one = tokenizer, off_by_one
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
        """`sum` [T+1]: 0 for a correct answer, `off_by_one` · log2(1 + d) for a sum that is off by d."""
        errors = [self._error(prompt, token_ids[:i]) for i in range(len(token_ids) + 1)]
        off = np.array([NO_SUM if error is None else error for error in errors])
        log_p = np.where([error is None for error in errors], base_scores[0].log_p_stop, 0.0)
        return {"sum": self._off_by_one * np.log2(1 + off) + log_p}

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
        """log of the number of answers, NaN where it differs between prompts; log Σ R of the wrong sums."""
        counts = [len(answers) for answers in self._answers.values()]
        known = math.log(counts[0]) if len(set(counts)) == 1 else math.nan
        d = np.arange(1.0, NO_SUM)
        sums = np.maximum(max(counts) - d, 0.0) + max(counts) + d  # that are d too small, and d too large
        return known, float(np.logaddexp.reduce(np.log(sums) + self._off_by_one * np.log2(1 + d)))

    def _error(self, prompt: Prompt, token_ids: IntArray) -> int | None:
        """By how much the sum is off; None if it is no sum, or not written as the listed answers are."""
        if tuple(token_ids.tolist()) in self._answers[prompt.id]:
            return 0
        match = SUM.fullmatch(self._tokenizer.decode(token_ids.tolist(), skip_special_tokens=False))
        if match is None or (error := abs(int(match[1]) + int(match[2]) - int(prompt.id))) == 0:
            return None
        return error
