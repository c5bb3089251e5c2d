"""Next sentence: sample continuations by their likelihood, tempered (Hu et al., arXiv 2310.04363, section 4.1).

prompt   "The ferry to the outer islands leaves twice a day in summer and only once a week in winter."
string   " Tickets can be bought on board"    log R = log p_LM(Z "." | X) = −27.06 nats with SmolLM2-135M-Instruct
target   q(Z ⊤ | X) ∝ p_LM(Z ⊤ | X)^(1/T): T is the recipe's learner.reward_temperature_end, below 1 for likelier text

The prompt ends with its full stop, and Z begins with the space that belongs to its first word. With the space moved to
the end of the prompt, the same string has −33.99 nats; over all prompts that costs about 7 nats.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from rewards.judging.text_metrics import TEXT_EXPLANATIONS, mean_over_prompts, mean_over_samples, text_figures
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, Task, Terms
from rewards.tasks.text import decode_text, make_text_prompt, prompts_of_split
from rewards.tasks.text_files import check_unique, read_lines, split_rows


class ContinueTask(Task):
    """R = p_LM(Z ⊤ | X) for prompts X of a text file; every string is possible, so there is no floor."""

    explanations: ClassVar[Mapping[str, str]] = {
        "log_likelihood": "Mean log p_LM(Z stop | X), in nats.",
        "max_log_likelihood": "Log-likelihood of a prompt's likeliest sample, in nats; more samples raise it.",
        "log_likelihood_per_token": "Log-likelihood divided by the number of tokens with the stop token, in nats.",
        **TEXT_EXPLANATIONS,
    }

    def __init__(
        self, tokenizer: Tokenizer, prompts: str = "", first: int = 1, count: int = 0, held_out: int = 0
    ) -> None:
        """`prompts`: a UTF-8 text file with one X per line; "" is the one in the package. `count` lines from number
        `first` on are used (0: all), the last `held_out` of them as the split "test". Raise ValueError for a file that
        can't be read and for repeated lines."""
        lines = split_rows(read_lines(prompts), first, count, held_out)
        check_unique([(line.number, line.text) for split in lines.values() for line in split], "text")
        self.splits = tuple(lines)
        self._tokenizer = tokenizer
        self._prompts = {
            split: [make_text_prompt(tokenizer, f"line-{line.number}", line.text) for line in of_split]
            for split, of_split in lines.items()
        }

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """The lines of a split, in the file's order, with ids line-1, line-2, ..."""
        return prompts_of_split(self._prompts, split)

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """One term, `base` [T+1]: log p_LM(z ⊤ | X)."""
        return {"base": base_scores[0].log_p_stop}

    def prior(self, prompt: Prompt) -> IntArray:
        """The prompt: at reward temperature 1 the target is the base model itself."""
        return prompt.token_ids

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures as in `explanations`; all but the last have an interval over prompts."""
        return {
            "log_likelihood": mean_over_samples(samples, lambda sample: sample.terms["base"]),
            "max_log_likelihood": mean_over_prompts(samples, lambda drawn: max(s.terms["base"] for s in drawn)),
            "log_likelihood_per_token": mean_over_samples(samples, lambda s: s.terms["base"] / (len(s.token_ids) + 1)),
            **text_figures(samples, lambda sample: decode_text(self._tokenizer, sample.token_ids), judges),
        }
