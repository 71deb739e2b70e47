-- What the cost tables of a billing period were built from, as JSON.
select inputs from builds where step = 'allocate' and month = @first
