"""What members of some teams see of each table: the rows of their own teams, and the cost of all other teams as sums.

A rule decides about every table and every column. `tests/warehouse/test_team_views.py` fails if a column has no rule. A column that a rule
does not name is null. The rules are GoogleSQL for both engines, so the same rule applies to every page, program and statement.
`config/access.py` decides who is in which team.

* A run belongs to a viewer if its team in `run_costs` is one of the viewer's teams. If the run is not in `run_costs` yet, its team in `runs`
  counts.
* A machine belongs to a viewer in the months in which the viewer's runs have a cost on it, or in which the bill's tag names the team.
* The cost of others keeps its day, kind, target and currency. Its names become "other teams", or "no team" if neither a run nor a tag names
  a team.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from runspend.schema.tables import TABLES, Table

OTHER_TEAMS = "other teams"
OTHERS = "others"  # replaces the tracking server, workspace and id of other teams' runs; as short as an id in an explanation
NO_TEAM = "no team"

Names = Mapping[str, str]  # table -> SQL to write after FROM


@dataclass(frozen=True)
class Restriction:
    """The teams whose rows are visible, and the budgets of these teams."""

    teams: tuple[str, ...]
    budgets: tuple[tuple[str, str], ...] = ()  # (name, version)


@dataclass(frozen=True)
class Others:
    """Rows of other teams, which are shown as sums. Columns that are not named here are null."""

    where: str  # condition for the rows
    keys: Mapping[str, str]  # column -> expression to group by
    added: str  # columns that are summed
    fixed: Mapping[str, str] = field(default_factory=dict)  # column -> constant


@dataclass(frozen=True)
class Rule:
    """The visible part of one table."""

    shown: str = ""  # columns that are unchanged
    source: str = "{table} t"  # the FROM clause, in which `t` is the table
    where: str = "true"  # condition for the visible rows
    masked: Mapping[str, str] = field(default_factory=dict)  # column -> expression that replaces it
    hidden: str = ""  # columns that are null
    others: tuple[Others, ...] = ()


SAME_MACHINE = (
    "on m.source = {0}.source and m.billing_period = {0}.billing_period and m.sub_account_id = coalesce({0}.sub_account_id, '')"
    " and m.resource_id = {0}.resource_id"
)
# Queries for sets of keys without duplicates, and the wider queries in LEDGERS. {name} is a table or an earlier set. {teams} is the list of
# teams as SQL literals.
LEDGERS = ("ledger", "seen_ledger", "own_run_costs")  # have about as many rows as the table itself, so engines must not store them
SETS = {
    "own_runs": "(select c.tracking_server, c.workspace, c.run_id from {run_costs} c where c.team in ({teams})"
    " union distinct select r.tracking_server, r.workspace, r.run_id from {runs} r"
    " left join (select distinct tracking_server, workspace, run_id from {run_costs} where team is not null) n"
    " on n.run_id = r.run_id and n.tracking_server = r.tracking_server and n.workspace = r.workspace"
    " where r.team in ({teams}) and n.run_id is null)",
    "own_run_costs": "(select c.* from {run_costs} c"
    " join {own_runs} o on o.run_id = c.run_id and o.tracking_server = c.tracking_server and o.workspace = c.workspace)",
    "whole_experiments": "(select r.tracking_server, r.workspace, r.experiment_id from {runs} r"
    " left join {own_runs} o on o.run_id = r.run_id and o.tracking_server = r.tracking_server and o.workspace = r.workspace"
    " where r.experiment_id is not null group by 1, 2, 3 having countif(o.run_id is null) = 0)",
    # Servers on which a run of another team is nested below a run of the viewer's teams. Costs with nested runs would include its cost.
    "mixed_servers": "(select distinct r.tracking_server from {runs} r"
    " join {own_runs} p on p.run_id = r.parent_run_id and p.tracking_server = r.tracking_server"
    " left join {own_runs} o on o.run_id = r.run_id and o.tracking_server = r.tracking_server and o.workspace = r.workspace"
    " where o.run_id is null)",
    "own_owners": "(select distinct c.owner from {own_run_costs} c where c.owner is not null)",
    "own_projects": "(select distinct c.project from {own_run_costs} c where c.project is not null)",
    "own_cost_centers": "(select distinct c.cost_center from {own_run_costs} c where c.cost_center is not null)",
    "own_people": "(select distinct r.user_name from {runs} r"
    " join {own_runs} o on o.run_id = r.run_id and o.tracking_server = r.tracking_server and o.workspace = r.workspace)",
    "own_experiments": "(select distinct r.tracking_server, r.workspace, r.experiment_id from {runs} r"
    " join {own_runs} o on o.run_id = r.run_id and o.tracking_server = r.tracking_server and o.workspace = r.workspace)",
    "ledger": "(select a.*, (o.run_id is not null or (a.run_id is null and a.owner_id is null"
    " and coalesce(a.line_team in ({teams}), false))) as is_own from {cost_allocations} a"
    " left join {own_runs} o on o.run_id = a.run_id and o.tracking_server = a.tracking_server and o.workspace = a.workspace)",
    # The rows of `ledger` with is_own. This query is faster, because it only joins with the few own runs.
    "own_parts": "(select a.source, a.billing_period, a.sub_account_id, a.charge_id, a.resource_id, a.pool_key from {cost_allocations} a"
    " join {own_runs} o on o.run_id = a.run_id and o.tracking_server = a.tracking_server and o.workspace = a.workspace"
    " union all select a.source, a.billing_period, a.sub_account_id, a.charge_id, a.resource_id, a.pool_key from {cost_allocations} a"
    " where a.run_id is null and a.owner_id is null and a.line_team in ({teams}))",
    "own_charges": "(select distinct source, billing_period, charge_id from {own_parts} l)",
    # With bill and account in the key, because machines of two sites may have the same name.
    "own_resources": "(select distinct source, billing_period, coalesce(sub_account_id, '') as sub_account_id, resource_id"
    " from {own_parts} l where l.resource_id is not null)",
    "own_pools": "(select distinct billing_period, pool_key from {own_parts} l where l.pool_key is not null)",
    "own_bills": "(select distinct source from {cost_daily} where team in ({teams}))",
    "own_servers": "(select distinct tracking_server from {own_runs} o)",
    # own: cost of the teams; near: idle and unallocated cost of their machines; beside: cost of others on the same charges; rest: the rest
    "seen_ledger": "(select a.*, case when a.run_id is null and a.allocated_to in ('idle', 'unallocated')"  # the rows of unallocated_costs
    " then case when m.resource_id is null then 'rest' when a.is_own then 'own' else 'near' end"
    " when a.is_own then 'own'"
    " when k.charge_id is not null then 'beside' else 'rest' end as seen from {ledger} a"
    f" left join {{own_resources}} m {SAME_MACHINE.format('a')}"
    " left join {own_charges} k on k.source = a.source and k.billing_period = a.billing_period and k.charge_id = a.charge_id)",
}
SAME_RUN = "on o.run_id = t.run_id and o.tracking_server = t.tracking_server and o.workspace = t.workspace"
SAME_EXPERIMENT = "w.experiment_id = t.experiment_id and w.tracking_server = t.tracking_server and w.workspace = t.workspace"
OF_OWN_RUNS = f"{{table}} t join {{own_runs}} o {SAME_RUN}"
WITH_PARENTS = (
    f"{OF_OWN_RUNS} left join {{own_runs}} p on p.run_id = t.parent_run_id and p.tracking_server = t.tracking_server"
    f" and p.workspace = t.workspace left join {{whole_experiments}} w on {SAME_EXPERIMENT}"
)
PARENT = {"parent_run_id": "case when p.run_id is not null then t.parent_run_id end"}
OF_OWN_CHARGES = (
    "{table} t join {own_charges} k on k.source = t.source and k.billing_period = t.billing_period and k.charge_id = t.charge_id"
)
OF_OWN_BILLS = "{table} t join {own_bills} b on b.source = t.source"
OF_OWN_OWNERS = (
    "{table} t join {own_runs} o on o.run_id = t.owner_id and o.tracking_server = t.tracking_server and o.workspace = t.workspace"
)
NOTHING = "false"

MEASURES = "list_cost contracted_cost effective_cost billed_cost"
RUN = "tracking_server workspace run_id"
LINE_TEAM = "line_team line_project line_cost_center line_owner"


def _label(team: str) -> str:
    """Return SQL for the name of a cost that is not the viewer's: "other teams", or "no team" if it has no team."""
    return f"case when t.allocated_to in ('run', 'logged_model') or {team} is not null then '{OTHER_TEAMS}' else '{NO_TEAM}' end"


