"""Starts Ray as `tributary train` does, and prints who can reach it, as one JSON object.

mode                        of the private folder around Ray's, octal
own token, another token    whether a process with it can join
"""

import json
import os
import subprocess
import sys

from deploy.commands.environment import prepare_for_ray

CONNECT = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
"""One attempt; `ray.init` makes 20."""


def joins(address: str, token: str) -> bool:
    """Whether a process with this token can join the cluster."""
    command = [sys.executable, "-c", CONNECT, address]
    return (
        subprocess.run(command, env=os.environ | {"RAY_AUTH_TOKEN": token}, stderr=subprocess.DEVNULL).returncode == 0
    )


if __name__ == "__main__":
    prepare_for_ray()
    import ray

    from deploy.cluster.placement import ray_session
    from deploy.cluster.ray_folder import ray_folder

    with ray_session():
        address = ray.get_runtime_context().gcs_address
        result = {
            "mode": oct(ray_folder().parent.stat().st_mode & 0o777),
            "address": address,
            "own token": joins(address, os.environ["RAY_AUTH_TOKEN"]),
            "another token": joins(address, "0" * 64),
        }
    sys.stdout.write(json.dumps(result))
