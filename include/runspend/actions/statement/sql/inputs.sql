-- The inputs of a billing period's cost tables, as JSON.
select inputs from builds where step = 'allocate' and month = @first