def _only_others(team: str) -> str:
    return f"case when t.allocated_to in ('run', 'logged_model') or {team} is not null then '{OTHER_TEAMS}' end"


def _if_tagged(columns: str) -> dict[str, str]:
    """Return masked columns of bill lines that may name other teams. They are visible only if the line's tag names the viewer's team."""
    return {c: f"case when t.line_team in ({{teams}}) then t.{c} end" for c in columns.split()}


WITHOUT_RUN = "(t.allocated_to in ('idle', 'unallocated'))"
OF_OTHERS = "not coalesce(t.team in ({teams}), false)"
# Charges of more than a day are handled differently (`ledger.sql`). So a sum keeps the information whether its charges are longer than a day.
LENGTH = {
    "charge_period_start": "cast(t.charge_date as timestamp)",
    "charge_period_end": "timestamp_add(cast(t.charge_date as timestamp), interval"
    " case when timestamp_diff(t.charge_period_end, t.charge_period_start, microsecond) <= 90000000000 then 24 else 48 end hour)",
}
OF_A_RUN = f"case when t.allocated_to = 'run' then '{OTHERS}' end"

RULES: dict[str, Rule] = {
    "cost_daily": Rule(
        shown="source billing_period charge_date service_provider_name billing_account_id sub_account_id region_id service_name charge_category"
        " cost_kind allocated_to team confidence"
        f" cost_status billing_currency is_spread {MEASURES} build_id",
        # The tag of a bill line may give a team the cost of another team's run. The names of that run stay hidden.
        source="{table} t left join {own_experiments} e on e.experiment_id = t.experiment_id and e.tracking_server = t.tracking_server"
        " and e.workspace = t.workspace left join {own_people} p on p.user_name = t.user_name left join {own_owners} n on n.owner = t.owner"
        " left join {own_projects} j on j.project = t.project left join {own_cost_centers} u on u.cost_center = t.cost_center",
        where="t.team in ({teams})",
        masked={
            c: f"case when t.experiment_id is null or e.experiment_id is not null then t.{c} when t.{c} is not null then '{OTHER_TEAMS}' end"
            for c in ("tracking_server", "workspace", "experiment_id", "experiment_name")
        }
        | {
            c: f"case when t.experiment_id is null or {own}.{c} is not null then t.{c} when t.{c} is not null then '{OTHER_TEAMS}' end"
            for c, own in (("owner", "n"), ("project", "j"), ("cost_center", "u"))
        }
        | {"user_name": f"case when p.user_name is not null then t.user_name when t.user_name is not null then '{OTHER_TEAMS}' end"},
        others=(
            Others(
                OF_OTHERS,
                {c: f"t.{c}" for c in "billing_period charge_date cost_kind allocated_to cost_status billing_currency is_spread".split()}
                | dict.fromkeys("source service_provider_name sub_account_id region_id service_name".split(), _label("t.team"))
                | dict.fromkeys("team project cost_center owner experiment_name user_name".split(), _only_others("t.team"))
                | {"tracking_server": f"case when t.allocated_to = 'run' then '{OTHER_TEAMS}' end"},
                MEASURES,
            ),
        ),
    ),
    "cost_allocations": Rule(
        shown="source billing_period charge_id target_id charge_date charge_period_start charge_period_end service_provider_name"
        " billing_account_id sub_account_id region_id service_name charge_category resource_id cost_kind allocated_to"
        f" {RUN} owner_id allocated_ratio {MEASURES} billing_currency unused_cost overhead_cost match_method confidence reason weight_kind"
        " run_end_rule is_scaled cost_status build_id",
        source="{seen_ledger} t",
        where="t.seen in ('own', 'near')",
        masked=_if_tagged(LINE_TEAM) | {c: f"case when t.seen = 'own' then t.{c} end" for c in ("pool_key", "invoice_id")},
        others=(
            Others(
                "t.seen = 'beside'",
                {
                    c: f"t.{c}"
                    for c in "source billing_period charge_id charge_date charge_period_start charge_period_end service_provider_name sub_account_id"
                    " region_id service_name charge_category resource_id cost_kind allocated_to billing_currency match_method cost_status".split()
                }
                | {"target_id": f"case when t.allocated_to in ('run', 'logged_model') then '{OTHER_TEAMS}' else t.allocated_to end"}
                | {"line_team": _only_others("t.line_team")}
                | dict.fromkeys(RUN.split(), OF_A_RUN),
                f"allocated_ratio {MEASURES} unused_cost overhead_cost",
            ),
            Others(
                "t.seen = 'rest'",
                {c: f"t.{c}" for c in "billing_period charge_date cost_kind allocated_to billing_currency cost_status".split()}
                # The same names as in unallocated_costs, so that sums of both tables are equal.
                | {
                    "source": f"case when {WITHOUT_RUN} then '{NO_TEAM}' else {_label('t.line_team')} end",
                    "charge_id": f"case when t.line_team in ({{teams}}) then '{NO_TEAM}' else {_label('t.line_team')} end",
                }
                | {
                    c: f"case when not {WITHOUT_RUN} then {_label('t.line_team')} end"
                    for c in ("service_name", "sub_account_id", "region_id")
                }
                | {"target_id": f"case when t.allocated_to in ('run', 'logged_model') then '{OTHER_TEAMS}' else t.allocated_to end"}
                | {"line_team": f"case when t.line_team in ({{teams}}) then t.line_team else {_only_others('t.line_team')} end"}
                | LENGTH
                | dict.fromkeys(RUN.split(), OF_A_RUN),
                f"{MEASURES} unused_cost overhead_cost",
            ),
        ),
    ),
    "unallocated_costs": Rule(
        shown=f"source billing_period allocated_to resource_id service_name sub_account_id billing_currency instance_type region_id {MEASURES}"
        " billed_seconds used_seconds last_used_at reason build_id",
        source=f"{{table}} t join {{own_resources}} m {SAME_MACHINE.format('t')}"
        " left join (select distinct run_id from {own_runs} o) o on o.run_id = t.last_run_id",
        masked={c: f"case when o.run_id is not null then t.{c} end" for c in ("last_run_id", "suspected_owner")},
        others=(
            Others(
                "m.resource_id is null",
                {c: f"t.{c}" for c in ("billing_period", "allocated_to", "billing_currency")},
                f"{MEASURES} billed_seconds used_seconds",
                {"source": f"'{NO_TEAM}'", "resource_id": "''", "service_name": "''", "sub_account_id": "''"},
            ),
        ),
    ),
    "runs": Rule(
        shown=f"{RUN} start_month run_name experiment_id experiment_name user_name run_status lifecycle_stage start_time end_time future_end_time"
        " last_sign_at artifact_uri source_name git_commit team project cost_center owner team_from project_from cost_center_from owner_from"
        " resource_ids instance_type num_nodes sub_account_id region_id availability_zone purchase_option gpu_type gpu_count gpu_memory_gb"
        " cpu_request memory_request_gb max_retries timeout_seconds early_stopping_rounds mean_use_percent gaps gap_seconds job_id job_key"
        " iam_principal principal_key pool_key params_digest tags params purged_at load_id",
        source=WITH_PARENTS,
        masked=PARENT,
    ),
    "run_costs": Rule(
        shown=f"{RUN} start_month billing_currency run_name experiment_id experiment_name user_name run_status start_time end_time"
        f" team project cost_center owner team_from project_from cost_center_from owner_from {MEASURES} compute_cost storage_cost network_cost"
        " llm_cost other_cost unused_cost overhead_cost machine_seconds gpu_seconds first_charge_date last_charge_date confidence cost_status"
        " build_id",
        source=f"{WITH_PARENTS} left join {{mixed_servers}} x on x.tracking_server = t.tracking_server",
        masked=PARENT
        | {"cost_with_children": "case when w.experiment_id is not null and x.tracking_server is null then t.cost_with_children end"},
    ),
    "run_costs_daily": Rule(
        shown=f"{RUN} charge_date cost_kind source billing_period billing_currency {MEASURES} unused_cost overhead_cost machine_seconds"
        " gpu_seconds confidence cost_status build_id",
        source=OF_OWN_RUNS,
    ),
    "run_estimates": Rule(
        shown=f"{RUN} charge_date cost_kind source billing_period billing_currency {MEASURES} unused_cost overhead_cost machine_seconds"
        " gpu_seconds confidence cost_status resource_key estimated_from estimated_to sub_account_id instance_type region_id resource_id"
        " price_from reason experiment_id user_name model build_id",
        source=OF_OWN_RUNS,
    ),
    "run_resources": Rule(
        shown=f"{RUN} start_month resource_id resource_key used_ordinal used_from used_to load_id",
        source=OF_OWN_RUNS,
    ),
    "machine_power": Rule(
        shown=f"{RUN} start_month metric hour_start resource_id gpu measured_from measured_to measured_milliseconds energy_microjoules last_step"
        " step_stride load_id",
        source=OF_OWN_RUNS,
    ),
    "model_uses": Rule(shown=f"{RUN} start_month model_id direction step load_id", source=OF_OWN_RUNS),
    "run_metrics": Rule(shown=f"{RUN} start_month model_id metric step value is_last load_id", source=OF_OWN_RUNS),
    "model_versions": Rule(
        shown=f"{RUN} model_name model_version model_id source_uri stage aliases version_status creation_time load_id", source=OF_OWN_RUNS
    ),
    "trace_costs": Rule(
        shown=f"month {RUN} charge_date experiment_id user_name model price_source provider traces input_tokens output_tokens list_cost currency load_id",
        source=OF_OWN_RUNS,
    ),
    "run_bill_dimensions": Rule(
        shown=f"{RUN} billing_period build_id",
        source=OF_OWN_RUNS,
        masked=_if_tagged(LINE_TEAM),
    ),
    "unmet_claims": Rule(shown=f"{RUN} billing_period match_method claim reason claimed_seconds build_id", source=OF_OWN_RUNS),
    "experiments": Rule(
        shown="tracking_server workspace experiment_id experiment_name lifecycle_stage creation_time last_update_time load_id",
        source="{table} t join {own_experiments} e on e.experiment_id = t.experiment_id and e.tracking_server = t.tracking_server"
        f" and e.workspace = t.workspace left join {{whole_experiments}} w on {SAME_EXPERIMENT}",
        masked={c: f"case when w.experiment_id is not null then t.{c} end" for c in ("artifact_location", "tags")},
    ),
    "charge_lines": Rule(shown="source billing_period line_id charge_id line_from build_id", source=OF_OWN_CHARGES),
    "billing_lines": Rule(
        shown="source billing_period line_id availability_zone billed_cost billing_account_id billing_account_type billing_currency"
        " billing_period_end billing_period_start charge_category charge_class charge_description charge_frequency charge_period_end"
        " charge_period_start commitment_discount_category commitment_discount_quantity commitment_discount_status commitment_discount_type"
        " commitment_discount_unit consumed_quantity consumed_unit contracted_cost contracted_unit_price effective_cost host_provider_name"
        " invoice_issuer_name list_cost list_unit_price pricing_category pricing_currency pricing_currency_contracted_unit_price"
        " pricing_currency_effective_cost pricing_currency_list_unit_price pricing_quantity pricing_unit region_id region_name resource_id"
        " resource_type service_category service_name service_provider_name service_subcategory sku_id sku_meter sku_price_details sku_price_id"
        " sub_account_id sub_account_type charge_date resource_key instance_type machine_gpus machine_cpus machine_memory_gb billed_nanoseconds"
        " node_key node_instance_type node_gpus attached_to storage_key storage_class scope load_id",
        # Only lines that are a charge of their own. The charges of a pool or an instance type contain machines of all teams.
        source="{table} t left join {own_charges} k on k.source = t.source and k.billing_period = t.billing_period and k.charge_id = t.line_id",
        where="k.charge_id is not null or t.line_team in ({teams})",
        masked=_if_tagged(
            f"tags resource_name run_tag job_key group_keys iam_principal principal_key pool_key {LINE_TEAM} billing_account_name sub_account_name"
            " capacity_reservation_id capacity_reservation_status commitment_discount_id commitment_discount_name invoice_id invoice_detail_id"
            " allocated_method_id allocated_method_details allocated_resource_id allocated_resource_name allocated_tags contract_applied"
            " commitment_program_eligibility_details"
        ),
    ),
    "billing_loads": Rule(
        shown="source billing_period version billing_currency version_number state delivered_at focus_version covered_until is_invoiced loaded_at"
        " load_id",
        source=OF_OWN_BILLS,
        hidden=f"reason files row_count quarantined_count {MEASURES} null_list_count null_contracted_count null_effective_count rounded_cost",
    ),
    "period_states": Rule(
        shown="source billing_period state is_invoiced unchanged_since final_since closed_since build_id",
        source=OF_OWN_BILLS,
        hidden="bill_digest ignored_changes",
    ),
    # All bills are visible, because their dates show up to which day the figures are complete. Bills of other teams have no name.
    "sources": Rule(
        shown="kind state covered_until usual_lag_seconds late_after_seconds last_good_at last_tried_at",
        source="{table} t left join {own_bills} b on b.source = t.source left join {own_servers} s on s.tracking_server = t.source",
        where="t.kind = 'bill' or (t.kind = 'tracking' and s.tracking_server is not null)",
        masked={
            "source": f"case when b.source is not null or (t.kind = 'tracking' and s.tracking_server is not null) then t.source else '{OTHER_TEAMS}' end"
        },
        hidden="row_count experiment_count last_error",
    ),
    "builds": Rule(shown="step month build_id now built_at", hidden="inputs outputs"),
    "instance_type_hours": Rule(
        shown="billing_period pool_key instance_type billed_seconds claimed_seconds open_seconds allocated_seconds claimed_ratio lowest_hour_cost"
        " highest_hour_cost billing_currency build_id",
        source="{table} t join {own_pools} p on p.billing_period = t.billing_period and p.pool_key = t.pool_key",
    ),
    "price_list": Rule(shown="instance_type region_id pricing_category billing_currency hour_price"),
    "artifact_bytes": Rule(
        shown="month store owner_kind owner_id tracking_server workspace experiment_id prefix storage_class valid_from valid_to objects bytes"
        " oldest_at newest_at noncurrent_objects noncurrent_bytes duplicate_bytes unowned_since confirmed_at is_complete load_id",
        source=OF_OWN_OWNERS,
        where="t.owner_kind = 'run'",
    ),
    "dangling_owners": Rule(
        shown="store owner_kind owner_id tracking_server workspace experiment_id prefix gone_since had_objects had_bytes load_id",
        source=OF_OWN_OWNERS,
        where="t.owner_kind = 'run'",
    ),
    "budget_status": Rule(
        shown="budget month budget_period budget_version title amount spent estimated judged_on forecast forecast_low forecast_high exceeded_on"
        " currency measure threshold_reached next_threshold covered_until owner muted judged_at",
        where="concat(t.budget_version, ' ', t.budget) in ({budgets})",
        masked={
            "not_judged": "case when t.not_judged is not null then 'reason shown to operators only' end"
        },  # the original reason may name a source
    ),
    "alerts": Rule(
        shown="alert_id month budget budget_version kind threshold budget_period spent amount forecast currency message_id recipients decided_at",
        where="concat(t.budget_version, ' ', t.budget) in ({budgets})",
    ),
    "archive_plan": Rule(
        shown=f"month policy store prefix item_key policy_digest action target owner_kind owner_id {RUN} run_name experiment_id experiment_name"
        " artifact_uri owner team state storage_class objects bytes unused_days monthly_saving action_cost payback_months rates_from"
        " currency announced_at earliest_at planned_at",
        source=OF_OWN_RUNS,
        hidden="reason",  # may name other runs or models that use the artifacts
    ),
    "archives": Rule(
        shown=f"month archive_id policy action state store prefix target folder owner_kind owner_id {RUN} experiment_id objects bytes"
        " begun_at ended_at",
        source=OF_OWN_RUNS,
        hidden="reason",
    ),
    # Rows of these tables do not belong to a run, or are sums over all teams.
    "billing_quarantine": Rule(where=NOTHING, hidden="source billing_period line_id file_name row_number reason billed_cost raw load_id"),
    "bill_changes": Rule(
        where=NOTHING,
        hidden=f"source billing_period version version_number charge_date service_name sub_account_id billing_currency {MEASURES} load_id",
    ),
    "artifact_owners": Rule(where=NOTHING, hidden="tracking_server workspace owner_kind owner_id experiment_id uri load_id"),
    "tracking_reads": Rule(where=NOTHING, hidden="tracking_server workspace kind state reason load_id"),
    "artifact_stores": Rule(
        where=NOTHING,
        hidden="store storage_class objects bytes noncurrent_bytes duplicate_bytes orphaned_bytes unconfirmed_bytes oldest_at newest_at"
        " billing_currency month_cost noncurrent_month_cost duplicate_month_cost orphaned_month_cost",
    ),
    "estimate_errors": Rule(
        where=NOTHING,
        hidden="source charge_date billing_currency judged_at estimated_from estimated_to runs estimated_cost actual_cost difference_cost build_id",
    ),
    "archive_objects": Rule(
        where=NOTHING, hidden="month archive_id key state bytes sha256 data etag version storage_class modified_at reason"
    ),
}


