"""The cost of a dashboard: of its server, its page, and to the run that it shows.

    python tests/benchmarks/dashboard.py [--small] [--json] [--seconds 20] [--rate 2000] [--pairs 8] [--window 5] [--model DIR]

The server and the page are measured while a source writes `rate` rows/s into a run's history (half of them learner rows, two fifths
samples, one tenth events) and Chromium has the page open.

The throughput is that of a real RolloutActor (vLLM engine; the tiny model unless `--model` is given), in windows with and without a
dashboard: recorder, server and a reader of its stream and curves. Windows take turns, and the processes of a dashboard are stopped by
SIGSTOP while they are not measured. The browser is left out: it runs on the researcher's machine.

Figures, in the JSON object of the last line:

server_core_fraction      CPU seconds of the server per second
frame_ms_p95              95 % of the page's frames are shorter (requestAnimationFrame; software rendering on the same cores); null without
                          Playwright or Chromium
frames, rows_per_s        frames drawn, and rows/s that the source wrote
throughput_ratio          trajectories/s with a dashboard over that without, median over pairs of windows
throughput_ratio_least    smallest ratio of a pair
throughput_ratio_most     largest ratio of a pair
trajectories_per_s        median without a dashboard
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.benchmark import make_parser, parse, print_result

VIEWS = ("overview", "learner", "buffer", "samples")
FRAMES = "seconds => new Promise(done => { const seen = []; let last = performance.now(); const end = last + 1000 * seconds; const tick = now => { seen.push(now - last); last = now; now < end ? requestAnimationFrame(tick) : done(seen); }; requestAnimationFrame(tick); })"


def source(folder: Path, rate: int) -> None:
    """Write `rate` rows a second, committed twice a second, until stdin ends."""
    import numpy as np

    from deploy.telemetry.event_detector import Event
    from deploy.telemetry.history_store import HistoryStore
    from deploy.telemetry.recorder import FILE
    from tests.support.fixture_runs import learner_row, notes, snapshot_row, summary

    rng = np.random.default_rng(0)
    learner = [
        {**learner_row(step, 200, rng), **(summary(step, 200, rng) if step % 50 == 0 else {})} for step in range(1, 201)
    ]
    samples = notes(100, 200, rng)
    store, step, written = HistoryStore(folder / FILE), 80, 0
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    began = time.monotonic()
    while not ended.is_set():
        behind = int((time.monotonic() - began) * rate) - written
        for k in range(behind):
            at = time.time()
            if k % 10 < 5:
                step += 1
                store.learner(at, step, learner[step % 200] | {"step": step})
            elif k % 10 < 9:
                store.sample(at, step, samples[k % 16])
            else:
                store.event(at, step, Event("version", "info", "learner", f"Version {step} was published."))
        written += behind
        now = snapshot_row(step, time.monotonic() - began + 60, rng)
        store.snapshot(time.time(), step, now)
        store.meta(
            "now", {"at": time.time(), "step": step, "snapshot": now, "alerts": [], "restarts": {}, "buffer": None}
        )
        store.commit()
        store.thin()
        ended.wait(0.5)
    print(json.dumps({"rows_per_s": written / (time.monotonic() - began)}), flush=True)


def driver(folder: Path) -> None:
    """Write a run's history as its driver does: four steps a second, samples with each fourth, a snapshot per step, until stdin ends."""
    import numpy as np

    from deploy.artifacts.run_folder import RunFolder
    from deploy.telemetry.recorder import FILE, Recorder
    from tests.support.fixture_runs import ABOUT, CONFIG, PROMPTS, learner_row, notes, summary, view

    run, rng = RunFolder.create(folder), np.random.default_rng(0)
    run.write_config(CONFIG)
    recorder = Recorder(run.path / FILE, ABOUT | {"began_at": time.time()}, PROMPTS, lambda ids: ["x"] * len(ids))
    print("writing", flush=True)
    ended, step, began = threading.Event(), 0, time.time()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.wait(0.25):
        step += 1
        summarised = {"rows": notes(step, 10**6, rng), **summary(step, 10**6, rng)} if step % 4 == 0 else None
        recorder.step(learner_row(step, 10**6, rng), summarised)
        recorder.snapshot(view(step, 10**6, time.time() - began, rng))
    recorder.close(None)


