"""The actions of a pipeline run: reports, mail, archive plans. Each plans with a pure function, then acts; none knows the others."""
