-- The inputs of the cost tables of a billing period, as a JSON object from input to digest.
select inputs from builds where step = 'allocate' and month = @first
