"""A Superset of its own. It imports a dashboard, requests each chart as a browser does, and prints the answers as one JSON line.

.venv/superset/bin/python tests/actions/export/superset_server.py FOLDER ZIP PASSWORD

Its database and settings are in FOLDER. This environment does not contain Runspend.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

SETTINGS = """
SECRET_KEY = "for-tests-only-0123456789abcdef0123456789"
SQLALCHEMY_DATABASE_URI = "sqlite:///{folder}/superset.db"
WTF_CSRF_ENABLED = False
TALISMAN_ENABLED = False
RATELIMIT_ENABLED = False
"""


def answers(app: Any, file: Path, password: str) -> dict[str, Any]:
    """Import the ZIP twice over HTTP. Return the dashboard's title, its page's status, and the rows of each chart by name."""
    client = app.test_client()
    login = {"username": "admin", "password": "admin", "provider": "db", "refresh": False}
    token = client.post("/api/v1/security/login", json=login).get_json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    for overwrite in ("false", "true"):
        form = {
            "formData": (file.open("rb"), file.name),
            "overwrite": overwrite,
            "passwords": json.dumps({"databases/Runspend.yaml": password}),
        }
        imported = client.post("/api/v1/dashboard/import/", data=form, headers=headers, content_type="multipart/form-data")
        assert imported.status_code == 200, imported.get_data(as_text=True)
    found: dict[str, Any] = {"charts": {}}
    dashboard = client.get("/api/v1/dashboard/runspend", headers=headers).get_json()["result"]
    found["title"] = dashboard["dashboard_title"]
    datasets = client.get("/api/v1/dashboard/runspend/datasets", headers=headers).get_json()["result"]
    found["datasets"] = {d["table_name"]: sorted(m["metric_name"] for m in d["metrics"]) for d in datasets}
    for chart in client.get("/api/v1/dashboard/runspend/charts", headers=headers).get_json()["result"]:
        answered = client.get(f"/api/v1/chart/{chart['id']}/data/", headers=headers)
        assert answered.status_code == 200, answered.get_data(as_text=True)
        found["charts"][chart["slice_name"]] = answered.get_json()["result"][0]["data"]
    client.post("/login/", data={"username": "admin", "password": "admin"})
    page = client.get("/superset/dashboard/runspend/", follow_redirects=True)
    found["page"] = page.status_code
    return found


def main(folder: Path, file: Path, password: str) -> None:
    settings = folder / "superset_config.py"
    settings.write_text(SETTINGS.format(folder=folder))
    os.environ |= {"SUPERSET_CONFIG_PATH": f"{settings}", "SUPERSET_HOME": f"{folder}", "FLASK_APP": "superset", "SCARF_ANALYTICS": "false"}
    with contextlib.redirect_stdout(sys.stderr):
        from superset.app import create_app

        app = create_app()
        with app.app_context():
            from flask_migrate import upgrade
            from superset.extensions import appbuilder

            upgrade()
            appbuilder.add_permissions(update_perms=True)
            appbuilder.sm.sync_role_definitions()
            appbuilder.sm.add_user("admin", "Ad", "Min", "admin@example.com", appbuilder.sm.find_role("Admin"), password="admin")
        found = answers(app, file, password)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]), sys.argv[3])
