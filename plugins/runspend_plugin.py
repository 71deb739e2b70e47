"""Runspend's page in Airflow's own navigation: the newest report, for people who are logged in.

Imported by every Airflow process, so nothing but names is done here: the pages are built at the first request. Airflow does
not protect a plug-in's application by itself; every route asks who is there.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin


class LazyPages:
    """The web application, made when first asked for."""

    app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if self.app is None:
            # Not promised as public by Airflow: this is the only place that imports it.
            from airflow.api_fastapi.core_api.security import get_user
            from fastapi import Depends

            from runspend.config.settings import load_settings
            from runspend.interfaces.web import create_app

            async def require_login(user: Any = Depends(get_user)) -> str:  # noqa: B008 (FastAPI's form of a dependency)
                """Refuses whoever is not logged in; the name of whoever is."""
                return str(user.get_name())

            self.app = create_app(load_settings, guard=require_login)
        await self.app(scope, receive, send)


class RunspendPlugin(AirflowPlugin):
    """Adds the page and its place in the navigation."""

    name = "runspend"
    fastapi_apps = [{"name": "runspend", "app": LazyPages(), "url_prefix": "/runspend"}]  # noqa: RUF012 (Airflow's own form)
    external_views = [  # noqa: RUF012
        {
            "name": "Run costs",
            "href": "runspend/",
            "destination": "nav",
            "url_route": "runspend",
            "icon": "runspend/icon.svg",
            "nav_top_level": True,
        }
    ]
