-- Files in the archive now, and files handled by other actions, by action and state.
select action, state, count(*) as folders, sum(bytes) as bytes
from archives
where date(begun_at) < @next and action <> 'delete'  -- its deleted files are a separate row
group by action, state
order by action, state
