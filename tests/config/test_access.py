"""`access` in runspend.yaml: which teams a user may see, and errors that state what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runspend.config.access import AccessSettings, Viewer, is_own_budget
from runspend.config.settings import Settings, load_settings
from runspend.core.errors import ConfigError

ACCESS = AccessSettings.model_validate(
    {"groups": {"vision-devs": ["vision"], "nlp": ["nlp", "vision"], "finance": "all"}, "users": {"cleo": ["speech"], "dora": "all"}}
)


@pytest.mark.parametrize(
    ("user", "groups", "seen"),
    [
        (None, ["vision-devs"], Viewer(("vision-devs",), ("vision",))),
        (None, ["nlp", "vision-devs", "nlp", "x"], Viewer(("nlp", "vision-devs"), ("nlp", "vision"))),
        ("x", ["vision-devs", "finance"], Viewer(("vision-devs", "finance"), None)),
        ("cleo", ["vision-devs"], Viewer(("vision-devs",), ("vision", "speech"))),
        ("dora", [], Viewer((), None)),
        ("finance", [], None),  # the name of a group does not match a user
        (None, ["cleo", "dora", "FINANCE", "", "all"], None),
        (None, [], None),
    ],
)
def test_a_user_sees_the_rows_of_each_of_their_groups(user: str | None, groups: list[str], seen: Viewer | None) -> None:
    assert ACCESS.viewer(user, groups) == seen


@pytest.mark.parametrize(
    ("access", "why"),
    [
        ({}, "no user could see any costs"),
        ({"groups": {"finance": "everything"}}, "all"),
        ({"groups": {"finance": []}}, "at least 1"),
        ({"groups": {"finance": "vision"}}, "'all'"),
        ({"groups": {"finance": ["other teams"]}}, "is reserved: pages use it for costs of other teams"),
        ({"groups": {"finance": ["a\nb"]}}, "pattern"),
        ({"groups": {"a,b": "all"}}, "pattern"),
        ({"groups": {" finance": "all"}}, "pattern"),
        ({"groups": {"finance": "all"}, "header": "X Groups"}, "pattern"),
        ({"groups": {"finance": "all"}, "header": "X-Who", "user_header": "x-who"}, "are the same header"),
        ({"groups": {"finance": "all"}, "proxies": ["proxy.example.com"]}, "an address or a network is needed"),
        ({"groups": {"finance": "all"}, "proxies": []}, "at least 1"),
        ({"groups": {"finance": "all"}, "teams": {}}, "teams"),
    ],
)
def test_a_mistake_names_the_key_and_what_is_allowed(access: dict[str, Any], why: str, tmp_path: Path) -> None:
    (tmp_path / "runspend.yaml").write_text(json.dumps({"home": ".", "access": access}), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_settings(tmp_path / "runspend.yaml")
    assert "access" in str(error.value) and why in str(error.value)


@pytest.mark.parametrize(
    ("proxies", "address", "is_trusted"),
    [
        (["10.0.0.0/24"], "10.0.0.200", True),
        (["10.0.0.0/24"], "10.0.1.1", False),
        (["10.0.0.5"], "10.0.0.5", True),
        (["10.0.0.5"], "::ffff:10.0.0.5", True),
        (["fd00::/8"], "fd00::1", True),
        (["fd00::/8"], "10.0.0.5", False),
        (["10.0.0.5"], None, False),
        (["10.0.0.5"], "testclient", False),
        (["0.0.0.0/0"], "192.0.2.1", True),
    ],
)
def test_a_proxy_is_known_by_its_address(proxies: list[str], address: str | None, is_trusted: bool) -> None:
    assert AccessSettings.model_validate({"groups": {"a": "all"}, "proxies": proxies}).trusts(address) is is_trusted


@pytest.mark.parametrize(
    ("asked", "is_own"),
    [(["vision"], True), (["vision", "nlp"], True), (["vision", "speech"], False), (["v*"], False), (["visio?"], False), ([], False)],
)
def test_a_budget_belongs_to_the_teams_that_it_names(asked: list[str], is_own: bool) -> None:
    """A pattern may match other teams too, and a budget without a team covers them all."""
    assert is_own_budget(["vision", "nlp"], asked) is is_own


def test_settings_of_a_team_name_no_budget_bill_or_store_of_others() -> None:
    settings = Settings.model_validate(
        {
            "billing": [{"name": "aws", "uri": "bills"}],
            "stores": [{"uri": "/store"}],
            "budgets": [
                {"name": name, "for": {"team": team}, "amount": 1, "notify": ["a@example.com"]}
                for name, team in (("mine", "vision"), ("theirs", "nlp"))
            ],
        }
    )
    seen = settings.seen_by(Viewer(("a",), ("vision",)))
    assert [budget.name for budget in seen.budgets] == ["mine"]
    assert (seen.billing, seen.stores, seen.tag_budgets) == ([], [], [])
    assert settings.viewer is None and len(settings.budgets) == 2 and len(settings.billing) == 1
    assert settings.seen_by(Viewer(("a",), None)).budgets == settings.budgets
