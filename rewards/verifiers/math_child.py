"""The function behind rewards/verifiers/mathematics.py, in its own process: importing math-verify takes seconds."""

from collections.abc import Sequence

from math_verify import parse, verify


def equal(completions: Sequence[str], answer: Sequence[str]) -> list[float]:
    """1 where the completion's expression equals the answer's, else 0."""
    return [float(verify(_read(right), parse(text))) for text, right in zip(completions, answer, strict=True)]


def _read(right: str) -> list[object]:
    marked = "$" in right or "\\boxed" in right  # as a text marks an expression
    parsed: list[object] = parse(right if marked else f"${right}$")
    return parsed
