"""What this machine has: Python, the package, its extras, and the tools beside it. Imports none of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from importlib import metadata
from typing import Final

from vitruvian.doctor.finding import Check, Finding, error, note, ok, version_of, warning, written

SECTION: Final = "this machine"
OLDEST_PYTHON: Final = (3, 11)
_SECONDS: Final = 5
_EXTRAS: Final = {
    "cluster": ("submit, status, logs, cancel, deploy", ("kubernetes",)),
    "train": ("run and demo on this machine", ("torch", "ray", "transformers")),
    "serve": ("serve and predict on this machine", ("onnxruntime", "starlette")),
}
"""What an extra is for, and which of its libraries' versions people ask for."""
_TOOLS: Final = {
    "kubectl": (("kubectl", "version", "--client", "-o", "json"), "https://kubernetes.io/docs/tasks/tools/"),
    "helm": (("helm", "version", "--short"), "https://helm.sh/docs/intro/install/"),
}


def checks() -> list[Check]:
    """Return the looks at this machine."""
    return [
        Check(SECTION, "Python", lambda: python(sys.version_info[:3])),
        Check(SECTION, "Vitruvian", lambda: vitruvian(_installed("vitruvian"))),
        *(Check(SECTION, f"extra {name}", partial(_extra, name)) for name in _EXTRAS),
        Check(SECTION, "Ray", lambda: ray(_installed("ray"))),
        *(Check(SECTION, name, partial(_tool, name)) for name in _TOOLS),
    ]


def python(version: tuple[int, ...]) -> Finding:
    """Judge Python's version."""
    if version[:2] < OLDEST_PYTHON:
        wanted = written(OLDEST_PYTHON)
        return error("Python", f"{written(version)} is too old", f"install Python {wanted} or newer")
    return ok("Python", written(version))


def vitruvian(version: str | None) -> Finding:
    """Judge the package itself: run from a folder of its sources it has no version."""
    if version is None:
        return warning("Vitruvian", "runs, but isn't installed", "in that folder:", "pip install .")
    return ok("Vitruvian", version)


def extra(name: str, versions: Mapping[str, str | None]) -> Finding:
    """Judge one extra by the versions of its libraries, None for what isn't installed."""
    use, shown = _EXTRAS[name]
    lacking = sorted(library for library, version in versions.items() if version is None)
    if not lacking:
        told = [f"{library} {versions[library]}" for library in shown if library in versions]
        return ok(f"extra {name}", ", ".join(told) or "installed")
    found = f"{', '.join(lacking[:3])}{' …' if len(lacking) > 3 else ''} not installed"
    # Without the client of Kubernetes nothing below can be looked at; the others are for work on this machine.
    judged = error if name == "cluster" else note
    return judged(f"extra {name}", found, f"for {use}, in a clone of Vitruvian:", f"pip install '.[{name}]'")


def ray(version: str | None) -> Finding:
    """Judge whether Ray here is the version of the trainer's image."""
    from vitruvian.cluster.raypods import RAY_VERSION

    if version is None:
        return note("Ray", f"not installed here; the trainer's image has {RAY_VERSION}")
    if version != RAY_VERSION:
        found = f"{version}, but the trainer's image has {RAY_VERSION}"
        return warning("Ray", found, "take the same, so that training here and there is alike:", _install(RAY_VERSION))
    return ok("Ray", f"{version}, as in the trainer's image")


def _extra(name: str) -> Finding:
    return extra(name, _versions(name))


def _tool(name: str) -> Finding:
    return tool(name, _said(name))


def _install(version: str) -> str:
    return f"pip install 'ray[default,train]=={version}'"


def tool(name: str, said: str | None) -> Finding:
    """Judge a tool by what it says of its version; None where it isn't installed."""
    if said is None:
        return note(name, "not installed; only the guides use it", f"get it from {_TOOLS[name][1]}")
    version = version_of(said)
    return ok(name, written(version) if version else said)


def libraries(requires: list[str], extra: str) -> list[str]:
    """Return the names of an extra's libraries from a package's requirements."""
    asked = [line for line in requires if re.search(rf"""extra\s*==\s*['"]{extra}['"]""", line)]
    return [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in asked]


def _versions(extra: str) -> dict[str, str | None]:
    try:
        requires = metadata.requires("vitruvian") or []
    except metadata.PackageNotFoundError:
        requires = []
    names = libraries(requires, extra) or list(_EXTRAS[extra][1])
    return {name: _installed(name) for name in names}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _said(name: str) -> str | None:
    command = _TOOLS[name][0]
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as e:
        return f"doesn't run ({type(e).__name__})"
    try:
        return str(json.loads(done.stdout)["clientVersion"]["gitVersion"])
    except (ValueError, KeyError, TypeError):
        return done.stdout.strip()
