-- Unmet claims of a period by rule and reason, most hours first.
select match_method, reason, count(*) as runs, sum(claimed_seconds) / 3600 as hours, min(claim) as example
from unmet_claims
where billing_period = @first
group by match_method, reason
order by hours desc, match_method, reason
