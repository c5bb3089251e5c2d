"""The calculator as a tool: after an "=" of the policy it writes the value of the expression before it.

" 6 - 4 ="          " 2"
" 6 - 0 - 4 ="      " -4"    if it is limited to two operands (Hu et al., arXiv 2310.04363)
" the sum ="        nothing: the policy continues by itself

arithmetic.py defines which expressions are computed, within which limits.
"""

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray
from lm.tokens import encode_behind
from rewards.tools.arithmetic import Limits, answer

NO_TOKENS = np.zeros(0, dtype=np.int32)


class Calculator:
    """Implements Tool of buffer/tool.py: a pure function of the tokens so far."""

    def __init__(self, tokenizer: Tokenizer, limits: Limits | None = None) -> None:
        """Raise ValueError for a vocabulary in which no token ends with "="."""
        self._tokenizer = tokenizer
        self._limits = limits or Limits()
        # A token such as "=-" is not a trigger: with it the policy has already continued after the "=".
        self.triggers = frozenset(
            token for token in range(tokenizer.get_vocab_size()) if self._text([token]).endswith("=")
        )
        if not self.triggers:
            raise ValueError(
                'no token of the vocabulary ends with "=", so the calculator would never be called. '
                "Switch the tool off, or choose another base model"
            )
        # A space, a sign and digits: at most one token per character.
        self.max_tokens = 2 + self._limits.max_digits

    def answer(self, token_ids: IntArray) -> IntArray:
        """A space and the value, as tokens; none if the text before the "=" is not an expression within the limits."""
        value = answer(self._text(token_ids.tolist()), self._limits)
        if value is None:
            return NO_TOKENS
        return encode_behind(self._tokenizer, f" {value}")

    def _text(self, token_ids: list[int]) -> str:
        # Special tokens are kept: without them, two numbers could run together.
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))
