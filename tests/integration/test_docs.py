"""Every command in the README and the docs does what they say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from moto.server import ThreadedMotoServer

from tests import configs
from tests.bundles import make_bundle
from tests.certificates import Authority
from tests.hubs import hub
from tests.projects import write_data
from vitruvian import spec
from vitruvian.bundle import open_bundle
from vitruvian.inference.access.policy import read_keys, read_policy
from vitruvian.store import open_store

ROOT = Path(__file__).parents[2]
MOTION = ROOT.parent / "shared" / "data" / "mocap-17kp"


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def commands(page: str) -> list[str]:
    """Return every command line of a page's shell blocks, without comments."""
    lines = [line.split("  #")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: data, and the README's declaration, trained as the README says but for one epoch."""
    home = tmp_path_factory.mktemp("home")
    write_data(home / "data" / "yoga")
    shutil.copytree(home / "data" / "yoga" / "standing", home / "data" / "new")
    shutil.copy(home / "data" / "new" / "000.png", home / "picture.png")
    (home / ".venv" / "bin").mkdir(parents=True)
    (home / ".venv" / "bin" / "activate").write_text(f"PATH={Path(sys.executable).parent}:$PATH\n")
    (declared,) = [block for block in blocks("README.md", "yaml") if "kind: Classifier" in block]
    assert spec.parse(declared).name == "yoga"
    # What it reaches is not the point here: one epoch, and a gate that one epoch meets.
    (home / "classifier.yaml").write_text(declared.replace("epochs: 20", "epochs: 1").replace("0.8", "0.0"))
    return home


def shell(line: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-ec", line],
        cwd=cwd,
        env={**os.environ, "PATH": path, **env},
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(home: Path) -> Path:
    line = next(line for line in commands("README.md") if line.startswith("vitruvian run"))
    done = shell(f". .venv/bin/activate && {line}", home)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def server(trained: Path) -> Iterator[Path]:
    line = next(line for line in commands("docs/serving.md") if line.startswith("vitruvian serve"))
    with serving(line, trained):
        yield trained


class serving:
    """Runs a command that serves on port 8080 until the end of a block."""

    def __init__(self, line: str, cwd: Path, tls: ssl.SSLContext | None = None, **env: str) -> None:
        self.ready, self.tls = f"{'https' if tls else 'http'}://127.0.0.1:8080/v2/health/ready", tls
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # Other machines have no business here, and nobody has to learn that it ends.
        line = line.replace("--host 0.0.0.0 ", "").replace("--linger 10", "--linger 0")
        self.process = subprocess.Popen(shlex.split(line), cwd=cwd, env={**os.environ, "PATH": path, **env})

    def __enter__(self) -> serving:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(self.ready, timeout=5, context=self.tls):
                    return self
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the server did not become ready")

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        assert self.process.wait(30) == 0


def test_the_readmes_targets_exist() -> None:
    lines = [line for page in ("README.md", "CONTRIBUTING.md") for line in commands(page) if line.startswith("make")]
    assert {"make demo", "make test"} <= set(lines)
    for line in lines:
        assert shell(f"{line} --dry-run", ROOT).returncode == 0, line


def test_the_readmes_declaration_trains_and_answers(trained: Path) -> None:
    assert open_bundle(trained / "artifacts" / "yoga").info.name == "yoga"
    predict = next(line for line in commands("README.md") if line.startswith("vitruvian predict"))
    assert shell(predict, trained).returncode == 0
    assert len((trained / "answers.csv").read_text().splitlines()) == 41


def test_predicting_as_the_docs_say(trained: Path) -> None:
    for line in commands("docs/serving.md"):
        if line.startswith("vitruvian predict"):
            done = shell(line, trained)
            assert done.returncode == 0, done.stderr


def test_many_files_are_predicted_as_the_docs_say(trained: Path) -> None:
    (line,) = [line for line in commands("docs/batch.md") if line.startswith("vitruvian predict")]
    done = shell(line, trained)
    assert done.returncode == 0, done.stderr
    assert (trained / "answers" / "_SUCCESS").exists()
    assert len((trained / "answers" / "part-000000.csv").read_text().splitlines()) == 41


def test_pictures_are_found_by_words_as_the_docs_say(tmp_path: Path) -> None:
    make_bundle(tmp_path, clip=True)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "store").rename(tmp_path / "artifacts" / "poses")
    write_data(tmp_path / "data")
    (tmp_path / "data" / "standing").rename(tmp_path / "data" / "new")
    (line,) = commands("docs/search.md")
    done = shell(line, tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["tree pose", "a person lying down"]
    assert len(lines) == 12 and all("data/new/" in line for line in lines if line.startswith(" "))


def test_exporting_as_the_docs_say(trained: Path) -> None:
    of_declaration, of_bundle = commands("docs/export.md")
    done = shell(of_declaration, trained)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓ fresh") == 5
    done = shell(of_bundle, trained)
    assert done.returncode == 0, done.stderr
    assert (trained / "exports").is_dir()
    assert "openvino-int8" in done.stdout


def test_planning_as_the_docs_say(home: Path) -> None:
    (line,) = [line for line in commands("docs/plan.md") if line.startswith("vitruvian plan")]
    done = shell(line, home)
    assert done.returncode == 0, done.stderr
    assert "4 x a10g" in done.stdout


def test_every_request_in_the_docs_is_answered(server: Path) -> None:
    requests = [line for line in commands("docs/serving.md") if line.startswith("curl")]
    assert len(requests) >= 8
    labels = open_bundle(server / "artifacts" / "yoga").info.labels
    for line in requests:
        done = asked(line, server)
        if "predict" in line or "infer" in line:
            assert any(f'"{label}"' in done for label in labels), done


def asked(line: str, cwd: Path) -> str:
    """Send a request of the docs' and return its answer."""
    done = shell(line.replace("curl -s", "curl -sS --fail-with-body"), cwd)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_client_in_the_docs_gets_its_answers(server: Path) -> None:
    labels = open_bundle(server / "artifacts" / "yoga").info.labels
    clients = blocks("docs/serving.md", "python")
    assert len(clients) == 4
    for block in clients:
        (server / "client.py").write_text(block)
        done = shell("python client.py", server)
        assert done.returncode == 0, done.stderr
        assert set(done.stdout.split()) <= set(labels) and done.stdout, done.stdout


def test_servers_start_in_every_way_that_the_docs_show(trained: Path) -> None:
    _, *others = [line for line in commands("docs/serving.md") if line.startswith("vitruvian serve")]
    assert len(others) == 2
    for line in others:
        with serving(line, trained):
            assert "label" in asked("curl -s http://127.0.0.1:8080/predict/image -F file=@picture.png", trained)


def test_only_who_has_a_key_is_let_in_as_the_docs_say(trained: Path) -> None:
    access, keys, secret, jwt = blocks("docs/access.md", "yaml")
    (trained / "access.yaml").write_text(access)
    (trained / "with-tokens.yaml").write_text(access + jwt)
    (trained / "written.yaml").write_text(keys)
    assert read_policy(trained / "with-tokens.yaml").jwt is not None
    assert [key.name for key in read_keys(trained / "written.yaml")] == ["app", "prometheus"]
    (trained / "secret").mkdir()
    for name, text in yaml.safe_load(secret)["stringData"].items():
        (trained / "secret" / name).write_text(text)
    assert read_policy(trained / "secret" / "access.yaml").keys is not None
    assert [key.name for key in read_keys(trained / "secret" / "keys.yaml")] == ["app"]
    new, plain, *_ = lines = commands("docs/access.md")
    request, limits = [line for line in lines if line.startswith("curl")]
    key = shell(f"{new}; echo $KEY", trained).stdout.strip()
    with serving(plain, trained):
        assert '"requests_per_minute":600.0,"burst":20.0' in asked(f"export KEY={key}; {limits}", trained)
        assert '"label"' in asked(f"export KEY={key}; {request}", trained)
        refused = shell(f"KEY=vtv_wrong; {request}", trained)
        assert "unauthenticated" in refused.stdout


def test_servers_show_certificates_and_ask_for_them_as_the_docs_say(trained: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "studio")
    shutil.copy(authority.path, trained / "clients.pem")
    for file, made in zip(("server.pem", "server.key"), authority.issue("localhost"), strict=True):
        shutil.copy(made, trained / file)
    lines = [line for line in commands("docs/access.md") if "--tls-cert" in line]
    assert len(lines) == 2
    for line in lines:
        known = ssl.create_default_context(cafile=authority.path)
        known.load_cert_chain(trained / "server.pem", trained / "server.key")
        with serving(line, trained, known):
            nobody = ssl.create_default_context(cafile=authority.path)
            if "--tls-client-ca" in line:
                with pytest.raises(OSError, match=r"(?i)certificate|reset|closed|EOF"):
                    urllib.request.urlopen("https://127.0.0.1:8080/", timeout=5, context=nobody).close()
            else:
                with urllib.request.urlopen("https://127.0.0.1:8080/", timeout=5, context=nobody) as got:
                    assert got.status == 200


def test_a_config_of_ray_serve_is_built_as_the_docs_say(trained: Path) -> None:
    (line,) = [line for line in commands("docs/serving.md") if "serve build" in line]
    done = shell(line, trained)
    assert done.returncode == 0, done.stderr
    assert "vitruvian.serving.rayserve:built" in (trained / "serve.yaml").read_text()


def test_labels_of_ones_own_and_embeddings_as_the_docs_say(home: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path, name="poses", clip=True)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "store").rename(tmp_path / "artifacts" / "poses")
    shutil.copy(home / "picture.png", tmp_path)
    start, *requests = [line for line in commands("docs/zero-shot.md") if line.startswith(("vitruvian serve", "curl"))]
    assert len(requests) == 6
    with serving(start, tmp_path):
        for line in requests:
            found = asked(line, tmp_path)
            assert (
                '"embedding"' in found if "embeddings" in line else '"tree pose"' in found or '"warrior pose"' in found
            )


def test_what_the_page_shows_is_there_for_programs(server: Path) -> None:
    requests = [line for line in commands("docs/page.md") if line.startswith("curl")]
    assert len(requests) == 5
    for line in requests:
        done = shell(line.replace("curl -s", "curl -sS --fail-with-body"), server)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        assert "yoga" in done.stdout or '"confusion"' in done.stdout


def test_another_version_is_tried_as_the_docs_say(trained: Path) -> None:
    # Which version it is is not the point here.
    shutil.copytree(trained / "artifacts" / "yoga", trained / "artifacts" / "yoga-next")
    lines = commands("docs/ab.md")
    with serving(next(line for line in lines if line.startswith("vitruvian serve")), trained):
        deadline = time.monotonic() + 60
        while '"ready","reason":null' not in shell("curl -sS http://127.0.0.1:8080/tracks", trained).stdout:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        asked = [line for line in lines if line.startswith("curl")]
        assert len(asked) == 4
        for line in asked:
            done = shell(line.replace("curl -s", "curl -sS --fail-with-body"), trained)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            assert '"canary"' in done.stdout or "studio-7" in line


def test_a_bundle_is_served_from_s3_as_the_docs_say(trained: Path) -> None:
    started = ThreadedMotoServer(port=0)
    started.start()
    try:
        endpoint = f"http://127.0.0.1:{started.get_host_and_port()[1]}"
        keys = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
        with pytest.MonkeyPatch.context() as patched:
            for name, value in {**keys, "AWS_REGION": "us-east-1"}.items():
                patched.setenv(name, value)
            target = open_store("s3://models/yoga")
            target.client.create_bucket(Bucket="models")  # type: ignore[attr-defined]
            source = open_store(trained / "artifacts" / "yoga")
            for entry in source.list():
                if entry.key.startswith(("bundles/", "champion")):
                    target.put(entry.key, source.get(entry.key))
        line = next(line for line in commands("docs/artifacts.md") if line.startswith("vitruvian serve"))
        with serving(line, trained, None, **keys, AWS_REGION="us-east-1", XDG_CACHE_HOME=str(trained / "cache")):
            pass
    finally:
        started.stop()


def test_a_bundle_is_pushed_to_the_hub_as_the_docs_say(tmp_path: Path) -> None:
    make_bundle(tmp_path, measured=True)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "store").rename(tmp_path / "artifacts" / "yoga")
    (line,) = [line for line in commands("docs/artifacts.md") if line.startswith("vitruvian push")]
    with hub() as there:
        done = shell(line, tmp_path, **there.settings(tmp_path))
        assert done.returncode == 0, done.stderr
        assert "README.md" in there.repositories["studio/yoga"].branches["main"][-1]


