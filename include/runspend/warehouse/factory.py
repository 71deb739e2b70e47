"""Open the warehouse of a configuration, which is in a folder, an S3 bucket or BigQuery."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from runspend.core.errors import ConfigError, SourceError
from runspend.warehouse.base import Unit, Warehouse

if TYPE_CHECKING:
    from runspend.config.settings import Settings


def mend_warehouse(settings: Settings) -> dict[Unit, str]:
    """Rebuild damaged bookkeeping of a warehouse in a folder, and add checksums to the bookkeeping of older versions.

    Returns what was damaged, each with the reason. Does nothing if the warehouse is not in a folder, or if this user may only read it.
    """
    uri = settings.warehouse.uri
    if "://" in uri and not uri.startswith("file://"):
        return {}
    from runspend.warehouse.parquet.repair import mend_folder

    return mend_folder(Path(uri.removeprefix("file://")))


def open_warehouse(settings: Settings | str) -> Warehouse:
    """Open the warehouse of these settings or at this address. Finishes any publish that was killed.

    If the settings name a viewer who does not see all teams, the warehouse shows only the rows that the viewer's teams may see.
    """
    if not isinstance(settings, str) and settings.viewer is not None and settings.viewer.teams is not None:
        from runspend.warehouse.team_views import Restriction
        from runspend.warehouse.team_warehouse import TeamWarehouse

        return TeamWarehouse(_open_whole(settings), Restriction(settings.viewer.teams, settings.viewer.budgets))
    return _open_whole(settings)


def _open_whole(settings: Settings | str) -> Warehouse:
    uri = settings if isinstance(settings, str) else settings.warehouse.uri
    if "://" not in uri or uri.startswith("file://"):
        from runspend.warehouse.parquet.warehouse import ParquetWarehouse

        return ParquetWarehouse(Path(uri.removeprefix("file://")))
    if uri.startswith("bigquery://"):
        from runspend.config.settings import WarehouseSettings
        from runspend.warehouse.bigquery.warehouse import BigQueryWarehouse

        if isinstance(settings, str):
            return BigQueryWarehouse(WarehouseSettings(uri=uri))
        return BigQueryWarehouse(settings.warehouse, settings.home / "cache" / hashlib.sha256(uri.encode()).hexdigest()[:16])
    if not uri.startswith("s3://") or isinstance(settings, str):
        raise ConfigError(
            f"cannot open warehouse {uri!r}: the address must be a folder, an S3 bucket or a BigQuery dataset. Set warehouse.uri to one of them."
        )
    from runspend.storage.s3_warehouse import Bucket
    from runspend.warehouse.parquet.bucket import BucketWarehouse

    place = settings.warehouse
    bucket = Bucket(uri, endpoint=place.endpoint, region=place.region, credentials=place.credentials)
    return BucketWarehouse(bucket, settings.home / "cache" / hashlib.sha256(bucket.where.encode()).hexdigest()[:16])


def open_published(settings: Settings) -> Warehouse:
    """Open the warehouse for queries.

    Raises SourceError if its folder is missing although the pipeline has run here before. Otherwise an unmounted disk would look like
    costs of 0.
    """
    uri = settings.warehouse.uri
    if "://" not in uri or uri.startswith("file://"):
        folder = Path(uri.removeprefix("file://"))
        if not (folder / "_runspend").is_dir() and any((settings.home / name).is_dir() for name in ("reports", "records")):
            raise SourceError(
                "warehouse",
                f"cannot read the warehouse: {folder} does not exist, or has no tables of Runspend. Mount it, or restore a backup.",
            )
    return open_warehouse(settings)
