"""What the operator decides, for whatever it may find."""

from __future__ import annotations

import asyncio
import copy
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver import ApiServer, api_server, kubeconfig, use
from tests.unit.test_chart import made
from vitruvian.bundle import BUNDLES
from vitruvian.cli import job
from vitruvian.cluster import runs, servers
from vitruvian.cluster.api import Cluster
from vitruvian.cluster.objects import Object, owned
from vitruvian.cluster.runs import Run
from vitruvian.cluster.settings import RayServeSettings, TrainerSettings
from vitruvian.errors import SpecError, VitruvianError
from vitruvian.operator import act
from vitruvian.operator.crd import KIND, definition
from vitruvian.operator.handlers import Agenda, Worker
from vitruvian.operator.observe import as_applied, declared
from vitruvian.operator.observed import AGAIN, Observed, Seen, Served, digest_of
from vitruvian.operator.plan import Action, BeginRun, Deploy, EndRun, Plan, Retire, holds, plan
from vitruvian.operator.report import news, troubled
from vitruvian.operator.status import ChampionStatus, Kind, RunStatus, Status, read

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
VERSION, NEXT = "0123456789ab", "ba9876543210"
GOING, DONE, FAILED = (Run("yoga-1", "yoga", state, 1, NOW, None, "") for state in ("Running", "Succeeded", "Failed"))
MISSED = replace(FAILED, message="accuracy 0.7 misses 0.8 by 0.1", missed=True)
BROKEN = replace(FAILED, message="the disk is full")


def _resource(generation: int = 1, annotations: dict[str, str] | None = None, **parts: Any) -> Object:
    spec = {"data": {"source": "s3://d/y"}, "model": {"architecture": "vit"}, "artifacts": "s3://models/yoga", **parts}
    metadata = {"name": "yoga", "uid": "u", "generation": generation, "annotations": annotations or {}}
    return {"apiVersion": "vitruvian.dev/v1alpha1", "kind": "Classifier", "metadata": metadata, "spec": spec}


def _wanted(resource: Object, version: str = VERSION) -> tuple[Object, ...]:
    bundle = f"s3://models/yoga/{BUNDLES}/{version}"
    return tuple(servers.serving_objects(declared(resource), bundle, version, "studio", RayServeSettings()))


def _kept(resource: Object, version: str = VERSION) -> tuple[Object, ...]:
    """Return what serves a version as the cluster keeps it once it was deployed, with what others add."""
    service, *others = _wanted(resource, version)
    service = owned(service, resource)
    service["metadata"] |= {"uid": service["kind"], "generation": 1, "managedFields": []}
    return (service, *(owned(each, service) for each in others))


def _deploy(resource: Object, version: str = VERSION) -> Deploy:
    service, *others = _wanted(resource, version)
    return Deploy(version, (owned(service, resource), *others))


def _seen(resource: Object, run: Run | None = None, *, leaving: bool = False, digest: str | None = None) -> Observed:
    """Return what is observed of a Classifier with a run, by default one for what is declared, and no champion."""
    runs = () if run is None else (Seen(run, digest_of(resource) if digest is None else digest, leaving),)
    return Observed(resource=resource, now=NOW, classifier=declared(resource), runs=runs)


def _with_champion(seen: Observed, *kept: Object, lacking: str = "", version: str = VERSION) -> Observed:
    served = tuple(Served(each, lacking, "http://yoga") for each in kept if each["kind"].endswith("Service"))
    champion = ChampionStatus(version=version, accuracy=0.9)
    return replace(seen, champion=champion, wanted=_wanted(seen.resource, version), kept=kept, served=served)


def _told(status: Status, kind: Kind) -> tuple[str, str]:
    found = status.condition(kind)
    assert found is not None
    return found.status, found.reason


def _after(seen: Observed, **status: Any) -> Observed:
    """Return the same with a status that was written before."""
    before = read(seen.resource).model_copy(update=status)
    return replace(seen, resource={**seen.resource, "status": before.written()})


