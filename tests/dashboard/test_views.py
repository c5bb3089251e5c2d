"""The views of the API: the content of each page agrees with the recorded run."""

import json
import math
from pathlib import Path

import pytest

from deploy.dashboard.data import pattern_search
from deploy.dashboard.data.pattern_search import PatternTooSlow, matching
from deploy.dashboard.views.glossary import GLOSSARY
from tests.support.fixture_runs import CONFIG, LOG_Z, PROMPTS, STEPS, make_run
from tests.support.hostile import HOSTILE
from tests.support.running import ROOT

STATES = {
    "empty": "empty", "live": "running", "stale": "stale", "dead": "dead", "finished": "finished", "stopped": "stopped",
    "failed": "stopped", "judging": "judging", "alerts": "running", "no_history": "stale",
}  # fmt: skip


@pytest.mark.parametrize(("made", "state"), STATES.items())
def test_the_state_of_a_run_is_a_word_and_a_sentence(client, tmp_path, made, state):
    with client(make_run(tmp_path / made, made)) as page:
        view = page.get("/api/overview").json()
        assert view["state"] == state and view["sentence"].endswith(".")
        live = state in ("running", "judging")
        assert (view["left_s"] is not None) == live
        assert all(part["state"] not in ("running", "waiting") for part in view["components"]) or live
        assert page.get("/api/runs").json()["runs"][0]["state"] == state
        ended = {"finished": "finished", "stopped": "stopped", "dead": "down"}
        assert state not in ended or {part["state"] for part in view["components"]} == {ended[state]}


def test_a_live_overview_names_the_bottleneck_and_each_parts_state(client, tmp_path):
    with client(make_run(tmp_path / "live", "live")) as page:
        view = page.get("/api/overview").json()
        assert view["bottleneck"]["sentence"] and view["bottleneck"]["change"]
        assert {part["name"] for part in view["components"]} == {"learner", "actor-0", "actor-1", "reward-0", "buffer"}
        assert view["step"] == STEPS // 2 and view["steps"] == STEPS
        assert view["rates"]["tokens_per_s"] == pytest.approx(96, rel=0.1)


def test_alerts_have_cause_and_remedy(client, tmp_path):
    with client(make_run(tmp_path / "alerts", "alerts")) as page:
        alerts = page.get("/api/overview").json()["alerts"]
        assert {"staleness", "canary"} <= {alert["id"] for alert in alerts}
        assert all(alert["what"] and alert["cause"] and alert["remedy"] and alert["since"] > 0 for alert in alerts)
        kinds = [event["kind"] for event in page.get("/api/events?kind=alert").json()["events"]]
        assert kinds and set(kinds) == {"alert"}


def test_histograms_of_the_buffer_count_every_trajectory(client, finished):
    with client(finished) as page:
        view = page.get("/api/buffer").json()
        rewards, weights = view["reward_histogram"], view["priority_histogram"]
        assert len(weights) <= 64 and all(bin["low"] < bin["high"] for bin in rewards + weights)
        assert sum(bin["n"] for bin in rewards) == sum(int(1 + 20 * math.exp(-((k - 30) ** 2) / 60)) for k in range(37))
        assert sum(bin["n"] for bin in weights) == sum(
            int(1 + 50 * math.exp(-((k + 8) ** 2) / 90)) for k in range(-40, 25)
        )
        assert view["staleness_histogram"][2] == {"low": 2, "high": 4, "n": 400}
        assert view["now"]["ess_share"] == pytest.approx(0.34)
        assert view["pace"]["samples_per_insert"] == 2.0 and view["pace"]["limited"] in (None, "draws", "inserts")


def test_rewards_have_log_r_along_the_string(client, finished):
    with client(finished) as page:
        view = page.get("/api/rewards").json()
        curve = view["per_prefix"]
        assert curve["position"] == list(range(len(curve["mean"]))) and curve["n"][0] >= curve["n"][-1] > 0
        assert curve["mean"][0] < -8 and curve["mean"][-1] > -1, "the reward of the fixture comes with the last token"
        assert [term["name"] for term in view["terms"]] == ["base", "_chars"]
        base, chars = view["terms"]
        assert base["share"] == pytest.approx(1.0) and chars["note"] and chars["share"] is None
        rewards = [one["log_reward"] for one in view["top"]]
        assert rewards == sorted(rewards, reverse=True) and len(
            {(o["prompt_id"], o["text"]) for o in view["top"]}
        ) == len(rewards)