def restricted_sql(table: Table, names: Names, seen: Restriction) -> str:
    """Return the GoogleSQL query for the visible part of a table. Its columns are in the order of the table.

    `names`: the SQL to write after FROM for each table, and for each set that an engine has stored in a table.
    """
    rule = RULES[table.name]
    own = {c: f"t.{c}" for c in rule.shown.split()} | dict(rule.masked)
    selects = [f"select {_columns(table, own)} from {rule.source} where {rule.where}"]
    for one in rule.others:
        source = rule.source.replace("} t join", "} t left join")
        columns = _columns(table, {**one.keys, **one.fixed, **{c: f"sum(t.{c})" for c in one.added.split()}})
        places = ", ".join(str(n) for n, c in enumerate(table.columns, 1) if c.name in one.keys)
        selects.append(f"select {columns} from {source} where {one.where} group by {places}")
    return _filled(" union all ".join(selects), {**SETS, **names, "table": names[table.name]}, seen)


def set_sql(name: str, names: Names, seen: Restriction) -> str:
    """Return the GoogleSQL query of a set."""
    return _filled(SETS[name].removeprefix("(").removesuffix(")"), {**SETS, **names}, seen)


def tables_behind(name: str) -> frozenset[str]:
    """Return the tables that the query for the visible part of a table reads, including the table itself."""
    return frozenset({name, *(word for text in _texts_behind(name) for word in _words(text) if word in TABLES)})


