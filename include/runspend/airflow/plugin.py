"""Runspend's page in Airflow's navigation: costs and reports, for logged-in users.

Every Airflow process imports this module, so it only defines names: the pages are built at the first request. Airflow does not
protect a plug-in's application by itself; every route checks the login.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin


class LazyPages:
    """The web application, created at the first request."""

    app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle an ASGI request."""
        if self.app is None:
            # It is not part of Airflow's public interface: this is the only place that imports it.
            from airflow.api_fastapi.core_api.security import get_user
            from fastapi import Depends

            from runspend.airflow.options import config_path
            from runspend.config.settings import load_settings
            from runspend.interfaces.web import Caller, create_app, groups_of

            async def require_login(user: Any = Depends(get_user)) -> Caller:  # noqa: B008 (FastAPI's form of a dependency)
                """Refuse users who are not logged in; return the user's name and roles."""
                return Caller(str(user.get_name()), groups_of(user))

            self.app = create_app(lambda: load_settings(config_path()), guard=require_login)
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
            "icon_dark_mode": "runspend/icon-dark.svg",
            "nav_top_level": True,
        }
    ]
