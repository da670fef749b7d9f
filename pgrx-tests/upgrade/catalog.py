"""All that the catalog says about the extension, as text that can be compared between databases: no oids."""

MEMBER = """
    SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
     WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'onagui_sync'"""

ROUTINE = f"pg_proc p JOIN ({MEMBER}) m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid"
RELATION = f"pg_class c JOIN ({MEMBER}) m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid"
#: With the table that the extension attaches its triggers to.
TABLE = f"(SELECT c.oid FROM {RELATION} UNION SELECT to_regclass('auth.users')) t"


def acl(column):
    return f"ARRAY(SELECT a::text FROM unnest({column}) a ORDER BY 1)"


QUESTIONS = {
    "extension": """
        SELECT extversion, extowner::regrole, extnamespace::regnamespace, extrelocatable, obj_description(oid, 'pg_extension')
          FROM pg_extension WHERE extname = 'onagui_sync'""",
    "dumped": """
        SELECT c.config::regclass, c.condition
          FROM pg_extension e CROSS JOIN LATERAL unnest(e.extconfig, e.extcondition) c(config, condition)
         WHERE e.extname = 'onagui_sync'""",
    "schema": f"""
        SELECT nspname, nspowner::regrole, {acl('nspacl')}, obj_description(oid, 'pg_namespace'),
               ARRAY(SELECT initprivs::text FROM pg_init_privs WHERE objoid = n.oid AND classoid = 'pg_namespace'::regclass)
          FROM pg_namespace n WHERE nspname = 'onagui'""",
    "default privileges": f"SELECT defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype, {acl('defaclacl')} FROM pg_default_acl",
    # Row types go with their tables, whether or not they are members of their own.
    "members": f"SELECT pg_describe_object(m.classid, m.objid, 0) FROM ({MEMBER}) m WHERE m.classid <> 'pg_type'::regclass",
    "initial privileges": f"""
        SELECT pg_describe_object(i.classoid, i.objoid, i.objsubid), i.privtype, {acl('i.initprivs')}
          FROM pg_init_privs i JOIN ({MEMBER}) m ON m.classid = i.classoid AND m.objid = i.objoid""",
    "routines": f"SELECT pg_get_functiondef(p.oid), p.proowner::regrole, {acl('p.proacl')}, obj_description(p.oid, 'pg_proc') FROM {ROUTINE}",
    "relations": f"""
        SELECT c.oid::regclass, c.relkind, c.relpersistence, c.relowner::regrole, {acl('c.relacl')}, c.reloptions, c.relrowsecurity,
               c.relforcerowsecurity, c.relreplident, obj_description(c.oid, 'pg_class'),
               CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) END
          FROM {RELATION}""",
    "columns": f"""
        SELECT c.oid::regclass, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), a.attname, format_type(a.atttypid, a.atttypmod),
               a.attnotnull, a.attidentity, a.attgenerated, a.attcollation::regcollation, a.attstorage, {acl('a.attacl')},
               pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
          FROM {RELATION} JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum""",
    "constraints": f"SELECT t.oid::regclass, k.conname, pg_get_constraintdef(k.oid), k.convalidated FROM {TABLE} JOIN pg_constraint k ON k.conrelid = t.oid",
    "indexes": f"SELECT pg_get_indexdef(i.indexrelid), i.indisvalid FROM {TABLE} JOIN pg_index i ON i.indrelid = t.oid",
    "triggers": f"""
        SELECT pg_get_triggerdef(g.oid), g.tgenabled, obj_description(g.oid, 'pg_trigger'),
               ARRAY(SELECT pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) || d.deptype::text FROM pg_depend d
                      WHERE d.classid = 'pg_trigger'::regclass AND d.objid = g.oid ORDER BY 1)
          FROM {TABLE} JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal""",
    "rules": f"SELECT pg_get_ruledef(r.oid) FROM {TABLE} JOIN pg_rewrite r ON r.ev_class = t.oid",
    "policies": f"SELECT o.polname, o.polrelid::regclass FROM {TABLE} JOIN pg_policy o ON o.polrelid = t.oid",
    "sequences": f"""
        SELECT c.oid::regclass, s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcache, s.seqcycle,
               pg_get_serial_sequence('onagui.sync_audit_log', 'audit_id')
          FROM {RELATION} JOIN pg_sequence s ON s.seqrelid = c.oid""",
}


def catalog(db):
    """{question: sorted answers}; every name is written with its schema."""
    session = db.connect("supabase_admin")
    session.execute("SET search_path = ''")
    found = {}
    for question, query in QUESTIONS.items():
        rows = session.execute(f"SELECT q::text FROM ({query}) q").fetchall()
        found[question] = sorted(row for (row,) in rows)
    session.close()
    return found


def differences(one, other):
    """What only one of the two says: short enough to be read when a test fails."""
    return {
        question: {"missing": [row for row in other[question] if row not in one[question]], "odd": [row for row in one[question] if row not in other[question]]}
        for question in other
        if one[question] != other[question]
    }
