-- The columns of tables and views in a schema, with their comments and owners.
select c.relname, c.relkind, coalesce(obj_description(c.oid), ''), a.attname, format_type(a.atttypid, a.atttypmod), coalesce(col_description(c.oid, a.attnum), ''),
  pg_get_userbyid(c.relowner), c.relowner = r.oid or not r.rolsuper and pg_has_role(c.relowner, 'usage'), array_to_string(c.reloptions, ', ')
from pg_class c
join pg_roles r on r.rolname = current_user
left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = (select oid from pg_namespace where nspname = {schema}) and c.relname in ({names})
order by a.attnum
