-- The GRANT statements that give others their present rights to read a table, or those of its columns that are kept.
select
  'grant select' || coalesce(' (' || quote_ident(g.attname) || ')', '') || ' on ' || {table} || ' to '
    || case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end || case when a.is_grantable then ' with grant option' else '' end
from (
  select null::name as attname, coalesce(relacl, acldefault('r', relowner)) as acl from pg_class where oid = {table}::regclass
  union all
  select attname, attacl from pg_attribute where attrelid = {table}::regclass and attname in ({columns})
) g, aclexplode(g.acl) a
where a.privilege_type = 'SELECT' and pg_get_userbyid(a.grantee) <> current_user
