"""How many words a text shares with a reference: BLEU-4 and GLEU, in percent.

The metrics of the story infilling table of Hu et al. (arXiv 2310.04363). Their code splits at white space and keeps
the case; here a full stop is no part of a word and the case does not matter. Compare runs with runs, not with theirs.
"""

import re

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.translate.gleu_score import sentence_gleu

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Lower-case words, and each other character that is no white space: "Don't go." -> don ' t go ."""
    return _WORD.findall(text.lower())


def bleu4(hypothesis: str, reference: str) -> float:
    """Sentence BLEU up to 4-grams with one reference, 0..100 (Papineni et al., 2002).

    An order without a match counts 0.1 matches (smoothing method 1 of Chen and Cherry, 2014), so that only texts
    without a common word, empty ones too, get 0. A text of fewer than four words has no 4-gram to match: not even
    itself gives it 100.
    """
    smoothing = SmoothingFunction().method1
    return 100.0 * float(sentence_bleu([words(reference)], words(hypothesis), smoothing_function=smoothing))


def gleu(hypothesis: str, reference: str) -> float:
    """The smaller of precision and recall of all 1- to 4-grams together, 0..100 (Wu et al., arXiv 1609.08144).

    Fit for single sentences without smoothing; itself gives any text 100, an empty one 0.
    """
    return 100.0 * float(sentence_gleu([words(reference)], words(hypothesis)))
