"""The snippets of docs/take-it-with-you.md and `tributary serve`, on a tiny model: what they sample is the policy."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from buffer.errors import ConfigError
from deploy.driver.serve import SERVER, server_command
from lm.vllm import CPU_ENVIRONMENT
from tests.support.openai_client import Completion, complete, is_up
from tests.support.processes import ROOT, Command, free_port, until
from tests.support.tiny import VOCABULARY, tiny_recipe
from tests.support.trained_run import TrainedRun, make_trained_run

PAGE = (ROOT / "docs" / "take-it-with-you.md").read_text()
STOP, PROMPT = VOCABULARY.index("."), [VOCABULARY.index("draw")]
LIMIT = 1e-3
"""Nats."""


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A run without a mask, in a folder called demo."""
    recipe = tiny_recipe(tiny_model)
    del recipe["policy"]["allowed_tokens"]
    return make_trained_run(tmp_path_factory.mktemp("runs") / "demo", recipe)


@pytest.fixture(scope="module")
def models(run: TrainedRun, tiny_model: Path) -> tuple[Any, Any]:
    """The base model, and the policy as PEFT loads it."""
    base, wrapped = (AutoModelForCausalLM.from_pretrained(tiny_model) for _ in range(2))
    return base, PeftModel.from_pretrained(wrapped, run.folder.adapter_path)


def snippets(language: str, run: TrainedRun, tiny_model: Path) -> list[str]:
    """The page's snippets, with the names of this run."""
    names = {
        "/models/smollm2-135m-instruct": str(tiny_model),
        "runs/demo/adapter": str(run.folder.adapter_path),
        "The following is a random integer drawn uniformly between 0 and 100: ": "draw",
        "512": "64",
    }
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    for old, new in names.items():
        found = [text.replace(old, new) for text in found]
    return found


