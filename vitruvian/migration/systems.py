"""The systems whose configs are known."""

from __future__ import annotations

from vitruvian.migration import bodybuilding, clip_har, fargate, vit_aws, vitpose
from vitruvian.migration.table import System

SYSTEMS: tuple[System, ...] = (
    vit_aws.SYSTEM,
    vitpose.SYSTEM,
    bodybuilding.SYSTEM,
    fargate.SYSTEM,
    clip_har.SYSTEM,
)
FLAGS = clip_har.SYSTEM
"""The one system whose commands take their settings as flags."""
