"""Every command of docs/kubernetes.md, in its order, on a cluster."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.cluster.conftest import Published, Release
from tests.cluster.kube import ROOT, run, settings
from tests.integration.test_docs import blocks, commands

PAGE = "docs/kubernetes.md"


def test_the_page_does_what_it_says(release: Release, published: Published, tmp_path: Path) -> None:
    namespace = release.namespace
    (declared,) = [block for block in blocks(PAGE, "yaml") if "kind: Classifier" in block]
    whole = yaml.safe_load(declared)
    # What it trains on is not the point here: few figures, one epoch, and a gate that one epoch meets.
    artifacts = whole["spec"]["artifacts"]
    whole["spec"] |= {"artifacts": f"{published.address}-docs", "data": {"source": "synthetic://poses?count=300"}}
    whole["spec"]["training"] |= {"epochs": 1}
    whole["spec"]["gates"][0]["atLeast"] = 0.0
    (tmp_path / "classifier.yaml").write_text(yaml.safe_dump(whole))
    values = {"images": settings()["images"], "crd": settings()["crd"], "s3": release.s3.values}
    (tmp_path / "my-values.yaml").write_text(yaml.safe_dump(values))

    told = {}
    for line in commands(PAGE):
        if line.startswith(("make images", "kubectl create namespace", "kubectl delete namespace")):
            continue  # The images are here, and the namespace comes and goes with the test.
        here = line.replace("-n studio", f"-n {namespace}").replace(artifacts, f"{published.address}-docs")
        here = here.replace("helm install vitruvian ", "helm install v ").replace(
            "helm upgrade vitruvian ", "helm upgrade v "
        )
        here = here.replace("helm test vitruvian ", "helm test v ").replace(
            "helm uninstall vitruvian ", "helm uninstall v "
        )
        here = here.replace("charts/vitruvian", str(ROOT / "charts" / "vitruvian"))
        told[line.split("  ")[0]] = run("bash", "-ec", f"cd {tmp_path} && {here}", env=release.s3.outside)

    assert "publish" in told["vitruvian submit -f classifier.yaml -n studio"]
    assert "Succeeded" in told["vitruvian status -n studio"]
    assert "6/6 publish" in told["vitruvian logs yoga -n studio"]
    assert "had succeeded before" in told["vitruvian cancel yoga -n studio"]
    assert "it answers at http" in told["vitruvian deploy -f classifier.yaml -n studio"]
    assert "Succeeded" in told["helm test vitruvian -n studio"]
    assert "InferenceService yoga is removed" in told["vitruvian undeploy yoga -n studio"]
