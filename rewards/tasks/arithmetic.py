"""Arithmetic by a chain of steps, with or without a calculator (Hu et al., arXiv 2310.04363, section 4.4).

prompt   "Question: 6 - 0 - 4 - 8 = ? Answer:"
Z        " 6 - 0 = 6, 6 - 4 = 2, 2 - 8 = -6"      what stands behind each "=" is the calculator's
Y        ". The answer is -6."
log R    log p_LM(Z Y | examples, prompt), calculator's text included; the policy sees no example

SmolLM2-135M-Instruct, three examples of seed 0, allowed tokens of the recipe, log p_LM(Z | X) + log p_LM(Y | X, Z):
         " 6 - 0 = 6, 6 - 4 = 2, 2 - 8 = -6"      -8.9 -  2.5 = -11.4 nats
         " 6 - 0 - 4 - 8 = -4"                    -6.9 -  9.4 = -16.3    a copy: the tool computes 4 - 8 only
         " -6"                                    -3.8 -  4.4 =  -8.2    a guess: why the recipe has min_actions
         ""                                                     -23.7

The recipe's stop is ".", the first token of Y: so R(Z ⊤) scores the stop as any other token, once. R needs no floor.
"""

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from rewards.judging.bootstrap import bootstrap_mean
from rewards.judging.majority_vote import majority
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, ScoreRequest, Task, Terms
from rewards.tasks.arithmetic_questions import EXAMPLES, TESTED, Sum, make_splits
from rewards.tools.arithmetic import Limits
from rewards.tools.calculator import Calculator

MOST_DIGITS = 6
"""Of what the calculator computes, and of an answer."""

_ANSWER = re.compile(rf" *(-?[0-9]{{1,{MOST_DIGITS}}}) *")


