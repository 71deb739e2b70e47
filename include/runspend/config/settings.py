"""Defines the settings: frozen models of `runspend.yaml`. Unknown keys are refused.

This module defines the keys and their defaults. Other modules define their effects. `load_settings` reads the file. Every error names
the file and the line; for an unknown key, it also suggests the nearest known key.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ByteSize,
    Discriminator,
    Field,
    PrivateAttr,
    SecretStr,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from runspend.config.access import AccessSettings, Viewer, is_own_budget
from runspend.config.budgets import Budget, BudgetEntry, TagBudgets
from runspend.config.csv_rows import read_csv_rows
from runspend.config.error_messages import describe_mistakes
from runspend.config.mail import MailSettings
from runspend.config.principals import read_principals
from runspend.config.publish import PublishTarget
from runspend.config.retention import ArchiveSettings, RetentionPolicy, StorageRate, why_no_class
from runspend.config.statements import StatementSettings
from runspend.config.types import (
    CHANNEL,
    CONNECTION,
    SCHEME,
    Currency,
    Dimension,
    Discount,
    Duration,
    Frozen,
    HiddenAddress,
    HourPrice,
    LineSelector,
    LocalPath,
    Name,
    Rate,
    Ratio,
    RunSelector,
    Secret,
    Uri,
    Zone,
    absolute,
    address_secrets,
    check_database_address,
    parse_duration,
    resolve_uri,
    threshold_amount,
)
from runspend.config.yaml_file import Loc, read_yaml_file, show_loc
from runspend.core.errors import ConfigError
from runspend.core.redaction import HIDDEN, names_secret, redact_uri, redact_values, uri_secrets
from runspend.core.resource_keys import ATTACHED_TAG_KEYS, GROUP_TAG_KEYS, JOB_TAG_KEYS, RUN_JOB_KEYS, RUN_TAG_KEYS

# Names from other modules that are imported from here.
__all__ = ["Budget", "MailSettings", "RetentionPolicy", "TagBudgets", "parse_duration", "threshold_amount"]

FILE_NAME = "runspend.yaml"
_BOOL: TypeAdapter[bool] = TypeAdapter(bool)
TagKey = Annotated[str, Field(min_length=1)]


def _key_file(credentials: str, info: ValidationInfo) -> str:
    """Return Google credentials with the path of a key file made absolute. A path is relative to the folder of `runspend.yaml`."""
    return credentials if credentials in ("anonymous", "(env)") or credentials.startswith(CONNECTION) else absolute(credentials, info)


def _kept_secret(credentials: str | SecretStr | None, info: ValidationInfo) -> str | SecretStr | None:
    """Return credentials in the form that the address in `uri` needs. Credentials of Azure become a secret, which is never shown."""
    if not isinstance(credentials, str) or credentials == "anonymous":
        return credentials
    uri = info.data.get("uri") or ""
    if uri.startswith(("abfss://", "abfs://", "az://", "wasbs://")):
        return SecretStr(credentials)
    return _key_file(credentials, info) if uri.startswith(("gs://", "bigquery://")) else credentials


def _refuse_keys_without_effect(place: BillSource | ArtifactStore) -> None:
    """Raise ValueError if a key has no effect for this kind of address."""
    uri = place.uri or ""
    scheme = uri.partition(":")[0] if SCHEME.match(uri) else "file"
    refused = {
        "file": ("endpoint", "region", "credentials"),
        "databricks": ("endpoint", "region", "delivery"),
        "bigquery": ("region", "delivery"),
        "s3": (),
    }
    for key in refused.get(scheme, ("region",)):
        if getattr(place, key, None) is not None:
            raise ValueError(
                f"`{key}` has no effect on {'a folder' if scheme == 'file' else f'{scheme}://'}. Leave it out, or correct `uri`"
            )


# A profile (s3://), a key file (gs://), or an Azure secret: a SAS token or a connection string.
Credentials = Annotated[str | SecretStr | None, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})]
PlaceCredentials = Annotated[Credentials, AfterValidator(_kept_secret)]  # for the address in `uri`
MAXIMUM_BYTES_BILLED = ByteSize(2**40)
LEAST_MEMORY = ByteSize(500_000_000)


class WarehouseSettings(Frozen):
    """Where the tables are: a folder or s3://bucket/prefix (Parquet), or bigquery://project/dataset. Default: `<home>/warehouse`."""

    uri: Uri = ".runspend/warehouse"
    credentials: str | None = None  # an AWS profile, or the key file of a Google service account; never the key itself
    endpoint: str | None = None
    region: str | None = None  # of the bucket; for BigQuery, the location of its datasets, such as EU
    maximum_bytes_billed: ByteSize = MAXIMUM_BYTES_BILLED  # BigQuery: the most that one query may read, such as 200GB

    @field_validator("credentials")
    @classmethod
    def _key_files_count_from_the_file(cls, credentials: str | None, info: ValidationInfo) -> str | None:
        if credentials is None or not (info.data.get("uri") or "").startswith("bigquery://"):
            return credentials
        return _key_file(credentials, info)

    @model_validator(mode="after")
    def _a_folder_has_no_endpoint(self) -> WarehouseSettings:
        given = [name for name in ("credentials", "endpoint", "region") if getattr(self, name) is not None]
        if given and not self.uri.startswith(("s3://", "bigquery://")):
            raise ValueError(
                f"`{given[0]}` belongs to a warehouse in a bucket or in BigQuery. Set `uri` to s3://bucket/prefix, or leave it out"
            )
        if self.maximum_bytes_billed != MAXIMUM_BYTES_BILLED and not self.uri.startswith("bigquery://"):
            raise ValueError(
                "`maximum_bytes_billed` belongs to a warehouse in BigQuery. Set `uri` to bigquery://project/dataset, or leave it out"
            )
        return self


