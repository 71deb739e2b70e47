"""Runspend for Airflow: a provider with DAGs, a page in the navigation and a connection type. Only this package imports Airflow.

    options      the section [runspend] of Airflow's configuration: schedules, pool, owner
    tasks        shared code of the DAGs: assets, defaults, calls of a pipeline step, failure mail
    connections  runspend.yaml with Airflow connections resolved; `aws` and `google` provide their credentials to the task
    lineage      the datasets that each step reads and writes, for OpenLineage
    dags         one DAG per module. `bundle` serves them to Airflow. You can also import them in your own DAG file:
                 `from runspend.airflow.dags import *`
    run_pipeline runs the DAGs once, without a scheduler

Nothing is imported here, because `runspend` must work without Airflow, and every Airflow process loads the provider and the plug-in.
"""
