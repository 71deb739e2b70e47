#!/usr/bin/python3
"""Stand-in for Grafana: on 3000 its health check, which here also needs the login of the data source to work. It shows no dashboards."""

from __future__ import annotations

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg2


class Api(BaseHTTPRequestHandler):
    """/api/health."""

    def do_GET(self) -> None:
        """Answer 200 if the database can be opened, and 503 if not."""
        host, _, port = os.environ["COSTS_DB_HOST"].partition(":")
        try:
            psycopg2.connect(host=host, port=port, dbname="costs", user="grafana", password=os.environ["GRAFANA_DB_PASSWORD"]).close()
            status = 200 if self.path == "/api/health" else 404
        except psycopg2.Error:
            status = 503
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 3000), Api).serve_forever()