def test_the_posterior_page_compares_log_q_with_tempered_log_r_and_gives_u_by_position(client, finished):
    with client(finished) as page:
        view = page.get("/api/posterior?steps=5").json()
        assert (view["from_step"], view["to_step"]) == (STEPS - 5, STEPS - 1)
        assert len(view["scatter"]["log_q"]) == len(view["scatter"]["id"]) == 5 * 16
        assert view["log_z_bounds"]["exact"] == pytest.approx(LOG_Z)
        slope = page.get("/api/curves?names=learner.slope").json()["curves"]["learner.slope"]
        assert view["slope"] == {name: slope[name] for name in ("last", "finite", "of")}, "the page and its plot agree"
        assert view["u"]["n"][0] == 0 and view["u"]["mean"][0] is None, "the first prefix may not stop"
        assert view["u"]["mean"][1] == pytest.approx(LOG_Z, abs=0.1)
        one = page.get("/api/posterior?prompt=letters&steps=5").json()
        assert [prompt["id"] for prompt in one["prompts"]] == ["letters"]


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        ("prompt=letters", lambda s: s["prompt_id"] == "letters"),
        ("behaviour=tempered", lambda s: s["behaviour"] == "tempered"),
        ("fresh=false", lambda s: not s["fresh"]),
        ("reward_from=-0.01", lambda s: s["log_reward"] >= -0.01),
        ("reward_to=-0.5&sort=-reward", lambda s: s["log_reward"] <= -0.5),
        ("step_from=100&step_to=101", lambda s: s["step"] in (100, 101)),
        ("version_to=3", lambda s: s["policy_version"] <= 3),
        ("text=7", lambda s: "7" in s["text"]),
        ("pattern=^[13]%2B$", lambda s: set(s["text"]) <= {"1", "3"}),
        ("phase=before", lambda s: s["phase"] == "before"),
    ],
)
def test_samples_match_the_filter(client, finished, query, holds):
    with client(finished) as page:
        response = page.get(f"/api/samples?{query}&limit=200").json()
        assert response["samples"] and all(holds(sample) for sample in response["samples"])
        everything = page.get("/api/samples?limit=1").json()["total"]
        assert 0 < response["total"] < everything or "phase" in query


def test_samples_come_with_their_prompts_fields_and_terms_and_grouped_by_prompt(client, finished):
    with client(finished) as page:
        response = page.get("/api/samples?sort=prompt&limit=200").json()
        names = [sample["prompt_id"] for sample in response["samples"]]
        assert names == sorted(names)
        assert response["prompts"]["integer"] == {
            "id": "integer", "text": PROMPTS["integer"], "fields": {"answer": 42, "kind": "a number"}
        }  # fmt: skip
        sample = response["samples"][0]
        assert sample["terms_last"] == {name: values[-1] for name, values in sample["terms"].items()}
        after = page.get("/api/samples?phase=after").json()["samples"][0]
        assert after["terms_last"] == {"base": 0.0}


def test_samples_are_saved_as_json_lines_by_the_same_filter(client, finished):
    with client(finished) as page:
        lines = page.get("/api/samples.jsonl?pattern=^7&step_from=100").text.splitlines()
        total = page.get("/api/samples?pattern=^7&step_from=100&limit=1").json()["total"]
        samples = [json.loads(line) for line in lines]
        assert len(samples) == total > 0 and all(one["text"].startswith("7") and one["step"] >= 100 for one in samples)
        assert all(one["prompt"]["text"] == PROMPTS[one["prompt_id"]] for one in samples)
        assert page.get("/api/samples.jsonl?limit=3").status_code == 400


def test_a_pattern_that_is_none_or_takes_too_long_is_refused(client, finished, monkeypatch):
    monkeypatch.setattr(pattern_search, "LIMIT_S", 0.05)
    with client(finished) as page:
        answer = page.get("/api/samples?pattern=(")
        assert answer.status_code == 400 and "'(' is not a regular expression" in answer.json()["error"]
    with pytest.raises(PatternTooSlow, match="took over"):
        matching("(a|aa)+$", [(1, "a" * 200 + "b")])


def test_pages_of_samples_have_each_of_them_once(client, finished):
    with client(finished) as page:
        first = page.get("/api/samples?sort=oldest&limit=3").json()["samples"]
        second = page.get("/api/samples?sort=oldest&limit=3&page=1").json()["samples"]
        assert len({s["id"] for s in first + second}) == 6
        best = [s["log_reward"] for s in page.get("/api/samples?sort=reward").json()["samples"]]
        assert best == sorted(best, reverse=True)


