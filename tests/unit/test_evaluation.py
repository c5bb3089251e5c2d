"""Evaluation of a run, except drawing the samples: tests/system starts an engine."""

import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tomli_w
import torch
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from actors.segments import Sampled
from buffer.errors import ConfigError, ModelError
from buffer.stored_policy import StoredPolicy
from buffer.types import IntArray, PolicySpec, Prompt
from deploy import cli
from deploy.artifacts.run_folder import RunFolder
from deploy.config import parse_config
from deploy.driver.certificate import Certificate
from deploy.driver.evaluation import explanations, judge, notes, write_evaluation, write_plots
from deploy.driver.preflight import Checked
from deploy.driver.samples import judged_prompts, named_prompts, sample_lines, score_samples
from deploy.models.judges import ENCODER, find_judges, load_judges, omitted_figures
from deploy.models.registry import find_model
from deploy.telemetry.before_after_table import before_after_table, figure_text
from learner.schedule import reward_temperature
from rewards.base_model import BaseModel
from rewards.judging import posterior
from rewards.judging.binomial import binomial_share
from rewards.judging.bootstrap import Interval
from rewards.judging.bound import Bound
from rewards.judging.verdict import Verdict
from rewards.task import TRAIN, BaseLogProbs, Figure, Judges, Sample, ScoreRequest, Task, Terms
from tests.support import tiny

NOTHING = Judges()
CERTIFICATE = Certificate(
    Verdict("samples", "samples the posterior (gap 0.01 nats)"), {"gap": Interval(0.01, 0.0, 0.02)}, "Exact."
)
Make = Callable[..., Checked]


class Letters(Task):
    """Ten prompts to train on and three to test; log R = -T, and "c" breaks it."""

    needs_base_model = False
    splits = (TRAIN, "test")

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        return [Prompt(f"{split}-{k}", "draw", np.array([3], np.int32)) for k in range(10 if split == TRAIN else 3)]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        if tiny.VOCABULARY.index("c") in token_ids:
            raise RuntimeError("no c")
        return {"length": -np.arange(len(token_ids) + 1.0), "_seen": np.ones(len(token_ids) + 1)}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        lengths = [len(sample.token_ids) for prompt_samples in samples.values() for sample in prompt_samples]
        return {"mean_length": Interval(float(np.mean(lengths)), float(min(lengths)), float(max(lengths)))}


class Failing(Letters):
    """Its `evaluate` raises."""

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        return {"share": 1 / 0}


class Wordy(Letters):
    """Its `evaluate` returns something that is not a figure."""

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        return {"verdict": "good"}  # type: ignore[dict-item]


class Judging(Letters):
    """It has a figure that needs a model, and one that replaces a general one."""

    explanations: ClassVar[Mapping[str, str]] = {"diversity": "needs a model", "ess": "its own"}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        return {"ess": 7.0} | ({} if judges.embed is None else {"diversity": 0.5})