YOGA = _resource()
DIGEST = digest_of(YOGA)
RAY = _resource(serving={"backend": "rayserve"})
TWO = _resource(serving={"replicas": {"min": 2, "max": 2}})
SERVED, RAY_SERVED = _kept(YOGA), _kept(RAY)
KNOWN = {
    state: RunStatus(name="yoga-1", digest=DIGEST, state=state) for state in ("Running", "Succeeded", "GateMissed")
}

Case = tuple[Observed, tuple[Action, ...], str]
CASES: dict[str, Case] = {
    "nothing is there": (_seen(YOGA), (BeginRun(DIGEST),), "Pending"),
    "it trains": (_seen(YOGA, GOING), (), "Training"),
    "it is trained, and nobody knows a champion": (_seen(YOGA, DONE), (), "Deploying"),
    "it is trained": (_with_champion(_seen(YOGA, DONE)), (_deploy(YOGA),), "Deploying"),
    "its servers start": (_with_champion(_seen(YOGA, DONE), *SERVED, lacking="pods"), (), "Deploying"),
    "it serves": (_with_champion(_seen(YOGA, DONE), *SERVED), (), "Serving"),
    "a gate isn't met, nothing serves": (_seen(YOGA, MISSED), (), "GateMissed"),
    "a gate isn't met, there is a champion that nobody deployed": (
        _with_champion(_seen(YOGA, MISSED)),
        (),
        "GateMissed",
    ),
    "a gate isn't met, the champion before serves": (_with_champion(_seen(YOGA, MISSED), *SERVED), (), "GateMissed"),
    "a run failed": (_seen(YOGA, BROKEN), (), "Failed"),
    "a run is ended by somebody": (_seen(YOGA, GOING, leaving=True), (), "Pending"),
    "a run was ended by somebody": (_after(_seen(YOGA), run=KNOWN["Running"]), (), "Cancelled"),
    "its run is gone, and had succeeded": (_after(_seen(YOGA), run=KNOWN["Succeeded"]), (), "Deploying"),
    "its run is gone, and had missed a gate": (_after(_seen(YOGA), run=KNOWN["GateMissed"]), (), "GateMissed"),
    "another declaration's run goes on": (_seen(YOGA, GOING, digest="other"), (EndRun("yoga-1"),), "Pending"),
    "another declaration's run goes": (_seen(YOGA, GOING, digest="other", leaving=True), (), "Pending"),
    "another declaration's run is over": (_seen(YOGA, DONE, digest="other"), (BeginRun(DIGEST),), "Pending"),
    "somebody else's run goes on": (_seen(YOGA, GOING, digest=""), (), "Pending"),
    "the same was begun for another Classifier of this name": (
        _seen(YOGA, DONE, digest=""),
        (BeginRun(DIGEST),),
        "Pending",
    ),
    "a new version is the champion": (
        _with_champion(_seen(YOGA, DONE), *SERVED, version=NEXT),
        (_deploy(YOGA, NEXT),),
        "Serving",
    ),
    "while it trains again, other servers are wanted": (
        _with_champion(_seen(TWO, GOING), *SERVED),
        (_deploy(TWO),),
        "Training",
    ),
    "fewer servers are wanted": (
        _with_champion(_seen(YOGA, DONE), *_kept(TWO)),
        (_deploy(YOGA),),
        "Serving",
    ),
    "a budget is gone": (_with_champion(_seen(TWO, DONE), _kept(TWO)[0]), (_deploy(TWO),), "Serving"),
    "another backend is wanted": (
        _with_champion(_seen(RAY, DONE), *SERVED),
        (_deploy(RAY),),
        "Deploying",
    ),
    "another backend starts": (_with_champion(_seen(RAY, DONE), *SERVED, *RAY_SERVED, lacking="pods"), (), "Deploying"),
    "another backend serves": (
        _with_champion(_seen(RAY, DONE), *SERVED, *RAY_SERVED),
        (Retire(SERVED[0]),),
        "Serving",
    ),
    "it is refused": (replace(_seen(YOGA), classifier=None, refused="mend it"), (), "Invalid"),
}


