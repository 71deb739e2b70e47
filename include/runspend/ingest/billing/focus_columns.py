"""Lists the columns of a FOCUS file that are read, under their FOCUS names, and the words that mean an empty value.

Belongs here: what both ways of reading a FOCUS CSV must agree on. Code that reads does not belong here.
"""

from __future__ import annotations

from runspend.schema.tables import FOCUS_COLUMNS

# FOCUS spells its columns in CamelCase, exactly; the warehouse in snake_case.
COLUMNS = {"".join(part.capitalize() for part in c.name.split("_")): c for c in FOCUS_COLUMNS}
# Read because other columns depend on them: the seller in versions up to 1.2, and instance types of AWS and others.
EXTRA_COLUMNS = {"ProviderName": "provider_name", "PublisherName": "publisher_name"}
INSTANCE_COLUMNS = ("x_InstanceType", "x_SkuInstanceType", "x_UsageType", "x_SkuDetails")
NULL_TEXTS = ("", "NULL", "null", "(null)", "nan", "NaN")
TIMES = ("billing_period_start", "billing_period_end", "charge_period_start", "charge_period_end")