class Asking(Letters):
    """log R = log p_LM(Z stop | X)."""

    needs_base_model = True

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        return {"likely": base_scores[0].log_p_stop}


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny base model."""
    return tiny.make_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture
def make() -> Make:
    """A checked configuration of one of the tasks above, with other sections of a recipe."""

    def checked(task: Task | None = None, **sections: object) -> Checked:
        tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(tiny.VOCABULARY)}, unk_token="<pad>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        task = task or Letters()
        spec: PolicySpec = tiny.tiny_spec(Path("model"))
        config = parse_config(sections, "test")
        stored = StoredPolicy.from_run(spec, "", tokenizer.get_vocab(), None, "letters", {}, 0.0, None)
        return Checked(config, spec, tokenizer, task, task.prompts(), [], stored)

    return checked


def sampled(text: str, log_q: float = -1.0) -> Sampled:
    """As an engine returns it; `log_q` is that of stopping, everything else is certain."""
    ids = np.array([tiny.VOCABULARY.index(letter) for letter in text], np.int32)
    log_pterm = np.append(np.full(len(ids), -1.0), log_q).astype(np.float32)
    return Sampled("r", ids, np.zeros(len(ids), np.float32), log_pterm, np.ones(len(ids), np.bool_), None)


def exact(log_rewards: Sequence[float], temperature: float = 1.0) -> list[Sample]:
    """Strings of a sampler of R^(1/T) over them."""
    log_w = np.array(log_rewards) / temperature
    log_q = log_w - np.logaddexp.reduce(log_w)
    return [
        Sample(np.array([k], np.int32), float(q), r) for k, (q, r) in enumerate(zip(log_q, log_rewards, strict=True))
    ]


# prompts


def test_an_unknown_split_is_rejected_with_the_valid_ones(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"--split tset .*Choose one of: train, test"):
        judged_prompts(make(), "tset")


def test_the_judged_prompts_are_spread_evenly_over_their_split(make: Make) -> None:
    checked = make(evaluation={"prompts": 5})
    assert [prompt.id for prompt in judged_prompts(checked)] == [f"train-{k}" for k in range(0, 10, 2)]
    assert [prompt.id for prompt in judged_prompts(checked, "test")] == [f"test-{k}" for k in range(3)]
    assert judged_prompts(checked, limit=0) == list(checked.task.prompts())


def test_an_unknown_prompt_is_rejected_with_valid_ones(make: Make) -> None:
    assert [prompt.id for prompt in named_prompts(make(), "test", ["test-2", "test-0"])] == ["test-2", "test-0"]
    with pytest.raises(ConfigError, match=r"--prompt train-1 .* 'test'.*test-0, test-1, test-2\."):
        named_prompts(make(), "test", ["test-0", "train-1"])


# scoring and figures


def test_strings_that_cannot_be_scored_are_left_out_and_counted(make: Make) -> None:
    checked = make()
    prompts = judged_prompts(checked, "test")
    drawn = {prompt.id: [sampled("a"), sampled("ac"), sampled("")] for prompt in prompts}
    [samples] = score_samples(checked, prompts, [drawn])
    assert [len(samples[prompt.id]) for prompt in prompts] == [2] * len(prompts)
    assert judge(checked, samples, NOTHING, 1.0, n_drawn=3).metrics["unscored"] == len(prompts)


def test_if_nothing_could_be_scored_only_that_is_reported(make: Make) -> None:
    judged = judge(make(), {"train-0": []}, NOTHING, 1.0, n_drawn=4)
    assert judged.metrics["unscored"] == 4 and judged.problem is None
    assert math.isnan(judged.metrics["ess"]) and "mean_length" not in judged.metrics


def test_log_reward_is_the_weighted_sum_of_terms_without_notes(make: Make) -> None:
    checked = make(rewards={"weights": {"length": 0.5}})
    [prompt, *_] = checked.prompts
    [samples] = score_samples(checked, [prompt], [{prompt.id: [sampled("ab", log_q=-0.25)]}])
    [sample] = samples[prompt.id]
    assert (sample.log_q, sample.log_reward) == (-0.25, 0.5 * -2.0)
    assert sample.terms == {"length": -2.0, "_seen": 1.0}


def test_the_frozen_model_scores_the_tasks_requests(make: Make, tiny_model: Path) -> None:
    checked = make(Asking())
    checked = replace(checked, spec=tiny.tiny_spec(tiny_model))
    [prompt, *_] = checked.prompts
    [samples] = score_samples(checked, [prompt], [{prompt.id: [sampled("ab")]}])
    [base_scores] = BaseModel(checked.spec, torch.device("cpu")).score(
        [ScoreRequest(prompt.token_ids)], [sampled("ab").token_ids]
    )
    assert samples[prompt.id][0].log_reward == pytest.approx(float(base_scores.log_p_stop[-1]), abs=1e-5)


def test_the_target_is_that_of_the_reward_temperature_that_training_reached(make: Make) -> None:
    samples = {"train-0": exact([0.0, 1.0, 5.0], temperature=2.0)}
    assert judge(make(), samples, NOTHING, 2.0).metrics["slope"] == pytest.approx(1.0)
    assert judge(make(), samples, NOTHING, 1.0).metrics["slope"] == pytest.approx(0.5)


def test_the_notes_say_when_training_stopped_before_the_last_temperature(make: Make) -> None:
    checked = make(learner={"reward_temperature_end": 0.5, "reward_temperature_steps": 100, "steps": 50})
    reached = reward_temperature(checked.config.learner.steps, checked.config.learner)
    early, whole = (notes(checked, judge(checked, {}, NOTHING, t))[0] for t in (reached, 0.5))
    assert (
        early == "Target: R^(1/T) at reward temperature T = 0.75, which training had reached; the recipe ends at 0.5."
    )
    assert whole == "Target: R^(1/T) at reward temperature T = 0.5."


def test_the_notes_say_if_the_prompts_are_trained_on_and_where_others_are(make: Make) -> None:
    checked = make()
    trained_on = judge(checked, {f"train-{k}": exact([0.0]) for k in range(4)}, NOTHING, 1.0)
    assert notes(checked, trained_on)[1] == (
        "Prompts: 4 of the 10 that are trained on. For others: tributary evaluate --split test."
    )
    tested = judge(checked, {f"test-{k}": exact([0.0]) for k in range(3)}, NOTHING, 1.0)
    assert notes(checked, tested, "test")[1] == "Prompts: 3 of the 3 of split test, which are not trained on."


def test_the_tasks_own_figure_counts_where_both_have_one(make: Make) -> None:
    checked = make(Judging())
    assert judge(checked, {"train-0": exact([0.0, 1.0])}, NOTHING, 1.0).figures["ess"] == 7.0
    assert explanations(checked)["ess"] == "its own"
    assert set(posterior.EXPLANATIONS) <= set(explanations(checked))


@pytest.mark.parametrize(
    ("task", "reason"), [(Failing(), "raised ZeroDivisionError"), (Wordy(), "'verdict' is 'good', and must be")]
)
def test_a_task_whose_evaluate_fails_loses_only_its_own_figures(make: Make, task: Task, reason: str) -> None:
    judged = judge(make(task), {"train-0": exact([0.0, 1.0])}, NOTHING, 1.0)
    assert judged.problem and reason in judged.problem
    assert judged.metrics["slope"] == pytest.approx(1.0)


# what is written


def test_the_file_has_plain_numbers_and_intervals_apart(make: Make, tmp_path: Path) -> None:
    checked, folder = make(), RunFolder.create(tmp_path / "run")
    samples = {f"test-{k}": exact([0.0, 1.0, float(k)]) for k in range(3)}
    judged = judge(checked, samples, NOTHING, 1.0, n_drawn=3)
    name = write_evaluation(folder, judged, judged, (CERTIFICATE, CERTIFICATE), "test", {"seed": 5})
    assert name == "evaluation-test.json"
    written = json.loads((folder.path / name).read_text())
    assert written["metrics"]["before"]["mean_length"] == 1.0 and written["intervals"]["after"]["mean_length"] == [
        1.0,
        1.0,
    ]
    assert set(written["intervals"]["after"]) < set(written["metrics"]["after"])
    assert (written["split"], written["prompts"], written["posterior_intervals_over"]) == ("test", 3, "prompts")
    assert written["certificate"]["after"]["verdict"] == "samples"
    assert written["certificate"]["after"]["intervals"] == {"gap": [0.0, 0.02]}
    assert written["seed"] == 5 and written["problems"] == []
    assert written["bounds"]["after"] == posterior.SIDES and not set(posterior.SIDES) & set(
        written["intervals"]["after"]
    )
    assert write_evaluation(folder, judged, judged, (CERTIFICATE, CERTIFICATE), TRAIN, {}) == "evaluation.json"


def test_every_plot_is_written_as_png_and_svg_and_splits_do_not_overwrite_each_other(
    make: Make, tmp_path: Path
) -> None:
    checked, folder = make(), RunFolder.create(tmp_path / "run")
    judged = judge(checked, {"test-0": exact([0.0, 1.0, -2.0]), "test-1": []}, NOTHING, 1.0)
    for split in (TRAIN, "test"):
        write_plots(folder, checked, judged, judged, split)
    stems = ("figures", "posterior", "figures-test", "posterior-test")
    assert {path.name for path in folder.plots.iterdir()} == {f"{s}.{kind}" for s in stems for kind in ("png", "svg")}


def test_a_sampler_without_scored_strings_can_be_plotted(make: Make, tmp_path: Path) -> None:
    checked, folder = make(), RunFolder.create(tmp_path / "run")
    unscored, scored = (judge(checked, {"train-0": samples}, NOTHING, 1.0) for samples in ([], exact([0.0, 1.0])))
    write_plots(folder, checked, scored, unscored)
    write_plots(folder, checked, unscored, unscored)
    assert (folder.plots / "posterior.png").is_file()


def test_sample_lines_are_json_in_which_control_characters_are_escaped(make: Make) -> None:
    checked = make()
    checked.tokenizer.add_tokens(["\x1b[31m"])
    ids = [checked.tokenizer.token_to_id(word) for word in ("a", "\x1b[31m", "b")]
    sample = Sample(np.array(ids, np.int32), -1.5, -2.0, {"length": -2.0})
    [line] = sample_lines(checked, {"train-0": [sample]})
    assert line.isascii() and line.isprintable()
    assert json.loads(line) == {
        "prompt": "train-0",
        "text": checked.tokenizer.decode(ids, skip_special_tokens=False),
        "log_q": -1.5,
        "log_reward": -2.0,
        "terms": {"length": -2.0},
    }


def test_the_table_shows_intervals_where_there_are_some() -> None:
    console = Console(width=100, file=io.StringIO())
    before = {"share": Interval(0.8123, 0.744, 0.876), "count": 3.0, "new": Interval(math.nan, math.nan, math.nan)}
    console.print(before_after_table(before, {"share": Interval(0.5, math.nan, math.nan)}, {}))
    assert isinstance(console.file, io.StringIO)
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["share", "0.812", "[0.744,", "0.876]", "0.5"] in rows
    assert ["count", "3", "-"] in rows and ["new", "-", "-"] in rows


def test_the_table_shows_the_side_of_a_bound_and_how_many_samples_it_is_of() -> None:
    console = Console(width=100, file=io.StringIO())
    figures = {"kl": Bound(1.43, "at least"), "ess": Bound(0.182, "at most", "K = 10, 1/K = 0.1")}
    unknown = {"kl": Bound(math.nan, "at least")}
    console.print(before_after_table(figures, unknown, {"ess": "Effective."}, ["Target: T = 0.7.", "Prompts: 3."]))
    assert isinstance(console.file, io.StringIO)
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["kl", "at", "least", "1.43", "-"] in rows and ["ess", "at", "most", "0.182", "-", "1"] in rows, (
        "1 at the target"
    )
    assert ["K", "=", "10,", "1/K", "=", "0.1"] in rows and ["ess:", "Effective."] in rows
    assert rows[-2:] == [["Target:", "T", "=", "0.7."], ["Prompts:", "3."]]


def test_a_certain_share_is_shown_with_its_exact_interval() -> None:
    assert figure_text(binomial_share(2000, 2000)) == ("1 [0.998, 1]",)


# judges


def test_without_the_encoder_its_figures_are_named_with_the_command_that_gets_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIBUTARY_CACHE", str(tmp_path))
    judges = find_judges()
    assert judges == NOTHING
    checked = make(Judging())
    notice = omitted_figures(checked.task, judge(checked, {"train-0": exact([0.0, 1.0])}, judges, 1.0).figures, judges)
    assert notice and "diversity" in notice and "ess" not in notice and f"tributary model get {ENCODER}" in notice
    assert omitted_figures(Letters(), {}, judges) is None, "a task that needs no encoder gets no notice"
    assert omitted_figures(checked.task, {"diversity": 0.5}, judges) is None, "`ess` is missing for another reason"


def test_a_damaged_encoder_is_reported_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIBUTARY_CACHE", str(tmp_path))
    (tmp_path / "models" / ENCODER).mkdir(parents=True)
    with pytest.raises(ModelError, match=f"tributary model get {ENCODER}"):
        find_judges()


def test_nothing_is_loaded_before_a_text_is_judged(tmp_path: Path) -> None:
    judges = load_judges(tmp_path / "absent")
    assert judges.embed and judges.bert_score
    with pytest.raises(ModelError, match="is not an encoder"):
        judges.embed(["a text"])


@pytest.mark.skipif(find_model(ENCODER) is None, reason=f"tributary model get {ENCODER}")
def test_the_packaged_encoder_judges_each_text_in_its_place() -> None:
    judges = find_judges()
    assert judges.embed and judges.bert_score
    a, b, again = judges.embed(["The cat sleeps.", "Prices rose in May.", "The cat sleeps."])
    assert (a == again).all() and a @ b < 0.5 < a @ a
    same, other, same_again = judges.bert_score(
        ["The cat sleeps.", "It rains.", "The cat sleeps."], ["The cat sleeps."] * 3
    )
    assert same == same_again == pytest.approx(1.0, abs=1e-5) and other < same


# the commands


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Path:
    """A run of the tiny task whose folder holds only the recipe."""
    values = {
        "model": {"name": str(tiny_model)},
        "policy": {"stop": ".", "max_actions": 3, "allowed_tokens": ["a", "b", "c"]},
        "task": {"name": "tests.support.tiny:TinyTask"},
        "actors": {"max_model_len": 64},
    }
    (tmp_path / "config.toml").write_text(tomli_w.dumps(values))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["evaluate", "--split", "test"], "--split test is not a split"),
        (["sample", "--split", "test"], "--split test is not a split"),
        (["sample", "--prompt", "tony"], "--prompt tony is not a prompt of split 'train'. Choose from: tiny."),
        (["evaluate"], "has no adapter yet"),
    ],
)
def test_invalid_options_are_rejected_before_an_engine_starts(run: Path, arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(cli.app, [*arguments, "--run", str(run)])
    assert isinstance(result.exception, ConfigError) and re.search(re.escape(reason), str(result.exception))