@contextmanager
def another(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """This script with other arguments, in a process of its own that ends with the block."""
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(30)


def page_and_server(seconds: float, rate: int) -> dict[str, float | None]:
    """The server's share of a core and the page's frames while the source writes."""
    from tests.support.fixture_runs import make_run
    from tests.support.running import running

    with tempfile.TemporaryDirectory() as scratch:
        run = make_run(Path(scratch) / "run", "live")
        with another("--source", str(run), "--rate", str(rate)) as writer, running("--run", str(run)) as server:
            frames: list[float] = []
            used = 0.0
            with opened(server.url) as page:
                for view in VIEWS:
                    if page:
                        page.goto(f"{server.url}#/{view}")
                        page.wait_for_timeout(2000)  # the first frames are not measured
                    before, began = server.cpu_s, time.monotonic()
                    if page:
                        frames += page.evaluate(FRAMES, seconds / len(VIEWS))
                    else:
                        threading.Event().wait(seconds / len(VIEWS))
                    used += (server.cpu_s - before) / (time.monotonic() - began) / len(VIEWS)
            writer.stdin.close()
            written = json.loads(writer.stdout.readline())["rows_per_s"]
    frames.sort()
    p95 = frames[int(0.95 * len(frames))] if frames else None
    return {"server_core_fraction": used, "frame_ms_p95": p95, "frames": len(frames), "rows_per_s": written}


@contextmanager
def opened(url: str) -> Iterator[object]:
    """The page in Chromium; None without Playwright or Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        browser = None
    if browser is None:
        yield None
        return
    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = launched.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        yield page
        launched.close()


def throughput(model: str | None, pairs: int, window_s: float) -> dict[str, float]:
    """Trajectories/s of one actor, in windows with and without a dashboard."""
    from tests.support.running import running

    with tempfile.TemporaryDirectory() as scratch, actor(Path(scratch), model) as count:
        run = Path(scratch) / "run"
        with another("--driver", str(run)) as writer:
            assert writer.stdout.readline().strip() == "writing"
            with running("--run", str(run)) as server, another("--reader", server.url) as reader:
                assert reader.stdout.readline().strip() == "reading"
                os.setpriority(os.PRIO_PROCESS, server.process.pid, 10)  # as train starts it
                rates: dict[bool, list[float]] = {True: [], False: []}
                window(count, window_s)  # warms up
                for pair in range(pairs):
                    for with_dashboard in (True, False) if pair % 2 else (False, True):
                        for process in (writer, server.process, reader):
                            process.send_signal(signal.SIGCONT if with_dashboard else signal.SIGSTOP)
                        rates[with_dashboard].append(window(count, window_s))
                for process in (writer, server.process, reader):
                    process.send_signal(signal.SIGCONT)
    ratios = [a / b for a, b in zip(rates[True], rates[False], strict=True)]
    return {
        "throughput_ratio": median(ratios),
        "throughput_ratio_least": min(ratios),
        "throughput_ratio_most": max(ratios),
        "trajectories_per_s": median(rates[False]),
    }


def window(count: Callable[[], int], seconds: float) -> float:
    """Trajectories/s over `seconds`."""
    before, began = count(), time.monotonic()
    threading.Event().wait(seconds)
    return (count() - before) / (time.monotonic() - began)


def read(url: str) -> None:
    """Make a page's requests without a browser: the stream, and six curves after each tick, until stdin ends."""
    import httpx

    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    names = "learner.loss,learner.var_u,learner.log_z,buffer.size,system.tokens_per_s,learner.diversity"
    with httpx.Client(base_url=url, timeout=600) as client, client.stream("GET", "api/stream") as stream:
        print("reading", flush=True)
        for line in stream.iter_lines():
            if line.startswith("event: tick"):
                client.get("api/curves", params={"names": names, "after": 10})


@contextmanager
def actor(scratch: Path, model: str | None) -> Iterator[Callable[[], int]]:
    """A RolloutActor that samples; yields a function that returns its number of trajectories so far."""
    import numpy as np
    import torch
    from tokenizers import Tokenizer

    from actors.config import ActorConfig
    from actors.engine import Engine
    from actors.rollout import RolloutActor
    from buffer.heartbeat import Heartbeats
    from buffer.server.connect import connect
    from buffer.server.redis_server import RedisServer
    from buffer.types import given_trajectory
    from deploy.commands.environment import quiet_engine
    from deploy.models.registry import resolve_model
    from learner.adapter import adapter_files, adapter_version
    from learner.policy import LoraPolicy
    from tests.support import tiny

    quiet_engine()
    folder = resolve_model(model) if model else tiny.make_tiny_model(scratch / "model")
    spec = tiny.tiny_spec(folder)
    task = tiny.TinyTask(Tokenizer.from_file(str(folder / "tokenizer.json")))
    policy = LoraPolicy(spec, torch.device("cpu"))
    files = adapter_files(policy)
    prompt = task.prompts()[0]
    empty = given_trajectory(prompt, np.zeros(0, np.int32), "canary", np.zeros((1, 1), np.float32), ("none",))
    version = adapter_version(policy, files, 0, 0, empty, 2e-3)
    config = ActorConfig(max_in_flight=64, max_model_len=64, push_size=16)
    (scratch / "adapters").mkdir()
    engine = Engine(spec, config, scratch / "adapters", 0, on_gpu=False)

    class DiscardingGate:
        def send(self, trajectories) -> None:
            pass

        def free_slots(self, timeout_s: float) -> int:
            return 1

    with RedisServer.start(scratch / "redis") as server:
        newest = lambda held: (version, files) if held < 0 else None  # noqa: E731
        beats = Heartbeats(connect(server.url), "benchmark")
        rollout = RolloutActor(
            "actor-0", engine, itertools.repeat(prompt), "tiny", config, newest, DiscardingGate(), beats, 0
        )
        thread = threading.Thread(target=rollout.run)
        thread.start()
        try:
            yield lambda: rollout.status()["trajectories"]
        finally:
            rollout.stop()
            thread.join()


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="Seconds for which the page is measured.")
    parser.add_argument("--rate", type=int, default=2000, help="Rows/s that the source writes.")
    parser.add_argument(
        "--pairs", type=int, default=8, help="The number of pairs of windows with and without a dashboard."
    )
    parser.add_argument("--window", type=float, default=5.0, help="Seconds of each window.")
    parser.add_argument("--model", help="The base model of the actor: a name or a folder.")
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--driver", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    arguments = parse(parser, seconds=4.0, pairs=1, window=2.0)
    if arguments.source:
        source(arguments.source, arguments.rate)
    elif arguments.driver:
        driver(arguments.driver)
    elif arguments.reader:
        read(arguments.reader)
    else:
        result = page_and_server(arguments.seconds, arguments.rate)
        result |= throughput(arguments.model, arguments.pairs, arguments.window)
        print_result(result, arguments.json)


if __name__ == "__main__":
    main()
