-- The owner of a table, if it is a role other than this login that may own a view in the schema.
select quote_ident(pg_get_userbyid(relowner)) from pg_class
where oid = {table}::regclass and pg_get_userbyid(relowner) <> current_user and has_schema_privilege(relowner, relnamespace, 'create')
