"""Dashboards and alerts ask only for what the code exports, in Prometheus' own language, and every alert has a page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.promql import exported, names_in, queries, substituted
from vitruvian.observability.alerts import ALERTS, RUNBOOKS, Alert
from vitruvian.observability.dashboards import DASHBOARDS

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "vitruvian"
RULES = CHART / "alerts" / "vitruvian.yaml"
FILES = sorted((CHART / "dashboards").glob("*.json"))

needs_helm = pytest.mark.skipif(shutil.which("helm") is None, reason="needs helm on the PATH")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool on the PATH")


def promtool(*words: str | Path) -> None:
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.param.read_text())
    return found


def test_the_chart_ships_every_dashboard_and_no_other() -> None:
    assert [path.stem for path in FILES] == sorted(DASHBOARDS)


def test_a_dashboard_asks_only_for_what_the_code_exports(dashboard: dict[str, Any]) -> None:
    for title, query in queries(dashboard):
        assert names_in(query), title
        assert names_in(query) <= exported(), title


def test_a_dashboard_uses_every_variable_it_declares_and_no_other(dashboard: dict[str, Any]) -> None:
    declared = [variable["name"] for variable in dashboard["templating"]["list"]]
    asked = " ".join(query.replace("$__rate_interval", "") for _, query in queries(dashboard))
    assert set(re.findall(r"\$(\w+)", asked)) == set(declared) - {"datasource"}
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"] if panel["type"] != "row"} == {"${datasource}"}


def test_what_is_shown_of_several_namespaces_says_of_which(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            parted = [re.split(r", ?", found) for found in re.findall(r"by \(([^)]*)\)", target["expr"])]
            assert all("namespace" in labels or labels == ["le"] for labels in parted), panel["title"]
            # What isn't parted is one number for all that is chosen.
            named = "{{namespace}}/" in target["legendFormat"]
            assert named == any("namespace" in labels for labels in parted), panel["title"]


def test_every_panel_says_what_it_shows_in_which_unit_and_has_a_place_of_its_own(dashboard: dict[str, Any]) -> None:
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    for panel in panels:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [(x, y) for at in places for x in _span(at["x"], at["w"]) for y in _span(at["y"], at["h"])]
    assert len(set(cells)) == len(cells)


def _span(begin: int, length: int) -> range:
    return range(begin, begin + length)


def test_a_dashboard_fits_into_a_configmap(dashboard: dict[str, Any]) -> None:
    assert len(json.dumps(dashboard, indent=2)) < 500_000


@needs_promtool
def test_prometheus_can_read_every_query_of_a_dashboard(dashboard: dict[str, Any], tmp_path: Path) -> None:
    rules = [{"record": f"q{n}", "expr": substituted(query)} for n, (_, query) in enumerate(queries(dashboard))]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    promtool("check", "rules", file)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_asks_only_for_what_the_code_exports_and_has_a_runbook(alert: Alert) -> None:
    assert names_in(alert.expression) and names_in(alert.expression) <= exported()
    page = (ROOT / alert.runbook).read_text()
    assert page.startswith(f"# {alert.name}\n")
    for part in ("**What it means.**", "**Where to look.**", "**What to do.**"):
        assert part in page


def test_no_runbook_is_left_without_an_alert() -> None:
    assert {path.stem for path in (ROOT / RUNBOOKS).glob("*.md")} == {alert.name for alert in ALERTS}


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", RULES)


IT = 'namespace="studio", classifier="yoga"'
SERVER = f'{IT}, pod="yoga-1", version="1a", track="stable"'
CHALLENGER = f'{IT}, pod="yoga-1", version="1b", track="canary"'
OTHER = f'{IT}, pod="yoga-2", version="1a", track="stable"'
LEARNER = f'{IT}, pod="yoga-head", training="abc"'
ASKED = f'vitruvian_requests_total{{{SERVER}, route="/predict/image", code='
Series = Sequence[tuple[str, str]]
# For each alert what makes it fire within half an hour, and what resembles it but doesn't; a value for each minute.
CASES: dict[str, tuple[Series, Series]] = {
    "VitruvianNoReadyServer": (
        [(f"vitruvian_ready{{{SERVER}}}", "1x5 0x25"), (f"vitruvian_ready{{{OTHER}}}", "0x30")],
        [(f"vitruvian_ready{{{SERVER}}}", "0x30"), (f"vitruvian_ready{{{OTHER}}}", "1x30")],
    ),
    "VitruvianServerNotReady": (
        [(f"vitruvian_ready{{{SERVER}}}", "0x30"), (f"vitruvian_ready{{{OTHER}}}", "1x30")],
        [(f"vitruvian_ready{{{SERVER}}}", "1x22 0x8")],
    ),
    "VitruvianServerRestarts": (
        [
            ('process_start_time_seconds{namespace="studio", pod="yoga-1"}', "0x18 600x3 720x3 840x3 960x3"),
            (f"vitruvian_ready{{{SERVER}}}", "0x30"),
            # Its challenger is no server of its own.
            (f'vitruvian_bundle_info{{{SERVER}, digest="d", architecture="vit"}}', "1x30"),
            (f'vitruvian_bundle_info{{{CHALLENGER}, digest="e", architecture="vit"}}', "1x30"),
        ],
        [
            ('process_start_time_seconds{namespace="studio", pod="yoga-1"}', "0x18 600x12"),
            ('process_start_time_seconds{namespace="studio", pod="stranger"}', "0x18 600x3 720x3 840x3 960x3"),
            (f"vitruvian_ready{{{SERVER}}}", "0x30"),
        ],
    ),
    "VitruvianErrors": (
        [(f'{ASKED}"200"}}', "0+90x30"), (f'{ASKED}"500"}}', "0+10x30")],
        [
            (f'{ASKED}"200"}}', "0+99x30"),
            (f'{ASKED}"500"}}', "0+1x30"),
            (f'{ASKED}"422"}}', "0+50x30"),
            (f'vitruvian_requests_total{{{SERVER}, route="/v2/health/ready", code="503"}}', "0+100x30"),
        ],
    ),
    "VitruvianSlow": (
        [
            (f'vitruvian_request_seconds_bucket{{{SERVER}, route="/predict", le="{le}"}}', f"0+{count}x30")
            for le, count in (("1.0", 50), ("2.5", 100), ("+Inf", 100))
        ]
        + [(f'{ASKED}"200"}}', "0+100x30")],
        [
            (f'vitruvian_request_seconds_bucket{{{SERVER}, route="/predict", le="{le}"}}', f"0+{count}x30")
            for le, count in (("0.5", 99), ("1.0", 100), ("+Inf", 100))
        ]
        + [(f'{ASKED}"200"}}', "0+100x30")],
    ),
    "VitruvianShedding": (
        [(f'{ASKED}"200"}}', "0+90x30"), (f'{ASKED}"429"}}', "0+10x30")],
        [(f'{ASKED}"200"}}', "0+90x30"), (f'{ASKED}"413"}}', "0+10x30")],
    ),
    "VitruvianQueueNeverEmpty": (
        [(f"vitruvian_queue_length{{{SERVER}}}", "0x10 3x20"), (f"vitruvian_queue_length{{{OTHER}}}", "0x10 1x20")],
        [(f"vitruvian_queue_length{{{SERVER}}}", "3x30"), (f"vitruvian_queue_length{{{OTHER}}}", "0x30")],
    ),
    "VitruvianTrainingStalled": (
        [
            (f"vitruvian_training_progress_timestamp_seconds{{{LEARNER}}}", "0+60x5 300x25"),
            (f"vitruvian_training_running{{{LEARNER}}}", "1x30"),
        ],
        [
            (f"vitruvian_training_progress_timestamp_seconds{{{LEARNER}}}", "0+60x5 300x25"),
            (f"vitruvian_training_running{{{LEARNER}}}", "1x10 0x20"),
        ],
    ),
    "VitruvianTrainingAttempts": (
        [
            (f"vitruvian_training_attempt{{{LEARNER}}}", "1x5 2x5 _x20"),
            # The whole cluster was lost: another pod leads now.
            (f'vitruvian_training_attempt{{{IT}, pod="other-head", training="abc"}}', "_x10 3x10 4x10"),
            (f'vitruvian_training_running{{{IT}, pod="other-head", training="abc"}}', "1x30"),
        ],
        [
            (f"vitruvian_training_attempt{{{LEARNER}}}", "1x30"),
            # Another training of this classifier had more attempts, long ago.
            (f'vitruvian_training_attempt{{{IT}, pod="yoga-head", training="older"}}', "7x30"),
            (f"vitruvian_training_running{{{LEARNER}}}", "1x30"),
        ],
    ),
    "VitruvianTrainingDiverged": (
        [
            (f'vitruvian_training_loss{{{LEARNER}, part="train"}}', "1x5 " + "NaN " * 25),
            (f"vitruvian_training_running{{{LEARNER}}}", "1x30"),
        ],
        [
            (f'vitruvian_training_loss{{{LEARNER}, part="train"}}', "1x5 100x25"),
            (f"vitruvian_training_running{{{LEARNER}}}", "1x30"),
        ],
    ),
}


def fired(alert: Alert, series: Series, times: int, minutes: int = 30) -> dict[str, Any]:
    """Return a test for promtool: whether an alert fires so long after the first value, and with what it names."""
    count = [{"labels": "{}", "value": times}] if times else []
    named = set(re.findall(r"\$labels\.(\w+)", alert.summary + alert.description))
    has = "".join(f', {label}!=""' for label in sorted(named))
    query = f'count(ALERTS{{alertname="{alert.name}", alertstate="firing"{has if times else ""}}})'
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "promql_expr_test": [{"expr": query, "eval_time": f"{minutes}m", "exp_samples": count}],
    }


@needs_promtool
def test_a_quiet_nights_few_failures_call_nobody(tmp_path: Path) -> None:
    (errors,) = [alert for alert in ALERTS if alert.name == "VitruvianErrors"]
    few = [(f'{ASKED}"500"}}', "0+3x30"), (f'{ASKED}"200"}}', "0+2x30")]
    file = tmp_path / "tests.yaml"
    tests = [fired(errors, few, 0)]
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)


@needs_promtool
@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_fires_when_it_should_and_only_then(alert: Alert, tmp_path: Path) -> None:
    fault, no_fault = CASES[alert.name]
    file = tmp_path / "tests.yaml"
    both = [fired(alert, fault, 1), fired(alert, no_fault, 0)]
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": both}))
    promtool("test", "rules", file)


POD = 'pod="yoga-predictor-6d5f8c7b9d-x2x4z", version="1a", track="stable"'
GONE = (f"vitruvian_ready{{{IT}, {POD}}}", "1x10 stale")
DEPLOYED = 'kube_deployment_spec_replicas{namespace="studio", deployment="yoga-predictor"}'
SERVED = 'kuberay_service_info{namespace="studio", name="yoga"}'
AGAIN = f"vitruvian_ready{{{IT}, {POD.replace('x2x4z', 'p9qr7')}}}"
# What is left after all servers of a classifier are gone, and whether somebody is called minutes and hours later.
LEFT: dict[str, tuple[Series, int, int]] = {
    "a Deployment wants servers": ([(DEPLOYED, "2x200")], 1, 1),
    "a Deployment wants none": ([(DEPLOYED, "2x10 0x190")], 0, 0),
    "the Deployment was deleted, too": ([(DEPLOYED, "2x10 stale")], 0, 0),
    "the Deployment was deleted minutes before its pods were gone": ([(DEPLOYED, "2x5 stale")], 0, 0),
    "another Deployment wants servers": ([(DEPLOYED.replace("yoga", "dance"), "2x200")], 1, 0),
    "another Deployment was deleted": ([(DEPLOYED.replace("yoga", "dance"), "2x10 stale")], 1, 0),
    "nobody watches Deployments": ([], 1, 0),
    "a RayService wants servers": ([(SERVED, "1x200")], 1, 1),
    "the RayService was deleted, too": ([(SERVED, "1x10 stale")], 0, 0),
    "another RayService was deleted": ([(SERVED.replace("yoga", "dance"), "1x10 stale")], 1, 0),
    "who tells of Deployments began anew": (
        [
            (DEPLOYED.replace("{", '{instance="a", '), "2x8 stale"),
            (DEPLOYED.replace("{", '{instance="b", '), "_x9 2x190"),
        ],
        1,
        1,
    ),
    "who tells of RayServices began anew": (
        [(SERVED.replace("{", '{instance="a", '), "1x8 stale"), (SERVED.replace("{", '{instance="b", '), "_x9 1x190")],
        1,
        1,
    ),
    "servers came back": ([(DEPLOYED, "2x200"), (AGAIN, "_x60 1x140")], 1, 0),
    "the Deployment serves another classifier": (
        [(DEPLOYED, "2x200"), (AGAIN.replace("yoga", "dance", 1), "_x8 1x192")],
        0,
        0,
    ),
    "Prometheus saw nothing for some minutes": ([(DEPLOYED, "2x60 _x8 2x132")], 1, 1),
}


def _together(tests: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one test of the same series for all of them."""
    return {**tests[0], "promql_expr_test": [each for test in tests for each in test["promql_expr_test"]]}


