"""Subjectivity: classification by a rationale, from few labels (Hu et al., arXiv 2310.04363, section 4.3).

prompt   'Classify this movie review as objective or subjective: "too slow and too long ." This review is'
Z        " too long"                at most five tokens; the policy never sees the label
Y        ", so it is subjective."
log R    log p_LM(Z Y | prompt)

SmolLM2-135M-Instruct, log p_LM(Z | X) + log p_LM(Y | X, Z), and the probability of the right label among the two:
         " too long"              -10.2 - 10.7 = -20.9 nats    0.98
         " full of opinions"      -16.7 - 10.7 = -27.3         0.97
         " a summary"             -11.0 - 13.8 = -24.8         0.70
         ""                                      -23.2         0.98    though it calls nearly all reviews subjective

The recipe's stop token ⊤ is ",", the first token of Y, so that R(Z ⊤) scores it once, like any other token. No floor is
needed.

A label is predicted by the posterior predictive: the mean over sampled Z of p_LM(Y | X, Z), normalised over the two
labels. EM: the M-step (learner/m_step.py) trains p_LM(Y | X, Z) on sampled Z of the training reviews, with the targets
of `score_requests`, the right label first. A run that scores with the M-step's adapter is the next E-step.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from lm.tokens import encode_behind, encode_prompt
from rewards.judging.binomial import binomial_share
from rewards.judging.bootstrap import bootstrap_mean
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, ScoreRequest, Task, Terms
from rewards.text_file import read_json_lines

LABELS = ("objective", "subjective")
TEST = "test"
FORM = f'{{"text": "...", "label": ...}} with a label of {LABELS[0]!r} (or 0) or {LABELS[1]!r} (or 1)'
"""A line of a file of reviews."""


class SubjectivityTask(Task):
    """R = p_LM(Z Y | X): the known label Y of a review X after a rationale Z."""

    explanations: ClassVar[Mapping[str, str]] = {
        "accuracy": "Share of reviews with the right label, by the mean of p(label | X, Z) over samples Z.",
        "single": "Share of single samples after which the right label is the more probable one.",
        "log_score": "Mean log-probability of the right label, in nats.",
        "predicted_subjective": "Share of reviews that are classified as subjective.",
        "samples": "Number of samples.",
    }

    def __init__(self, tokenizer: Tokenizer, labels: int = 20, reviews: str = "", seed: int = 0) -> None:
        """`labels`: number of training reviews, half of them of each label; all others are the test split.

        `reviews`: a JSONL file with {"text": ..., "label": "objective" (or 0) or "subjective" (or 1)} per line; "" is
        the one in the package. Raise ValueError for any other content and for too few reviews.
        """
        self._tokenizer = tokenizer
        label_of = read_reviews(reviews or str(resources.files("rewards").joinpath("data", "reviews.jsonl")))
        if labels < 2 or labels % 2:
            raise ValueError(f"labels = {labels} must be an even number of at least 2, so that half are of each label")
        by_label = {label: [text for text in label_of if label_of[text] == label] for label in LABELS}
        rng = np.random.default_rng(seed)
        chosen: set[str] = set()
        for label, texts in by_label.items():
            if len(texts) <= labels // 2:
                raise ValueError(
                    f"labels = {labels} takes {labels // 2} {label} reviews, and of {len(texts)} none would be left to "
                    "test. Lower labels, or give a file with more reviews"
                )
            chosen |= {texts[k] for k in rng.permutation(len(texts))[: labels // 2]}
        prompts = [(text in chosen, self._prompt(k, text, label)) for k, (text, label) in enumerate(label_of.items())]
        self._prompts = {
            TRAIN: [prompt for is_train, prompt in prompts if is_train],
            TEST: [prompt for is_train, prompt in prompts if not is_train],
        }
        self.splits = (TRAIN, TEST)
        self._targets = {label: self._ids(f", so it is {label}.") for label in LABELS}

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """Reviews in the file's order; their ids number its distinct texts from 0."""
        return self._prompts[split]

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        """The right label, then the other one."""
        right = str(prompt.fields["label"])
        other = next(label for label in LABELS if label != right)
        return [ScoreRequest(prompt.token_ids, self._targets[label], at_stops=True) for label in (right, other)]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """`rationale` [T+1]: log p_LM(z | X); `label` [T+1]: log p_LM(Y | X, z); and the note `_other` [T+1]:
        log p_LM(the wrong label | X, z)."""
        right, other = base_scores
        return {"rationale": right.log_p_prefix, "label": right.target, "_other": other.target}

    def prior(self, prompt: Prompt) -> IntArray:
        """The prompt: log p_LM(Y | X, z) is at most 0."""
        return prompt.token_ids

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures as in `explanations`, with intervals over reviews."""
        labels = {prompt.id: prompt.fields["label"] for prompts in self._prompts.values() for prompt in prompts}
        predicted, single, log_score, subjective = [], [], [], []
        for prompt_id, drawn in samples.items():
            margins = np.array([sample.terms["label"] - sample.terms["_other"] for sample in drawn])  # nats
            log_shares = -np.logaddexp(0.0, -margins)
            log_share = float(np.logaddexp.reduce(log_shares) - np.log(len(drawn)))
            is_right = log_share > np.log(0.5)
            predicted.append(bool(is_right))
            single.append(float((margins > 0).mean()))
            log_score.append(log_share)
            subjective.append(float(is_right == (labels[prompt_id] == "subjective")))
        rng = np.random.default_rng(0)
        return {
            "accuracy": binomial_share(sum(predicted), len(predicted)),
            "single": bootstrap_mean(single, rng),
            "log_score": bootstrap_mean(log_score, rng),
            "predicted_subjective": float(np.mean(subjective)),
            "samples": float(sum(map(len, samples.values()))),
        }

    def _prompt(self, number: int, text: str, label: str) -> Prompt:
        question = f'Classify this movie review as objective or subjective: "{text}" This review is'
        return Prompt(f"review-{number}", question, encode_prompt(self._tokenizer, question), {"label": label})

    def _ids(self, text: str) -> IntArray:
        return encode_behind(self._tokenizer, text)


def read_reviews(path: str | Path) -> dict[str, str]:
    """Read text -> label, in the file's order, each text once. Raise ValueError with the line for anything else."""
    label_of: dict[str, str] = {}
    for number, row in read_json_lines(path, "reviews", FORM):
        text, label = _read_review(row, f"{path}, line {number}")
        if label_of.setdefault(text, label) != label:
            raise ValueError(f"{path}, line {number}: {text[:60]!r} has both labels in this file. Remove one")
    return label_of


def _read_review(row: object, where: str) -> tuple[str, str]:
    text, label = (row.get("text"), row.get("label")) if isinstance(row, dict) else (None, None)
    # type() and not isinstance: True is an int, but not a label
    label = LABELS[label] if type(label) is int and 0 <= label < len(LABELS) else label
    if not isinstance(text, str) or not text.strip() or label not in LABELS:
        raise ValueError(f"{where}: {str(row)[:80]!r} must be {FORM}. Fix or remove it")
    return text, str(label)
