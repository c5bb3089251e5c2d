"""What deploy/kubernetes holds, read once for the tests of it."""

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"


def documents(path: Path) -> list[dict[str, Any]]:
    """All YAML documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def core_objects() -> list[dict[str, Any]]:
    """All objects of kinds that Kubernetes itself defines."""
    return [d for d in everything() if d["kind"] not in ("RayJob", "Kustomization")]


def ray_jobs() -> list[dict[str, Any]]:
    """All RayJobs."""
    return [d for d in everything() if d["kind"] == "RayJob"]


def everything() -> list[dict[str, Any]]:
    """All objects of all files."""
    return [document for path in sorted(FOLDER.glob("*.yaml")) for document in documents(path)]


def named(kind: str, name: str) -> dict[str, Any]:
    """The object of this kind and name."""
    [found] = [d for d in everything() if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def pod_templates() -> dict[str, dict[str, Any]]:
    """What makes a pod -> its template: of the stateful set, the job, and the parts of each RayJob."""
    found = {
        d["metadata"]["name"]: d["spec"]["template"] for d in core_objects() if d["kind"] in ("StatefulSet", "Job")
    }
    for job in ray_jobs():
        name, spec = job["metadata"]["name"], job["spec"]
        cluster = spec["rayClusterSpec"]
        found[f"{name}, submitter"] = spec["submitterPodTemplate"]
        found[f"{name}, head"] = cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            found[f"{name}, {group['groupName']}"] = group["template"]
    return found
