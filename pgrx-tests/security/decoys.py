"""Functions and operators with the names and arguments of the server's own, which count who is taken in by them."""

from psycopg import sql as build

FUNCTIONS = """
    lower btrim nullif left length octet_length split_part format format_type quote_ident quote_literal to_regclass to_regproc
    to_regprocedure to_regrole has_table_privilege has_schema_privilege has_column_privilege jsonb_build_object jsonb_object
    jsonb_array_elements jsonb_to_record to_jsonb repeat md5 now current_database pg_get_expr pg_get_indexdef pg_get_constraintdef
    pg_partition_root pg_partition_tree unnest generate_series array_remove aclexplode pg_current_xact_id upper concat
    current_setting set_config nextval regexp_replace string_to_array array_to_string coalesce age date_trunc to_char
""".split()

OPERATORS = ("=", "<>", "<", ">", "<=", ">=", "||", "->", "->>", "?", "@>", "-", "+")


class Decoys:
    def __init__(self, db, schema, role):
        self.db, self.schema = db, schema
        connection = db.connect(role)
        name = build.Identifier(schema)
        connection.execute(build.SQL("CREATE SEQUENCE {}.caught; GRANT ALL ON SEQUENCE {}.caught TO PUBLIC").format(name, name))
        # nextval() outlives a rollback, and an error that is caught.
        body = f"BEGIN PERFORM pg_catalog.nextval('{schema}.caught'); RAISE LOG 'decoy % % as %', '{{what}}', '{schema}', current_user; RETURN NULL; END"
        made = 0
        with connection.transaction():
            for proname, arguments, result, is_set in connection.execute(
                """SELECT p.proname, pg_get_function_identity_arguments(p.oid), p.prorettype::regtype::text, p.proretset
                     FROM pg_proc p
                    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY (%s) AND p.prokind = 'f'
                      AND NOT (p.proargtypes::oid[] && ARRAY['internal'::regtype::oid])""",
                [FUNCTIONS],
            ).fetchall():
                kind = f"SETOF {result}" if is_set else result
                text = body.replace("{what}", proname).replace("RETURN NULL", "RETURN" if is_set or "OUT " in arguments or "TABLE" in result else "RETURN NULL")
                made += self._try(connection, f"CREATE FUNCTION {schema}.{build.Identifier(proname).as_string(connection)}({arguments}) RETURNS {kind} LANGUAGE plpgsql AS $d${text}$d$")
            for oprname, one, other, result in connection.execute(
                """SELECT oprname, oprleft::regtype::text, oprright::regtype::text, oprresult::regtype::text FROM pg_operator
                    WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprname = ANY (%s) AND oprleft <> 0
                      AND NOT 'internal'::regtype IN (oprleft, oprright)""",
                [list(OPERATORS)],
            ).fetchall():
                function = f"{schema}.op_{made}"
                text = body.replace("{what}", f"operator {oprname}")
                if self._try(connection, f"CREATE FUNCTION {function}({one}, {other}) RETURNS {result} LANGUAGE plpgsql AS $d${text}$d$"):
                    made += self._try(connection, f"CREATE OPERATOR {schema}.{oprname} (LEFTARG = {one}, RIGHTARG = {other}, FUNCTION = {function})")
            # Nearer to what is at hand than the server's own: these win where anything is left to choose.
            for text in (
                f"CREATE FUNCTION {schema}.lower(varchar) RETURNS text LANGUAGE plpgsql AS $d${body.replace('{what}', 'lower(varchar)')}$d$",
                f"CREATE FUNCTION {schema}.btrim(varchar) RETURNS text LANGUAGE plpgsql AS $d${body.replace('{what}', 'btrim(varchar)')}$d$",
                f"CREATE FUNCTION {schema}.quote_ident(name) RETURNS text LANGUAGE plpgsql AS $d${body.replace('{what}', 'quote_ident(name)')}$d$",
                f"CREATE FUNCTION {schema}.format(text, name) RETURNS text LANGUAGE plpgsql AS $d${body.replace('{what}', 'format(text, name)')}$d$",
                f"CREATE FUNCTION {schema}.format(text, text) RETURNS text LANGUAGE plpgsql AS $d${body.replace('{what}', 'format(text, text)')}$d$",
                f"CREATE FUNCTION {schema}.vv(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS $d${body.replace('{what}', 'varchar = varchar')}$d$",
                f"CREATE OPERATOR {schema}.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = {schema}.vv)",
                f"CREATE OPERATOR {schema}.<> (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = {schema}.vv)",
            ):
                made += self._try(connection, text)
        assert made > 500, made

    @staticmethod
    def _try(connection, text):
        """Some cannot be made by a plain role: pseudo-types, for instance."""
        try:
            with connection.transaction():
                connection.execute(text)
            return 1
        except Exception:
            return 0

    def calls(self):
        return self.db.one(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {self.schema}.caught", role="supabase_admin")
