"""Which warehouse a configuration opens, and what is refused before anything is contacted."""

from __future__ import annotations

from pathlib import Path

import pytest

from runspend.config.settings import Settings, WarehouseSettings, load_settings
from runspend.core.errors import ConfigError
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse


def test_a_path_a_file_uri_and_a_configuration_open_the_same_folder(tmp_path: Path) -> None:
    """A path, a file URI and a configuration open the same folder."""
    settings = Settings(home=tmp_path, warehouse=WarehouseSettings(uri=str(tmp_path / "w")))
    for given in (str(tmp_path / "w"), f"file://{tmp_path}/w", settings):
        warehouse = open_warehouse(given)
        assert isinstance(warehouse, ParquetWarehouse)
        assert warehouse.root == tmp_path / "w"


@pytest.mark.parametrize("uri", ["bigquery://project", "gs://bucket/x", "s3:///prefix"])
def test_an_unsupported_warehouse_is_refused_with_a_reason(uri: str, tmp_path: Path) -> None:
    """Other engines and stores are named in the error, and nothing is made."""
    with pytest.raises(ConfigError, match="cannot open warehouse"):
        open_warehouse(Settings(home=tmp_path / "home", warehouse=WarehouseSettings(uri=uri)))
    assert not (tmp_path / "home").exists()


def test_a_folder_refuses_the_keys_of_a_bucket(tmp_path: Path) -> None:
    """Endpoint, region and profile are read for a bucket, and refused beside a folder: they would be forgotten silently."""
    path = tmp_path / "runspend.yaml"
    path.write_text("warehouse: {uri: s3://acme/ml, endpoint: http://minio:9000, region: eu-1, credentials: costs}\n")
    place = load_settings(path).warehouse
    assert (place.uri, place.endpoint, place.region, place.credentials) == ("s3://acme/ml", "http://minio:9000", "eu-1", "costs")
    for text in ("warehouse: {uri: tables, endpoint: http://minio:9000}\n", "warehouse: {region: eu-1}\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="belongs to a warehouse in a bucket"):
            load_settings(path)
