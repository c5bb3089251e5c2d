"""Exact draws by rejection and by simulation, on a language model that is a table: every probability is known."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from actors.behaviour import Behaviour
from actors.segments import Sampled
from buffer.errors import ConfigError, RewardError
from buffer.stored_policy import StoredPolicy
from buffer.types import AdapterFiles, AdapterVersion, IntArray, PolicySpec, Prompt
from deploy.artifacts.run_folder import RunFolder
from deploy.config import parse_config
from deploy.driver.certificate import Strings, certify
from deploy.driver.exact_draws import Accepted, accepted_draws, obstacle, simulate
from deploy.driver.known_strings import strings_of_run
from deploy.driver.preflight import Checked
from rewards.config import RewardConfig
from rewards.judging.calibration import Calibration
from rewards.scorer import Scorer
from rewards.task import TRAIN, BaseLogProbs, Sample, ScoreRequest, Task, Terms
from tests.support import tiny

A, B, C, STOP = (tiny.VOCABULARY.index(word) for word in ("a", "b", "c", "."))
TOKENS = (A, B, C, STOP)
NEXT = {token: np.random.default_rng(token).dirichlet(np.ones(4)) for token in (*TOKENS, tiny.VOCABULARY.index("draw"))}
"""Token -> probabilities of the next one, over TOKENS."""
SPEC: PolicySpec = tiny.tiny_spec(Path("model"))
STRINGS = [np.array(z, dtype=np.int32) for n in range(4) for z in itertools.product(TOKENS[:3], repeat=n)]


def log_p(context: int, token_ids: Sequence[int]) -> float:
    """log p_LM of the tokens behind a context, nats."""
    chain = [context, *token_ids]
    return sum(math.log(NEXT[x][TOKENS.index(y)]) for x, y in itertools.pairwise(chain))


class TableEngine:
    """Draws from the table under the policy's limits, as an engine does from the base model."""

    version: AdapterVersion | None = None
    can_take_version = False
    busy_s = 0.0

    def __init__(self, spec: PolicySpec, seed: int) -> None:
        self._spec, self._rng = spec, np.random.default_rng(seed)
        self._open: list[Sampled] = []
        self._count = 0

    @property
    def in_flight(self) -> int:
        return len(self._open)

    def set_threads(self, threads: int) -> None:
        pass

    def serve(self, version: AdapterVersion, files: AdapterFiles) -> float:
        return 0.0

    def add(self, prompt_token_ids: IntArray, behaviour: Behaviour, use_base_model: bool = False) -> str:
        self._count += 1
        last, tokens, log_pf, log_pterm = int(prompt_token_ids[-1]), list[int](), list[float](), list[float]()
        while True:
            p = NEXT[last].copy()
            if len(tokens) == self._spec.max_actions:
                log_pterm.append(0.0)
                break
            if len(tokens) < self._spec.min_actions:
                p[3] = 0.0
                p /= p.sum()
            log_pterm.append(math.log(p[3]) if p[3] else -math.inf)
            token = TOKENS[self._rng.choice(4, p=p)]
            if token == STOP:
                break
            log_pf.append(math.log(p[TOKENS.index(token)]))
            tokens.append(token)
            last = token
        arrays = np.array(log_pf, np.float32), np.array(log_pterm, np.float32), np.ones(len(tokens), np.bool_)
        self._open.append(Sampled(f"s{self._count}", np.array(tokens, np.int32), *arrays, None))
        return f"s{self._count}"

    def step(self) -> list[Sampled]:
        done, self._open = self._open, []
        return done


class TableScorer:
    """The same table as a frozen base model."""

    def score(self, requests: Sequence[ScoreRequest], responses: Sequence[IntArray], /) -> list[BaseLogProbs]:
        return [self._score(request, z.tolist()) for request, z in zip(requests, responses, strict=True)]

    def _score(self, request: ScoreRequest, z: list[int]) -> BaseLogProbs:
        chain = [int(request.context[-1]), *z]
        tokens = [log_p(x, [y]) for x, y in itertools.pairwise(chain)]
        behind = [log_p(last, request.target.tolist()) for last in chain]
        return BaseLogProbs(
            np.array(tokens, np.float32), np.array([log_p(x, [STOP]) for x in chain], np.float32), np.array(behind, np.float32)
        )  # fmt: skip


class Constrained(Task):
    """p_LM(Z ⊤) where Z has no "b"; elsewhere a hundredth of it."""

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        return [Prompt("draw", "draw", np.array([tiny.VOCABULARY.index("draw")], np.int32))]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        has_b = np.append(0.0, np.cumsum(token_ids == B)) > 0
        return {"base": base_scores[0].log_p_stop, "constraint": np.where(has_b, math.log(0.01), 0.0)}

    def prior(self, prompt: Prompt) -> IntArray:
        return prompt.token_ids


class Rash(Constrained):
    """It promises a bound that does not hold."""

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        return {"base": base_scores[0].log_p_stop + 3.0}


