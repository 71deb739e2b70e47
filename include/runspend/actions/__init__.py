"""The actions of a pipeline run, such as reports, mail and archive plans. Each first makes a plan with a pure function, and then acts."""
