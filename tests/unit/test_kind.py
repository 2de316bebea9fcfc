"""scripts/kind-up: a dry check. Stand-ins for docker, kind, kubectl and helm write down how they are called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.unit.test_compose import versions

ROOT = Path(__file__).parents[2]
SCRIPTS = ("kind-up", "kind-down")
TOOLS = ("docker", "kind", "kubectl", "helm")
STAND_IN = """\
#!/bin/bash
tool=${0##*/}
echo "$tool $*" >>"$STATE/calls"
case "$tool $*" in
  *" -f -"* | *"--values -"* | *" cp /dev/stdin "*) cat >>"$STATE/input" ;;
esac
case "$tool $*" in
  "docker inspect "*) cat "$STATE/registry" ;;
  "docker run "*) echo true >"$STATE/registry" ;;
  "docker image inspect "*) echo sha256:0123456789abcdef ;;
  "kind create cluster "*) echo vitruvian >"$STATE/cluster" ;;
  "kind get clusters") cat "$STATE/cluster" ;;
  "kind get nodes "*) echo vitruvian-control-plane ;;
  *"create secret generic s3"*) touch "$STATE/secret" ;;
  *"get secret s3 -o jsonpath"*) echo a2V5 ;;
  *"get secret s3") test -e "$STATE/secret" ;;
esac
"""


def kind_up(path: str, state: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shutil.which("bash") or "bash", ROOT / "scripts" / "kind-up"],
        env={**os.environ, "PATH": path, "STATE": str(state)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def calls(state: Path) -> list[str]:
    """Return the calls since the last time."""
    lines = (state / "calls").read_text().splitlines()
    (state / "calls").unlink()
    return lines


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_reads_the_script(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / "scripts" / script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-x", ROOT / "scripts" / script], check=True, cwd=ROOT)


def test_a_second_call_brings_up_to_date_and_makes_nothing_anew(tmp_path: Path) -> None:
    tools, state = tmp_path / "tools", tmp_path / "state"
    tools.mkdir()
    state.mkdir()
    for tool in TOOLS:
        (tools / tool).write_text(STAND_IN)
        (tools / tool).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"

    first = kind_up(path, state)
    assert first.returncode == 0, first.stdout + first.stderr
    told = calls(state)
    order = [
        "docker run ",
        "kind create cluster --name vitruvian ",
        "docker network connect kind vitruvian-registry",
        "helm upgrade --install cert-manager ",
        "helm upgrade --install prometheus ",
        "helm upgrade --install kuberay-operator ",
        "helm upgrade --install kserve-crd ",
        "helm upgrade --install kserve ",
        "kubectl --context kind-vitruvian -n s3 create secret ",
        "docker push 127.0.0.1:5001/vitruvian/server:0123456789ab",
        "docker push 127.0.0.1:5001/vitruvian/trainer:0123456789ab",
        "helm upgrade --install vitruvian charts/vitruvian ",
    ]
    places = [next((n for n, line in enumerate(told) if line.startswith(call)), -1) for call in order]
    assert -1 not in places and places == sorted(places), "\n".join(told)
    # Who comes after Prometheus' operator may be watched by it, and a NetworkPolicy lets in who is there.
    (kuberay,) = [line for line in told if line.startswith("helm upgrade --install kuberay-operator ")]
    assert "metrics.serviceMonitor.enabled=true" in kuberay and "--namespace ray-system " in kuberay
    assert "kuberayNamespace: {kubernetes.io/metadata.name: ray-system}" in (state / "input").read_text()
    # Where Grafana's password is, not the password.
    assert "get secret prometheus-grafana -o jsonpath='{.data.admin-password}'" in first.stdout
    # No call goes to whatever cluster kubectl happens to point at.
    assert all("kind-vitruvian" in line for line in told if line.startswith(("kubectl", "helm")))
    assert "S3_IMAGE" not in (state / "input").read_text()

    second = kind_up(path, state)
    assert second.returncode == 0, second.stdout + second.stderr
    again = calls(state)
    made = (
        "docker run ",
        "kind create cluster ",
        "docker rm ",
        "kubectl --context kind-vitruvian -n s3 create secret ",
    )
    assert not [line for line in again if line.startswith(made)]
    assert [line for line in told if line.startswith("helm")] == [line for line in again if line.startswith("helm")]


def test_every_tool_that_is_missing_is_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to(shutil.which("dirname") or "/usr/bin/dirname")
    refused = kind_up(str(tmp_path), tmp_path)
    assert refused.returncode == 1
    assert [f"✗ {tool} is missing: " in refused.stderr for tool in TOOLS] == [True] * 4
    assert "==" not in refused.stdout


def test_every_version_is_used_and_none_floats() -> None:
    used = "".join((ROOT / name).read_text() for name in ("compose.yaml", "scripts/kind-up", "docs/eks.md"))
    for name, version in versions().items():
        assert re.search(rf"\$\{{?{name}\b", used), f"{name} is used nowhere"
        assert re.search(r"\d+\.\d+", version) and "latest" not in version, f"{name}={version} may change by itself"
    names = set(re.findall(r"\$\{?([A-Z0-9_]+_(?:IMAGE|CHART|VERSION))\b", used))
    assert names == set(versions())


def test_the_files_for_kind_are_yaml_and_fit_together() -> None:
    found = {path.stem: list(yaml.safe_load_all(path.read_text())) for path in (ROOT / "k8s" / "kind").glob("*.yaml")}
    script = (ROOT / "scripts" / "kind-up").read_text()
    for name in found:
        assert f"k8s/kind/{name}.yaml" in script
    (mapping,) = found["cluster"][0]["nodes"][0]["extraPortMappings"]
    assert mapping["listenAddress"] == "127.0.0.1"
    assert f"nodePort={mapping['containerPort']}" in script and f"localhost:{mapping['hostPort']}" in script
    (rule,) = found["prometheus-adapter"][0]["rules"]["custom"]
    assert rule["seriesQuery"].startswith("vitruvian_queue_length{")