def test_trackings_in_the_docs_are_done(trained: Path) -> None:
    lines = [line for line in commands("docs/training.md") if "vitruvian run" in line]
    assert len(lines) == 2
    for line in lines:
        done = shell(line, trained)
        assert done.returncode == 0, done.stderr
    assert (trained / "mlflow.db").is_file()
    assert list((trained / "runs").rglob("events.*"))
    assert list((trained / "wandb").glob("offline-run-*/*.wandb"))


def test_studies_and_tuning_go_as_the_docs_say(home: Path) -> None:
    declared = (home / "classifier.yaml").read_text()
    (space,) = blocks("docs/studies.md", "yaml")
    assert spec.parse(declared.replace("epochs: 1", "epochs: 20") + space).spec.tuning
    studies = home / "studies"
    (studies / "data").mkdir(parents=True)
    (studies / "data" / "yoga").symlink_to(home / "data" / "yoga")
    tiny = "{architecture: vit, dimensions: {imageSize: 32, hiddenSize: 32, layers: 2, heads: 2}}"
    small = (
        declared.replace("{architecture: vit}", tiny)
        .replace("strategy: ddp, workers: 2", "strategy: none")
        .replace("epochs: 1", "epochs: 2")
    )
    (studies / "classifier.yaml").write_text(small + space)
    here = ("vitruvian study", "vitruvian tune", "vitruvian run")
    lines = [line for line in commands("docs/studies.md") if line.startswith(here)]
    assert [line.split()[1] for line in lines] == ["study", "study", "tune", "run", "study", "tune"]
    for line in lines:
        if "resnet50" in line:
            # What the two learn is not the point here: they are small, and begin once.
            line = line.replace("vit}", "vit, dimensions: {imageSize: 16, hiddenSize: 16, layers: 1, heads: 2}}")
            line = line.replace("resnet50}", "resnet50, dimensions: {imageSize: 32}}").replace(
                "--seeds 0,1", "--seeds 0"
            )
        done = shell(line, studies)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert len(list(studies.glob("artifacts/yoga/studies/*/study.html"))) == 2
    assert open_bundle(studies / "artifacts" / "yoga").info.name == "yoga"
    # A run for each of three variants and two trials, and one of each command; event files only of the study.
    with closing(sqlite3.connect(studies / "mlflow.db")) as database:
        assert database.execute("select count(*), min(status), max(status) from runs").fetchone() == (
            7,
            "FINISHED",
            "FINISHED",
        )
    assert len(list((studies / "runs").iterdir())) == 3


