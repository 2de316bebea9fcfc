"""What registries and Kubernetes take for the name of an image: the grammar of distribution's references."""

from __future__ import annotations

import re
from typing import Final

_HOST: Final = r"[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?"
# What could be a repository's first part, too, is a registry by its dot, its port or its name.
_REGISTRY: Final = rf"({_HOST}((\.{_HOST})+(:[0-9]+)?|:[0-9]+)|localhost|\[[0-9a-fA-F:]+\](:[0-9]+)?)"
_WORD: Final = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_TAG: Final = r"[a-zA-Z0-9_][-.a-zA-Z0-9_]{0,127}"
_DIGEST: Final = r"(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})"

REPOSITORY: Final = rf"({_REGISTRY}/)?{_WORD}(/{_WORD})*"
"""A regular expression of a repository, with its registry where that isn't the default one."""
LONGEST_REPOSITORY: Final = 255
TAG: Final = rf"{_TAG}(@{_DIGEST})?"
"""The same of what follows the repository's colon."""
IMAGE: Final = rf"{REPOSITORY}(:{_TAG})?(@{_DIGEST})?"
"""The same of the whole."""
_LONGEST: Final = 520
_LONGEST_SHOWN: Final = 100


def check(image: str) -> str:
    """Return an image's name; raises `ValueError` where no registry takes it."""
    shown = repr(image[:_LONGEST_SHOWN])
    if len(image) > _LONGEST or len(_repository(image)) > LONGEST_REPOSITORY:
        raise ValueError(f"{shown}… is too long for an image's name: shorten it to {LONGEST_REPOSITORY} characters")
    if not re.fullmatch(IMAGE, image):
        form = "[REGISTRY/]REPOSITORY[:TAG][@sha256:DIGEST], the repository in lower case"
        raise ValueError(f"{shown} is no image's name: write {form}")
    return image


def _repository(image: str) -> str:
    registry, slash, name = image.partition("@")[0].rpartition("/")
    return registry + slash + name.partition(":")[0]
