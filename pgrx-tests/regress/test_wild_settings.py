"""Settings of a database or a session that change what SQL means, how names are written, or how values are."""

import pytest
from repairs import ADMIN, content, duplicate, fix_one, undo
from walk import Walk

SETTINGS = [
    "quote_all_identifiers = on",
    "standard_conforming_strings = off",
    "transform_null_equals = on",
    "array_nulls = off",
    "row_security = off",
    "plan_cache_mode = force_generic_plan",
    "default_transaction_isolation = 'serializable'",
    "jit_above_cost = 0",
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_of_the_database(db, setting):
    db.install()
    db.sql(f"ALTER DATABASE {db.name} SET {setting}", role=ADMIN)
    db.disconnect()
    walk = Walk(db).all()
    assert walk.health("unindexed references") == []
    # What its queries warn of would come up at every sign-up and every look.
    assert db.warnings == []


def test_undo_in_a_session_with_other_settings(db):
    """What the log keeps of a row that gave way means the same to whoever takes it back."""
    db.install()
    db.sql(
        """CREATE TABLE public.kept (user_id uuid PRIMARY KEY REFERENCES onagui.app_users, words text[], at timestamptz, lasts interval,
                                     ratio float8, bytes bytea, price money, of regclass)"""
    )
    app, auth = duplicate(db, "ann@example.com")
    values = "'{NULL,\"NULL\",a}', '2024-03-04 05:06:07.123456+00', '1 mon -3 days 04:05:06.7', 0.1::float8 + 0.2, '\\x00ff', 12.34, 'public.kept'"
    db.sql(f"INSERT INTO public.kept VALUES ('{app}', {values}), ('{auth}', {values})")
    before = content(db, "public.kept")
    audit_id = fix_one(db, "ann@example.com", policy="keep_auth")["audit_id"]
    session = db.session("postgres")
    for setting in (
        "array_nulls = off",
        "quote_all_identifiers = on",
        "datestyle = 'German'",
        "timezone = 'Asia/Kathmandu'",
        "intervalstyle = 'sql_standard'",
        "extra_float_digits = -15",
        "bytea_output = 'escape'",
        "search_path = ''",
    ):
        session.execute(f"SET {setting}")
    undo(db, audit_id)
    session.execute("RESET ALL")
    assert content(db, "public.kept") == before
