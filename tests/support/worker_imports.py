"""Prints the files from which a worker process of Ray imports the packages and the user's task, one JSON object.

cd FOLDER; python -P tests/support/worker_imports.py     with RAY_ADDRESS in that cluster, else in one of its own
"""

import importlib
import json
import sys

import ray

from deploy import PACKAGES
from deploy.cluster.adapter_store import AdapterStore
from deploy.cluster.placement import ray_session
from deploy.commands.environment import prepare_for_ray


@ray.remote(num_cpus=0)
def imported(names: list[str]) -> dict[str, str]:
    """Name -> file of each module, as this worker imports it."""
    return {name: str(importlib.import_module(name).__file__) for name in names}


if __name__ == "__main__":
    prepare_for_ray()
    with ray_session():
        store = ray.remote(AdapterStore).options(num_cpus=0).remote()
        ray.get(store.__ray_ready__.remote())  # a process of ours, whose class comes from its module
        sys.stdout.write(json.dumps(ray.get(imported.remote([*PACKAGES, "my_task"]))))
