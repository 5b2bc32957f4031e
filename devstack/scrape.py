"""Prometheus's configuration for a local stack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml


def write_config(path: Path, targets: Mapping[str, str]) -> None:
    """Scrape `targets`, host:port by service."""
    jobs: dict[str, list[dict[str, object]]] = {}
    for service, target in targets.items():
        job = service.rstrip("-0123456789")
        jobs.setdefault(job, []).append({"targets": [target], "labels": {"service": service}})
    config = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "5s"},
        "scrape_configs": [{"job_name": job, "static_configs": configs} for job, configs in jobs.items()],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
