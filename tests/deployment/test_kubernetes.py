"""deploy/kubernetes fits the schemas, holds together, and keeps closed what it says is closed."""

import json
import os
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from buffer.errors import ConfigError
from buffer.server.connect import PASSWORD_FILE_VARIABLE
from deploy.config import load_recipe
from deploy.docker.serve_redis import SECRETS, TEMPLATE, USERS, users
from tests.deployment import manifests
from tests.deployment.manifests import core_objects, everything, named, pod_templates, ray_jobs

VERSIONS = ("1.30", "1.34")
"""Of Kubernetes: an old one and a new one."""
ROOT = Path(__file__).parents[2]
CRD_VARIABLE = "TRIBUTARY_RAYJOB_CRD"
TEMPLATES = pod_templates()


def label(document: dict[str, Any]) -> str:
    """For the names of tests."""
    return f"{document['kind']}-{document['metadata']['name']}"


def misfit(document: dict[str, Any], version: str) -> str | None:
    """What does not fit Kubernetes' schema; None where all does."""
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error)
    return None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", core_objects(), ids=label)
def test_every_object_fits_the_schema_of_kubernetes(document: dict[str, Any], version: str) -> None:
    assert misfit(document, version) is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_pod_template_makes_a_pod_that_fits_the_schema(name: str, version: str) -> None:
    template = TEMPLATES[name]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"} | template["metadata"],
        "spec": template["spec"],
    }
    assert misfit(pod, version) is None


def test_the_schema_of_kubernetes_refuses_a_misspelt_field() -> None:
    bad = named("StatefulSet", "tributary-redis") | {"spec": {"replicaz": 1}}
    assert "replicaz" in str(misfit(bad, VERSIONS[0]))


@pytest.mark.parametrize("job", ray_jobs(), ids=label)
def test_every_ray_job_fits_what_we_know_of_its_schema(job: dict[str, Any]) -> None:
    schema = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text())
    assert [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(job)] == []


@pytest.mark.skipif(CRD_VARIABLE not in os.environ, reason=f"{CRD_VARIABLE} names no file with KubeRay's RayJob CRD")
@pytest.mark.parametrize("job", ray_jobs(), ids=label)
def test_every_ray_job_fits_the_custom_resource_definition(job: dict[str, Any]) -> None:
    definition = yaml.safe_load(Path(os.environ[CRD_VARIABLE]).read_text())
    [version] = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    validator = jsonschema.Draft202012Validator(_closed(version["schema"]["openAPIV3Schema"]))
    assert [error.message for error in validator.iter_errors(job)] == []


def test_the_ray_of_the_jobs_is_the_installed_one() -> None:
    versions = {job["spec"]["rayClusterSpec"]["rayVersion"] for job in ray_jobs()}
    assert versions == {metadata.version("ray")}


@pytest.mark.parametrize("job", ray_jobs(), ids=label)
def test_the_recipe_and_overrides_of_every_entrypoint_resolve(job: dict[str, Any]) -> None:
    python, module, cli, train, recipe, run, folder, go_on, *overrides = shlex.split(job["spec"]["entrypoint"])
    assert (python, module, cli, train, run, go_on) == ("python", "-m", "deploy.cli", "train", "--run", "--continue")
    config = load_recipe(recipe, overrides)
    service = named("Service", "tributary-redis")
    assert config.buffer.url == f"redis://driver@{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/0"
    assert Path(folder).is_relative_to("/shared")


@pytest.mark.parametrize("job", ray_jobs(), ids=label)
def test_the_worker_pods_have_what_the_recipe_reserves(job: dict[str, Any]) -> None:
    config = load_recipe(shlex.split(job["spec"]["entrypoint"])[4])
    parts = [(config.actors.count, config.actors), (config.rewards.workers, config.rewards)]
    parts.append((config.learner.ranks, config.learner))
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    cpus = sum(group["replicas"] * float(group["rayStartParams"]["num-cpus"]) for group in groups)
    limits = [(g["replicas"], g["template"]["spec"]["containers"][0]["resources"]["limits"]) for g in groups]
    gpus = sum(replicas * int(limit.get("nvidia.com/gpu", 0)) for replicas, limit in limits)
    assert sum(count * part.advanced.cpus for count, part in parts) <= cpus
    assert sum(count * part.gpus for count, part in parts) <= gpus + 1e-9


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_pod_has_more_rights_than_the_restricted_standard(name: str) -> None:
    spec = TEMPLATES[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_pod_is_under_a_network_policy_of_its_role(name: str) -> None:
    role = TEMPLATES[name]["metadata"]["labels"]["tributary-role"]
    policy = named("NetworkPolicy", role)
    assert policy["spec"]["podSelector"] == {"matchLabels": {"tributary-role": role}}
    closed = named("NetworkPolicy", "nothing-but-names")["spec"]
    assert closed["podSelector"] == {} and sorted(closed["policyTypes"]) == ["Egress", "Ingress"]
    assert "ingress" not in closed


def test_only_ray_reaches_redis_and_only_ray_the_operator_and_prometheus_reach_ray() -> None:
    [rule] = named("NetworkPolicy", "redis")["spec"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"tributary-role": "ray"}}}]
    peers = [peer for rule in named("NetworkPolicy", "ray")["spec"]["ingress"] for peer in rule["from"]]
    assert all("podSelector" in peer or "namespaceSelector" in peer for peer in peers)
    assert len(peers) == 3 and not any("ipBlock" in peer for peer in peers)


