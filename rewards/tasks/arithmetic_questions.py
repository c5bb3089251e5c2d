"""Questions of addition and subtraction with single digits, in splits that share none.

A question is known by its canonical string, "6 - 0 - 4 - 8". Of n operands there are 10^n · 2^(n-1): each is a number,
and a split is a piece of one permutation of these numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SIGNS = "+-"
TRAINED = (3, 4)
"""Operands of the questions that are trained on."""
TESTED = (3, 4, 5)
"""And of those that are tested: 5 is out of distribution."""
EXAMPLES = "examples"
TRAIN = "train"

Splits = Mapping[str, Sequence["Sum"]]


@dataclass(frozen=True, slots=True)
class Sum:
    """n digits, and the n - 1 signs between them."""

    digits: tuple[int, ...]
    signs: str

    @property
    def canonical(self) -> str:
        """Such as "6 - 0 - 4 - 8"."""
        first, *others = self.digits
        return str(first) + "".join(f" {sign} {digit}" for sign, digit in zip(self.signs, others, strict=True))

    @property
    def value(self) -> int:
        """Left to right."""
        return self.digits[0] + sum(map(_signed, self.signs, self.digits[1:]))

    @property
    def chain(self) -> str:
        """The worked solution of two operands a step, such as " 6 - 0 = 6, 6 - 4 = 2, 2 - 8 = -6"."""
        steps, so_far = [], self.digits[0]
        for sign, digit in zip(self.signs, self.digits[1:], strict=True):
            result = so_far + _signed(sign, digit)
            steps.append(f" {so_far} {sign} {digit} = {result}")
            so_far = result
        return ",".join(steps)


def make_splits(seed: int, examples: int, train: Mapping[int, int], test: int) -> Splits:
    """`examples` questions for a few-shot prefix, `train[n]` of n operands to learn from, `test` for each of test3,
    test4 and test5.

    A test split depends on neither `train`. Raise ValueError where there are not as many questions.
    """
    splits: dict[str, list[Sum]] = {EXAMPLES: [], TRAIN: []}
    for n in TESTED:
        shown = (examples + n - TRAINED[0]) // len(TRAINED) if n in TRAINED else 0  # by turns, 4 operands first
        learned = train.get(n, 0)
        total = 10**n * len(SIGNS) ** (n - 1)
        if shown + test + learned > total:
            raise ValueError(
                f"{shown} examples, test = {test} and train{n} = {learned} ask for more than the {total} questions of "
                f"{n} operands: lower train{n} or test"
            )
        numbers = np.random.default_rng([seed, n]).permutation(total)[: shown + test + learned].tolist()
        sums = [_numbered(number, n) for number in numbers]
        splits[EXAMPLES] += sums[:shown]
        splits[f"test{n}"] = sums[shown : shown + test]
        splits[TRAIN] += sums[shown + test :]
    np.random.default_rng(seed).shuffle(splits[TRAIN])
    check_disjoint(splits)
    return splits


def check_disjoint(splits: Splits) -> None:
    """Raise ValueError where a question stands twice, in two splits or in one."""
    seen: dict[str, str] = {}
    for split, sums in splits.items():
        for question in sums:
            if question.canonical in seen:
                raise ValueError(
                    f"question {question.canonical!r} of split {split!r} stands in {seen[question.canonical]!r} too: "
                    "each must stand in one split, once"
                )
            seen[question.canonical] = split


def _numbered(number: int, n: int) -> Sum:
    """Question `number` of those with n operands: its signs are the lowest bits, its digits the rest in decimal."""
    digits, bits = divmod(number, len(SIGNS) ** (n - 1))
    return Sum(
        digits=tuple(int(digit) for digit in f"{digits:0{n}d}"),
        signs="".join(SIGNS[bits >> k & 1] for k in range(n - 1)),
    )


def _signed(sign: str, digit: int) -> int:
    return -digit if sign == "-" else digit
