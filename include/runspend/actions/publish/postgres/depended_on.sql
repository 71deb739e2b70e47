-- Whether an object that Runspend did not make depends on a table: a view, policy, trigger, publication or index. The indexes that Runspend
-- made on DATE columns do not count.
select c.relrowsecurity or exists (
  select from pg_depend d
  left join pg_index i on d.classid = 'pg_class'::regclass and i.indexrelid = d.objid and i.indnatts = 1 and not i.indisunique and i.indpred is null
  left join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0] and a.atttypid = 'date'::regtype
  where (d.refclassid, d.refobjid) in (
      ('pg_class'::regclass, c.oid), ('pg_type'::regclass, c.reltype), ('pg_type'::regclass, (select typarray from pg_type where oid = c.reltype))
    ) and d.deptype in ('a', 'n') and a.attnum is null
)
from pg_class c where c.oid = {table}::regclass