def test_every_volume_secret_and_configuration_that_a_pod_names_is_there() -> None:
    there = {(d["kind"], d["metadata"]["name"]) for d in everything() if d["kind"] != "Kustomization"}
    for name, template in TEMPLATES.items():
        for volume in template["spec"]["volumes"]:
            for field, key, kind in (
                ("persistentVolumeClaim", "claimName", "PersistentVolumeClaim"),
                ("secret", "secretName", "Secret"),
                ("configMap", "name", "ConfigMap"),
            ):
                assert field not in volume or (kind, volume[field][key]) in there, f"{name}: {volume}"


def test_redis_starts_as_in_compose_on_files_that_the_image_has() -> None:
    pod = TEMPLATES["tributary-redis"]["spec"]
    [container] = pod["containers"]
    commands = [
        container["command"],
        *(container[probe]["exec"]["command"] for probe in ("startupProbe", "livenessProbe")),
    ]
    assert [command[1] for command in commands] == [
        "deploy/docker/serve_redis.py",
        *2 * ["deploy/docker/redis-alive.sh"],
    ]
    assert all((ROOT / command[1]).is_file() for command in commands)
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert {str(SECRETS), str(USERS.parent), "/data"} <= set(mounts)
    assert (
        mounts["/data"]
        == named("StatefulSet", "tributary-redis")["spec"]["volumeClaimTemplates"][0]["metadata"]["name"]
    )


def test_redis_has_room_for_a_rewrite_of_its_file() -> None:
    [container] = TEMPLATES["tributary-redis"]["spec"]["containers"]
    limit_mib = int(container["resources"]["limits"]["memory"].removesuffix("Mi"))
    assert int(container["command"][2].removesuffix("gb")) * 1024 <= 0.6 * limit_mib


def test_the_secret_has_the_file_that_redis_and_the_run_look_for() -> None:
    [key] = named("Secret", "tributary-redis")["stringData"]
    for name in ("tributary-demo, head", "tributary-demo, cpu", "tributary-continue, head", "tributary-continue, gpu"):
        [container] = TEMPLATES[name]["spec"]["containers"]
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        assert environment[PASSWORD_FILE_VARIABLE] == f"{SECRETS}/{key}"
        assert {"name": "secrets", "mountPath": str(SECRETS), "readOnly": True} in container["volumeMounts"]


def test_redis_does_not_start_on_the_secret_as_it_is_in_the_repository(tmp_path: Path) -> None:
    [(key, password)] = named("Secret", "tributary-redis")["stringData"].items()
    (tmp_path / key).write_text(password)
    with pytest.raises(ConfigError, match="redis_driver has 0 characters"):
        users(TEMPLATE.read_text(), tmp_path)
    (tmp_path / key).write_text("x" * 32)
    assert "user driver on #" in users(TEMPLATE.read_text(), tmp_path)


def test_the_kustomization_names_files_and_leaves_secrets_and_runs_to_people() -> None:
    [kustomization] = manifests.documents(manifests.FOLDER / "kustomization.yaml")
    files = [manifests.FOLDER / name for name in kustomization["resources"]]
    kinds = {document["kind"] for path in files for document in manifests.documents(path)}
    assert not kinds & {"Secret", "RayJob"}


def _closed(schema: Any) -> Any:
    """A structural schema as the API server takes it with strict field validation: fields it does not know are refused."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if closed.get("type") == "object" and closed.get("properties") and "additionalProperties" not in closed:
        closed["additionalProperties"] = False
    return closed
