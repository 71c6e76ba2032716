"""The files for other supervisors say the same as the launcher does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from honcho.environ import parse_procfile

from common.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
OPS = ROOT / "ops"
PROCESSES = parse_procfile((ROOT / "Procfile").read_text()).processes
SHUTDOWN = Settings.model_fields["shutdown_seconds"].default
GRACE = int(SHUTDOWN) + 30
ALIVE = ["python", "-m", "workers", "alive"]


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text("utf-8")))


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    (compose,) = documents(OPS / "compose.yaml")
    found: dict[str, Any] = compose["services"]
    return found


@pytest.fixture(scope="module")
def deployments() -> dict[str, Any]:
    """The pods of the deployments that the kustomization takes in, by the name of their process."""
    (kustomization,) = documents(OPS / "k8s" / "kustomization.yaml")
    found = [doc for name in kustomization["resources"] for doc in documents(OPS / "k8s" / name)]
    pods = [doc["spec"]["template"]["spec"] for doc in found if doc["kind"] == "Deployment"]
    return {pod["containers"][0]["name"]: pod for pod in pods}


def test_every_supervisor_gives_a_worker_the_same_time_to_stop(
    services: dict[str, Any], deployments: dict[str, Any]
) -> None:
    assert services["worker"]["stop_grace_period"] == f"{GRACE}s"
    assert deployments["worker"]["terminationGracePeriodSeconds"] == GRACE
    for document in ("Procfile", "ops/OPERATING.md"):
        text = (ROOT / document).read_text("utf-8")
        assert f"TimeoutStopSec={GRACE}" in text, document
        assert "Restart=always" in text, document


@pytest.mark.parametrize("name", ["worker", "beat"])
def test_every_supervisor_asks_whether_a_process_gets_on(
    services: dict[str, Any], deployments: dict[str, Any], name: str
) -> None:
    assert services[name]["healthcheck"]["test"] == ["CMD", *ALIVE]
    (container,) = deployments[name]["containers"]
    assert container["livenessProbe"]["exec"]["command"] == ALIVE
    assert shlex.join(ALIVE) in (ROOT / "Procfile").read_text("utf-8")


def test_the_same_lines_are_run_everywhere(
    services: dict[str, Any], deployments: dict[str, Any]
) -> None:
    assert deployments.keys() == PROCESSES.keys() - {"flower"}
    assert services.keys() == PROCESSES.keys() | {"redis"}
    for name, pod in deployments.items():
        assert pod["containers"][0]["command"] == shlex.split(PROCESSES[name])
        assert services[name]["command"] == PROCESSES[name]


def test_what_ends_is_started_again(services: dict[str, Any]) -> None:
    assert {service["restart"] for service in services.values()} == {"unless-stopped"}


def test_redis_keeps_what_it_was_given(services: dict[str, Any]) -> None:
    command = services["redis"]["command"]

    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert services["redis"]["volumes"] == ["redis:/data"]


def test_nothing_is_open_to_the_network_by_itself(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_image_is_made_of_what_is_locked_and_is_nobodys_superuser() -> None:
    text = (OPS / "Dockerfile").read_text("utf-8")

    assert "pip install --no-cache-dir --require-hashes" in text
    assert re.findall(r"^USER (\d+)$", text, re.MULTILINE) == ["10001"]
    sources = re.findall(r"^COPY (\S+)", text, re.MULTILINE)
    assert all((ROOT / source).exists() for source in sources)
    kept = (OPS / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert {source.partition("/")[0] for source in sources} == {
        line.removeprefix("!") for line in kept if line.startswith("!")
    }
    python = re.findall(r"^FROM python:(\d\.\d+)-slim$", text, re.MULTILINE)
    assert python == ["3.11"]


def test_pods_run_without_rights_they_do_not_need(deployments: dict[str, Any]) -> None:
    for pod in deployments.values():
        assert pod["securityContext"]["runAsUser"] == 10001
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
