"""An engine over two worker processes, compared with the learner.

python -m tests.support.spread_engine MODEL     prints one JSON object on its last line
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import psutil
from tokenizers import Tokenizer

from actors.config import ActorConfig
from actors.engine import Engine
from tests.support.tiny import TinyTask, tiny_spec
from tests.system.test_engine import ON_POLICY, drain, largest_difference, published


def main(model: Path, folder: Path) -> None:
    """Print the largest difference in log q [nats] and the workers' process ids; then die at once."""
    spec, task = tiny_spec(model), TinyTask(Tokenizer.from_file(str(model / "tokenizer.json")))
    engine = Engine(
        spec, ActorConfig(max_in_flight=32, max_model_len=64, tensor_parallel=2), folder, seed=1, on_gpu=False
    )
    workers = psutil.Process().children(recursive=True)
    policy, version, files = published(spec, task, 0, seed=5)
    engine.serve(version, files)
    requests = {engine.add(task.prompts()[0].token_ids, ON_POLICY) for _ in range(16)}
    difference = largest_difference(policy, task, list(drain(engine, requests).values()))
    result = {"difference": float(difference), "workers": [p.pid for p in workers]}
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)  # as Ray ends an actor


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1]), Path(scratch))