class ArithmeticTask(Task):
    """R = p_LM(Z Y | X), the right answer Y behind a chain Z of sums and differences."""

    explanations: ClassVar[Mapping[str, str]] = {
        **{f"accuracy_{n}": f"share of questions of {n} operands with the right answer, by majority" for n in TESTED},
        "single": "share of single samples with the right answer",
        "unparsed": "share of samples that end in no number; these have no vote",
        "tool": "1 where the calculator wrote the results, 0 where the policy did",
        "samples": "drawn",
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
        """`train3`, `train4`: questions of 3 and 4 operands to learn from; `test`: questions of each test split.

        `examples` worked ones stand in front of the prompt, for the frozen model only; `demonstrations` of the train
        questions come with their chains. The tool computes at most `max_operands` numbers at a time; 0: any. `masked`:
        p_LM of Z is renormalised over the recipe's allowed tokens too. ValueError for numbers that do not fit, or a
        tokenizer that joins what must stay apart.
        """
        numbers = dict(train3=train3, train4=train4, test=test, examples=examples, demonstrations=demonstrations)
        for name, value in [*numbers.items(), ("max_operands", max_operands), ("seed", seed)]:
            if value < 0:
                raise ValueError(f"{name} = {value} must be at least 0")
        if max_operands == 1:
            raise ValueError("max_operands = 1 lets the calculator compute nothing: 2 or more, or 0 for any number")
        if demonstrations > train3 + train4 or not train3 + train4:
            raise ValueError(
                f"train3 + train4 = {train3 + train4} must be at least 1, and no less than demonstrations = "
                f"{demonstrations}: raise train3 or train4"
            )
        splits = make_splits(seed, examples, {3: train3, 4: train4}, test)
        self._tokenizer = tokenizer
        self._masked = masked
        self._examples = "".join(f"{_asked(s)}{s.chain}{_told(s)}\n" for s in splits[EXAMPLES])
        self._chains = [(s.canonical, s.chain) for s in splits[TRAIN][:demonstrations]]
        self.splits = tuple(split for split in splits if split != EXAMPLES and splits[split])
        self.tool = Calculator(tokenizer, Limits(max_operands=max_operands, max_digits=MOST_DIGITS)) if tool else None
        self._prompts = {split: [self._prompt(s) for s in splits[split]] for split in self.splits}
        self._check_tokens(splits[TRAIN][0])

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """Questions of 3 and 4 operands in random order, or of n in "test<n>"; their ids are the canonical strings."""
        return self._prompts[split]

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        """The right answer behind each prefix, with the examples in front."""
        return [
            ScoreRequest(
                context=self._ids(self._examples + prompt.text, special=True),
                target=self._ids(str(prompt.fields["told"])),
                masked=self._masked,
            )
        ]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """Two terms [T+1]: `chain`, log p_LM(Z | X), and `answer`, log p_LM(Y | X, Z)."""
        return {"chain": base_scores[0].log_p_prefix, "answer": base_scores[0].target}

    def demonstrations(self) -> Sequence[tuple[str, str]]:
        """Worked chains of train questions."""
        return self._chains

    def labels(self, prompt: Prompt, token_ids: IntArray) -> Mapping[str, float]:
        """right: 1 where Z ends in the right answer; parsed: 1 where it ends in a number."""
        found = self._answer(token_ids)
        return {"right": float(found == prompt.fields["value"]), "parsed": float(found is not None)}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures of `explanations`, intervals over questions; an accuracy for each number of operands that occurs."""
        asked = {prompt.id: prompt for split in self.splits for prompt in self._prompts[split]}
        voted: dict[int, list[float]] = {}
        single, unparsed = [], []
        for name, drawn in samples.items():
            right, found = asked[name].fields["value"], [self._answer(sample.token_ids) for sample in drawn]
            voted.setdefault(int(asked[name].fields["operands"]), []).append(float(majority(found) == right))
            single.append(float(np.mean([value == right for value in found])))
            unparsed.append(float(np.mean([value is None for value in found])))
        rng = np.random.default_rng(0)
        return {
            **{f"accuracy_{n}": bootstrap_mean(voted[n], rng) for n in sorted(voted)},
            "single": bootstrap_mean(single, rng),
            "unparsed": bootstrap_mean(unparsed, rng),
            "tool": float(self.tool is not None),
            "samples": float(sum(map(len, samples.values()))),
        }

    def _answer(self, token_ids: IntArray) -> int | None:
        """The number that is all there is behind the last "="; None, which no number equals, where there is none."""
        text = self._tokenizer.decode(token_ids.tolist(), skip_special_tokens=False)
        _, equals, behind = text.rpartition("=")
        found = _ANSWER.fullmatch(behind) if equals else None
        return int(found[1]) if found else None

    def _prompt(self, question: Sum) -> Prompt:
        asked = _asked(question)
        return Prompt(
            id=question.canonical,
            text=asked,
            token_ids=self._ids(asked, special=True),
            fields={"value": question.value, "operands": len(question.digits), "told": _told(question)},
        )

    def _ids(self, text: str, special: bool = False) -> IntArray:
        return np.array(self._tokenizer.encode(text, add_special_tokens=special).ids, dtype=np.int32)

    def _check_tokens(self, question: Sum) -> None:
        """Prompt, Z and Y are scored as tokens side by side, and must be those of the text as a whole."""
        parts = [self._examples + _asked(question), question.chain, _told(question)]
        apart = [token for k, part in enumerate(parts) for token in self._ids(part, special=k == 0).tolist()]
        if self._ids("".join(parts), special=True).tolist() != apart:
            raise ValueError(
                f"the tokenizer joins {parts[1]!r} and {parts[2]!r}, or what stands before them, into other tokens "
                "than they have alone, so the frozen model would be asked about text that it never saw: "
                "choose another base model"
            )


def _asked(question: Sum) -> str:
    return f"Question: {question.canonical} = ? Answer:"


def _told(question: Sum) -> str:
    return f". The answer is {question.value}."
