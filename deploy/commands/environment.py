"""Environment variables that Ray, torch and vLLM read when they are imported: set before that."""

import os
import warnings


def prepare_for_ray() -> None:
    """Workers run in the driver's environment, nothing is reported to anybody, a cluster of our own stays on loopback.

    Under RAY_ADDRESS (as in a submitted job) the cluster has its own settings, and only the first two apply.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not os.environ.get("RAY_ADDRESS"):
        # in spite of its name it decides on every platform whether Ray listens on the machine's address or on 127.0.0.1
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def quiet_engine() -> None:
    """For commands that start an engine in their own process: what a person reads is the command's, errors aside.

    Before `import torch` and `import vllm`. A level that the user has set stays.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