@needs_promtool
@pytest.mark.parametrize("left", LEFT)
def test_servers_that_are_gone_are_missed_as_long_as_they_are_wanted(left: str, tmp_path: Path) -> None:
    (alert,) = [alert for alert in ALERTS if alert.name == "VitruvianNoReadyServer"]
    series, soon, later = LEFT[left]
    file = tmp_path / "tests.yaml"
    minutes = (14, 20, 24) if soon else range(10, 50)
    counts = dict.fromkeys(minutes, soon) | {90: later, 180: later}
    tests = [_together([fired(alert, [GONE, *series], times, minute) for minute, times in counts.items()])]
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)


@needs_promtool
def test_servers_that_exist_and_are_not_ready_are_missed_after_others_were_removed(tmp_path: Path) -> None:
    (alert,) = [alert for alert in ALERTS if alert.name == "VitruvianNoReadyServer"]
    file = tmp_path / "tests.yaml"
    broken = (f"vitruvian_ready{{{IT.replace('yoga', 'dance')}, {POD.replace('yoga', 'dance')}}}", "1x10 0x50")
    removed = (DEPLOYED, "2x10 stale")
    tests = [_together([fired(alert, [GONE, removed, broken], 1, minute) for minute in (20, 50)])]
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)


@needs_promtool
def test_an_alert_says_what_is_wrong_where(tmp_path: Path) -> None:
    labels = {"classifier": "yoga", "namespace": "studio", "version": "1a", "track": "stable", "severity": "critical"}
    expected = {
        "summary": "10% of the requests to yoga in studio fail",
        "description": "yoga 1a in studio (track stable) answers 10% of the requests to predict with 5xx; "
        "5% are tolerated.",
        "runbook_url": "docs/runbooks/VitruvianErrors.md",
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in CASES["VitruvianErrors"][0]],
        "alert_rule_test": [
            {
                "eval_time": "30m",
                "alertname": "VitruvianErrors",
                "exp_alerts": [{"exp_labels": labels, "exp_annotations": expected}],
            }
        ],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", file)


