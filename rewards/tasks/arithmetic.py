"""Arithmetic by a chain of steps, with or without a calculator (Hu et al., arXiv 2310.04363, section 4.4).

prompt   "Question: 6 - 0 - 4 - 8 = ? Answer:"
Z        " 6 - 0 = 6, 6 - 4 = 2, 2 - 8 = -6"      the calculator writes the number after each "="
Y        ". The answer is -6."
log R    log p_LM(Z Y | examples, prompt), including the calculator's text; the policy sees no examples

SmolLM2-135M-Instruct, three examples of seed 0, allowed tokens of the recipe, log p_LM(Z | X) + log p_LM(Y | X, Z):
         " 6 - 0 = 6, 6 - 4 = 2, 2 - 8 = -6"      -8.9 -  2.5 = -11.4 nats
         " 6 - 0 - 4 - 8 = -4"                    -6.9 -  9.4 = -16.3    a copy; the tool computes only 4 - 8
         " -6"                                    -3.8 -  4.4 =  -8.2    a guess; hence min_actions in the recipe
         ""                                                     -23.7

The recipe's stop token ⊤ is ".", the first token of Y, so that R(Z ⊤) scores it once, like any other token. No floor is
needed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from lm.tokens import encode_behind, encode_prompt
from rewards.judging.binomial import binomial_share
from rewards.judging.bootstrap import bootstrap_mean
from rewards.judging.majority_vote import majority_vote
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, ScoreRequest, Task, Terms
from rewards.tasks.arithmetic_questions import EXAMPLES, TEST_OPERANDS, Sum, make_splits
from rewards.tools.arithmetic import Limits
from rewards.tools.calculator import Calculator

MAX_DIGITS = 6
"""Most digits of the calculator's numbers, and of an answer."""

_ANSWER = re.compile(rf" *(-?[0-9]{{1,{MAX_DIGITS}}}) *")


