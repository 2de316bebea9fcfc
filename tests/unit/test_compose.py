"""compose.yaml: what it starts is pinned, confined and reached from this machine only."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from vitruvian import spec
from vitruvian.demo import _CLASSIFIERS

ROOT = Path(__file__).parents[2]
OURS = {"vitruvian/server:dev", "vitruvian/trainer:dev"}


def versions() -> dict[str, str]:
    """Return what .env says."""
    lines = [line for line in (ROOT / ".env").read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def filled(text: str) -> str:
    """Put the values of .env and the defaults in, as compose does."""
    known = versions()
    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda found: known.get(found[1]) or found[2], text)


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(filled((ROOT / "compose.yaml").read_text()))["services"]
    return found


def compose() -> list[str] | None:
    """Return the command that this machine has, if any."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    return None


def test_compose_takes_the_file() -> None:
    command = compose()
    if command is None:
        pytest.skip("needs docker compose (Debian: apt-get install docker-compose)")
    done = subprocess.run([*command, "config"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == set(services())


def test_every_image_is_ours_or_of_a_version() -> None:
    pinned = set(versions().values())
    for name, service in services().items():
        assert service["image"] in OURS | pinned, name
        assert ("build" in service) == (service["image"] in OURS), name


def test_nothing_listens_outside_this_machine() -> None:
    for name, service in services().items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_every_service_is_confined() -> None:
    root = []
    for name, service in services().items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        # Our images have a user of their own.
        if service.get("user", "10001").startswith("0") or "cap_add" in service:
            root.append(name)
    assert root == ["buckets"]
    assert services()["buckets"]["cap_add"] == ["CHOWN"] and services()["buckets"]["network_mode"] == "none"


def test_what_stays_up_tells_whether_it_is_well() -> None:
    assert {name for name, service in services().items() if "restart" not in service} == {"buckets", "train"}
    assert all("healthcheck" in service for service in services().values() if "restart" in service)


def test_every_file_that_is_mounted_exists() -> None:
    volumes = yaml.safe_load((ROOT / "compose.yaml").read_text())["volumes"]
    for name, service in services().items():
        for mount in service.get("volumes", []):
            source, _, options = f"{mount}:".split(":")[:3]
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {source}"
                assert options == "ro", f"{name}: {source}"
            else:
                assert source in volumes, f"{name}: {source}"


def test_the_store_gets_the_keys_that_its_users_have() -> None:
    found = services()
    for name in ("train", "server"):
        keys = found[name]["environment"]
        assert keys["AWS_ACCESS_KEY_ID"] == found["s3"]["environment"]["ROOT_ACCESS_KEY"]
        assert keys["AWS_SECRET_ACCESS_KEY"] == found["s3"]["environment"]["ROOT_SECRET_KEY"]
        assert keys["AWS_ENDPOINT_URL"] == "http://s3:9000"


def test_it_trains_what_the_demo_trains_and_serves_what_it_trains() -> None:
    trained = spec.load(ROOT / "images" / "compose" / "classifier.yaml")
    assert trained == spec.parse(_CLASSIFIERS["vit"].format(artifacts=trained.artifacts))
    assert trained.artifacts in services()["server"]["command"]


def test_prometheus_asks_services_that_are_there() -> None:
    jobs = yaml.safe_load((ROOT / "images" / "compose" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {job["static_configs"][0]["targets"][0] for job in jobs}
    port = services()["train"]["command"][-1]
    assert targets == {"server:8080", f"train:{port}"}
