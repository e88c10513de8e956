"""What belongs to all databases of a server, to tell whether something that ran in one of them changed it."""

from backup.postgres.scratch import PREFIX
from backup.postgres.tables import Connection

# Scratch databases come and go, also those of other runs.
_SHARED = """
with databases (oid, name) as (
    select oid, datname::text from pg_database where not starts_with(datname::text, %(scratch)s)
)
select 'role ' || rolname, (to_jsonb(r) - 'rolpassword' - 'rolconfig')::text from pg_roles r
union all
select format('membership of %%s in %%s', member::regrole, roleid::regrole),
       string_agg((to_jsonb(m) - 'oid')::text, ' ' order by grantor)
from pg_auth_members m group by member, roleid
union all
select format('setting %%s of %%s', split_part(c, '=', 1),
              coalesce(nullif(concat_ws(' in ', 'role ' || nullif(s.setrole, 0)::regrole::text,
                                        'database ' || d.name), ''), 'all roles')), c
from pg_db_role_setting s left join databases d on d.oid = s.setdatabase, unnest(s.setconfig) c
where s.setdatabase = 0 or d.oid is not null
union all
select 'database ' || d.datname, concat_ws(' ', d.oid, datdba, datallowconn, datconnlimit, datistemplate,
                                           dattablespace, datacl::text)
from pg_database d join databases using (oid)
union all
select 'tablespace ' || spcname, to_jsonb(t)::text from pg_tablespace t
union all
select 'subscription ' || subname, concat_ws(' ', subdbid, subowner, subenabled) from pg_subscription
union all
select format('comment on %%s', coalesce('role ' || pg_get_userbyid(a.oid), 'database ' || d.name, 'tablespace')),
       string_agg(description, ' ' order by objoid)
from pg_shdescription s
left join pg_roles a on a.oid = s.objoid and s.classoid = 'pg_authid'::regclass
left join databases d on d.oid = s.objoid and s.classoid = 'pg_database'::regclass
where s.classoid <> 'pg_database'::regclass or d.oid is not null
group by 1
"""

# Only who may read them sees these.
_GUARDED = (
    ("pg_authid", "select 'password of role ' || rolname, md5(rolpassword) from pg_authid where rolpassword <> ''"),
    (
        "pg_file_settings",
        "select format('setting %s of the server', name), setting from pg_file_settings"
        " where sourcefile like '%postgresql.auto.conf'",
    ),
)


def shared_objects(connection: Connection) -> dict[str, str]:
    """Each role, membership, setting of a role or database, database, tablespace, …, and a value that changes with it.

    The values are for comparing alone: they may hold what should be shown to nobody.
    """
    found = {str(name): str(value) for name, value in connection.execute(_SHARED, {"scratch": PREFIX})}
    for relation, query in _GUARDED:
        row = connection.execute(
            "select has_table_privilege(%s, 'SELECT') and (%s <> 'pg_file_settings'"
            " or has_function_privilege('pg_show_all_file_settings()', 'EXECUTE'))",
            [relation, relation],
        ).fetchone()
        if row and row[0]:
            found |= {str(name): str(value) for name, value in connection.execute(query.encode())}
    return found


def changed_objects(before: dict[str, str], after: dict[str, str]) -> tuple[str, ...]:
    """What became of which, in words: "role reporting is there now"."""
    gone = [f"{name} is gone" for name in before.keys() - after.keys()]
    new = [f"{name} is there now" for name in after.keys() - before.keys()]
    changed = [f"{name} was changed" for name in before.keys() & after.keys() if before[name] != after[name]]
    return tuple(sorted((*gone, *new, *changed)))
