"""Story infilling: the missing sentence before a given ending (Hu et al., arXiv 2310.04363, section 4.2).

story    "Marta planted twelve tomato seeds in old yogurt cups. She lined the cups up on the kitchen window sill.
         Her cat Biscuit liked to sleep on that same sill." Z "Marta swept the dirt off the floor and started again."
string   " One night the cat stretched and pushed every cup over the edge"   log R = −49.95 − 42.25 = −92.21 nats
string   " She went to bed"                                                 log R =  −8.85 − 45.43 = −54.28 nats
         with SmolLM2-135M-Instruct: the true sentence explains the ending 3 nats better, but is longer
target   q(Z ⊤ | X, Y) ∝ p_LM(Z Y | X): X the first three sentences, Y the ending
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray, PolicySpec, Prompt
from lm.tokens import encode_behind, encode_prompt
from rewards.judging.overlap import bleu4, gleu
from rewards.judging.text_metrics import TEXT_EXPLANATIONS, mean_of_means, mean_over_samples, text_figures
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, ScoreRequest, Task, Terms
from rewards.tasks.text import decode_text, make_text_prompt, prompts_of_split
from rewards.tasks.text_files import Story, check_unique, read_stories, split_rows


class InfillTask(Task):
    """R = p_LM(Z Y | X): the policy sees beginning and ending; the base model reads the story in its natural order.

    Every string is possible, so no floor is needed.
    """

    explanations: ClassVar[Mapping[str, str]] = {
        "log_reward": "Mean log reward at temperature 1, in nats.",
        "ending": "Mean log p_LM(ending | beginning, sample), in nats.",
        "bleu4": "BLEU-4 with the true sentence, 0..100.",
        "gleu": "GLEU with the true sentence, 0..100.",
        "bert_score": "BERTScore F1 with the true sentence; comparable only with the same encoder.",
        **TEXT_EXPLANATIONS,
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
        """`stories`: a .csv file with columns sentence1..sentence5 (the format of ROCStories), or JSON lines; "" is the
        file in the package. `count` stories from number `first` on are used (0: all), the last `held_out` of them as
        the split "test".

        `stop` must equal policy.stop if that token is the punctuation that ends the sentence. Z does not contain it, so
        that Y is ⊤ and the fifth sentence, and R scores ⊤ once. Give "" if policy.stop is not text, such as EOS: Y is
        then the fifth sentence alone.

        True middle sentences of `shortest` to `longest` tokens are demonstrations; keep both within policy.min_actions
        and policy.max_actions. `longest` = 0 switches demonstrations off. Raise ValueError for a file that can't be
        read and for repeated stories.
        """
        stories_of = split_rows(read_stories(stories), first, count, held_out)
        check_unique(
            [(story.number, _visible_part(story)) for split in stories_of.values() for story in split],
            "beginning and ending",
        )
        self.splits = tuple(stories_of)
        self._tokenizer = tokenizer
        self._stop = stop
        self._stop_ids = _ids(tokenizer, stop)
        if len(self._stop_ids) > 1 or (stop and not self._stop_ids):
            raise ValueError(
                f"stop = {stop!r} is {len(self._stop_ids)} tokens of the model, and must be one: give policy.stop, "
                'or "" if it is not text'
            )
        self._lengths = range(shortest, longest + 1)
        self._prompts = {split: [self._prompt(story) for story in rows] for split, rows in stories_of.items()}
        self._middles = {_name(story): story.sentences[3] for rows in stories_of.values() for story in rows}
        self._beginnings = {
            _name(story): " ".join(story.sentences[:3]) for rows in stories_of.values() for story in rows
        }
        self._requests = {_name(story): [self._request(story)] for rows in stories_of.values() for story in rows}

    def check_policy(self, spec: PolicySpec) -> None:
        """Raise ValueError unless `stop` is policy.stop or empty."""
        if self._stop_ids and self._stop_ids != [spec.stop_token_id]:
            raise ValueError(
                f"task.options.stop = {self._stop!r} is another token than policy.stop, so that the stop would be "
                'scored twice or not at all. Give policy.stop, or "" if it is not text.'
            )

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """Beginning and ending of each story of a split, in the file's order, with ids line-1, line-2, ..."""
        return prompts_of_split(self._prompts, split)

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        """Z and the ending after the beginning; the base model does not see the policy's prompt."""
        return self._requests[prompt.id]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """`middle` [T+1]: log p_LM(z | X), and `ending` [T+1]: log p_LM(Y | X, z)."""
        return {"middle": base_scores[0].log_p_prefix, "ending": base_scores[0].target}

    def prior(self, prompt: Prompt) -> IntArray | None:
        """The beginning: log p_LM(Y | X, z) is at most log p_LM(⊤ | X, z), if Y begins with ⊤."""
        return self._requests[prompt.id][0].context if self._stop_ids else None

    def simulated(self, prompt: Prompt, number: int, token_ids: IntArray, target: IntArray) -> Prompt | None:
        """The beginning of a story with an ending that the base model wrote behind its own middle sentence."""
        name, context = f"{prompt.id}-simulated-{number}", self.prior(prompt)
        if context is None:
            return None
        ending = decode_text(self._tokenizer, target[1:])
        text = f"Beginning: {self._beginnings[prompt.id]}\nEnding: {ending}\nMiddle:"
        self._requests[name] = [ScoreRequest(context, target, at_stops=True)]
        self._middles[name] = decode_text(self._tokenizer, token_ids) + self._stop
        return make_text_prompt(self._tokenizer, name, text)

    def demonstrations(self) -> Sequence[tuple[str, str]]:
        """The true middle sentences of training stories that the policy could write: within the length limits, and
        with the stop token only at the end."""
        demonstrations = []
        for prompt in self._prompts[TRAIN]:
            middle = self._middles[prompt.id]
            text = f" {middle.removesuffix(self._stop)}"
            ids = _ids(self._tokenizer, text)
            writable = middle.endswith(self._stop) and not set(self._stop_ids) & set(ids)
            if writable and len(ids) in self._lengths:
                demonstrations.append((prompt.id, text))
        return demonstrations

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures as in `explanations`; all but the last have an interval over stories. bert_score and diversity are
        omitted without their judges."""
        pairs = {
            name: [(self._sentence(sample), self._middles[name]) for sample in drawn] for name, drawn in samples.items()
        }
        figures: dict[str, Figure] = {
            "log_reward": mean_over_samples(samples, lambda sample: sample.log_reward),
            "ending": mean_over_samples(samples, lambda sample: sample.terms["ending"]),
            "bleu4": mean_of_means([[bleu4(*pair) for pair in of_story] for of_story in pairs.values()]),
            "gleu": mean_of_means([[gleu(*pair) for pair in of_story] for of_story in pairs.values()]),
        }
        if judges.bert_score:
            flat = [pair for of_story in pairs.values() for pair in of_story]  # one call: it may load a model
            f1 = iter(judges.bert_score([text for text, _ in flat], [truth for _, truth in flat]).tolist())
            figures["bert_score"] = mean_of_means([[next(f1) for _ in of_story] for of_story in pairs.values()])
        return figures | text_figures(samples, self._sentence, judges)

    def _sentence(self, sample: Sample) -> str:
        return decode_text(self._tokenizer, sample.token_ids) + self._stop

    def _prompt(self, story: Story) -> Prompt:
        *beginning, _, ending = story.sentences
        text = f"Beginning: {' '.join(beginning)}\nEnding: {ending}\nMiddle:"
        return make_text_prompt(self._tokenizer, _name(story), text)

    def _request(self, story: Story) -> ScoreRequest:
        *beginning, _, ending = story.sentences
        target = _ids(self._tokenizer, f"{self._stop} {ending}")
        if target[: len(self._stop_ids)] != self._stop_ids:
            raise ValueError(
                f"stop = {self._stop!r} is not a separate token before {ending!r}: choose another policy.stop"
            )
        context = encode_prompt(self._tokenizer, " ".join(beginning))
        return ScoreRequest(context, np.array(target, dtype=np.int32), at_stops=True)


def _name(story: Story) -> str:
    return f"line-{story.number}"


def _visible_part(story: Story) -> tuple[str, ...]:
    """The part that the policy sees: all but the middle sentence."""
    return (*story.sentences[:3], story.sentences[4])


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(encode_behind(tokenizer, text).tolist())
