-- The owner of a table, if it is a role that this login is a member of, and may own a view there.
select quote_ident(pg_get_userbyid(relowner)) from pg_class
where oid = {table}::regclass and pg_get_userbyid(relowner) <> current_user and has_schema_privilege(relowner, relnamespace, 'create')
