"""Next sentence: sample continuations by their likelihood, tempered (Hu et al., arXiv 2310.04363, section 4.1).

prompt   "The ferry to the outer islands leaves twice a day in summer and only once a week in winter."
string   " Tickets can be bought on board"    log R = log p_LM(Z "." | X) = −27.06 nats with SmolLM2-135M-Instruct
target   q(Z ⊤ | X) ∝ p_LM(Z ⊤ | X)^(1/T): T is the recipe's learner.reward_temperature_end, below 1 for likelier text

The prompt ends with its full stop and Z begins with a space, which belongs to its first word: with the space at the
prompt's end the same string, now without it, has −33.99 nats, and over prompts some 7 nats less.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from rewards.judging.text_metrics import over_prompts, over_samples, spread_figures
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, Task, Terms
from rewards.tasks.text import of_split, text_of, text_prompt
from rewards.tasks.text_files import choose, read_lines, refuse_repeats


class ContinueTask(Task):
    """R = p_LM(Z ⊤ | X) for prompts X of a text file; every string is possible, so there is no floor."""

    explanations: ClassVar[Mapping[str, str]] = {
        "log_likelihood": "nats, log p_LM(Z stop | X), mean over samples, then over prompts",
        "max_log_likelihood": "nats, of each prompt's likeliest sample; compare equal numbers of samples only",
        "log_likelihood_per_token": "nats a token, the stop token counted",
        "tokens": "of a sample, without the stop token",
        "diversity": "1 - mean cosine of two samples of a prompt, by sentence embeddings",
        "distinct_1": "different tokens as a share of all, of each prompt's samples together",
        "distinct_2": "different pairs of neighbouring tokens as a share of all, likewise",
        "distinct": "different strings as a share of each prompt's samples",
        "samples": "drawn",
    }

    def __init__(
        self, tokenizer: Tokenizer, prompts: str = "", first: int = 1, count: int = 0, held_out: int = 0
    ) -> None:
        """`prompts`: a UTF-8 text file, one X a line; "" is the shipped one. `count` lines from the `first` on (0: all
        of them), the last `held_out` of which are the split "test". ValueError for what can't be read or repeats."""
        lines = choose(read_lines(prompts), first, count, held_out)
        refuse_repeats([(line.number, line.text) for split in lines.values() for line in split], "text")
        self.splits = tuple(lines)
        self._tokenizer = tokenizer
        self._prompts = {
            split: [text_prompt(tokenizer, f"line-{line.number}", line.text) for line in chosen]
            for split, chosen in lines.items()
        }

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """The lines of a split, in the file's order; their ids are line-1, line-2, ..."""
        return of_split(self._prompts, split)

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """One term, `base` [T+1]: log p_LM(z ⊤ | X)."""
        return {"base": base_scores[0].log_p_stop}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures of `explanations`, all but the last with an interval over prompts."""
        return {
            "log_likelihood": over_samples(samples, lambda sample: sample.terms["base"]),
            "max_log_likelihood": over_prompts(samples, lambda drawn: max(sample.terms["base"] for sample in drawn)),
            "log_likelihood_per_token": over_samples(samples, lambda s: s.terms["base"] / (len(s.token_ids) + 1)),
            **spread_figures(samples, lambda sample: text_of(self._tokenizer, sample.token_ids), judges),
        }
