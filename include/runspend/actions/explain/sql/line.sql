-- One row: a bill line as it was delivered, with the values that Runspend derived when it loaded the bill.
select * from billing_lines where line_id = @line and source = @source and billing_period = @period