class FileSettings(Frozen):
    """Who else may read the files that Runspend writes on this machine. Without a group, only the account that runs Runspend may."""

    group: Annotated[str | None, BeforeValidator(lambda value: str(value) if type(value) is int else value)] = None  # a name, or a number
    access: Literal["read", "write"] = "read"  # write: needed if several people run commands

    @field_validator("group")
    @classmethod
    def _group_has_a_name(cls, group: str | None) -> str | None:
        if group is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}|[0-9]{1,9}", group, re.ASCII):
            raise ValueError("the name of a group is needed, such as finance, or its number")
        return group

    @model_validator(mode="after")
    def _access_is_a_groups(self) -> FileSettings:
        if self.group is None and self.access != "read":
            raise ValueError("`access` needs a group. Set `group` too, or leave `access` out: then only this account can read the files")
        return self


class SiteSettings(Frozen):
    """The address at which users open `runspend serve`. Notes in MLflow link to its pages."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$")]


class SweepSettings(Frozen):
    """The metric by which an experiment's page compares its trials."""

    metric: Annotated[str, Field(min_length=1, max_length=250)]
    best: Literal["min", "max"]


def _resolve_file(raw: object, info: ValidationInfo) -> object:
    return Path(absolute(str(raw), info)) if isinstance(raw, (str, Path)) and str(raw).strip() else raw


class AccessLogSettings(Frozen):
    """A log file with a JSON line for each page and each statement of `runspend sql`: who, what, when, how many rows."""

    file: Annotated[Path, BeforeValidator(_resolve_file)]
    values: bool = False  # also log searched values: run ids in addresses, values and names in statements


class CopySettings(Frozen):
    """Which MLflow tags and params may be copied: a list of keys, or "all" (everything except likely secrets)."""

    tags: list[str] | Literal["all"] = []
    params: list[str] | Literal["all"] = []


def _annotate_defaults(raw: object) -> object:
    """Return the defaults for true, and None (switched off) for false."""
    try:
        return {} if _BOOL.validate_python(raw) else None
    except ValidationError:
        if raw is None or isinstance(raw, (Mapping, AnnotateSettings)):
            return raw
        raise ValueError("allowed values are true, false, or a map such as {requests_per_second: 20}") from None


class AnnotateSettings(Frozen):
    """How costs are written to the server's runs, experiments and model versions. `annotate: true` uses the defaults."""

    requests_per_second: Annotated[float, Field(gt=0, le=1000)] = 20.0  # reads and writes together


_ANNOTATE_SCHEMA = {"anyOf": [{"type": "boolean"}, AnnotateSettings.model_json_schema(), {"type": "null"}]}


