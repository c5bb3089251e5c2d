"""Environment variables that Ray, torch and vLLM read on import: set them before."""

import logging
import os
import secrets
import warnings


def prepare_for_ray() -> None:
    """Run workers in the driver's environment, disable usage statistics, and keep a local cluster private.

    Private: on loopback, with a random token that only this user's processes can read. By default Ray has one token for
    all clusters of a user, in a file that others may be able to read. With RAY_ADDRESS set (as in a submitted job) the
    cluster has its own settings, and only the first two apply.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not os.environ.get("RAY_ADDRESS"):
        # despite its name it decides on every platform whether Ray listens on the machine's address or on 127.0.0.1
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # 30 by default, too few on a busy machine
    _quiet_bitsandbytes()


def quiet_engine() -> None:
    """Silence the logs of an engine that runs in the command's own process; errors are still shown.

    Call it before `import torch` and `import vllm`. Levels that the user has set are kept.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    _quiet_bitsandbytes()


def _quiet_bitsandbytes() -> None:
    """On import it asks for a package with a faster kernel for 4-bit weights on CPUs, whatever the model's weights."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