@pytest.mark.parametrize(("seen", "actions", "phase"), CASES.values(), ids=CASES)
def test_what_is_seen_decides_what_is_done(seen: Observed, actions: tuple[Action, ...], phase: str) -> None:
    planned = plan(seen)
    assert (planned.actions, planned.status.phase) == (actions, phase)
    # kstatus: at most one of the two, and none only where all is as declared.
    reconciling, stalled = (_told(planned.status, kind)[0] for kind in ("Reconciling", "Stalled"))
    assert (reconciling, stalled).count("True") == (phase != "Serving")
    assert (_told(planned.status, "Ready")[0] == "True") == (phase == "Serving")
    # What was written is read as the same, and leads to the same.
    again = plan(replace(seen, resource={**seen.resource, "status": planned.status.written()}, now=LATER))
    assert again.status == planned.status


def _until_rest(seen: Observed) -> Plan:
    planned = plan(seen)
    assert not planned.actions
    return planned


def test_a_serving_classifier_is_left_alone_and_one_under_way_is_looked_at_sooner() -> None:
    at_rest = _until_rest(_with_champion(_seen(YOGA, DONE), *SERVED))
    under_way = _until_rest(_seen(YOGA, GOING))
    assert under_way.seconds < 10 < at_rest.seconds


@pytest.mark.parametrize(
    ("run", "conditions"),
    [
        (GOING, {"Trained": "Unknown", "Gated": "Unknown", "Published": "Unknown"}),
        (DONE, {"Trained": "True", "Gated": "True", "Published": "True"}),
        (MISSED, {"Trained": "True", "Gated": "False", "Published": "False"}),
        (BROKEN, {"Trained": "False", "Gated": "Unknown", "Published": "Unknown"}),
    ],
    ids=lambda each: each.state if isinstance(each, Run) else "",
)
def test_a_run_is_told_condition_by_condition_and_the_champion_before_goes_on(run: Run, conditions: Any) -> None:
    status = plan(_with_champion(_seen(YOGA, run), *SERVED)).status
    assert {kind: _told(status, kind)[0] for kind in conditions} == conditions
    assert _told(status, "Serving") == ("True", "Answers")
    assert (status.url, status.champion and status.champion.version) == ("http://yoga", VERSION)
    stalled = status.condition("Stalled")
    assert stalled and stalled.message == run.message


def test_where_s3_cant_be_read_the_champion_that_is_known_goes_on() -> None:
    before = _with_champion(_seen(YOGA, DONE), *SERVED)
    served = _after(before, **dict(plan(before).status))
    status = plan(replace(served, champion=None, wanted=(), unknown="no route to S3")).status
    assert _told(status, "Published") == ("Unknown", "StoreUnreadable")
    assert status.phase == "Serving" and status.champion == ChampionStatus(version=VERSION, accuracy=0.9)


@pytest.mark.parametrize(
    ("resource", "same"),
    [
        (_resource(generation=2), True),
        (_resource(serving={"replicas": {"max": 3}}), True),
        (_resource(tuning={"space": {"training.epochs": {"choice": [1]}}}), True),
        (_resource(annotations={"team": "a"}), True),
        (_resource(annotations={AGAIN: "1"}), False),
        (_resource(training={"epochs": 3}), False),
        (_resource(gates=[{"metric": "accuracy", "atLeast": 0.8}]), False),
        (_resource(export={"accuracyDrop": 0.1}), False),
        (_resource(artifacts="s3://models/other"), False),
    ],
)
def test_only_what_makes_another_bundle_needs_another_run(resource: Object, same: bool) -> None:
    assert (digest_of(resource) == DIGEST) == same


def test_a_null_that_kubectl_apply_leaves_out_is_declared_all_the_same() -> None:
    applied = {"spec": {**YOGA["spec"], "training": {"earlyStopping": None, "epochs": 2, "seed": None}}}
    noted = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(applied)}
    kept = _resource(annotations=noted, training={"epochs": 3, "seed": 1})
    assert as_applied(kept)["spec"]["training"] == {"epochs": 3, "seed": 1, "earlyStopping": None}
    assert declared(as_applied(kept)).spec.training.early_stopping is None
    for text in ("", "[]", '{"spec": []}', "{"):
        odd = _resource(annotations={"kubectl.kubernetes.io/last-applied-configuration": text})
        assert as_applied(odd)["spec"] == odd["spec"]


