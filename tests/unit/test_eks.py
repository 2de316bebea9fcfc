"""docs/eks.md and k8s/eks: files that fit each other and the chart. Nothing here ran on AWS."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_compose import versions
from vitruvian import spec

ROOT = Path(__file__).parents[2]
EKS = ROOT / "k8s" / "eks"
VALUES = ROOT / "charts" / "vitruvian" / "values-eks.yaml"
PAGE = (ROOT / "docs" / "eks.md").read_text()
COMMANDS = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))


def cluster() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((EKS / "cluster.yaml").read_text())
    return found


def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(VALUES.read_text())
    return found


def group(labels: dict[str, str]) -> dict[str, Any]:
    """Return the one node group that has all labels."""
    (found,) = [group for group in cluster()["managedNodeGroups"] if labels.items() <= group["labels"].items()]
    return dict(found)


def test_the_chart_puts_pods_on_node_groups_that_there_are() -> None:
    trainer = values()["trainer"]["settings"]
    assert group(trainer["nodeSelector"])["spot"]
    # What holds a run together isn't taken away, and costs nothing between runs.
    lead = group(trainer["headNodeSelector"])
    assert not lead.get("spot") and lead["minSize"] == 0
    assert not any(group(one["nodeSelector"]).get("taints") for one in (trainer, values()["server"]))


def test_workers_with_gpus_may_run_where_gpus_are_and_nodes_wait_for_them() -> None:
    trainer = yaml.safe_load((EKS / "gpu-values.yaml").read_text())["trainer"]["settings"]
    nodes = group(trainer["nodeSelector"])
    assert nodes["desiredCapacity"] == nodes["minSize"] == 0
    tolerated = {(one["key"], one["effect"]) for one in trainer["tolerations"]}
    assert {(taint["key"], taint["effect"]) for taint in nodes["taints"]} == tolerated


def test_nodes_are_private_encrypted_and_in_several_zones() -> None:
    assert len(cluster()["availabilityZones"]) >= 2
    servers = group(values()["server"]["nodeSelector"])
    assert servers["minSize"] >= values()["server"]["replicas"] >= 2
    for found in cluster()["managedNodeGroups"]:
        assert found["privateNetworking"] and found["volumeEncrypted"] and found["disablePodIMDS"], found["name"]
        assert found["minSize"] <= found["desiredCapacity"] <= found["maxSize"], found["name"]
        assert set(found.get("availabilityZones", [])) <= set(cluster()["availabilityZones"])


def test_network_policies_are_enforced() -> None:
    (cni,) = [addon for addon in cluster()["addons"] if addon["name"] == "vpc-cni"]
    assert json.loads(cni["configurationValues"]) == {"enableNetworkPolicy": "true"}


# What vitruvian/store.py asks S3 for, uploads in parts included.
READS = {"s3:ListBucket", "s3:GetObject"}
WRITES = {"s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"}
MODELS, DATA = ({f"arn:aws:s3:::BUCKET-{name}", f"arn:aws:s3:::BUCKET-{name}/*"} for name in ("models", "data"))


def listed(found: str | list[str]) -> list[str]:
    return [found] if isinstance(found, str) else found


def allowed(duty: str) -> dict[str, set[str]]:
    """Return what a policy allows: each action with what it may be done to."""
    found: dict[str, set[str]] = {}
    for one in json.loads((EKS / f"{duty}-policy.json").read_text())["Statement"]:
        for action in listed(one["Action"]):
            found[action] = found.get(action, set()) | set(listed(one["Resource"]))
    return found


def test_trainers_write_artifacts_servers_write_nothing_and_nobody_anything_else() -> None:
    trainers, servers = allowed("trainer"), allowed("server")
    assert set(trainers) == READS | WRITES and set(servers) == READS
    assert set.union(*(trainers[action] for action in READS)) == MODELS | DATA
    assert set.union(*(trainers[action] for action in WRITES)) < MODELS
    assert set.union(*servers.values()) == MODELS


@pytest.mark.parametrize("duty", ["trainer", "server"])
def test_each_of_the_charts_service_accounts_gets_its_policy(duty: str) -> None:
    assert "eks-pod-identity-agent" in {addon["name"] for addon in cluster()["addons"]}
    account = f"vitruvian-{duty}"
    (ours,) = [one for one in cluster()["iam"]["podIdentityAssociations"] if one["serviceAccountName"] == account]
    assert f"create namespace {ours['namespace']}\n" in COMMANDS
    assert ours["permissionPolicyARNs"] == [f"arn:aws:iam::ACCOUNT:policy/{account}"]
    (made,) = [line for line in COMMANDS.splitlines() if "--policy-name" in line]
    assert f"{duty} " in made.partition(";")[0] + " " and "--policy-name vitruvian-$duty " in made


def test_the_region_is_the_same_everywhere() -> None:
    region = cluster()["metadata"]["region"]
    assert f"AWS_REGION={region} " in COMMANDS
    assert yaml.safe_load((EKS / "deploy.yml").read_text())["env"]["REGION"] == region
    assert all(zone.startswith(region) for zone in cluster()["availabilityZones"])


def test_the_pages_files_and_versions_exist() -> None:
    for path in re.findall(r"(?<![\w/])((?:k8s|charts)/[\w/.-]+\w)", PAGE):
        assert (ROOT / path).exists(), path
    assert set(re.findall(r"\$(\w+_CHART)", COMMANDS)) <= set(versions())
    for line in COMMANDS.splitlines():
        if (
            line.startswith("helm")
            and "charts/vitruvian" not in line
            and "uninstall" not in line
            and "test" not in line
        ):
            assert re.search(r"--version \$\w+_CHART ", line), f"its version floats: {line}"
    assert versions()["CLUSTER_AUTOSCALER_VERSION"].startswith(f"v{cluster()['metadata']['version']}.")
    # Every command stands on a line of its own.
    assert subprocess.run(["bash", "-n"], input=COMMANDS, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("file", "left_out"),
    [(r"\$duty-policy\.json", "BUCKET"), (r"cluster\.yaml", "ACCOUNT")],
    ids=["policies", "cluster"],
)
@pytest.mark.parametrize("duty", ["trainer", "server"])
def test_the_pages_commands_fill_in_what_is_left_out(file: str, left_out: str, duty: str) -> None:
    (command,) = re.findall(rf'sed "s/{left_out}/.*" k8s/eks/{file}', COMMANDS)
    done = subprocess.run(
        ["bash", "-c", f"{left_out}=filled-in duty={duty}; {command}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "filled-in" in done.stdout
    assert not [line for line in done.stdout.splitlines() if left_out in line and not line.startswith("#")]


def test_the_pages_declaration_is_valid() -> None:
    (declared,) = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "kind: Classifier" in block]
    assert spec.parse(declared).artifacts == "s3://BUCKET-models/yoga"


def test_every_dockerfile_gets_a_repository() -> None:
    roles = {path.name.removesuffix(".Dockerfile") for path in (ROOT / "images").glob("*.Dockerfile")}
    for text in (COMMANDS, (EKS / "deploy.yml").read_text(), (ROOT / "scripts" / "kind-up").read_text()):
        for loop in re.findall(r"for role in ([\w -]+);", text):
            assert set(loop.split()) == roles


def test_the_chart_makes_what_the_page_promises() -> None:
    if shutil.which("helm") is None:
        pytest.skip("needs helm on the PATH")
    made = ["--set", "server.enabled=true,server.bundle=s3://b-models/yoga"]
    name = "alb.ingress.kubernetes.io/inbound-cidrs"
    escaped = name.replace(".", "\\.")
    only_me = ["--set-string", f"server.ingress.annotations.{escaped}=192.0.2.1/32"]
    command: list[str | Path] = [
        "helm",
        "template",
        "vitruvian",
        ROOT / "charts" / "vitruvian",
        "-n",
        "studio",
        "-f",
        VALUES,
    ]
    done = subprocess.run([*command, *made, *only_me], capture_output=True, text=True, check=True)
    found = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout) if one}
    ingress = found["Ingress", "vitruvian-server"]
    assert ingress["spec"]["ingressClassName"] == "alb"
    annotations = ingress["metadata"]["annotations"]
    assert annotations["alb.ingress.kubernetes.io/healthcheck-path"] == "/v2/health/ready"
    assert annotations[name] == "192.0.2.1/32"
    pod = found["Deployment", "vitruvian-server"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "vitruvian-server"
    accounts = {name for kind, name in found if kind == "ServiceAccount"}
    assert accounts == {"vitruvian-trainer", "vitruvian-server"}
    assert accounts < {one["serviceAccountName"] for one in cluster()["iam"]["podIdentityAssociations"]}
    # A pod answers until the load balancer has let go of it.
    drain = re.search(r"timeout_seconds=(\d+)", annotations["alb.ingress.kubernetes.io/target-group-attributes"])
    assert drain and pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] >= int(drain[1])
    assert ("Secret", "vitruvian-s3") not in found