class Infill(Constrained):
    """p_LM(Z Y | X): Y begins with ⊤."""

    def __init__(self) -> None:
        self._targets = {"draw": np.array([STOP, A, STOP], np.int32)}

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        return [ScoreRequest(prompt.token_ids, self._targets[prompt.id])]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        return {"middle": base_scores[0].log_p_prefix, "ending": base_scores[0].target}

    def simulated(self, prompt: Prompt, number: int, token_ids: IntArray, target: IntArray) -> Prompt:
        name = f"draw-{number}"
        self._targets[name] = target
        return Prompt(name, "draw", prompt.token_ids)


def checked_of(task: Task, spec: PolicySpec = SPEC, **sections: object) -> Checked:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(tiny.VOCABULARY)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    stored = StoredPolicy.from_run(spec, "", tokenizer.get_vocab(), None, "letters", {}, 0.0, None)
    return Checked(parse_config(sections, "test"), spec, tokenizer, task, task.prompts(), [], stored)


def limits(min_actions: int, max_actions: int) -> PolicySpec:
    from dataclasses import replace

    return replace(SPEC, min_actions=min_actions, max_actions=max_actions)


def posterior(scorer: Scorer, prompt: Prompt, strings: Sequence[IntArray], temperature: float = 1.0) -> np.ndarray:
    """Exact probabilities of all strings."""
    scores = scorer.score([prompt] * len(strings), strings)
    log_r = np.array([score.log_reward[:, -1].sum() for score in scores], dtype=float) / temperature  # type: ignore[union-attr]
    return np.exp(log_r - np.logaddexp.reduce(log_r))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("shortest", "longest"), [(0, 3), (2, 3), (0, 1)])
def test_accepted_draws_follow_the_target_under_every_limit(shortest: int, longest: int, temperature: float) -> None:
    checked = checked_of(Constrained(), limits(shortest, longest))
    scorer = Scorer(checked.task, TableScorer(), RewardConfig())
    engine = TableEngine(checked.spec, seed=0)
    drawn = accepted_draws(checked, engine, scorer, checked.prompts, 20_000, temperature, seed=1)
    strings = [z for z in STRINGS if shortest <= len(z) <= longest]
    p = posterior(scorer, checked.prompts[0], strings, temperature)
    counts = {z.tobytes(): 0 for z in strings}
    for accepted in drawn.draws["draw"]:
        counts[accepted.token_ids.tobytes()] += 1
    n = drawn.number
    assert n > 150 and drawn.tries == 20_000 and drawn.tokens >= 20_000
    chi2 = sum((counts[z.tobytes()] - n * q) ** 2 / (n * q) for z, q in zip(strings, p, strict=True))
    assert chi2 < len(strings) - 1 + 4 * math.sqrt(2 * len(strings))


def test_simulated_targets_come_with_an_exact_draw_of_their_posterior() -> None:
    """The exact posterior given Y of each pair puts Z at a uniform place of its distribution function."""
    checked = checked_of(Infill(), limits(1, 2), evaluation={"prompts": 400})
    scorer = Scorer(checked.task, TableScorer(), RewardConfig())
    told: list[str] = []
    prompts, pairs = simulate(checked, TableEngine(checked.spec, seed=3), scorer, 400, 1.0, seed=4, say=told.append)
    strings = [z for z in STRINGS if 1 <= len(z) <= 2]
    rng, places = np.random.default_rng(0), []
    for prompt in prompts:
        p, [pair] = posterior(scorer, prompt, strings), pairs.draws[prompt.id]
        k = next(k for k, z in enumerate(strings) if z.tobytes() == pair.token_ids.tobytes())
        places.append(p[:k].sum() + p[k] * rng.random())
    assert len(places) == len({prompt.id for prompt in prompts}) > 150
    assert told[-1].startswith(f"{len(places)} of 400 prompts have an exact draw, after ")
    assert Calibration(places).p_value > 0.01


def test_a_broken_promise_of_the_prior_is_an_error() -> None:
    checked = checked_of(Rash())
    with pytest.raises(RewardError, match="`prior` promises that R is at most p"):
        accepted_draws(
            checked, TableEngine(SPEC, 0), Scorer(checked.task, TableScorer(), RewardConfig()), checked.prompts, 50, 1.0, 0
        )  # fmt: skip


def test_a_broken_promise_does_not_lose_the_end_of_a_run(tmp_path: Path) -> None:
    checked, folder = checked_of(Rash()), RunFolder.create(tmp_path / "run")
    base = {"draw": [Sample(np.array([A], np.int32), -1.0, 5.0)]}
    strings = strings_of_run(checked, folder, base, base, 1.0)
    assert strings.exact is None and "`prior` promises" in str(strings.obstacle)