def test_servers_get_a_classifiers_annotations_but_not_what_is_said_to_the_operator() -> None:
    told = declared(_resource(annotations={"team": "a", AGAIN: "1"}))
    assert told.metadata.annotations == {"team": "a"}


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"data": {"source": "data/yoga"}}, "can't reach a folder of this machine"),
        (
            {"data": {"source": "git+https://h/r.git#subdirectory=a"}},
            "pods have no dvc; copy it to S3 and use s3://",
        ),
        ({"artifacts": None}, "can't reach a folder of this machine"),
        ({"training": {"workers": 4}}, "workers is 4 but strategy is none"),
        ({"retraining": {"onDrift": True}}, "is not implemented yet"),
    ],
)
def test_what_a_cluster_cant_do_is_refused_with_its_line(parts: dict[str, Any], line: str) -> None:
    with pytest.raises(SpecError, match=line):
        declared(_resource(**parts))


@pytest.mark.parametrize(
    ("found", "wanted", "held"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": 1}, False),
        ({"a": [{"b": 1, "c": 2}]}, {"a": [{"b": 1}]}, True),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"cpu": "2"}, {"cpu": "2000m"}, True),
        ({"cpu": "2"}, {"cpu": "3000m"}, False),
        ({"memory": "1Gi"}, {"memory": "1024Mi"}, True),
        ({"image": "a:1"}, {"image": "a:2"}, False),
        ({"version": "0123456789ab"}, {"version": "0123456789ac"}, False),
        ({"on": True}, {"on": False}, False),
        ({}, {"limits": {}, "none": None, "list": []}, True),
        (None, {"a": 1}, False),
        ("a", ["a"], False),
    ],
)
def test_what_the_api_server_writes_its_own_way_is_the_same(found: Any, wanted: Any, held: bool) -> None:
    assert holds(found, wanted) == held


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    going = plan(_seen(YOGA, GOING)).status
    done = _after(replace(_seen(YOGA, DONE), now=LATER), **dict(going))
    changed = {each.type: each.last_transition_time for each in plan(done).status.conditions}
    assert (changed["Trained"], changed["Ready"], changed["Stalled"]) == (LATER, NOW, NOW)


def test_each_decision_is_told_once_and_again_where_it_is_taken_again() -> None:
    first = plan(_with_champion(_seen(YOGA, DONE), *SERVED)).status
    assert [each.reason for each in news(Status(), first)] == ["Trained", "GatesMet", "Published", "Answers"]
    assert news(first, first) == []
    missed = plan(_after(_with_champion(_seen(YOGA, MISSED), *SERVED), **dict(first))).status
    told = news(first, missed)
    assert [(each.reason, each.warning) for each in told] == [("GateMissed", True)] and told[
        0
    ].message == MISSED.message
    refused = [replace(_seen(_resource(n)), classifier=None, refused=f"mend {n}") for n in (1, 2)]
    one = plan(refused[0]).status
    assert [each.message for each in news(one, plan(_after(refused[1], **dict(one))).status)] == ["mend 2"]
    other = _resource(generation=2, gates=[{"metric": "accuracy", "atLeast": 0.9}])
    assert [each.reason for each in news(missed, plan(_seen(other, MISSED)).status)] == ["GateMissed"]


def test_what_couldnt_be_done_is_said_and_doesnt_hide_that_it_serves() -> None:
    serving = troubled(plan(_with_champion(_seen(YOGA, DONE), *SERVED)).status, "quota", LATER)
    assert (_told(serving, "Ready")[0], _told(serving, "Reconciling")) == ("True", ("True", "Retrying"))
    pending = troubled(plan(_seen(YOGA)).status, "quota", LATER)
    assert _told(pending, "Ready") == ("False", "Retrying")
    assert len({each.type for each in pending.conditions}) == len(pending.conditions) == 7


