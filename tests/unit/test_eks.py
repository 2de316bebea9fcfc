"""docs/eks.md and k8s/eks: files that fit each other and the chart. Nothing here ran on AWS."""

from __future__ import annotations

import json
import os
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
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def cluster() -> dict[str, Any]:
    return _read(EKS / "cluster.yaml")


def values() -> dict[str, Any]:
    return _read(VALUES)


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


def test_the_autoscaler_knows_what_disk_an_empty_group_has() -> None:
    cpu, gpu = (found["trainer"]["settings"]["worker"] for found in (values(), _read(EKS / "gpu-values.yaml")))
    asked = {"lead": 0, "cpu": _gibibytes(cpu["ephemeralStorage"]), "gpu": _gibibytes(gpu["ephemeralStorage"])}
    empty = {found["name"]: found for found in cluster()["managedNodeGroups"] if found["minSize"] == 0}
    assert set(empty) <= set(asked)
    for name, wanted in asked.items():
        (found,) = [found for found in cluster()["managedNodeGroups"] if found["name"] == name]
        told = _gibibytes(found["tags"]["k8s.io/cluster-autoscaler/node-template/resources/ephemeral-storage"])
        # Labels reach the autoscaling group, too. Kubelet evicts when a tenth is free, and keeps 1 GiB for itself.
        assert found["propagateASGTags"]
        assert wanted <= told <= found["volumeSize"] * 0.9 - 1, name


def _gibibytes(quantity: str) -> int:
    return int(quantity.removesuffix("Gi"))


def test_ray_serves_head_is_on_a_node_that_stays_and_its_servers_where_servers_are() -> None:
    settings = values()["rayserve"]["settings"]
    assert not group(settings["headNodeSelector"]).get("spot")
    assert settings["nodeSelector"] == values()["server"]["nodeSelector"]


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
    (made,) = [line for line in COMMANDS.splitlines() if "create-policy" in line]
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
    [
        ("$duty-policy.json", {"BUCKET": "BUCKET"}),
        ("cluster.yaml", {"ACCOUNT": "ACCOUNT", "AWS_REGION": "us-east-1"}),
        ("deploy-trust.json", {"ACCOUNT": "ACCOUNT", "REPOSITORY": "REPOSITORY"}),
        ("deploy-policy.json", {"ACCOUNT": "ACCOUNT"}),
    ],
    ids=["policies", "cluster", "trust", "deploys"],
)
@pytest.mark.parametrize("duty", ["trainer", "server"])
def test_the_pages_commands_fill_in_what_is_left_out(file: str, left_out: dict[str, str], duty: str) -> None:
    (command,) = re.findall(rf'sed "[^"]*" k8s/eks/{re.escape(file)}', COMMANDS)
    filled = _bash(command, duty=duty, **{name: name.lower() for name in left_out})
    for name, placeholder in left_out.items():
        assert name.lower() in filled
        assert not [line for line in filled.splitlines() if placeholder in line and not line.startswith("#")]


def _bash(command: str, **variables: str) -> str:
    return subprocess.run(
        ["bash", "-euc", command],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_what_the_page_makes_in_the_account_it_deletes() -> None:
    made, deleted = (
        set(re.findall(rf"{verb}-([\w-]+?)(?: |$)", COMMANDS, re.MULTILINE)) for verb in ("create", "delete")
    )
    assert {"policy", "repository", "role", "open-id-connect-provider"} <= made & deleted
    # A role goes only without policies.
    assert re.findall(r"(?:put|attach)-role-policy", COMMANDS) == ["put-role-policy", "attach-role-policy"]
    order = ["create-role", "create accessentry", "detach-role-policy", "delete-role-policy", "delete-role "]
    places = [COMMANDS.index(each) for each in order]
    assert places == sorted(places)


@pytest.mark.skipif(shutil.which("helm") is None, reason="needs helm on the PATH")
def test_the_pages_commands_are_ones_that_the_chart_takes(tmp_path: Path) -> None:
    (production,) = [block for block in BLOCKS if block.startswith("# values-production.yaml")]
    (tmp_path / "values-production.yaml").write_text(production)
    lines = [line for line in COMMANDS.splitlines() if re.match(r"helm \w+ vitruvian charts", line)]
    install, upgrade = (line.split(" ", 5)[5] for line in lines)
    # What the upgrade finds of the installation it keeps.
    upgrade = upgrade.replace("--reset-then-reuse-values", "").replace("values-", f"{tmp_path}/values-")
    command = "helm template vitruvian charts/vitruvian -n"
    for wanted in (f"{command} {install}", f"{command} {install} {upgrade.removeprefix('studio')}"):
        rendered = _bash(wanted, REGISTRY="registry", BUCKET="bucket")
        assert "registry/vitruvian/trainer:1\n" in rendered
    assert 'image: "registry/vitruvian/server:1"' in rendered
    assert "internet-facing" in rendered and "s3://bucket-models/yoga/bundles/VERSION" in rendered


def test_the_pages_declaration_is_valid() -> None:
    (declared,) = [block for block in BLOCKS if "kind: Classifier" in block]
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
    assert accounts == {"vitruvian-trainer", "vitruvian-server", "vitruvian-operator"}
    assert accounts < {one["serviceAccountName"] for one in cluster()["iam"]["podIdentityAssociations"]}
    # A pod answers until the load balancer has let go of it.
    drain = re.search(r"timeout_seconds=(\d+)", annotations["alb.ingress.kubernetes.io/target-group-attributes"])
    (linger,) = [word for word in pod["containers"][0]["args"] if word.startswith("--linger=")]
    assert drain and int(linger.removeprefix("--linger=")) >= int(drain[1])
    assert ("Secret", "vitruvian-s3") not in found