def test_one_sample_has_a_value_for_every_prefix_its_prompt_and_its_repetitions(client, finished):
    with client(finished) as page:
        number = page.get("/api/samples?text=42").json()["samples"][0]["id"]
        sample = page.get(f"/api/samples/{number}").json()
        n = len(sample["pieces"])
        assert "".join(sample["pieces"]) == sample["text"] and len(sample["log_pf"]) == len(sample["is_action"]) == n
        for name in ("log_pterm", "u", "log_reward_prefix"):
            assert len(sample[name]) == n + 1
        assert sample["u"][0] is None and sample["u_last"] == sample["u"][-1]
        assert sample["prompt"]["text"] == PROMPTS[sample["prompt_id"]]
        assert all(other["text"] == sample["text"] and other["id"] != number for other in sample["same_string"])
        assert page.get("/api/samples/999999999").status_code == 404


def test_before_and_after_are_evaluation_samples_or_the_first_and_last_recorded(client, finished, tmp_path):
    with client(finished) as page:
        view = page.get("/api/before-after?prompt=integer").json()
        assert view["source"] == "judging" and len(view["before"]) == len(view["after"]) == 32
    with client(make_run(tmp_path / "live", "live")) as page:
        view = page.get("/api/before-after?prompt=integer").json()
        assert view["source"] == "judging" and view["after"] == []
    assert page.get("/api/before-after").status_code == 400


def test_runs_next_to_the_named_one_can_be_compared_with_it(client, tmp_path):
    changed = json.loads(json.dumps(CONFIG))
    changed["learner"]["learning_rate"] = 3e-4
    first = make_run(tmp_path / "one", "finished")
    make_run(tmp_path / "two", "finished", changed)
    (tmp_path / "no-run").mkdir()
    with client(first) as page:
        listed = page.get("/api/runs").json()["runs"]
        assert [(run["id"], run["primary"]) for run in listed] == [("one", True), ("two", False)]
        view = page.get("/api/compare?runs=one,two").json()
        assert view["config"] == [{"field": "learner.learning_rate", "values": [0.001, 0.0003]}]
        assert view["summary"][0]["values"] == [2.08, 2.08] and "learner.loss" in view["curves"]
        assert page.get("/api/compare?runs=one").status_code == 400
        assert page.get("/api/compare?runs=one,three").status_code == 404


def test_hostile_text_goes_out_as_data_and_nothing_else(client, tmp_path):
    with client(make_run(tmp_path / "hostile", "hostile")) as page:
        texts = set()
        for number in range(10):
            answer = page.get(f"/api/samples?limit=200&page={number}")
            assert answer.headers["content-type"] == "application/json" and answer.content.isascii()
            texts |= {sample["pieces"][0] for sample in answer.json()["samples"]}
        assert set(HOSTILE) <= texts, "every string is kept as written, lone surrogates too"


def test_a_damaged_history_is_an_error_in_words_and_a_repaired_one_is_read_again(client, tmp_path):
    run = make_run(tmp_path / "run", "finished")
    whole = (run / "history.sqlite").read_bytes()
    with client(run) as page:
        (run / "history.sqlite").write_bytes(b"no database at all" * 1000)
        answer = page.get("/api/overview")
        assert answer.status_code == 503 and "cannot be read now" in answer.json()["error"]
        (run / "again").write_bytes(whole)
        (run / "again").rename(run / "history.sqlite")
        assert page.get("/api/overview").json()["state"] == "finished"


def test_a_run_that_is_replaced_in_its_folder_is_read_again(client, tmp_path):
    run = make_run(tmp_path / "run", "finished")
    with client(run) as page:
        assert page.get("/api/curves?names=learner.loss").json()["curves"]["learner.loss"]["points"] == STEPS
        make_run(tmp_path / "run", "live")
        assert page.get("/api/curves?names=learner.loss").json()["curves"]["learner.loss"]["points"] == STEPS // 2


def test_the_page_itself_is_there(client, finished: Path):
    with client(finished) as page:
        answer = page.get("/")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
        assert (
            "<script>" not in answer.text
            and "style=" not in answer.text
            and "http" not in answer.text.replace("http-equiv", "")
        )


def test_the_page_and_the_report_explain_terms_in_the_same_words():
    script = (ROOT / "deploy/dashboard/static/lib/glossary.js").read_text()
    for term, meaning in GLOSSARY.items():
        assert meaning in script, term