class TrackingServer(Frozen):
    """One MLflow server: its tracking URI and, optionally, its database, which is faster to read."""

    name: Name
    uri: Uri
    token: Secret | None = None
    username: str | None = None
    password: Secret | None = None
    # `runspend archive` writes tags and deletes runs with this login, and `runspend annotate` writes costs with it. It is a token or
    # user:password, or "anonymous" for a server without logins. Without it, Runspend never writes to the server.
    write_token: Secret | None = None
    annotate: Annotated[AnnotateSettings | None, BeforeValidator(_annotate_defaults), WithJsonSchema(_ANNOTATE_SCHEMA)] = None
    database: Secret | None = None  # may contain a password; not needed if `uri` is a database
    workspaces: list[str] | Literal["all"] | None = None
    ui: str | None = None
    registry: str | None = None
    via: Literal["auto", "database", "api"] = "auto"
    token_prices: Literal["genai-prices"] | None = None  # list prices for model calls without a cost in MLflow
    artifacts: Uri | None = None  # the store behind mlflow-artifacts: URIs
    copy_: CopySettings = Field(default=CopySettings(), validation_alias=AliasChoices("copy", "copy_"), serialization_alias="copy")
    max_vanish: Ratio = 0.2
    late_after: Duration = timedelta(hours=30)

    @field_validator("database")
    @classmethod
    def _resolve_database(cls, database: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if database is None:
            return None
        check_database_address(database.get_secret_value())
        return SecretStr(resolve_uri(database.get_secret_value(), info))

    @field_validator("uri")
    @classmethod
    def _uri_can_be_read(cls, uri: str) -> str:
        check_database_address(uri)
        return uri

    @model_validator(mode="after")
    def _annotating_needs_a_login(self) -> TrackingServer:
        if self.annotate is not None and self.write_token is None:
            raise ValueError(
                '`annotate` needs a login that may write. Set `write_token` (to "anonymous" for a server without logins), or leave `annotate` out'
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_log_in(self) -> TrackingServer:
        if self.token is not None and (self.username is not None or self.password is not None):
            raise ValueError("`token` and `username`/`password` are both set. Keep one way to log in")
        if (self.username is None) != (self.password is None):
            raise ValueError("`username` and `password` belong together, and one of them is missing. Write both, or a `token`")
        return self


# Each module in `formats` is a bill format. `auto` tries them in this order.
BILL_FORMATS = tuple(
    sorted(p.stem.replace("_", "-") for p in (Path(__file__).parents[1] / "ingest" / "billing" / "formats").glob("[!_]*.py"))
)
if TYPE_CHECKING:
    BillFormat = str
else:
    BillFormat = Literal[("auto", *BILL_FORMATS)]


class Purchase(Frozen):
    """The purchase price of a machine, spread evenly over a number of calendar months from a start day."""

    amount: Rate
    months: Annotated[int, Field(ge=1, le=600)]
    from_: date | None = Field(
        default=None, validation_alias=AliasChoices("from", "from_"), serialization_alias="from"
    )  # default: `from` of the machine


class Power(Frozen):
    """A machine's power and the price of a kilowatt-hour.

    The power is constant (`watts`), or measured by MLflow (`watts: measured`). `idle_watts` is the power while no run measures it.
    """

    per_kwh: Rate
    watts: Rate | Literal["measured"]
    idle_watts: Rate | None = None

    @model_validator(mode="after")
    def _no_hour_is_free(self) -> Power:
        if self.watts == "measured" and self.idle_watts is None:
            raise ValueError(
                "`watts: measured` needs `idle_watts`, the power while no run measures it: `power: {per_kwh: 0.31, watts: measured, idle_watts: 90}`"
            )
        if self.watts != "measured" and self.idle_watts is not None:
            raise ValueError("`idle_watts` belongs to `watts: measured`. A number in `watts` is the constant power, idle or not")
        return self


class Machine(Frozen):
    """One of your own machines: its type, its first and last day (UTC), and its cost."""

    resource_id: Annotated[str, Field(min_length=1)]
    from_: date = Field(validation_alias=AliasChoices("from", "from_"), serialization_alias="from")
    to: date | None = None
    purchase: Purchase | None = None
    per_month: Rate | None = None
    per_hour: Rate | None = None
    power: Power | None = None
    gpus: Annotated[int, Field(ge=0, le=100_000)] | None = None
    cpus: Annotated[int, Field(ge=1, le=100_000)] | None = None
    memory_gb: Rate | None = None
    instance_type: str | None = None
    region: str | None = None
    account: str | None = None
    tags: dict[TagKey, str] = {}

    @property
    def is_measured(self) -> bool:
        """Return whether the machine's power is taken from MLflow's measurements."""
        return self.power is not None and self.power.watts == "measured"

    @model_validator(mode="after")
    def _costs_something_some_time(self) -> Machine:
        if self.from_ < date(2000, 1, 1):
            raise ValueError("`from` is before the year 2000. Write a date from 2000-01-01 on")
        if self.to is not None and self.to < self.from_:
            raise ValueError(f"`to` is {self.to}, before `from`, {self.from_}. It is the machine's last day")
        if not (self.purchase or self.per_month or self.per_hour or self.power):
            raise ValueError("the machine has no cost. Write at least one of `purchase`, `per_month`, `per_hour` and `power`")
        return self


class DatabricksPrices(Frozen):
    """Prices of Databricks usage: the account's prices where they exist, otherwise public prices minus a discount."""

    from_: Literal["account_prices", "list"] = Field(
        default="account_prices", validation_alias=AliasChoices("from", "from_"), serialization_alias="from"
    )
    else_: Literal["list", "none"] = Field(default="list", validation_alias=AliasChoices("else", "else_"), serialization_alias="else")
    discount: Discount = Decimal(0)  # on public prices; the account's prices already include it


class SlurmPrices(Frozen):
    """Prices per hour of a job's resources: a GPU, a core, a GiB of memory, a node, a unit of SLURM's `billing`.

    A resource without a price costs nothing.
    """

    gpu: HourPrice | None = None
    gpu_types: dict[Annotated[str, Field(min_length=1)], HourPrice] = {}  # by SLURM's name of the type; all other types cost `gpu`
    cpu: HourPrice | None = None
    mem_gb: HourPrice | None = None
    node: HourPrice | None = None
    billing: HourPrice | None = None

    @model_validator(mode="after")
    def _prices_something(self) -> SlurmPrices:
        if not self.model_fields_set:
            raise ValueError("it has no price. Write at least one of `gpu`, `gpu_types`, `cpu`, `mem_gb`, `node` and `billing`")
        return self


class SlurmSettings(Frozen):
    """How the files of `sacct` are read, and the prices. A partition's prices replace the general prices with the same name."""

    prices: SlurmPrices
    partitions: dict[Annotated[str, Field(min_length=1)], SlurmPrices] = {}
    timezone: Zone = "UTC"  # of the times in the files, and of the month or day in file names
    one_file_per: Literal["month", "day"] = "month"


class BillSource(Frozen):
    """One bill: the location of its export, and how it is delivered."""

    name: Name
    format: BillFormat = "auto"
    uri: Uri | None = None
    delivery: Literal["manifest", "parts", "versions"] | None = None  # default: manifest where there are manifests, otherwise parts
    credentials: PlaceCredentials = None
    endpoint: str | None = None
    region: str | None = None
    only: LineSelector | None = None
    prices: DatabricksPrices | None = None
    vms: Literal["none"] | None = None
    machines: list[Machine] = []
    slurm: SlurmSettings | None = None
    currency: Currency | None = None  # for a bill that does not name its currency; default: `currency` of the settings
    pods: Literal["split", "whole"] = (
        "split"  # for a bill with split cost allocation: split machines among their pods, or keep machines whole
    )
    splits: list[Name] | None = None  # for `format: opencost`: the bills whose lines it splits; default: every bill
    lines: LineSelector | None = (
        None  # for `format: opencost`: selects the lines of the cluster's machines, if the bill does not name the machines
    )
    idle: Literal["keep", "share"] = "keep"  # for `format: opencost`: cost that no pod used stays separate, or is shared by every pod
    max_drop: Ratio = 0.5
    late_after: Duration = timedelta(hours=48)

    @model_validator(mode="after")
    def _has_a_place(self) -> BillSource:
        if self.format == "machines" and not self.machines:
            raise ValueError("`format: machines` needs `machines:`, the list of machines and their costs")
        if self.format != "machines" and self.machines:
            raise ValueError("`machines:` belongs to `format: machines`")
        for key in ("prices", "vms"):
            if getattr(self, key) is not None and self.format != "databricks":
                raise ValueError(f"`{key}:` belongs to `format: databricks`")
        for key in ("uri", "delivery", "credentials", "endpoint", "region"):
            if self.format == "machines" and getattr(self, key) is not None:
                raise ValueError(f"`format: machines` reads no files. Leave `{key}` out")
        if self.format == "slurm" and self.slurm is None:
            raise ValueError("`format: slurm` needs `slurm:`, the prices of jobs' resources: `slurm: {prices: {gpu: 1.20}}`")
        if self.slurm is not None and self.format not in ("auto", "slurm"):
            raise ValueError("`slurm:` belongs to `format: slurm`")
        if self.format != "machines" and self.uri is None:
            raise ValueError("`uri` is missing: the folder, file or bucket prefix of the export")
        _refuse_keys_without_effect(self)
        return self

    @model_validator(mode="after")
    def _weights_are_no_bill(self) -> BillSource:
        is_bill = self.format != "opencost"
        for key, default in (("splits", None), ("lines", None), ("idle", "keep")):
            if is_bill and getattr(self, key) != default:
                raise ValueError(f"`{key}:` belongs to `format: opencost`")
        for key, default in (("only", None), ("delivery", None), ("pods", "split")):
            if not is_bill and getattr(self, key) != default:
                raise ValueError(f"`{key}:` belongs to a bill, and `format: opencost` is not a bill: it splits lines of bills")
        return self

    @model_validator(mode="after")
    def _one_machine_once(self) -> BillSource:
        for i, machine in enumerate(self.machines):
            for j, other in enumerate(self.machines[:i]):
                if (
                    machine.resource_id == other.resource_id
                    and machine.from_ <= (other.to or date.max)
                    and other.from_ <= (machine.to or date.max)
                ):
                    raise ValueError(
                        f"`machines[{i}]` and `machines[{j}]` are both {machine.resource_id} on {max(machine.from_, other.from_)}, "
                        "so that day would be charged twice. End the first with `to`, the day before the second begins"
                    )
        return self


class ArtifactStore(Frozen):
    """One entry of the list of allowed artifact stores. Runspend contacts no artifact store outside this list."""

    uri: Uri
    endpoint: str | None = None
    region: str | None = None
    credentials: PlaceCredentials = None
    # `runspend archive apply` deletes with these credentials, written like `credentials`. For a folder they are "local". Without them,
    # Runspend never deletes from the store.
    delete_credentials: Credentials = None
    inventory: Uri | None = None  # the folder of an S3 Inventory, which is read instead of a listing
    measure: Literal["list", "none"] = "list"

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> ArtifactStore:
        _refuse_keys_without_effect(self)
        return self

    @field_validator("delete_credentials")
    @classmethod
    def _deletes_with_its_own(cls, credentials: str | SecretStr | None, info: ValidationInfo) -> str | SecretStr | None:
        if not isinstance(credentials, str):
            return credentials
        is_folder = not SCHEME.match(info.data.get("uri") or "") or (info.data.get("uri") or "").startswith("file:")
        if not credentials.strip() or is_folder != (credentials == "local"):
            raise ValueError(
                "deleting needs its own credentials: `local` for a folder, otherwise a separate profile or connection. Without this key, nothing is deleted"
            )
        return _kept_secret(credentials, info)


class ScopeSettings(Frozen):
    """Which bill lines belong to the ML platform. Default: the accounts and services in which runs were found."""

    include: list[LineSelector] = []
    exclude: list[LineSelector] = []


class SharedSettings(Frozen):
    """Bill lines of services that the whole ML platform uses, such as databases. They are shared cost with the reason `platform`."""

    lines: list[LineSelector] = []


class Pool(Frozen):
    """Assigns machines to runs, without any tags: it states that these runs ran on these machines."""

    name: Name
    runs: RunSelector
    lines: LineSelector
    unused: Literal["idle", "to_runs"] = "idle"
    equal: list[Literal["team", "project", "cost_center", "owner"]] = []


def _dimension_kind(raw: object) -> str:
    return "text" if isinstance(raw, str) else "principals" if isinstance(raw, dict) and "principal" in raw else "file"


DimensionSource = Annotated[
    Annotated[Dimension, Tag("text")]
    | Annotated[dict[Literal["user"], LocalPath], Tag("file")]
    | Annotated[dict[Literal["principal"], LocalPath], Tag("principals")],
    Discriminator(_dimension_kind),
]


class DimensionSettings(Frozen):
    """Sources of team, project, cost_center and owner. The first source that has a value counts."""

    team: list[DimensionSource] = ["run.tag.team", "experiment.tag.team"]
    project: list[DimensionSource] = ["run.tag.project", "experiment.tag.project"]
    cost_center: list[DimensionSource] = ["run.tag.cost_center", "experiment.tag.cost_center"]
    owner: list[DimensionSource] = ["run.tag.owner", "experiment.tag.owner", "run.user"]
    not_a_person: list[str] = ["root", "ubuntu", "ec2-user", "jovyan", "nobody"]

    _principals: dict[str, dict[str, str]] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _read_principals(self) -> DimensionSettings:
        """Read the files of principals now, so that a wrong entry is a configuration error and not a failed pipeline run."""
        for dimension in ("team", "project", "cost_center", "owner"):
            if files := [Path(s["principal"]) for s in getattr(self, dimension) if isinstance(s, dict) and "principal" in s]:
                self._principals[dimension] = read_principals(files, dimension)
        return self

    @property
    def principals(self) -> Mapping[str, Mapping[str, str]]:
        """Return the values of each dimension by IAM principal key, from the files `{principal: FILE.csv}`."""
        return self._principals


class KeySettings(Frozen):
    """The tag keys that join runs and bill lines. A list replaces the default. The first key that is set counts.

    You need not list AWS's spellings of a key (user_KEY, resourceTags/user:KEY). Runspend looks for them as well.
    """

    run_id: list[TagKey] = list(RUN_TAG_KEYS)  # tags of a bill line: the id of its run
    job: list[TagKey] = list(JOB_TAG_KEYS)  # tags of a bill line: its job
    run_job: list[TagKey] = list(RUN_JOB_KEYS)  # tags or params of a run: its job
    attached_to: list[TagKey] = list(ATTACHED_TAG_KEYS)  # tags of a bill line: the machine that a disk or an address is attached to
    groups: list[TagKey] = list(GROUP_TAG_KEYS)  # tags of a bill line: its node group or cluster, closest first


class SharingSettings(Frozen):
    """How shared and idle cost is distributed.

    `keep`: it stays as it is. `proportional`, `even`: it is spread over the runs of the same bill, by their cost or evenly.
    """

    shared: Literal["keep", "proportional", "even"] = "keep"
    idle: Literal["keep", "proportional", "even"] = "keep"


class ExchangeRate(Frozen):
    """The value of one unit of `from` in `to`, from a date until the pair's next rate. `inverse`: it also converts back, by division."""

    from_: Currency = Field(validation_alias=AliasChoices("from", "from_"), serialization_alias="from")
    to: Currency
    rate: Rate
    valid_from: date = Field(validation_alias=AliasChoices("date", "valid_from"), serialization_alias="date")
    inverse: bool = False

    @model_validator(mode="after")
    def _between_two(self) -> ExchangeRate:
        if self.from_ == self.to:
            raise ValueError(f"`from` and `to` are both {self.to}. A rate is between two currencies")
        return self


class MachinePrice(Frozen):
    """The price of a machine-hour, for hours that are not billed yet. Default: every region, every pricing category."""

    instance_type: Annotated[str, Field(min_length=1)]
    region: str | None = None
    price: Rate
    currency: Currency
    pricing_category: str | None = None  # as FOCUS PricingCategory: Standard, Committed, Dynamic


Written = TypeVar("Written", bound=Frozen)


def _read_rows(raw: object, info: ValidationInfo, model: type[Written], needed: tuple[str, ...], optional: tuple[str, ...]) -> object:
    """Return a list unchanged. If the value is the name of a CSV file, return its rows as models.

    Raises ValueError that names the CSV file and the line if a row is wrong.
    """
    if not isinstance(raw, str):
        return raw
    path = Path(absolute(raw, info))
    made = []
    for line, row in read_csv_rows(path, needed, optional):
        try:
            made.append(model.model_validate({name: value for name, value in row.items() if value is not None}))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = "".join(f", {part}" for part in first["loc"][:1])
            raise ValueError(f"{path}, line {line}{where}: {first['msg'].removeprefix('Value error, ')}") from None
    return made


def _read_exchange(raw: object, info: ValidationInfo) -> object:
    return _read_rows(raw, info, ExchangeRate, ("from", "to", "rate", "date"), ("inverse",))


def _read_prices(raw: object, info: ValidationInfo) -> object:
    return _read_rows(raw, info, MachinePrice, ("instance_type", "price", "currency"), ("region", "pricing_category"))


class RateSettings(Frozen):
    """Exchange rates by date, machine prices for hours that are not billed yet, and prices of storage classes.

    `exchange` and `prices` are lists or names of CSV files.
    """

    exchange: Annotated[list[ExchangeRate], BeforeValidator(_read_exchange, json_schema_input_type=list[ExchangeRate] | str)] = []
    prices: Annotated[list[MachinePrice], BeforeValidator(_read_prices, json_schema_input_type=list[MachinePrice] | str)] = []
    storage: list[StorageRate] = []  # for the archive plan, if your prices differ from list prices

    @model_validator(mode="after")
    def _each_once(self) -> RateSettings:
        rates: dict[tuple[str, str, date], Decimal] = {}
        for i, rate in enumerate(self.exchange):
            pair = (rate.from_, rate.to, rate.valid_from)
            if rates.setdefault(pair, rate.rate) != rate.rate:
                _conflict(("rates", "exchange", i), f"a second rate from {rate.from_} to {rate.to} of {rate.valid_from}. Keep one of them")
        prices: dict[tuple[str, str | None, str | None, str], Decimal] = {}
        for i, price in enumerate(self.prices):
            machine = (price.instance_type, price.region, price.pricing_category, price.currency)
            if prices.setdefault(machine, price.price) != price.price:
                _conflict(
                    ("rates", "prices", i), f"a second price of {price.instance_type} in {price.region or 'every region'}. Keep one of them"
                )
        return self


def _resolve_home(raw: object, info: ValidationInfo) -> object:
    if isinstance(raw, (str, Path)):
        if not str(raw).strip():
            raise ValueError("a folder is needed; this value is empty")
        return Path(str(raw) if SCHEME.match(str(raw)) else absolute(str(raw), info))
    return raw


class Settings(Frozen):
    """Everything in `runspend.yaml`."""

    home: Annotated[Path, BeforeValidator(_resolve_home), Field(validate_default=True)] = Path(".runspend")
    currency: Currency = "USD"
    memory: ByteSize | None = None  # for loading a bill, e.g. 2GB; default: half the machine's, at most 4 GiB
    load_timeout: Duration = timedelta(hours=6)  # for loading one bill
    warehouse: WarehouseSettings = WarehouseSettings()
    files: FileSettings = FileSettings()
    tracking: list[TrackingServer] = []
    billing: list[BillSource] = []
    stores: list[ArtifactStore] = Field(default=[], validation_alias=AliasChoices("stores", "artifacts"))
    scope: ScopeSettings | None = None
    shared: SharedSettings = SharedSettings()
    pools: list[Pool] = []
    dimensions: DimensionSettings = DimensionSettings()
    keys: KeySettings = KeySettings()
    sharing: SharingSettings = SharingSettings()
    rates: RateSettings = RateSettings()
    # `budgets` of the file. Other modules use the properties `budgets` and `tag_budgets` below.
    budget_entries: list[BudgetEntry] = Field(default=[], alias="budgets")
    mail: MailSettings = MailSettings()
    retention: list[RetentionPolicy] = []
    archive: ArchiveSettings = ArchiveSettings()
    access: AccessSettings | None = None  # who sees the costs of which teams; by default everyone who can open the pages sees all
    access_log: AccessLogSettings | None = None
    site: SiteSettings | None = None
    publish: list[PublishTarget] = []  # databases and files for other tools, which get a copy of the public tables
    sweeps: SweepSettings | None = None
    statements: StatementSettings = StatementSettings()
    _path: Path | None = PrivateAttr(default=None)
    _viewer: Viewer | None = PrivateAttr(default=None)
    _named_secrets: list[str] = PrivateAttr(default_factory=list)  # values of all variables in the file that have the name of a secret

    @property
    def path(self) -> Path | None:
        """Return the file of the settings. None if the settings were made in code."""
        return self._path

    @property
    def viewer(self) -> Viewer | None:
        """Return the viewer that these settings are for, if `access` restricts the server. Otherwise None."""
        return self._viewer

    def seen_by(self, viewer: Viewer) -> Settings:
        """Return the settings with which a viewer's requests are answered. The warehouse then shows only what the viewer's teams may see.

        The settings contain only the teams' own budgets. They contain no bills, stores, pools, policies, publish targets or budgets in
        experiment tags.
        """
        if viewer.teams is None:
            seen = self.model_copy()
        else:
            own = [b for b in self.budgets if is_own_budget(viewer.teams, b.for_.get("team", ()))]
            empty: dict[str, Any] = {"billing": [], "stores": [], "pools": [], "retention": [], "publish": []}
            seen = self.model_copy(update={**empty, "budget_entries": own})
        seen._viewer = viewer
        return seen

    @property
    def budgets(self) -> list[Budget]:
        """Return the budgets that are defined in the file."""
        return [b for b in self.budget_entries if isinstance(b, Budget)]

    @property
    def tag_budgets(self) -> list[TagBudgets]:
        """Return the settings of budgets in experiment tags. The list is empty if they are off."""
        return [b for b in self.budget_entries if isinstance(b, TagBudgets)]

    @field_validator("memory")
    @classmethod
    def _memory_is_enough(cls, memory: ByteSize | None) -> ByteSize | None:
        if memory is not None and memory < LEAST_MEMORY:
            raise ValueError("at least 500MB is needed: Runspend itself uses 200MB")
        return memory

    @model_validator(mode="after")
    def _warehouse_under_home(self) -> Settings:
        if "uri" not in self.warehouse.model_fields_set:
            # The models are frozen, so the value is set in `__dict__`. It still counts as a default.
            self.__dict__["warehouse"] = WarehouseSettings.model_construct(_fields_set=set(), uri=str(self.home / "warehouse"))
        return self

    @model_validator(mode="after")
    def _bills_have_a_currency(self) -> Settings:
        bills = [bill.model_copy() if bill.currency is None else bill for bill in self.billing]
        for bill in bills:
            if bill.currency is None:
                bill.__dict__["currency"] = self.currency  # as above: it still counts as a default
        self.__dict__["billing"] = bills
        return self

    @model_validator(mode="after")
    def _names_are_keys(self) -> Settings:
        """Refuse equal names, because names are keys of stored rows and records.

        Names that differ only in case count as equal: they would share a file on some systems.
        """
        sources = [(("tracking", i), s.name) for i, s in enumerate(self.tracking)] + [
            (("billing", i), b.name) for i, b in enumerate(self.billing)
        ]
        budgets = [(("budgets", i), b.name) for i, b in enumerate(self.budget_entries) if isinstance(b, Budget)]
        pools = [(("pools", i), p.name) for i, p in enumerate(self.pools)]
        policies = [(("retention", i), p.name) for i, p in enumerate(self.retention)]
        targets = [(("publish", i), t.name) for i, t in enumerate(self.publish)]
        for named in (sources, budgets, pools, policies, targets):
            seen: dict[str, Loc] = {}
            for loc, name in named:
                if name.casefold() in seen:
                    _conflict(
                        (*loc, "name"),
                        f"the name {name!r} is already taken by {show_loc(seen[name.casefold()])}. Names are keys: give every entry its own",
                    )
                seen[name.casefold()] = loc
        for loc, name in sources:
            if name.casefold() == "all":
                _conflict((*loc, "name"), "the name 'all' is taken by the tables that are filled from every source. Choose another")
        return self

    @model_validator(mode="after")
    def _weights_split_bills(self) -> Settings:
        bills = [b.name for b in self.billing if b.format != "opencost"]
        for i, source in enumerate(self.billing):
            for name in source.splits or ():
                if name not in bills:
                    _conflict(
                        ("billing", i, "splits"), f"{name!r} is not a bill whose lines can be split. Bills are {', '.join(bills) or 'none'}"
                    )
        return self

    @model_validator(mode="after")
    def _stores_do_not_overlap(self) -> Settings:
        roots = [(i, store.uri.rstrip("/") + "/") for i, store in enumerate(self.stores) if store.measure == "list"]
        for n, (i, root) in enumerate(roots):
            for j, other in roots[:n]:
                if root.startswith(other) or other.startswith(root):
                    _conflict(
                        ("stores", i, "uri"),
                        f"this root and stores[{j}] overlap, so their bytes would count twice. Keep the outer one",
                    )
        return self

    @model_validator(mode="after")
    def _archives_have_a_store(self) -> Settings:
        stores = {store.uri.rstrip("/") for store in self.stores}
        listed = ", ".join(sorted(stores)) or "none"
        if self.archive.to is not None and self.archive.to.rstrip("/") not in stores:
            _conflict(
                ("archive", "to"),
                f"it is not a store of this file. Add its `uri` to `stores`, the list of allowed stores. Stores are {listed}",
            )
        if self.archive.storage_class and self.archive.to and (why := why_no_class(self.archive.storage_class, self.archive.to)):
            _conflict(("archive", "storage_class"), why)
        for i, policy in enumerate(self.retention):
            target = policy.to or self.archive.to
            if policy.action == "archive" and (target is None or target.rstrip("/") not in stores):
                _conflict(
                    ("retention", i),
                    f"`action: archive` needs a store for archives: `to` here, or `archive: {{to: …}}`, a `uri` of `stores`. Stores are {listed}",
                )
            if (
                policy.action == "archive"
                and target
                and self.archive.storage_class
                and (why := why_no_class(self.archive.storage_class, target))
            ):
                _conflict(("archive", "storage_class"), f"for policy {policy.name}: {why}")
            amount = policy.select.get("saves_more_than", "")
            if " " in amount and not amount.endswith(f" {self.currency}"):
                _conflict(
                    ("retention", i, "select"),
                    f"saves_more_than is not in `currency`, {self.currency}. Savings are computed in that currency",
                )
        return self

    @model_validator(mode="after")
    def _experiment_tags_once(self) -> Settings:
        found = [i for i, entry in enumerate(self.budget_entries) if isinstance(entry, TagBudgets)]
        if len(found) > 1:
            _conflict(
                ("budgets", found[1]), f"budgets in experiment tags are read twice, first by budgets[{found[0]}]. Keep one of the two"
            )
        return self

    @model_validator(mode="after")
    def _channels_are_known(self) -> Settings:
        known = [channel.recipient for channel in self.mail.channels]
        for i, entry in enumerate(self.budget_entries):
            lists = [entry.notify] if isinstance(entry.notify, list) else list(entry.notify.values())
            for name in (name for names in lists for name in names):
                if name.startswith(CHANNEL) and name not in known:
                    _conflict(("budgets", i, "notify"), f"{name!r} is not in `mail.channels`. Channels are {', '.join(known) or 'none'}")
        return self

    @model_validator(mode="after")
    def _thresholds_in_currency(self) -> Settings:
        for i, budget in enumerate(self.budget_entries):
            anomalies = [budget.anomalies.money] if budget.anomalies else []
            for threshold in (*budget.actual, *budget.forecast, *anomalies):
                if " " in threshold and not threshold.endswith(f" {self.currency}"):
                    _conflict(
                        ("budgets", i), f"threshold {threshold} is not in `currency`, {self.currency}. Budgets are judged in that currency"
                    )
        return self


def _conflict(loc: Loc, why: str) -> NoReturn:
    raise PydanticCustomError("conflict", "{why}", {"why": why, "at": loc})


def load_settings(path: Path | None = None, env: Mapping[str, str] | None = None) -> Settings:
    """Return the settings from `path`, otherwise $RUNSPEND_CONFIG, otherwise ./runspend.yaml. Paths become absolute.

    Raises ConfigError if there is no file or it has a mistake.
    """
    environment = os.environ if env is None else env
    found = find_settings_file(path, environment)
    file = read_yaml_file(found, environment)
    if "stores" in file.data and "artifacts" in file.data:
        raise ConfigError(
            f"cannot read {found}, line {file.line(('artifacts',))}, artifacts: it is the same as `stores`, on line {file.line(('stores',))}. Keep one of the two."
        )
    try:
        settings = Settings.model_validate(file.data, context={"base": str(found.parent)})
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_input=False)
    else:
        settings._path = found
        settings._named_secrets = [value for name, value in file.variables.items() if names_secret(name)]
        return settings
    # Raised outside the except block. Otherwise pydantic's error, which contains the values, would be attached as `__context__`.
    raise ConfigError(describe_mistakes(file, mistakes, json_schema()))


def find_settings_file(path: Path | None, env: Mapping[str, str]) -> Path:
    """Return the absolute path of the file to read. Raises ConfigError, which lists every place that was searched."""
    found = find_settings(path, env)
    if found is None:
        raise ConfigError(
            f"cannot find a configuration: --config is not given, $RUNSPEND_CONFIG is not set, and there is no {Path(FILE_NAME).absolute()}. "
            "Run `runspend init` to write one."
        )
    return found


def find_settings(path: Path | None = None, env: Mapping[str, str] | None = None) -> Path | None:
    """Return the path like `find_settings_file`, but None if no file is named and there is no ./runspend.yaml.

    Raises ConfigError if a named file does not exist.
    """
    named = (os.environ if env is None else env).get("RUNSPEND_CONFIG", "") if path is None else str(path)
    found = Path(os.path.abspath(named or FILE_NAME))
    if found.is_file():
        return found
    if path is not None:
        raise ConfigError(f"cannot read {found}: there is no such file. Give --config the path of a runspend.yaml, or run `runspend init`.")
    if named:
        raise ConfigError(f"cannot read {found}: $RUNSPEND_CONFIG names it, and there is no such file. Correct or unset the variable.")
    return None


def trial_settings(tracking: str, bill: str, folder: Path) -> Settings:
    """Return the settings of `runspend try`: one server, one bill, no mail. Everything is written under `folder`.

    Raises ConfigError if a source does not exist or cannot be used.
    """
    data = {
        "home": str(folder),
        "tracking": [{"name": "mlflow", "uri": tracking}],
        "billing": [{"name": "bill", "uri": bill}],
        "mail": {"backend": "none"},
    }
    if "://" not in bill and not Path(bill).exists():
        raise ConfigError(
            f"cannot try --bill {bill}: there is no such file or folder. Give a bill, a folder of its files, or s3://BUCKET/PREFIX/."
        )
    if tracking.startswith("sqlite:///") and not Path(tracking.removeprefix("sqlite:///")).exists():
        raise ConfigError(
            f"cannot try --tracking {tracking}: there is no such file. Write three slashes before a relative path, four before an absolute path."
        )
    try:
        return Settings.model_validate(data, context={"base": os.getcwd()})
    except ValidationError as error:
        mistakes = [f"--{mistake['loc'][0]}: {mistake['msg']}" for mistake in error.errors(include_url=False, include_input=False)]
    raise ConfigError(
        f"cannot use these sources: {'; '.join(mistakes)}. Give --tracking an MLflow URI and --bill a file, a folder or s3://…"
    )


@functools.cache
def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of `runspend.yaml`, for editors: docs/runspend.schema.json."""
    schema = Settings.model_json_schema(by_alias=True, mode="validation")
    schema["properties"]["artifacts"] = {**schema["properties"]["stores"], "title": "Artifacts"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "runspend.yaml",
        **{k: v for k, v in schema.items() if k != "title"},
    }


def _is_address(secret: str) -> bool:
    """Return whether a secret is a URI, of which only a part is secret. A connection string that contains URIs is entirely secret."""
    return "://" in secret and bool(SCHEME.match(secret))


def secret_values(settings: Settings) -> list[str]:
    """Return every secret of the settings, including passwords in URIs and environment variables with secret names.

    References to connections are not secrets.
    """
    found: list[str] = [value for value in settings._named_secrets if not value.startswith(CONNECTION)]

    def collect(value: object) -> None:
        if isinstance(value, HiddenAddress):
            secret = value.get_secret_value()
            if not secret.startswith(CONNECTION):
                found.extend([secret, *address_secrets(secret)])
        elif isinstance(value, SecretStr):
            secret = value.get_secret_value()
            if not secret.startswith(CONNECTION):
                # Only the password of a database URI is secret. Error messages need its host.
                found.extend(uri_secrets(secret) if _is_address(secret) else [secret, *uri_secrets(secret)])
        elif isinstance(value, str):
            found.extend(uri_secrets(value))
        elif isinstance(value, BaseModel):
            collect(list(value.__dict__.values()))
        elif isinstance(value, Mapping):
            collect(list(value.values()))
        elif isinstance(value, list):
            for item in value:
                collect(item)

    collect(settings)
    # HTTP Basic authentication sends user and password as one string.
    found += [f"{s.username}:{s.password.get_secret_value()}" for s in settings.tracking if s.password is not None]
    return found


def redact(text: str, settings: Settings | None) -> str:
    """Return the text without the secrets of the settings, in any encoding in which they may be printed, and without passwords in URIs."""
    return redact_uri(redact_values(text, secret_values(settings) if settings is not None else []))


def show_settings(settings: Settings) -> str:
    """Return the settings as YAML, with secrets hidden and every default marked `# default`."""
    lines = [f"# {settings.path or 'settings made in code'}"]
    lines += _show_model(settings, "")
    return redact("\n".join(lines), settings) + "\n"


def _show_model(model: BaseModel, indent: str) -> list[str]:
    lines: list[str] = []
    for name, info in type(model).model_fields.items():
        key = info.serialization_alias or info.alias or name
        value = getattr(model, name)
        if isinstance(value, BaseModel) and name in model.model_fields_set | {"warehouse"}:
            lines += [f"{indent}{key}:", *_show_model(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            lines.append(f"{indent}{key}:")
            for item in value:
                first, *rest = _show_model(item, indent + "    ")
                lines += [f"{indent}  - {first.lstrip()}", *rest]
        else:
            mark = "" if name in model.model_fields_set else "  # default"
            lines.append(f"{indent}{key}: {_show_value(model, name, value)}{mark}")
    return lines


def _show_value(model: BaseModel, name: str, value: object) -> str:
    """Return one value in YAML's flow style, as JSON. Secrets are hidden."""
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        value = (
            secret
            if secret.startswith(CONNECTION)
            else redact_uri(secret)
            if _is_address(secret) and not isinstance(value, HiddenAddress)
            else HIDDEN
        )
    elif isinstance(value, BaseModel):
        value = json.loads(value.model_dump_json(by_alias=True))
    elif value is not None:
        value = model.model_dump(mode="json", include={name})[name]
    return json.dumps(value, ensure_ascii=False)
