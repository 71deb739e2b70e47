"""Lists the columns of a FOCUS file that are read, by their FOCUS names, and the texts that mean an empty value.

Belongs here: constants that both ways of reading a FOCUS CSV share. Code that reads files does not belong here.
"""

from __future__ import annotations

from runspend.schema.tables import FOCUS_COLUMNS

# FOCUS writes column names in CamelCase, the warehouse in snake_case.
COLUMNS = {"".join(part.capitalize() for part in c.name.split("_")): c for c in FOCUS_COLUMNS}
# Other columns are computed from these: the providers from the seller in versions up to 1.2, and the instance type of AWS and others.
EXTRA_COLUMNS = {"ProviderName": "provider_name", "PublisherName": "publisher_name"}
INSTANCE_COLUMNS = ("x_InstanceType", "x_SkuInstanceType", "x_UsageType", "x_SkuDetails")
NULL_TEXTS = ("", "NULL", "null", "(null)", "nan", "NaN")
TIMES = ("billing_period_start", "billing_period_end", "charge_period_start", "charge_period_end")
