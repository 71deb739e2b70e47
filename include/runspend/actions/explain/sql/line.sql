-- The line as it was delivered and allocated.
select * from billing_lines where line_id = @line and source = @source and billing_period = @period
