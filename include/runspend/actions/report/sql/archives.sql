-- Folders in the archive now, and folders handled by other actions, by action and state.
select action, state, count(*) as folders, sum(bytes) as bytes
from archives
where date(begun_at) < @next and action <> 'delete'  -- files deleted from the archive already have the state deleted
group by action, state
order by action, state
