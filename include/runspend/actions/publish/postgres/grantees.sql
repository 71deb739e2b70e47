-- The roles with rights on a table, other than its owner.
select distinct case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end
from pg_class c, aclexplode(c.relacl) a where c.oid = {table}::regclass and a.grantee <> c.relowner
