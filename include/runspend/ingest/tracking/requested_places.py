"""Build the SQL that reads a run's account, region, zone and purchase option from its tags and params, for `runs.sql`.

Belongs here: which keys are read, and how a value gets the form that bills use. A general word such as `region` has many other uses. Such a
key counts only if its value has the form of a cloud's value. `allocation/models/3_machines/type_claims.sql` decides what the values mean.
"""

from __future__ import annotations

from collections.abc import Sequence

from runspend.core import machine_tags
from runspend.ingest.tracking.dimension_sources import param_sql, tag_sql

# The first key that the run states counts. Keys in SHAPED_ lists have a general name, so their value must have the form of a cloud's value.
ACCOUNT_KEYS = (
    "runspend.account",
    "cloud.account.id",
    "sub_account_id",
    "aws_account_id",
    "AWS_ACCOUNT_ID",
    "azure_subscription_id",
    "AZURE_SUBSCRIPTION_ID",
)
PROJECT_KEYS = ("gcp_project", "GOOGLE_CLOUD_PROJECT")
SHAPED_ACCOUNT_KEYS = ("account_id", "subscription_id", "account")
REGION_KEYS = (
    "runspend.region",
    "cloud.region",
    "region_id",
    "aws_region",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "gcp_region",
    "azure_region",
    "azure_location",
)
SHAPED_REGION_KEYS = ("region",)
ZONE_KEYS = ("runspend.zone", "cloud.availability_zone", "availability_zone", "gcp_zone")
SHAPED_ZONE_KEYS = ("zone",)
OPTION_KEYS = (
    "runspend.purchase_option", "purchase_option", "capacity_type", "instance_lifecycle", "provisioning_model", "vm_priority", "use_spot_instances",
    "enable_managed_spot_training", "use_spot", "spot", "preemptible", "low_priority",
)  # fmt: skip
PLACE_KEYS = (
    *ACCOUNT_KEYS,
    *PROJECT_KEYS,
    *SHAPED_ACCOUNT_KEYS,
    *REGION_KEYS,
    *SHAPED_REGION_KEYS,
    *ZONE_KEYS,
    *SHAPED_ZONE_KEYS,
    *OPTION_KEYS,
    machine_tags.ACCOUNT,
    machine_tags.REGION,
    machine_tags.ZONE,
    machine_tags.PURCHASE_OPTION,
)


def place_columns(tags: Sequence[str], params: Sequence[str]) -> dict[str, str]:
    """Return SQL of `stated_account`, `stated_region`, `stated_zone` and `stated_option`.

    Each is the value of the first key that has a usable value. A tag counts before a param of the same name.
    """

    def first(*groups: tuple[Sequence[str], str]) -> str:
        found = [
            f"{macro}({sql})"
            for keys, macro in groups
            for key in keys
            for sql in (tag_sql(tags, key), param_sql(params, key))
            if not sql.startswith("null")
        ]
        return f"coalesce({', '.join([*found, 'null::varchar'])})"

    return {
        "stated_account": first(
            (ACCOUNT_KEYS, "account_name"),
            (PROJECT_KEYS, "project_name"),
            (SHAPED_ACCOUNT_KEYS, "account_shaped"),
            ((machine_tags.ACCOUNT,), "account_name"),
        ),
        "stated_region": first(
            (REGION_KEYS, "region_name"), (SHAPED_REGION_KEYS, "region_shaped"), ((machine_tags.REGION,), "region_name")
        ),
        "stated_zone": first((ZONE_KEYS, "region_name"), (SHAPED_ZONE_KEYS, "zone_shaped"), ((machine_tags.ZONE,), "region_name")),
        "stated_option": first((OPTION_KEYS, "purchase_option"), ((machine_tags.PURCHASE_OPTION,), "purchase_option")),
    }
