"""The dashboards of deploy/grafana are committed as generated, valid by the types of Grafana's SDK, and complete for a reader.

tests/e2e/test_grafana.py tests the answers to their queries.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from runspend.config.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
FILES = sorted(GRAFANA.glob("dashboards/*/*.json"))


@pytest.fixture(scope="module")
def generator() -> Any:
    spec = importlib.util.spec_from_file_location("deploy_generate", GRAFANA / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_committed_dashboards_are_those_of_the_generator(generator: Any) -> None:
    """To write them again, run: python deploy/grafana/generate.py"""
    made = generator.files()
    assert set(FILES) == set(made) and len(FILES) == 12
    assert [path.name for path in FILES if path.read_text(encoding="utf-8") != made[path]] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_dashboard_is_valid_by_the_types_of_the_sdk(path: Path) -> None:
    """The SDK's types read and write a dashboard without changing it, so Grafana 11.6 knows every key and value."""
    register_default_plugins()
    given = json.loads(path.read_text(encoding="utf-8"))
    assert json.loads(json.dumps(Dashboard.from_json(given), cls=JSONEncoder)) == given


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_dashboard_explains_itself(path: Path) -> None:
    """Each panel has a description, a query with known variables only, and a unit for its figures. Panels do not overlap."""
    given = json.loads(path.read_text(encoding="utf-8"))
    variables = {variable["name"] for variable in given["templating"]["list"]} | {"__from", "__to", "__data", "__field"}
    assert given["description"] and given["uid"].startswith("runspend") and given["timezone"] == "utc"
    taken: set[tuple[int, int]] = set()
    for panel in given["panels"]:
        assert panel["description"].endswith(".") and panel["title"], panel["title"]
        (target,) = panel["targets"]
        assert target["datasource"]["uid"] == "${datasource}"
        used = set(re.findall(r"\$\{(\w+)", json.dumps(panel))) | set(re.findall(r"\$(?!__)(\w+)", panel["title"]))
        assert used <= variables, (panel["title"], used - variables)
        if re.search(r"\bas (?:cost|spent|amount)\b", target["rawSql"]):
            assert "${currency:" in target["rawSql"], panel["title"]  # costs are never added across currencies
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not taken & cells and max(x for x, _ in cells) < 24
        taken |= cells


def test_the_provisioned_source_is_the_one_of_the_stack(generator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plug-in is that of the dashboards. It logs in as `grafana` with variables that the service has, and each table of a dashboard is published."""
    (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "runspend.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "runspend.yaml").read_text())["providers"]
    service = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]["grafana"]
    assert source["type"] == generator.POSTGRES.plugin and source["user"] == "grafana" and source["jsonData"]["database"] == "costs"
    named = set(re.findall(r"\$(\w+)", yaml.safe_dump(source)))
    assert named == {"COSTS_DB_HOST", "COSTS_DB_SSLMODE", "GRAFANA_DB_PASSWORD"} and named <= service["environment"].keys()
    mounted = {volume["target"]: volume["source"] for volume in service["volumes"] if isinstance(volume, dict)}
    assert mounted[provider["options"]["path"]] == "./deploy/grafana/dashboards/postgres"
    monkeypatch.setenv("MLFLOW_READER_URI", "postgresql://reader@postgres/mlflow")
    monkeypatch.setenv("COSTS_DB_URI", "postgresql://runspend@postgres/costs")
    (target,) = load_settings(ROOT / "deploy" / "config" / "runspend.yaml").publish
    read = set(re.findall(r"\$\{schema:doublequote\}\.(\w+)", "".join(path.read_text() for path in FILES)))
    assert read - {"runspend_builds"} | {"cost_daily"} == set(target.tables or ())  # costs_for_dashboards is a view of these two
