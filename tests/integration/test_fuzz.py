"""Mutated requests to a server that runs; `python -m benchmarks.serving fuzz` sends a hundred thousand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import checks

from benchmarks.serving.fuzz import fuzz
from tests.bundles import make_bundle
from vitruvian.inference.server import Server

CHECKS = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
)


def test_whatever_is_sent_the_server_stays_and_the_answer_is_not_its_fault() -> None:
    found = fuzz(1000)
    assert not found.faults
    assert found.alive
    assert found.answers[200] and found.answers[400] and found.answers[422]


def test_every_route_answers_as_its_description_says(tmp_path: Path) -> None:
    server = Server(make_bundle(tmp_path, clip=True)).start()
    try:
        described = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
        operations = [found.ok() for found in described.get_all_operations()]
        assert len(operations) > 20
        for operation in operations:
            _ask(operation)
    finally:
        server.stop()


def _ask(operation: Any) -> None:
    @seed(0)
    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def send(case: Any) -> None:
        case.validate_response(case.call(timeout=30), checks=CHECKS)

    send()