def sets_behind(name: str) -> list[str]:
    """Return the sets that the query for the visible part of a table reads. Each set is after the sets that it reads itself."""
    found = {word for text in _texts_behind(name) for word in _words(text)}
    return [one for one in SETS if one in found]


def _texts_behind(name: str) -> list[str]:
    found = [RULES[name].source]
    for text in found:  # the list grows during the loop
        found += [SETS[word] for word in _words(text) if word in SETS]
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", text)


def _columns(table: Table, expressions: Mapping[str, str]) -> str:
    return ", ".join(f"{expressions.get(c.name, f'cast(null as {c.type})')} as {c.name}" for c in table.columns)


def _filled(text: str, words: Mapping[str, str], seen: Restriction) -> str:
    """Replace all {words}, also in the replacements. The names from settings are inserted last, because they may contain braces."""
    last = {"teams": _listed(seen.teams), "budgets": _listed(tuple(f"{version} {name}" for name, version in seen.budgets))}
    while set(_words(text)) - last.keys():
        text = re.sub(r"\{(\w+)\}", lambda found: found[0] if found[1] in last else words[found[1]], text)
    return re.sub(r"\{(\w+)\}", lambda found: last[found[1]], text)


def _listed(texts: tuple[str, ...]) -> str:
    """Return these texts as GoogleSQL literals. They contain no line breaks, because settings refuse them in names."""
    escaped = [text.replace("\\", "\\\\").replace("'", "\\'") for text in texts]
    return ", ".join(f"'{text}'" for text in escaped) or "cast(null as string)"