class ArithmeticTask(Task):
    """R = p_LM(Z Y | X): the right answer Y after a chain Z of sums and differences."""

    explanations: ClassVar[Mapping[str, str]] = {
        **{
            f"accuracy_{n}": f"Share of questions of {n} operands answered correctly by majority vote."
            for n in TEST_OPERANDS
        },
        "single": "Share of single samples with the right answer.",
        "unparsed": "Share of samples that do not end in a number; they have no vote.",
        "tool": "1 if the calculator wrote the results, 0 if the policy did.",
        "samples": "Number of samples.",
    }

    def __init__(
        self,
        tokenizer: Tokenizer,
        train3: int = 500,
        train4: int = 500,
        test: int = 200,
        examples: int = 3,
        demonstrations: int = 10,
        tool: bool = True,
        max_operands: int = 2,
        masked: bool = True,
        seed: int = 0,
    ) -> None:
        """`train3`, `train4`: numbers of training questions with 3 and 4 operands; `test`: size of each test split.

        `examples` worked questions precede the prompt, for the base model only; the first `demonstrations` training
        questions come with their chains. The tool computes at most `max_operands` numbers at a time (0: any). `masked`:
        renormalise p_LM of Z over the policy's allowed tokens. Raise ValueError for numbers that don't fit, and for a
        tokenizer that merges tokens across the borders of prompt, Z and Y.
        """
        counts = dict(train3=train3, train4=train4, test=test, examples=examples, demonstrations=demonstrations)
        for name, value in [*counts.items(), ("max_operands", max_operands), ("seed", seed)]:
            if value < 0:
                raise ValueError(f"{name} = {value} must be at least 0")
        if max_operands == 1:
            raise ValueError("max_operands = 1 lets the calculator compute nothing: set 2 or more, or 0 for any number")
        if demonstrations > train3 + train4 or not train3 + train4:
            raise ValueError(
                f"train3 + train4 = {train3 + train4} must be at least 1 and at least demonstrations = "
                f"{demonstrations}: raise train3 or train4"
            )
        splits = make_splits(seed, examples, {3: train3, 4: train4}, test)
        self._tokenizer = tokenizer
        self._masked = masked
        self._examples = "".join(f"{_question_text(s)}{s.chain}{_answer_text(s)}\n" for s in splits[EXAMPLES])
        self._chains = [(s.canonical, s.chain) for s in splits[TRAIN][:demonstrations]]
        self.splits = tuple(split for split in splits if split != EXAMPLES and splits[split])
        self.tool = Calculator(tokenizer, Limits(max_operands=max_operands, max_digits=MAX_DIGITS)) if tool else None
        self._prompts = {split: [self._prompt(s) for s in splits[split]] for split in self.splits}
        self._check_tokens(splits[TRAIN][0])

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """The questions of a split, with their canonical strings as ids; "test<n>" has those of n operands."""
        return self._prompts[split]

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        """The right answer after each prefix, with the examples before the prompt."""
        return [
            ScoreRequest(
                context=self._ids(self._examples + prompt.text, is_prompt=True),
                target=self._ids(str(prompt.fields["answer_text"])),
                masked=self._masked,
                at_stops=True,
            )
        ]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """`chain` [T+1]: log p_LM(z | X), and `answer` [T+1]: log p_LM(Y | X, z)."""
        return {"chain": base_scores[0].log_p_prefix, "answer": base_scores[0].target}

    def prior(self, prompt: Prompt) -> IntArray:
        """The examples and the question: log p_LM(Y | X, z) is at most 0."""
        return self._ids(self._examples + prompt.text, is_prompt=True)

    def demonstrations(self) -> Sequence[tuple[str, str]]:
        """Worked chains of training questions."""
        return self._chains

    def labels(self, prompt: Prompt, token_ids: IntArray) -> Mapping[str, float]:
        """right: 1 if Z ends in the right answer; parsed: 1 if it ends in a number."""
        answer = self._answer(token_ids)
        return {"right": float(answer == prompt.fields["value"]), "parsed": float(answer is not None)}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures as in `explanations`, with intervals over questions."""
        fields = {prompt.id: prompt.fields for split in self.splits for prompt in self._prompts[split]}
        right_votes: dict[int, list[bool]] = {}
        single, unparsed = [], []
        for prompt_id, drawn in samples.items():
            right, operands = fields[prompt_id]["value"], int(fields[prompt_id]["operands"])
            answers = [self._answer(sample.token_ids) for sample in drawn]
            right_votes.setdefault(operands, []).append(majority_vote(answers) == right)
            single.append(float(np.mean([answer == right for answer in answers])))
            unparsed.append(float(np.mean([answer is None for answer in answers])))
        rng = np.random.default_rng(0)
        return {
            **{f"accuracy_{n}": binomial_share(sum(votes), len(votes)) for n, votes in sorted(right_votes.items())},
            "single": bootstrap_mean(single, rng),
            "unparsed": bootstrap_mean(unparsed, rng),
            "tool": float(self.tool is not None),
            "samples": float(sum(map(len, samples.values()))),
        }

    def _answer(self, token_ids: IntArray) -> int | None:
        """The number after the last "="; None if anything else, or nothing, follows it."""
        text = self._tokenizer.decode(token_ids.tolist(), skip_special_tokens=False)
        _, equals, after = text.rpartition("=")
        match = _ANSWER.fullmatch(after) if equals else None
        return int(match[1]) if match else None

    def _prompt(self, question: Sum) -> Prompt:
        text = _question_text(question)
        return Prompt(
            id=question.canonical,
            text=text,
            token_ids=self._ids(text, is_prompt=True),
            fields={
                "value": question.value,
                "operands": len(question.digits),
                "answer_text": _answer_text(question),
            },
        )

    def _ids(self, text: str, is_prompt: bool = False) -> IntArray:
        return encode_prompt(self._tokenizer, text) if is_prompt else encode_behind(self._tokenizer, text)

    def _check_tokens(self, question: Sum) -> None:
        """Raise ValueError unless the tokens of prompt, Z and Y, put together, are the tokens of the whole text."""
        parts = [self._examples + _question_text(question), question.chain, _answer_text(question)]
        separate = [token for k, part in enumerate(parts) for token in self._ids(part, is_prompt=k == 0).tolist()]
        if self._ids("".join(parts), is_prompt=True).tolist() != separate:
            raise ValueError(
                f"the tokenizer merges tokens across the borders of prompt, {parts[1]!r} and {parts[2]!r}, so the base "
                "model would score a tokenization that it never saw. Choose another base model"
            )


def _question_text(question: Sum) -> str:
    return f"Question: {question.canonical} = ? Answer:"


def _answer_text(question: Sum) -> str:
    return f". The answer is {question.value}."
