"""Runspend in Airflow: a provider with DAGs, a page in the navigation and a connection type. The only room that knows Airflow.

    options     what Airflow's configuration says in its section [runspend]: schedules, pool, owner
    tasks       what all DAGs share: assets, defaults, calls of a pipeline step, failure mail
    connections runspend.yaml with Airflow's connections in it; `aws` and `google` lend their credentials to the task
    lineage     the datasets that each step reads and writes, for OpenLineage
    dags        one DAG per module. `bundle` serves them from here; `from runspend.airflow.dags import *` in a file of yours does too
    run_pipeline runs the DAGs once, without a scheduler

Nothing is imported here: `runspend` must not need Airflow, and Airflow loads the provider and the plug-in in every process.
"""