def test_real_motion_is_drawn_as_the_docs_say(tmp_path: Path) -> None:
    if not MOTION.exists():
        pytest.skip("needs real motion capture in ../shared/data/mocap-17kp, which stays outside the project")
    for line in commands("docs/data.md"):
        if line.startswith("vitruvian data render-keypoints"):
            # One view of each: what it draws is tested elsewhere.
            done = shell(line.replace("motion-capture", str(MOTION)).replace("--views 4 ", ""), tmp_path)
            assert done.returncode == 0, done.stderr
    assert (tmp_path / "motion" / "groups.csv").exists()
    assert (tmp_path / "pictures" / "walk").is_dir()


def test_the_synthetic_set_is_drawn_as_the_docs_say(tmp_path: Path) -> None:
    for page, count in (("docs/data.md", 100), ("docs/serving.md", 10)):
        (line,) = [line for line in commands(page) if line.startswith("vitruvian data synthetic")]
        (tmp_path / page).mkdir(parents=True)
        done = shell(line, tmp_path / page)
        assert done.returncode == 0, done.stderr
        assert len(list((tmp_path / page / "figures").glob("*/*.png"))) == count
        assert (tmp_path / page / "figures" / "tree" / "000009.png").exists()


def test_existing_configs_are_imported_as_the_docs_say(tmp_path: Path) -> None:
    files = {
        "config/preprocessing_config.json": configs.PREPROCESSING,
        "config/training_config.json": configs.TRAINING,
        "config/testing_config.json": configs.TESTING,
        "config.py": configs.CONFIG_PY,
        "configs/training_config.yaml": configs.CLIP_YAML,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    lines = [line for line in commands("docs/coming-from.md") if line.startswith("vitruvian spec import")]
    for line in lines:
        done = shell(line, tmp_path)
        assert done.returncode == 0, done.stderr
    written = [spec.load(path) for path in sorted(tmp_path.glob("*.yaml"))]
    assert [each.spec.model.architecture for each in written] == ["resnet50", "vit", "clip"]


def test_every_command_in_the_docs_is_one_that_a_test_runs() -> None:
    pages = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
    known = ("make ", "vitruvian run -f", "vitruvian serve", "vitruvian predict", "vitruvian data render-keypoints")
    tools = (
        "vitruvian data synthetic",
        "vitruvian export",
        "vitruvian search",
        "vitruvian plan",
        "vitruvian push",
        "vitruvian study",
        "vitruvian tune",
        "vitruvian spec import",
    )
    setup = (
        ". .venv/bin/activate",
        "export AWS_",
        "WANDB_MODE=offline vitruvian run -f",
        "export KEY=",
        "curl -s http://127.0.0.1:8080/",
    )
    # tests/integration/test_ray_jobs.py and tests/cluster/test_jobs.py
    jobs = (
        "export RAY_AUTH_MODE=token",
        "ray get-auth-token",
        "ray start --head",
        "ray job submit",
        "vitruvian submit",
    )
    # tests/integration/test_rayserve.py, test_rayserve_models.py and test_kserve.py; `serve build` and TLS are below.
    servers = (
        "serve run vitruvian.serving.rayserve:",
        "python -m vitruvian.serving.kserve",
        "VITRUVIAN_BUNDLE=artifacts/yoga serve build",
    )
    # They need images from a registry: tests/unit/test_compose.py and test_kind.py check what can be without.
    images = ("docker compose up", "scripts/kind-up")
    elsewhere = {
        "docs/kubernetes.md": "tests/cluster/test_docs.py runs it",
        "docs/eks.md": "it needs an AWS account; tests/unit/test_eks.py checks its files and syntax",
    }
    for page in pages:
        for line in [] if page in elsewhere else commands(page):
            assert line.startswith((*known, *tools, *setup, *jobs, *servers, *images)), f"{page}: no test runs: {line}"


def test_python_in_the_docs_runs(trained: Path) -> None:
    for page in ("docs/training.md",):
        for block in blocks(page, "python"):
            (trained / "example.py").write_text(block)
            done = shell("python example.py", trained)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("✓ fresh") == 6
