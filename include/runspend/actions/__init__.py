"""What a night leads to: reports, mail, archive plans. Each plans with a pure function, then acts; none knows the others."""