def python(code: str, folder: Path) -> str:
    """What a script prints."""
    (folder / "snippet.py").write_text(code)
    environment = {**os.environ, **CPU_ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    result = subprocess.run([sys.executable, "snippet.py"], cwd=folder, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


def worst(model: Any, completions: Sequence[Completion]) -> float:
    """Largest |difference| between the server's log-probability of a token and a plain pass of `model`, nats."""
    differences = [0.0]
    for c in completions:
        with torch.no_grad():
            log_p = model(torch.tensor([[*PROMPT, *c.token_ids]])).logits[0].log_softmax(-1)
        differences += [
            abs(float(log_p[i, t]) - given) for i, (t, given) in enumerate(zip(c.token_ids, c.log_probs, strict=True))
        ]
    return max(differences)


@contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def test_the_snippet_for_transformers_stops_where_the_policy_stops(
    run: TrainedRun, tiny_model: Path, tmp_path: Path
) -> None:
    code = snippets("python", run, tiny_model)[0].replace("num_return_sequences=8", "num_return_sequences=1000")
    code += 'print(rows[:, prompt["input_ids"].shape[1] :].tolist())\n'
    rows = ast.literal_eval(python(code, tmp_path))
    stopped = [row[row.index(STOP) + 1 :] for row in rows if STOP in row]
    assert len(rows) == 1000 and {len(row) for row in rows} == {3} and any(stopped)
    assert {token for after in stopped for token in after} == {VOCABULARY.index("<pad>")}, "nothing follows the stop"


@pytest.mark.slow
def test_the_snippet_for_vllm_samples_the_policy(
    run: TrainedRun, models: tuple[Any, Any], tiny_model: Path, tmp_path: Path
) -> None:
    code = snippets("python", run, tiny_model)[1]
    code += "print([(list(r.token_ids), [d[t].logprob for t, d in zip(r.token_ids, r.logprobs)]) for r in output.outputs])\n"
    drawn = [Completion(ids, log_probs, "") for ids, log_probs in ast.literal_eval(python(code, tmp_path))]
    assert len(drawn) == 8 and max(len(c.token_ids) for c in drawn) <= 3
    assert all(STOP not in c.token_ids[:-1] for c in drawn)
    assert worst(models[1], drawn) <= LIMIT < 0.1 < worst(models[0], drawn)


@pytest.mark.slow
def test_the_snippet_for_a_server_samples_the_policy(
    run: TrainedRun, models: tuple[Any, Any], tiny_model: Path
) -> None:
    port, (serve, curl) = str(free_port()), snippets("sh", run, tiny_model)
    command = shlex.split(serve.replace("8000", port).replace("\\\n", " "))
    assert command[:2] == ["vllm", "serve"]
    environment = {**os.environ, **CPU_ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    server = subprocess.Popen([sys.executable, "-m", SERVER, "--model", *command[2:]], env=environment)
    with ended(server):
        url = f"http://127.0.0.1:{port}"
        until(lambda: is_up(url) or server.poll() is not None, 240, "the server")
        assert server.poll() is None
        printed = subprocess.run(["sh", "-c", curl.replace("8000", port)], capture_output=True, text=True, check=True)
        assert printed.stdout.count('"finish_reason"') == 8
        drawn = complete(url, "demo", PROMPT, n=64)
        assert worst(models[1], drawn) <= LIMIT < 0.1 < worst(models[0], drawn)


@pytest.mark.slow
def test_the_served_adapter_is_the_policy_and_the_base_model_next_to_it_is_itself(
    run: TrainedRun, models: tuple[Any, Any], tiny_model: Path
) -> None:
    port = str(free_port())
    command = Command("serve", "--run", str(run.folder.path), "--port", port)
    with ended(command.process):
        url, (base, policy) = f"http://127.0.0.1:{port}", models
        until(lambda: is_up(url) or command.process.poll() is not None, 240, "the server")
        assert command.process.poll() is None, command.finish()
        greedy = complete(url, "demo", PROMPT, temperature=0)
        assert worst(policy, greedy) <= LIMIT < 0.1 < worst(base, greedy)
        drawn = complete(url, "demo", PROMPT, n=512)
        assert worst(policy, drawn) <= LIMIT
        ends = {c.token_ids[-1] for c in drawn if c.finish_reason == "stop"}
        assert STOP in ends and ends <= {STOP, VOCABULARY.index("</s>")}, "vLLM adds the tokenizer's own end of text"
        drawn = complete(url, "demo", PROMPT, n=512, ignore_eos=True, stop_token_ids=[STOP])
        assert {c.finish_reason for c in drawn} == {"stop", "length"}
        assert all(c.token_ids[-1] == STOP if c.finish_reason == "stop" else len(c.token_ids) == 3 for c in drawn)
        with ThreadPoolExecutor(16) as pool:  # in one batch with the adapter's requests
            both = [
                pool.submit(complete, url, name, PROMPT, n=8) for _ in range(24) for name in ("demo", tiny_model.name)
            ]
            results = [future.result() for future in both]
        assert max(worst(policy, result) for result in results[::2]) <= LIMIT
        assert max(worst(base, result) for result in results[1::2]) <= LIMIT
    assert command.alive() == []


def test_the_server_has_the_settings_of_the_run(run: TrainedRun) -> None:
    command = " ".join(server_command(run.checked, run.folder, "127.0.0.1", free_port()))
    for option in ("--max-loras 2", "--max-lora-rank 16", "--dtype float32", "--max-model-len 64", "--enable-lora",
                   f"--lora-modules demo={run.folder.adapter_path}", f"--generation-config {run.folder.adapter_path}"):  # fmt: skip
        assert option in command
    assert "skip-tokenizer-init" not in command


def test_others_need_a_key_and_an_address_in_use_is_named(run: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0 can be reached .* VLLM_API_KEY is not set"):
        server_command(run.checked, run.folder, "0.0.0.0", free_port())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="Address already in use"):
            server_command(run.checked, run.folder, "127.0.0.1", taken.getsockname()[1])
