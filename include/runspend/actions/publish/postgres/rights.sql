-- Whether this login may create the schema, may create tables in it, and owns the tables that Runspend made there.
select
  has_database_privilege(current_database(), 'create'),
  (select has_schema_privilege(oid, 'create') from pg_namespace where nspname = {schema}),
  (
    select string_agg(relname, ', ' order by relname) from pg_class
    where relnamespace = (select oid from pg_namespace where nspname = {schema}) and relname in ({names}) and not pg_has_role(relowner, 'usage')
  ),
  (select true from pg_class where relnamespace = (select oid from pg_namespace where nspname = {schema}) and relname = {builds}),
  current_user