def chart(**monitoring: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what the chart makes of these values of `monitoring`, and a server, by kind and name."""
    values = {"monitoring": monitoring, "server": {"enabled": True, "bundle": "s3://models/yoga"}}
    done = subprocess.run(
        ["helm", "template", "v", str(CHART), "-f", "-"],
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        check=True,
    )
    made = [each for each in yaml.safe_load_all(done.stdout) if each]
    return {(each["kind"], each["metadata"]["name"]): each for each in made}


@needs_helm
def test_the_chart_ships_dashboards_and_alerts_as_they_are() -> None:
    made = chart(dashboards={"enabled": True}, prometheusRule={"enabled": True}, labels={"release": "prometheus"})
    for name in DASHBOARDS:
        shipped = made["ConfigMap", f"v-dashboard-{name}"]
        assert shipped["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert shipped["data"] == {f"vitruvian-{name}.json": (CHART / "dashboards" / f"{name}.json").read_text()}
    rule = made["PrometheusRule", "v"]
    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"


@needs_helm
def test_alerts_lead_to_the_runbooks_address() -> None:
    rule = chart(prometheusRule={"enabled": True, "runbooks": "https://wiki.example.com/"})["PrometheusRule", "v"]
    addresses = [
        each["annotations"]["runbook_url"]
        for group in rule["spec"]["groups"]
        for each in group["rules"]
        if "alert" in each
    ]
    assert addresses == [f"https://wiki.example.com/{alert.name}.md" for alert in ALERTS]


@needs_helm
def test_monitors_find_what_the_chart_makes_and_count_nothing_twice() -> None:
    made = chart(podMonitor=True, serviceMonitor=True)
    service, monitor = made["Service", "v-server"], made["ServiceMonitor", "v-server"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in [port["name"] for port in service["spec"]["ports"]]
    pods = made["Deployment", "v-server"]["spec"]["template"]["metadata"]["labels"]
    selector = made["PodMonitor", "v-server"]["spec"]["selector"]
    assert selector["matchLabels"].items() <= pods.items()
    assert selector["matchExpressions"] == [
        {"key": "app.kubernetes.io/instance", "operator": "NotIn", "values": [pods["app.kubernetes.io/instance"]]}
    ]


@needs_helm
def test_nothing_of_the_prometheus_operator_is_made_unasked() -> None:
    assert {kind for kind, _ in chart()}.isdisjoint({"PodMonitor", "ServiceMonitor", "PrometheusRule"})
