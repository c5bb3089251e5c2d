"""A run's recorder and its dashboard, from the run's start to its end."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

import deploy
from deploy.artifacts.run_folder import RunFolder
from deploy.config import shown_config
from deploy.dashboard.web.security import TOKEN_VARIABLE, shown_token, token_for_loopback
from deploy.dashboard.web.sockets import LOOPBACK, address, listen
from deploy.driver.preflight import Checked
from deploy.driver.stop_signal import StopSignal
from deploy.driver.train_options import TrainOptions
from deploy.formatting import visible
from deploy.telemetry.recorder import FILE, Recorder
from deploy.telemetry.sinks import open_sink
from lm.tokens import load_tokenizer
from rewards.task import Task

MAX_PROMPTS = 2000
"""Prompts whose text the recorder keeps."""
END_LIMIT_S = 5.0
MAX_SPREAD = 1e-6
"""Nats: rewards that differ by no more are the same."""


@contextmanager
def recording(
    checked: Checked, folder: RunFolder, after_step: int, options: TrainOptions, console: Console, stop: StopSignal
) -> Iterator[Recorder]:
    """The run's recorder; also serves its dashboard if `options` say so.

    Raises ConfigError for a port that is taken or a sink that is not installed, before anything starts.
    """
    sinks = [open_sink(name, folder.path, shown_config(checked.config)) for name in options.sinks]
    prompts = [prompt for split in checked.task.splits for prompt in checked.task.prompts(split)][:MAX_PROMPTS]
    recorder = Recorder(
        folder.path / FILE,
        about_run(checked),
        {prompt.id: prompt.text for prompt in prompts},
        text_pieces(load_tokenizer(Path(checked.spec.base_model))),
        after_step,
        sinks,
        {prompt.id: prompt.fields for prompt in prompts},
    )
    dashboard = serve_dashboard(folder.path, options.port, console) if options.dashboard else nullcontext()
    with dashboard, _closing(recorder, stop):
        yield recorder


@contextmanager
def _closing(recorder: Recorder, stop: StopSignal) -> Iterator[None]:
    """Record how the run ended as the last event of its history."""
    try:
        yield
    except KeyboardInterrupt:
        recorder.close(stop.name or "SIGINT")
        raise
    except BaseException as error:
        recorder.close(None, f"{type(error).__name__}: {error}")
        raise
    recorder.close(None)


@contextmanager
def serve_dashboard(folder: Path, port: int | None, console: Console) -> Iterator[None]:
    """Serve the dashboard on loopback, in a process of its own that ends with this one, however this one ends.

    The socket is bound here, so the address is known at once and browsers may connect before the server has started.
    """
    token = token_for_loopback()
    with listen(LOOPBACK, port) as server_socket:
        number = server_socket.fileno()
        command = [sys.executable, "-P", "-m", "deploy.cli", "dashboard", "--run", str(folder), "--socket", str(number)]
        root = str(Path(deploy.__file__).parents[1])
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        with (folder / "dashboard.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(number,),
                env={**os.environ, "PYTHONPATH": path, TOKEN_VARIABLE: token or ""},
            )
        console.print(f"Dashboard: {address(server_socket, shown_token(token))}", soft_wrap=True)
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode > 0:
            log_file = folder / "dashboard.log"
            last = log_file.read_text("utf-8", "replace").strip().rpartition("\n")[2]
            console.print(f"The dashboard failed: {escape(visible(last))} (all of it: {log_file})", soft_wrap=True)


def about_run(checked: Checked) -> dict[str, Any]:
    """The recipe's facts and limits that the dashboard, its plots and its alerts use."""
    config = checked.config
    learner, buffer, actors = config.learner, config.buffer, config.actors
    return {
        "task": config.task.name,
        "model": Path(checked.spec.base_model).name,
        "steps": learner.steps,
        "began_at": time.time(),
        "behaviours": [{"name": b.name, "weight": b.weight} for b in actors.behaviours],
        "weights": dict(config.rewards.weights),
        "limits": {
            "max_grad_norm": learner.advanced.max_grad_norm,
            "batch_size": learner.batch_size,
            "publish_every": learner.publish_every,
            "canary_tolerance": learner.canary_tolerance_of(checked.spec.dtype),
            "reward_temperature_end": learner.reward_temperature_end,
            "capacity": buffer.capacity,
            "samples_per_insert": buffer.samples_per_insert,
            "samples_per_insert_band": buffer.advanced.samples_per_insert_band,
            "min_size_to_sample": buffer.min_size_to_sample,
            "log_z_exact": checked.log_z_exact,
            "equal_rewards": has_equal_rewards(checked.task),
            "samples": learner.objective != "sft",
        },
    }


def has_equal_rewards(task: Task) -> bool:
    """True if the task lists its strings, and those of each prompt all have the same reward."""
    rewards = [[log_reward for _, log_reward in strings] for strings in task.support().values() if strings]
    spreads = [float(np.ptp(of_prompt)) for of_prompt in rewards]
    return bool(spreads) and max(spreads) <= MAX_SPREAD


def text_pieces(tokenizer: Tokenizer) -> Callable[[Sequence[int]], list[str]]:
    """A function: token ids -> one piece of text per token; they join to the whole text.

    A character that takes several tokens is in the piece of the last one.
    """

    def pieces(token_ids: Sequence[int]) -> list[str]:
        stream = DecodeStream(skip_special_tokens=False)
        return [stream.step(tokenizer, int(token_id)) or "" for token_id in token_ids]

    return pieces
