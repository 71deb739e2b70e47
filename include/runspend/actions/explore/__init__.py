"""The cost explorer: the costs that an address selects, for a page, a CSV file or a program.

    view.py             reads an address
    figures.py          asks the warehouse
    search.py           finds names
    home.py             the figures of the home page
    budget_page.py, experiment_page.py, line_page.py, machine_page.py, model_page.py
                        the figures and the page of one budget, experiment, bill line, machine or model
    page.py, home_page.py, chart.py
                        draw pages and charts
    data.py             the same figures for programs

The routes are in `interfaces/web/app.py`.
"""

from __future__ import annotations

from runspend.actions.explore.budget_page import budget_as_page, read_budget
from runspend.actions.explore.data import figures_as_csv, figures_as_json, rows_as_table
from runspend.actions.explore.experiment_page import experiment_as_page, read_experiment
from runspend.actions.explore.figures import read_figures
from runspend.actions.explore.home import read_home
from runspend.actions.explore.home_page import home_as_page
from runspend.actions.explore.line_page import line_as_page
from runspend.actions.explore.machine_page import machine_as_page, read_machine
from runspend.actions.explore.model_page import model_as_page, read_model
from runspend.actions.explore.page import figures_as_page, found_as_page
from runspend.actions.explore.search import search
from runspend.actions.explore.view import View

__all__ = [
    "View",
    "budget_as_page",
    "experiment_as_page",
    "figures_as_csv",
    "figures_as_json",
    "figures_as_page",
    "found_as_page",
    "home_as_page",
    "line_as_page",
    "machine_as_page",
    "model_as_page",
    "read_budget",
    "read_experiment",
    "read_figures",
    "read_home",
    "read_machine",
    "read_model",
    "rows_as_table",
    "search",
]
