-- One row per user with runs that have costs in a budget, for the days [@first_date, @end_date). The highest cost comes first. Each row also has
-- the number of such users.
select
  r.user_name,
  sum(c.{measure}) as spent,
  count(distinct r.run_id) as runs,
  count(*) over () as user_count
{runs}
where c.charge_date >= @first_date
  and c.charge_date < @end_date
  and c.billing_currency = @currency
  and {selector}
group by r.user_name
order by spent desc, r.user_name
limit @top
