"""Which columns of a FOCUS file are read, by the names FOCUS gives them, and which words stand for nothing in them.

Put here what both ways of reading a FOCUS CSV need to agree on, and nothing that reads.
"""

from __future__ import annotations

from runspend.schema.tables import FOCUS_COLUMNS

# FOCUS spells its columns in CamelCase, exactly; the warehouse in snake_case.
COLUMNS = {"".join(part.capitalize() for part in c.name.split("_")): c for c in FOCUS_COLUMNS}
# Read for what they say of other columns: the seller of versions up to 1.2, AWS's and others' instance types.
EXTRA_COLUMNS = {"ProviderName": "provider_name", "PublisherName": "publisher_name"}
INSTANCE_COLUMNS = ("x_InstanceType", "x_SkuInstanceType", "x_UsageType", "x_SkuDetails")
NULL_TEXTS = ("", "NULL", "null", "(null)", "nan", "NaN")
TIMES = ("billing_period_start", "billing_period_end", "charge_period_start", "charge_period_end")
