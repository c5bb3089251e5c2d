"""A run's recorder and the dashboard beside it, from the run's start to its end."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

import deploy
from deploy.artifacts.run_folder import RunFolder
from deploy.config import shown_config
from deploy.dashboard.web.sockets import LOOPBACK, address, listen
from deploy.driver.preflight import Checked
from deploy.driver.train_options import TrainOptions
from deploy.models.registry import read_tokenizer
from deploy.telemetry.recorder import FILE, Recorder
from deploy.telemetry.sinks import open_sink

MOST_PROMPTS = 2000
END_LIMIT_S = 5.0


@contextmanager
def recording(
    checked: Checked, folder: RunFolder, after_step: int, watching: TrainOptions, console: Console
) -> Iterator[Recorder]:
    """The run's one recorder, with a dashboard beside it where one is wanted.

    Raise ConfigError, before anything is started, for a port that is taken or a sink that is not there.
    """
    sinks = [open_sink(name, folder.path, shown_config(checked.config)) for name in watching.sinks]
    prompts = [prompt for split in checked.task.splits for prompt in checked.task.prompts(split)][:MOST_PROMPTS]
    recorder = Recorder(
        folder.path / FILE,
        about_run(checked),
        {prompt.id: prompt.text for prompt in prompts},
        piecewise(read_tokenizer(Path(checked.spec.base_model))),
        after_step,
        sinks,
    )
    with beside(folder.path, watching.port, console) if watching.dashboard else nullcontext(), _closing(recorder):
        yield recorder


@contextmanager
def _closing(recorder: Recorder) -> Iterator[None]:
    """Whatever ends the run is its history's last word."""
    try:
        yield
    except KeyboardInterrupt:
        recorder.close("SIGINT")
        raise
    except BaseException as error:
        recorder.close(None, f"{type(error).__name__}: {error}")
        raise
    recorder.close(None)


@contextmanager
def beside(folder: Path, port: int | None, console: Console) -> Iterator[None]:
    """A dashboard in a process of its own, on loopback, nice to the run; it ends with this process, however that ends.

    The socket is bound here, so the address is known at once and a browser may knock before the server is up.
    """
    with listen(LOOPBACK, port) as listening:
        number = listening.fileno()
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
                env={**os.environ, "PYTHONPATH": path},
            )
        console.print(f"Dashboard: {address(listening)}", soft_wrap=True)
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


def about_run(checked: Checked) -> dict[str, Any]:
    """What the page says of the run, and the limits that its plots and alerts use."""
    config = checked.config
    learner, buffer, actors = config.learner, config.buffer, config.actors
    log_z, _ = checked.task.log_mass()
    return {
        "task": config.task.name,
        "model": Path(checked.spec.base_model).name,
        "steps": learner.steps,
        "began_at": time.time(),
        "behaviours": [{"name": one.name, "weight": one.weight} for one in actors.behaviours],
        "weights": dict(config.rewards.weights),
        "limits": {
            "max_grad_norm": learner.max_grad_norm,
            "batch_size": learner.batch_size,
            "publish_every": learner.publish_every,
            "canary_tolerance": learner.canary_tolerance,
            "reward_temperature_end": learner.reward_temperature_end,
            "max_staleness": actors.max_staleness,
            "capacity": buffer.capacity,
            "samples_per_insert": buffer.samples_per_insert,
            "samples_per_insert_band": buffer.samples_per_insert_band,
            "min_size_to_sample": buffer.min_size_to_sample,
            "log_z_exact": log_z if math.isfinite(log_z) else None,
        },
    }


def piecewise(tokenizer: Tokenizer) -> Callable[[Sequence[int]], list[str]]:
    """Token ids -> as many pieces that join to the text; a character of several tokens is in the last one's piece."""

    def pieces(token_ids: Sequence[int]) -> list[str]:
        stream, found = DecodeStream(skip_special_tokens=False), []
        for token_id in token_ids:
            found.append(stream.step(tokenizer, int(token_id)) or "")
        return found

    return pieces