def test_at_the_end_of_a_run_the_base_models_samples_are_the_proposals(tmp_path: Path) -> None:
    checked, folder = checked_of(Constrained()), RunFolder.create(tmp_path / "run")
    base = {"draw": [Sample(np.array([A], np.int32), -1.0, -1.0)] * 20 + [Sample(np.array([B], np.int32), -1.0, -90.0)]}
    strings = strings_of_run(checked, folder, base, base, 1.0)
    assert strings.exact is not None and (strings.exact.number, strings.exact.tries) == (20, 21)


def test_a_split_of_which_no_draw_is_accepted_is_an_error_after_bounded_work() -> None:
    class Hopeless(Constrained):
        def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
            return {"base": base_scores[0].log_p_stop - 60.0}

    checked = checked_of(Hopeless())
    with pytest.raises(ConfigError, match="none of 100 draws of the base model was accepted"):
        simulate(checked, TableEngine(SPEC, 0), Scorer(checked.task, TableScorer(), RewardConfig()), 5, 1.0, 0, print)


@pytest.mark.parametrize(
    ("sections", "temperature", "reason"),
    [
        ({}, 1.0, None),
        ({}, 0.5, None),
        ({}, 1.2, "tempered, T = 1.2"),
        ({"rewards": {"weights": {"base": 0.5}}}, 1.0, "rewards.weights lowers a term"),
        ({"rewards": {"adapter": "likelihood"}}, 1.0, "rewards.adapter"),
    ],
)
def test_what_stands_in_the_way_of_exact_draws_is_said(
    sections: dict[str, object], temperature: float, reason: str | None
) -> None:
    problem = obstacle(checked_of(Constrained(), **sections), temperature)
    assert problem is None if reason is None else reason in str(problem)


def test_a_task_without_a_prior_has_no_exact_draws() -> None:
    class Plain(Constrained):
        def prior(self, prompt: Prompt) -> None:  # type: ignore[override]
            return None

    assert "Task.prior" in str(obstacle(checked_of(Plain()), 1.0))


def samples_of(drawn: Sequence[Sampled], scorer: Scorer, prompt: Prompt) -> list[Sample]:
    scores = scorer.score([prompt] * len(drawn), [s.token_ids for s in drawn])
    return [
        Sample(s.token_ids, s.log_q, float(score.log_reward[:, -1].sum()))  # type: ignore[union-attr]
        for s, score in zip(drawn, scores, strict=True)
    ]


def test_the_base_model_is_not_certified_for_a_constraint_and_an_exact_sampler_is() -> None:
    checked = checked_of(Constrained())
    scorer, prompt, rng = (
        Scorer(checked.task, TableScorer(), RewardConfig()),
        checked.prompts[0],
        np.random.default_rng(0),
    )
    engine = TableEngine(SPEC, 5)
    for _ in range(800):
        engine.add(prompt.token_ids, Behaviour("on_policy", 1.0, suppress_stop=False))
    base = samples_of(engine.step(), scorer, prompt)
    p = posterior(scorer, prompt, STRINGS)
    log_r = {
        z.tobytes(): s.log_reward
        for z, s in zip(STRINGS, samples_of([_given(z) for z in STRINGS], scorer, prompt), strict=True)
    }
    chosen = [STRINGS[k] for k in rng.choice(len(STRINGS), 800, p=p)]
    log_p_of = {z.tobytes(): float(np.log(q)) for z, q in zip(STRINGS, p, strict=True)}
    trained = [Sample(z, log_p_of[z.tobytes()], log_r[z.tobytes()]) for z in chosen]
    exact: Accepted = accepted_draws(checked, TableEngine(SPEC, 6), scorer, checked.prompts, 2000, 1.0, 7)
    strings = Strings({"draw": base}, {"draw": trained}, exact)

    def log_q(given: Sequence[object], base_model: bool) -> np.ndarray:
        ids = [t.token_ids for t in given]  # type: ignore[attr-defined]
        if not base_model:
            return np.array([log_p_of[z.tobytes()] for z in ids], np.float32)
        last = tiny.VOCABULARY.index("draw")
        return np.array(
            [
                log_p(last, z.tolist()) + (log_p(int(z[-1]) if len(z) else last, [STOP]) if len(z) < 3 else 0)
                for z in ids
            ],
            np.float32,
        )

    of_base, of_trained = (certify(checked, checked.prompts, strings, 1.0, log_q, is_base) for is_base in (True, False))
    assert of_base.verdict.kind in ("too flat", "misses mass", "differs"), of_base.verdict.text
    assert of_trained.verdict.kind == "samples", of_trained.verdict.text
    assert "draws of the base model were accepted" in of_trained.source
    assert of_base.figures["engine_difference"] < 1e-5  # type: ignore[operator]
    wrong = certify(
        checked, checked.prompts, strings, 1.0, lambda given, base_model: log_q(given, base_model) - 1.0, False
    )
    assert wrong.verdict.kind == "wrong weights"


def _given(token_ids: IntArray) -> Sampled:
    n = len(token_ids)
    return Sampled("g", token_ids, np.zeros(n, np.float32), np.zeros(n + 1, np.float32), np.ones(n, np.bool_), None)
