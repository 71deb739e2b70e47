"""Adds Runspend's page to Airflow's navigation: costs and reports, for users who are logged in.

Every Airflow process imports this module, so it only defines names. The web application is created at the first request. Airflow does
not protect the application of a plug-in, so every route checks the login.
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
            # `get_user` is not part of Airflow's public interface. No other code imports it.
            from airflow.api_fastapi.core_api.security import get_user
            from fastapi import Depends

            from runspend.airflow.options import config_path
            from runspend.config.settings import load_settings
            from runspend.interfaces.web import Caller, create_app, groups_of

            async def require_login(user: Any = Depends(get_user)) -> Caller:  # noqa: B008 (FastAPI's form of a dependency)
                """Return the name and roles of the user. Refuses users who are not logged in."""
                return Caller(str(user.get_name()), groups_of(user))

            self.app = create_app(lambda: load_settings(config_path()), guard=require_login)
        await self.app(scope, receive, send)


class RunspendPlugin(AirflowPlugin):
    """The plug-in: the page, and its entry in the navigation."""

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
