"""The one form in which bills and runs are compared: SQL expressions shared by the loader and the extractor.

One text for both sides, so that they cannot drift apart. Both run in DuckDB before a row is published.
"""

from __future__ import annotations


def resource_key_sql(column: str) -> str:
    """DuckDB SQL for the comparable form of a resource id.

    Azure ids fold to lower case (their case is unstable in exports); an EC2 ARN becomes its instance id and a Compute
    Engine name its instance id or name; everything else stays as it is, without surrounding blanks. Empty becomes null.
    Sources: AWS "Resource ARNs", Google "Full resource names", Azure "Cost details fields".
    """
    trimmed = f"trim({column})"
    return (
        "case "
        f"when lower({trimmed}) like '/subscriptions/%' then lower({trimmed}) "
        f"when lower({trimmed}) like 'subscriptions/%/%' then '/' || lower({trimmed}) "
        f"when regexp_matches({trimmed}, '^[iI]-[0-9a-fA-F]{{8,17}}$') then lower({trimmed}) "
        f"when {trimmed} like 'arn:aws%:instance/%' then regexp_replace({trimmed}, '^arn:aws[^:]*:ec2:[^:]*:[^:]*:instance/', '') "
        f"when regexp_matches({trimmed}, '^(//compute[.]googleapis[.]com/|https://(www|compute)[.]googleapis[.]com/compute/[^/]+/)?projects/[^/]+/zones/[^/]+/instances/[^/]+$') "
        f"then regexp_extract({trimmed}, '[^/]+$') "
        f"else nullif({trimmed}, '') end"
    )


# Tag keys that may carry a run id, in the forms the clouds turn them into. First that is set wins.
RUN_TAG_KEYS = ("mlflow_run_id", "mlflow.run_id", "mlflow-run-id", "mlflow.runId", "user_mlflow_run_id", "user:mlflow_run_id", "resourceTags/user:mlflow_run_id")
