"""The schema revisions of MLflow's database that Runspend knows, oldest first, and the revisions that its queries depend on.

They are copied from MLflow's own migration scripts (`mlflow/store/db_migrations/versions`), and a test compares the two. A database with
any other revision is not read, because a changed column could give wrong figures without an error. To support a newer MLflow, read its
migrations, adapt the queries if needed, and add the revisions here.
"""

from __future__ import annotations

# Older schemas lack columns that the queries of runs and experiments need.
OLDEST_SUPPORTED = "97727af70f4d"
LOGGED_MODELS_SINCE = "400f98739977"
STEPS_SINCE = "6953534de441"  # the step at which a run logged a model
ALIASES_SINCE = "3500859a5d39"
STORAGE_SINCE = "acf3f17fdcc7"  # the storage location of a model version
TRACES_SINCE = "867495a8f9d4"
TRACE_COSTS_SINCE = "75868b020152"  # costs and models of traces in their own columns
WORKSPACES_SINCE = "1b5f0d9ad7c1"
METRIC_INDEX_SINCE = "a5b4c3d2e1f0"  # the index of metrics on run, key and step
NEWEST_MLFLOW = "3.17"
OLDEST_MLFLOW = "2.0"

REVISIONS = (
    "451aebb31d03",  # add metric step
    "90e64c465722",  # migrate user column to tags
    "181f10493468",  # allow nulls for metric values
    "df50e92ffc5e",  # add experiment tags table
    "7ac759974ad8",  # update run tags with larger limit
    "89d4b8295536",  # create latest metrics table
    "2b4d017a5e9b",  # add model registry tables to db
    "cfd24bdc0731",  # update run status constraint with killed
    "0a8213491aaa",  # drop duplicate killed constraint
    "728d730b5ebd",  # add registered model tags table
    "27a6a02d2cf1",  # add model version tags table
    "84291f40a231",  # add run link to model version
    "a8c4a736bde6",  # allow nulls for run id
    "39d1c3be5f05",  # add is nan constraint for metrics tables if necessary
    "c48cb773bb87",  # reset default value for is nan in metrics table for mysql
    "bd07f7e963c5",  # create index on run uuid
    "0c779009ac13",  # add deleted time field to runs table
    "cc1f77228345",  # change param value length to 500
    "97727af70f4d",  # creation time last update time experiments
    "3500859a5d39",  # add model aliases table
    "7f2a7d5fae7d",  # add datasets inputs input tags tables
    "2d6e25af4d3e",  # increase max param val length
    "acf3f17fdcc7",  # add storage location field to model
    "867495a8f9d4",  # add trace tables
    "5b0e9adcef9c",  # add cascade deletion to trace tables fk
    "4465047574b1",  # increase max dataset schema size
    "f5a4f2784254",  # increase run tag value limit
    "0584bdc529eb",  # add cascading deletion to datasets from experiments
    "400f98739977",  # add logged model tables
    "6953534de441",  # add step to inputs table
    "bda7b8c39065",  # increase model version tag value limit
    "cbc13b556ace",  # add v3 trace schema columns
    "770bee3ae1dd",  # add assessments table
    "a1b2c3d4e5f6",  # add spans table
    "de4033877273",  # create entity associations
    "1a0cddfcaa16",  # add webhooks and webhook events tables
    "534353b11cbc",  # add scorer table
    "71994744cf8e",  # add evaluation datasets
    "3da73c924c2f",  # add outputs to dataset record
    "bf29a5ff90ea",  # add jobs table
    "1bd49d398cd23",  # add secrets tables
    "b7c8d9e0f1a2",  # add trace metrics table
    "5d2d30f0abce",  # update job table
    "c9d4e5f6a7b8",  # add routing strategy to endpoints
    "2c33131f4dae",  # add online scoring configs table
    "d3e4f5a6b7c8",  # add display name to endpoint bindings
    "d0e1f2a3b4c5",  # add experiment id to endpoints
    "c8d9e0f1a2b3",  # add span metrics and dimension attributes
    "1b5f0d9ad7c1",  # add workspace columns and catalog
    "e1f2a3b4c5d6",  # add budget policies table
    "76601a5f987d",  # add issues table
    "c3d6457b6d8a",  # add status details column to jobs table
    "a5b4c3d2e1f0",  # add metrics run key step index
    "ae8bbe7743c9",  # add guardrails tables
    "7d34483879f0",  # add model version tags workspace index
    "da6fb0208061",  # add workspaces trace archival location
    "89d3d66ed43f",  # add label schemas table
    "b7e4c1a90f23",  # add review queue tables
    "a8b9c0d1e2f3",  # add mcp server registry tables
    "c1d2e3f4a5b6",  # add span experiment start time index
    "c3d9e7f1a2b4",  # add target value to budget policies
    "6f8d9c3b2a1e",  # add experiment fk cascades
    "1971f2d9a75b",  # add trace archival candidate index
    "17e22815139b",  # increase experiment tag value limit
    "b7e2c1a4d9f3",  # add jobs creator
    "75868b020152",  # add sql trace analytics schema
    "dc11669786a5",  # add job executor persistence model
)


def is_at_least(revision: str, since: str) -> bool:
    """Return whether a known revision includes the change that `since` introduced. Raises ValueError if either revision is unknown."""
    return REVISIONS.index(revision) >= REVISIONS.index(since)


def describe_range() -> str:
    """Return the range of supported revisions, as shown in error messages and by `doctor`."""
    return f"{OLDEST_SUPPORTED} (MLflow {OLDEST_MLFLOW}) to {REVISIONS[-1]} (MLflow {NEWEST_MLFLOW})"
