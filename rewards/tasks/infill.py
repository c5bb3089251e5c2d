"""Story infilling: the missing sentence before a given ending (Hu et al., arXiv 2310.04363, section 4.2).

story    "Marta planted twelve tomato seeds in old yogurt cups. She lined the cups up on the kitchen window sill.
         Her cat Biscuit liked to sleep on that same sill." Z "Marta swept the dirt off the floor and started again."
string   " One night the cat stretched and pushed every cup over the edge"   log R = −49.95 − 42.25 = −92.21 nats
string   " She went to bed"                                                 log R =  −8.85 − 45.43 = −54.28 nats
         with SmolLM2-135M-Instruct: what is true explains the ending 3 nats better, and is longer
target   q(Z ⊤ | X, Y) ∝ p_LM(Z Y | X): X the first three sentences, Y the ending
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray, PolicySpec, Prompt
from rewards.judging.overlap import bleu4, gleu
from rewards.judging.text_metrics import mean_of_means, over_samples, spread_figures
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, ScoreRequest, Task, Terms
from rewards.tasks.text import of_split, text_of, text_prompt
from rewards.tasks.text_files import Story, choose, read_stories, refuse_repeats


class InfillTask(Task):
    """R = p_LM(Z Y | X): the policy sees beginning and ending, the frozen model reads the story in its order.

    Every string is possible, so there is no floor.
    """

    explanations: ClassVar[Mapping[str, str]] = {
        "log_reward": "nats, mean over samples, then over stories",
        "ending": "nats, log p_LM(ending | beginning, sample)",
        "bleu4": "0..100, overlap with the true sentence",
        "gleu": "0..100, likewise",
        "bert_score": "F1, likeness in meaning to the true sentence; compare only with the same encoder",
        "tokens": "of a sample, without the stop token",
        "diversity": "1 - mean cosine of two samples of a story, by sentence embeddings",
        "distinct_1": "different tokens as a share of all, of each story's samples together",
        "distinct_2": "different pairs of neighbouring tokens as a share of all, likewise",
        "distinct": "different strings as a share of each story's samples",
        "samples": "drawn",
    }

    def __init__(
        self,
        tokenizer: Tokenizer,
        stories: str = "",
        first: int = 1,
        count: int = 0,
        held_out: int = 0,
        stop: str = ".",
        shortest: int = 1,
        longest: int = 25,
    ) -> None:
        """`stories`: a .csv file with columns sentence1..sentence5 (ROCStories as it is), or JSON lines; "" is the
        shipped ones. `count` stories from the `first` on (0: all), the last `held_out` of which are the split "test".

        `stop` must be what the recipe's policy.stop is, where that ends the sentence itself. Z then lacks its full
        stop, which the ending needs in front: Y = ⊤ and the fifth sentence, so that R scores ⊤ once. Give "" where the
        policy ends strings with what is no text, such as EOS: Y is the fifth sentence alone.

        True middles of `shortest` to `longest` tokens are demonstrations: let these be within policy.min_actions and
        policy.max_actions; `longest` = 0 is none. ValueError for what can't be read or repeats.
        """
        chosen = choose(read_stories(stories), first, count, held_out)
        refuse_repeats(
            [(story.number, _given(story)) for split in chosen.values() for story in split],
            "beginning and ending",
        )
        self.splits = tuple(chosen)
        self._tokenizer = tokenizer
        self._stop = stop
        self._stop_ids = _ids(tokenizer, stop)
        if len(self._stop_ids) > 1 or (stop and not self._stop_ids):
            raise ValueError(
                f"stop = {stop!r} is {len(self._stop_ids)} tokens of the model, and must be one: give policy.stop "
                'here, or "" where it is no text'
            )
        self._lengths = range(shortest, longest + 1)
        self._prompts = {split: [self._prompt(story) for story in rows] for split, rows in chosen.items()}
        self._middles = {_name(story): story.sentences[3] for rows in chosen.values() for story in rows}
        self._questions = {_name(story): [self._question(story)] for rows in chosen.values() for story in rows}

    def check_policy(self, spec: PolicySpec) -> None:
        """Y begins with the policy's stop, or the policy's stop is no text."""
        if self._stop_ids and self._stop_ids != [spec.stop_token_id]:
            raise ValueError(
                f"task.options.stop = {self._stop!r} is another token than policy.stop, so that the full stop would "
                'be scored twice or not at all. Name the same, or "" for a policy whose stop is no text.'
            )

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """The stories of a split, in the file's order, as beginning and ending; their ids are line-1, line-2, ..."""
        return of_split(self._prompts, split)

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        """Z and the ending, behind the beginning: the frozen model never sees what the policy was told."""
        return self._questions[prompt.id]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """`middle` [T+1]: log p_LM(z | X), and `ending` [T+1]: log p_LM(Y | X, z)."""
        return {"middle": base_scores[0].log_p_prefix, "ending": base_scores[0].target}

    def demonstrations(self) -> Sequence[tuple[str, str]]:
        """The true middles of the training stories that the policy could write: right in length, and with the stop
        nowhere but at their end."""
        found = []
        for prompt in self._prompts[TRAIN]:
            middle = self._middles[prompt.id]
            text = f" {middle.removesuffix(self._stop)}"
            ids = _ids(self._tokenizer, text)
            writable = middle.endswith(self._stop) and not set(self._stop_ids) & set(ids)
            if writable and len(ids) in self._lengths:
                found.append((prompt.id, text))
        return found

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures of `explanations`, all but the last with an interval over stories; bert_score and diversity only
        where their models are."""
        pairs = {
            name: [(self._sentence(sample), self._middles[name]) for sample in drawn] for name, drawn in samples.items()
        }
        found: dict[str, Figure] = {
            "log_reward": over_samples(samples, lambda sample: sample.log_reward),
            "ending": over_samples(samples, lambda sample: sample.terms["ending"]),
            "bleu4": mean_of_means([[bleu4(*pair) for pair in of_story] for of_story in pairs.values()]),
            "gleu": mean_of_means([[gleu(*pair) for pair in of_story] for of_story in pairs.values()]),
        }
        if judges.bert_score:
            flat = [pair for of_story in pairs.values() for pair in of_story]  # asked once: it may load a model
            f1 = iter(judges.bert_score([text for text, _ in flat], [truth for _, truth in flat]).tolist())
            found["bert_score"] = mean_of_means([[next(f1) for _ in of_story] for of_story in pairs.values()])
        return found | spread_figures(samples, self._sentence, judges)

    def _sentence(self, sample: Sample) -> str:
        return text_of(self._tokenizer, sample.token_ids) + self._stop

    def _prompt(self, story: Story) -> Prompt:
        *beginning, _, ending = story.sentences
        text = f"Beginning: {' '.join(beginning)}\nEnding: {ending}\nMiddle:"
        return text_prompt(self._tokenizer, _name(story), text)

    def _question(self, story: Story) -> ScoreRequest:
        *beginning, _, ending = story.sentences
        target = _ids(self._tokenizer, f"{self._stop} {ending}")
        if target[: len(self._stop_ids)] != self._stop_ids:
            raise ValueError(
                f"stop = {self._stop!r} is no token of its own in front of {ending!r}: choose another policy.stop"
            )
        context = self._tokenizer.encode(" ".join(beginning)).ids
        return ScoreRequest(np.array(context, dtype=np.int32), np.array(target, dtype=np.int32))


def _name(story: Story) -> str:
    return f"line-{story.number}"


def _given(story: Story) -> tuple[str, ...]:
    """What makes two stories the same question: all but the middle."""
    return (*story.sentences[:3], story.sentences[4])


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids
