"""vLLM's OpenAI-compatible server with a run's adapter: its command line and its environment."""

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.engine import engine_settings
from buffer.errors import ConfigError
from deploy.artifacts.run_folder import RunFolder
from deploy.driver.describe_adapter import describe_adapter
from deploy.driver.preflight import Checked
from lm.vllm import CPU_ENVIRONMENT, engine_arguments

ADAPTER_SLOTS = 2
"""One more than there are adapters. vLLM's products on CPUs give requests of the base model the weights of the last
slot when they share a step with requests of an adapter; an empty slot is zero."""
MAX_LOG_PROBS = 20
"""Log-probabilities per token that a request may ask for: vLLM's own default."""
SERVER = "vllm.entrypoints.openai.api_server"
KEY = "VLLM_API_KEY"
"""Environment variable with the key that clients must send."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def server_command(checked: Checked, folder: RunFolder, host: str, port: int) -> list[str]:
    """The command that serves the base model, and the newest adapter under the name of the run's folder.

    It writes what describes the adapter, because the server reads the stop from there. ConfigError for an address that
    is in use, or that others reach without a key.
    """
    if host not in LOOPBACK and not os.environ.get(KEY):
        raise ConfigError(
            f"--host {host} can be reached from other machines, and {KEY} is not set: anyone there could use the "
            f"server. Set {KEY}, or leave out --host."
        )
    _require_free(host, port)
    folder.version()  # ConfigError where there is no adapter
    describe_adapter(checked, folder)
    adapter_name, base_name = served_names(checked, folder)
    arguments = _engine(checked) | {
        "host": host,
        "port": port,
        "served_model_name": base_name,
        "lora_modules": [f"{adapter_name}={folder.adapter_path}"],
        "generation_config": str(folder.adapter_path),
    }
    return [sys.executable, "-m", SERVER, *_options(arguments)]


def served_names(checked: Checked, folder: RunFolder) -> tuple[str, str]:
    """The names of the adapter and of the base model in requests."""
    base = Path(checked.config.model.name).name
    adapter = folder.path.name
    return adapter, f"{base}-base" if base == adapter else base


def server_environment(checked: Checked) -> dict[str, str]:
    """The environment of the server; what the user has set is kept, but for how a CPU is used."""
    quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    return quiet | os.environ | ({} if checked.config.actors.gpus else CPU_ENVIRONMENT)


def _engine(checked: Checked) -> dict[str, Any]:
    """The engine arguments of the run's actors, with a tokenizer, since requests are text."""
    config = checked.config.actors
    settings = engine_settings(config) | {"versions": ADAPTER_SLOTS, "log_probs": MAX_LOG_PROBS}
    arguments = engine_arguments(checked.spec, on_gpu=config.gpus > 0, seed=checked.config.seed, **settings)
    del arguments["skip_tokenizer_init"]
    return arguments


def _options(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Engine arguments as options of vLLM's command line."""
    for name, value in arguments.items():
        if value is False:
            continue
        yield f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            yield from value
        elif value is not True:
            yield json.dumps(value) if isinstance(value, dict) else str(value)


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{host}:{port} can't be used ({error.strerror}). Give another address with --host and --port."
            ) from error
