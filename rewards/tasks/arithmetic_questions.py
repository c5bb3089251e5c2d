"""Questions of addition and subtraction of single digits, in disjoint splits.

A question is identified by its canonical string, "6 - 0 - 4 - 8". The 10^n · 2^(n-1) questions of n operands are
numbered, and each split is a slice of one permutation of these numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SIGNS = "+-"
TRAIN_OPERANDS = (3, 4)
"""Numbers of operands of the training questions."""
TEST_OPERANDS = (3, 4, 5)
"""Numbers of operands of the test questions: 5 is out of distribution."""
EXAMPLES = "examples"
TRAIN = "train"

Splits = Mapping[str, Sequence["Sum"]]


@dataclass(frozen=True, slots=True)
class Sum:
    """A question: n digits and the n - 1 signs between them."""

    digits: tuple[int, ...]
    signs: str

    @property
    def canonical(self) -> str:
        """The question as text, such as "6 - 0 - 4 - 8"."""
        first, *others = self.digits
        return str(first) + "".join(f" {sign} {digit}" for sign, digit in zip(self.signs, others, strict=True))

    @property
    def value(self) -> int:
        """The right answer."""
        return self.digits[0] + sum(map(_signed, self.signs, self.digits[1:]))

    @property
    def chain(self) -> str:
        """The worked solution, two operands per step, such as " 6 - 0 = 6, 6 - 4 = 2, 2 - 8 = -6"."""
        steps, so_far = [], self.digits[0]
        for sign, digit in zip(self.signs, self.digits[1:], strict=True):
            result = so_far + _signed(sign, digit)
            steps.append(f" {so_far} {sign} {digit} = {result}")
            so_far = result
        return ",".join(steps)


def make_splits(seed: int, examples: int, train: Mapping[int, int], test: int) -> Splits:
    """Draw `examples` questions for a few-shot prefix, `train[n]` training questions of n operands, and `test` for each
    of the splits test3, test4 and test5.

    The test splits do not depend on `train`. Raise ValueError if there are not enough questions.
    """
    splits: dict[str, list[Sum]] = {EXAMPLES: [], TRAIN: []}
    for n in TEST_OPERANDS:
        # examples alternate between 4 and 3 operands, beginning with 4
        shown = (examples + n - TRAIN_OPERANDS[0]) // len(TRAIN_OPERANDS) if n in TRAIN_OPERANDS else 0
        trained = train.get(n, 0)
        total = 10**n * len(SIGNS) ** (n - 1)
        if shown + test + trained > total:
            raise ValueError(
                f"{shown} examples, test = {test} and train{n} = {trained} need more than the {total} questions of "
                f"{n} operands: lower train{n} or test"
            )
        numbers = np.random.default_rng([seed, n]).permutation(total)[: shown + test + trained].tolist()
        sums = [_question(number, n) for number in numbers]
        splits[EXAMPLES] += sums[:shown]
        splits[f"test{n}"] = sums[shown : shown + test]
        splits[TRAIN] += sums[shown + test :]
    np.random.default_rng(seed).shuffle(splits[TRAIN])
    check_disjoint(splits)
    return splits


def check_disjoint(splits: Splits) -> None:
    """Raise ValueError if a question occurs twice, in two splits or in one."""
    seen: dict[str, str] = {}
    for split, sums in splits.items():
        for question in sums:
            if question.canonical in seen:
                raise ValueError(
                    f"question {question.canonical!r} of split {split!r} is in {seen[question.canonical]!r} too: "
                    "every question must be in one split, once. Remove one of the two"
                )
            seen[question.canonical] = split


def _question(number: int, n: int) -> Sum:
    """Question `number` with n operands: the lowest bits are its signs, the remaining decimal digits its digits."""
    digits, bits = divmod(number, len(SIGNS) ** (n - 1))
    return Sum(
        digits=tuple(int(digit) for digit in f"{digits:0{n}d}"),
        signs="".join(SIGNS[bits >> k & 1] for k in range(n - 1)),
    )


def _signed(sign: str, digit: int) -> int:
    return -digit if sign == "-" else digit
