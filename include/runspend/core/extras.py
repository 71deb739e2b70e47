"""Maps packages to the extras of Runspend, and turns a missing package into one sentence.

The base install has three packages, so that it fits into training jobs. A command that needs more packages names the extra to install. A
test compares the table with the imports of this package and with pyproject.toml.
"""

from __future__ import annotations

from importlib.util import find_spec

from runspend.core.errors import MissingExtra

# Imported module -> its package, and the smallest extra with that package.
EXTRA_OF = {
    "adbc_driver_manager": ("adbc-driver-manager", "pipeline"),
    "adbc_driver_postgresql": ("adbc-driver-postgresql", "pipeline"),
    "adbc_driver_sqlite": ("adbc-driver-sqlite", "pipeline"),
    "psycopg2": ("psycopg2-binary", "pipeline"),
    "airflow": ("apache-airflow", "airflow"),
    "apprise": ("apprise", "apprise"),
    "arro3": ("arro3-core", "pipeline"),
    "azure": ("azure-storage-blob", "azure"),
    "azure.core": ("azure-storage-blob", "azure"),
    "azure.identity": ("azure-identity", "azure"),
    "azure.storage.blob": ("azure-storage-blob", "azure"),
    "boto3": ("boto3", "pipeline"),
    "botocore": ("boto3", "pipeline"),
    "databricks": ("databricks-sql-connector", "databricks"),
    "databricks.sdk": ("databricks-sdk", "databricks"),
    "databricks.sql": ("databricks-sql-connector", "databricks"),
    "croniter": ("apache-airflow", "airflow"),
    "dateutil": ("python-dateutil", "pipeline"),
    "duckdb": ("duckdb", "pipeline"),
    "fastapi": ("fastapi", "pipeline"),
    "fsspec": ("fsspec", "pipeline"),
    "genai_prices": ("genai-prices", "prices"),
    "google": ("google-cloud-bigquery", "bigquery"),
    "google.api_core": ("google-cloud-bigquery", "bigquery"),
    "google.auth": ("google-cloud-bigquery", "bigquery"),
    "google.cloud": ("google-cloud-bigquery", "bigquery"),
    "google.cloud.storage": ("google-cloud-storage", "gcs"),
    "google.cloud.storage.retry": ("google-cloud-storage", "gcs"),
    "google.cloud.bigquery": ("google-cloud-bigquery", "bigquery"),
    "google.cloud.bigquery_storage": ("google-cloud-bigquery-storage", "bigquery"),
    "google.cloud.bigquery_storage_v1": ("google-cloud-bigquery-storage", "bigquery"),
    "jinja2": ("jinja2", "pipeline"),
    "markupsafe": ("jinja2", "pipeline"),
    "mcp": ("mcp", "mcp"),
    "mlflow": ("mlflow-skinny", "pipeline"),
    "pandas": ("pandas", "frames"),
    "polars": ("polars", "frames"),
    "pyiceberg": ("pyiceberg", "iceberg"),
    "PIL": ("pillow", "pipeline"),
    "pyarrow": ("pyarrow", "pipeline"),
    "pymysql": ("pymysql", "mysql"),
    "requests": ("requests", "pipeline"),
    "sqlalchemy": ("mlflow", "demo"),
    "sqlglot": ("sqlglot", "pipeline"),
    "starlette": ("fastapi", "pipeline"),
    "tableauhyperapi": ("tableauhyperapi", "tableau"),
    "urllib3": ("requests", "pipeline"),
    "uvicorn": ("uvicorn", "pipeline"),
}


def missing_extra(error: BaseException) -> MissingExtra | None:
    """Return the error as a sentence that names the extra, if a package of an extra is not installed; otherwise None.

    A module that is missing from an installed package is a bug or an incompatible version. Such an error stays as it is.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    parts = error.name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        if module in EXTRA_OF:
            return None if _is_installed(module) else MissingExtra(*EXTRA_OF[module])
    return None


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing too
        return False
