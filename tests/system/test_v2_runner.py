"""Tests of the engine and the vLLM scorer again, on the model runner and scheduling that vLLM has on GPUs."""

import json
import re
import subprocess
import sys

import pytest

from tests.support.processes import ROOT

pytestmark = pytest.mark.slow

# Not min_actions_bans_eos: it draws 4,500 responses, minutes in Triton's interpreter; masks are in first_samples, too.
ENGINE = (
    "actor_and_learner_agree_on_log_q_of_every_token_and_every_stop",
    "two_versions_in_flight_use_their_own_weights",
    "base_model_requests_are_not_touched_by_the_adapter",
    "requests_that_finish_during_a_canary_check_are_returned_before_anything_advances",
    "a_sync_skipped_on_purpose_is_detected",
    "samples_that_bypass_the_adapter_are_detected",
    "old_versions_are_removed_when_their_last_request_is_done",
    "first_samples_are_compared_once_a_version_and_equal_their_scores_whatever_is_masked",
    "a_version_that_is_removed_while_it_samples_is_an_error",
)
TOOLS = (
    "actor_and_learner_agree_on_log_q_with_a_tool",
    "later_segments_keep_the_version_of_their_response",
)
SCORER = ("both_scorers_agree_at_every_prefix",)
RUNNER = "vllm.v1.worker.gpu.model_runner.GPUModelRunner"
LIMIT_S = 1200.0


def test_log_probabilities_and_adapter_versions_are_right_on_the_model_runner_of_gpus() -> None:
    """In a process of its own: vLLM and Triton choose once, when they are imported."""
    tests = [f"tests/system/test_engine.py::test_{name}" for name in ENGINE]
    tests += [f"tests/system/test_tools.py::test_{name}" for name in TOOLS]
    tests += [f"tests/system/test_vllm_scorer.py::test_{name}" for name in SCORER]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.v2_runner", "-p", "no:xdist", *tests]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S)
    passed = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert done.returncode == 0 and passed and int(passed[1]) >= len(tests), done.stdout
    line = re.search(r"^ENGINES (.*)$", done.stdout, re.MULTILINE)
    assert line is not None
    assert json.loads(line[1]) == [[RUNNER, True]] * 3, "one engine of each file, both with asynchronous scheduling"