def test_a_status_of_another_release_counts_as_none() -> None:
    assert read({"status": {"phase": "Canary", "conditions": [{"type": "Promoted"}]}}) == Status()


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    for name, value in {"AWS_MAX_ATTEMPTS": "1", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with api_server() as server:
        (tmp_path / "config").write_text(kubeconfig(server.url))
        use(monkeypatch, tmp_path / "config")
        yield server


def test_a_classifier_that_is_applied_begins_one_run_which_goes_with_it(api: ApiServer) -> None:
    cluster = Cluster()
    kept = api.keep("classifiers", _resource())
    assert act.reconcile(cluster, "yoga") is not None
    (run,) = (each for (kind, _), each in api.kept.items() if kind == "rayjobs")
    assert run["metadata"]["ownerReferences"][0]["uid"] == kept["metadata"]["uid"]
    assert run["metadata"]["annotations"]["vitruvian.dev/declaration"] == DIGEST
    status = read(api.kept["classifiers", "yoga"])
    assert status.run is not None and (status.run.name, status.phase) == (run["metadata"]["name"], "Training")
    assert _told(status, "Published")[1] == "StoreUnreadable"

    before = copy.deepcopy(api.kept)
    act.reconcile(cluster, "yoga")
    assert api.kept == before, "a second look writes nothing"
    cluster.delete(*KIND, "yoga")
    assert act.reconcile(cluster, "yoga") is None
    assert not any(kind == "rayjobs" for kind, _ in api.kept)


@pytest.mark.parametrize("words", [("tune",), ("study", "--seeds", "0,1"), ("evaluate",)], ids=" ".join)
def test_what_a_user_begins_is_waited_for_and_never_taken_for_the_operators_run(
    api: ApiServer, words: tuple[str, ...]
) -> None:
    cluster = Cluster()
    resource = api.keep("classifiers", _resource(tuning={"space": {"training.seed": {"int": [0, 9]}}}))
    classifier = declared(resource)
    theirs = runs.submit(cluster, classifier, "", TrainerSettings(), job(classifier, words))
    act.reconcile(cluster, "yoga")
    assert [name for kind, name in api.kept if kind == "rayjobs"] == [theirs]
    assert read(api.kept["classifiers", "yoga"]).run is None

    ended = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    api.keep("rayjobs", {**api.kept["rayjobs", theirs], "status": ended})
    act.reconcile(cluster, "yoga")
    (ours,) = (name for kind, name in api.kept if kind == "rayjobs" and name != theirs)
    status = read(api.kept["classifiers", "yoga"])
    assert status.run is not None and (status.run.name, status.phase) == (ours, "Training")


def test_a_prediction_holds_up_no_training_and_no_training_a_prediction(api: ApiServer) -> None:
    cluster = Cluster()
    classifier = declared(api.keep("classifiers", _resource()))
    asked = job(classifier, ["predict", "s3://data/new", "--out", "s3://data/answers"])
    first = runs.submit(cluster, classifier, "", TrainerSettings(), asked)
    act.reconcile(cluster, "yoga")
    (ours,) = (name for kind, name in api.kept if kind == "rayjobs" and name != first)
    status = read(api.kept["classifiers", "yoga"])
    assert status.run is not None and (status.run.name, status.phase) == (ours, "Training")
    second = runs.submit(cluster, classifier, "", TrainerSettings(), asked)
    assert {run.name: run.job for run in runs.runs(cluster)} == {first: "predict", ours: "run", second: "predict"}


def test_what_may_not_be_done_is_said_in_the_status_and_tried_again(api: ApiServer) -> None:
    api.keep("classifiers", _resource())
    api.forbidden.add(("create", "rayjobs"))
    seconds = act.reconcile(Cluster(), "yoga")
    status = read(api.kept["classifiers", "yoga"])
    reconciling = status.condition("Reconciling")
    assert seconds and seconds < 60 and reconciling and "cannot create resource" in reconciling.message
    api.forbidden.clear()
    act.reconcile(Cluster(), "yoga")
    assert read(api.kept["classifiers", "yoga"]).phase == "Training"


def test_where_there_are_no_classifiers_the_operator_says_what_is_missing(api: ApiServer) -> None:
    from vitruvian.operator.handlers import run

    api.unknown.add("vitruvian.dev/v1alpha1")
    with pytest.raises(VitruvianError, match="has no Classifier"):
        run(Cluster(), None)


def test_classifiers_are_looked_at_when_they_are_due_each_once() -> None:
    async def of() -> list[str]:
        agenda = Agenda()
        agenda.put("later", 0.2)
        agenda.put("soon", 0.1)
        agenda.put("later", 5)
        agenda.put("now", 0)
        agenda.put("now", 0)
        return [await agenda.next() for _ in range(3)]

    assert asyncio.run(of()) == ["now", "soon", "later"]


def test_one_classifiers_trouble_is_not_the_others() -> None:
    looked: list[str] = []

    def look(name: str) -> float | None:
        looked.append(name)
        if name == "odd":
            raise ValueError("a slip")
        if name == "refused":
            raise VitruvianError("no")
        return 0.01 if looked.count(name) < 3 else None

    async def of() -> None:
        worker = Worker(look)
        for name in ("odd", "refused", "yoga"):
            worker.agenda.put(name, 0)
        task = asyncio.create_task(worker.run())
        deadline = time.monotonic() + 10
        while looked.count("yoga") < 3 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(of())
    assert [looked.count(name) for name in ("odd", "refused", "yoga")] == [1, 1, 3]


chart = pytest.mark.skipif(shutil.which("helm") is None, reason="needs helm on the PATH")
CRD = ("CustomResourceDefinition", "classifiers.vitruvian.dev")


@chart
@pytest.mark.parametrize(
    ("values", "there", "kept"),
    [({}, True, True), ({"keep": False}, True, False), ({"install": False}, False, False)],
    ids=["by default", "not kept", "not installed"],
)
def test_the_chart_brings_the_definition_and_leaves_it(values: dict[str, bool], there: bool, kept: bool) -> None:
    found = made(crd=values).get(CRD)
    assert (found is not None) == there
    if found:
        assert found["spec"] == definition()["spec"]
        assert ("helm.sh/resource-policy" in found["metadata"].get("annotations", {})) == kept


@chart
def test_the_operator_may_do_what_submit_and_deploy_may_and_reads_no_secret() -> None:
    found = made()
    rights = {role: _rights(found["Role", f"v-{role}"]) for role in ("operator", "submitter", "deployer")}
    # It follows no log.
    assert (rights["submitter"] | rights["deployer"]) - {("", "pods/log", "get")} <= rights["operator"]
    assert not [each for each in rights["operator"] if "*" in each or each[1] == "secrets"]
    assert not [kind for kind, _ in found if kind.startswith("ClusterRole")]
    pod = found["Deployment", "v-operator"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] and pod["securityContext"]["runAsNonRoot"]
    assert container["envFrom"] == [{"secretRef": {"name": "vitruvian-s3", "optional": True}}]
    of_servers = made(s3={"serverSecret": "read-only"})["Deployment", "v-operator"]
    assert of_servers["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["secretRef"]["name"] == "read-only"


def _rights(role: Object) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@chart
@pytest.mark.parametrize("values", [{"enabled": False}, None], ids=["switched off", "of the chart before"])
def test_without_the_operator_nothing_of_it_is_there(values: dict[str, Any] | None) -> None:
    found = made(operator=values, crd=None)
    left = [name for kind, name in found if "operator" in name and kind != "NetworkPolicy"]
    assert left == [] and CRD not in found


@chart
def test_who_may_declare_classifiers_is_said_by_name() -> None:
    team = {"kind": "Group", "name": "team", "apiGroup": "rbac.authorization.k8s.io"}
    found = made(operator={"declarers": [team]})
    assert found["RoleBinding", "v-declarers"]["subjects"] == [team]
    assert ("RoleBinding", "v-declarers") not in made()
