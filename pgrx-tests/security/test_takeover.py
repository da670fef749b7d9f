"""Somebody else's account by somebody else's e-mail: refused each time, recorded, and not a hundred times."""

import json
import uuid

import pytest
from repairs import ADMIN, app_user, auth_user
from support import audit, expect_error

VICTIM = "boss@example.com"


@pytest.fixture
def boss(db):
    """An app user with roles, whose id auth has never known."""
    db.install()
    id = uuid.uuid4()
    db.sql("CREATE TABLE onagui.roles (user_id uuid REFERENCES onagui.app_users ON UPDATE CASCADE, role text)")
    db.sql("INSERT INTO onagui.app_users (id, email, username) VALUES (%s, %s, 'boss')", [id, VICTIM])
    db.sql("INSERT INTO onagui.roles VALUES (%s, 'admin')", [id])
    return id


def register(db, user, email, **more):
    with db.session("authenticator").acting_as("authenticated", sub=user) as request:
        return request.one("SELECT onagui.sync_user_registration(%s)", [json.dumps({"userId": str(user), "email": email, **more})])


def untouched(db, boss):
    assert db.sql("SELECT user_id, role FROM onagui.roles") == [(boss, "admin")]
    assert db.sql("SELECT id, username FROM onagui.app_users WHERE lower(email) = %s", [VICTIM]) == [(boss, "boss")]


def test_by_an_unconfirmed_sign_up(db, boss):
    mallory = db.auth.signup(VICTIM, {"username": "boss"}, confirmed=False)
    untouched(db, boss)
    # She tries everything she can, again and again.
    for _ in range(5):
        assert register(db, mallory, VICTIM, username="mallory", metadata={"role": "admin"})["data"] == {"action": "pending", "user": None}
        db.sql("UPDATE auth.users SET raw_user_meta_data = '{\"email_verified\": true}', email = upper(email) WHERE id = %s", [mallory], role="supabase_auth_admin")
        db.sql("UPDATE auth.users SET email = lower(email) WHERE id = %s", [mallory], role="supabase_auth_admin")
    with expect_error("55000", "not confirmed"):
        db.sql("SELECT onagui.fix_user_id_mismatch(%s)", [VICTIM])
    with expect_error("55000", "not confirmed"):
        db.sql("SELECT * FROM onagui.fix_user_id(%s, %s, true)", [boss, mallory])
    assert db.sql("SELECT action, outcome FROM onagui.fix_user_ids(ARRAY[%s], true)", [VICTIM]) == [("refuse", "refused")]
    assert db.sql("SELECT * FROM onagui.fix_user_ids(p_apply => true)") == []
    untouched(db, boss)
    assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [mallory]) == 0
    pending = audit(db, action="pending")
    assert pending and len(pending) <= 2 and all(entry["old_app_user_id"] == boss for entry in pending)


def test_by_many_sign_ups(db, boss):
    """Deleted and made again: each is recorded once, none gets anything."""
    for _ in range(3):
        mallory = db.auth.signup(VICTIM, confirmed=False)
        db.auth.delete(mallory)
    untouched(db, boss)
    assert sorted(entry["action"] for entry in audit(db)) == ["delete"] * 3 + ["pending"] * 3


def test_by_a_phone_user_who_adds_the_email(db, boss):
    mallory = db.auth.signup(phone="4912345")
    before = db.one("SELECT count(*) FROM onagui.app_users")
    with expect_error("22023"):
        register(db, mallory, VICTIM)
    db.auth.unlink_identity(mallory, VICTIM)
    untouched(db, boss)
    with expect_error("21000"):
        register(db, mallory, VICTIM)
    untouched(db, boss)
    assert db.one("SELECT count(*) FROM onagui.app_users") == before
    assert len(audit(db, action="conflict")) == 1


def test_by_a_change_of_email(db, boss):
    """Even a confirmed change gives nobody a second account: they have one."""
    mallory = db.auth.signup("mallory@example.com")
    db.auth.unlink_identity(mallory, VICTIM)
    untouched(db, boss)
    for _ in range(3):
        with expect_error("21000", detail="another app user holds the new e-mail"):
            register(db, mallory, VICTIM)
    db.sql("UPDATE auth.users SET email_confirmed_at = now() WHERE id = %s", [mallory], role="supabase_auth_admin")
    untouched(db, boss)
    assert db.sql("SELECT email FROM onagui.app_users WHERE id = %s", [mallory]) == [("mallory@example.com",)]
    assert len(audit(db, action="conflict")) == 1


@pytest.mark.parametrize("asked", [False, True])
def test_by_unlinking_an_identity(db, boss, asked):
    """The Auth server sets the address that is left before it takes the confirmation of the old one back."""
    mallory = db.auth.signup("mallory@example.com")
    db.sql("DELETE FROM onagui.app_users WHERE id = %s", [mallory])
    if asked:
        db.auth.ask_to_change_email(mallory, VICTIM)
    db.auth.unlink_identity(mallory, VICTIM)
    untouched(db, boss)
    assert [entry["old_app_user_id"] for entry in audit(db, action="pending")] == [boss] * 2
    assert db.sql("SELECT sync_status FROM onagui.sync_status(p_email => %s)", [VICTIM]) == [("PENDING",)]
    assert register(db, mallory, VICTIM)["data"]["action"] == "pending"
    untouched(db, boss)
    db.auth.confirm(mallory)
    assert db.sql("SELECT id FROM onagui.app_users") == [(mallory,)]


def test_by_an_address_that_auth_has_set_and_left_confirmed(db, boss):
    """Older versions of the Auth server do, and an administrator may: no call or change of the user's makes more of it."""
    mallory = db.auth.signup("mallory@example.com")
    db.sql("DELETE FROM onagui.app_users WHERE id = %s", [mallory])

    def as_auth(changes):
        db.sql(f"UPDATE auth.users SET {changes} WHERE id = %s", [mallory], role="supabase_auth_admin")

    as_auth(f"email = '{VICTIM}'")
    for _ in range(2):
        assert register(db, mallory, VICTIM)["data"]["action"] == "pending"
        as_auth(f"email = '{VICTIM.upper()}'")
        as_auth(f"email = '{VICTIM}'")
    as_auth("deleted_at = now()")
    db.sql("DELETE FROM onagui.sync_known_id", role=ADMIN)
    as_auth("deleted_at = NULL")
    untouched(db, boss)
    reasons = {entry["details"]["reason"] for entry in audit(db, action="pending")}
    assert reasons == {"the e-mail was set without being confirmed; its confirmation, or a fix, links the app user"}
    # Confirmed her own again, and once more the victim's.
    as_auth("email = 'mallory@example.com', email_confirmed_at = now()")
    db.sql("DELETE FROM onagui.app_users WHERE id = %s", [mallory])
    as_auth(f"email = '{VICTIM}'")
    assert register(db, mallory, VICTIM)["data"]["action"] == "pending"
    untouched(db, boss)
    as_auth("email_confirmed_at = now() + interval '1 second'")
    assert db.sql("SELECT id FROM onagui.app_users") == [(mallory,)]


def test_by_an_administrator_who_corrects_an_address(db, boss):
    """It is confirmed before it is set, in one transaction: what is confirmed is the one that comes."""
    mallory = db.auth.signup(VICTIM, confirmed=False)
    db.auth.correct_email(mallory, "mallory@example.net")
    untouched(db, boss)
    assert db.sql("SELECT email FROM onagui.app_users WHERE id = %s", [mallory]) == [("mallory@example.net",)]
    link, undo = (audit(db, action=action)[0] for action in ("link", "undo"))
    assert link["undone_by"] == undo["audit_id"] and undo["outcome"] == "done"
    user = db.auth.signup(VICTIM)
    assert db.sql("SELECT user_id FROM onagui.roles") == [(user,)]


def test_an_administrator_may_correct_an_address_to_that_of_a_former_user(db, boss):
    ann = app_user(db, "ann@example.com")
    user = db.auth.signup("ann@example.com", confirmed=False)
    db.auth.correct_email(user, VICTIM)
    assert db.sql("SELECT id, email FROM onagui.app_users ORDER BY email") == [(ann, "ann@example.com"), (user, VICTIM)]
    assert db.sql("SELECT user_id FROM onagui.roles") == [(user,)]


def test_what_an_administrator_corrects_back_stays(db, boss):
    """The same address in other letters is confirmed by its own confirmation."""
    user = db.auth.signup(VICTIM, confirmed=False)
    db.auth.correct_email(user, VICTIM.upper())
    assert db.sql("SELECT id, email FROM onagui.app_users") == [(user, VICTIM.upper())]
    assert audit(db, action="undo") == []


def test_a_link_that_cannot_be_taken_back_is_not_made(db, boss):
    """The administrator's call fails: it is no sign-up."""
    db.sql(
        """CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN IF NEW.id = '%s' THEN RAISE 'not back'; END IF; RETURN NEW; END $$;
           CREATE TRIGGER refuse BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.refuse()"""
        % boss
    )
    mallory = db.auth.signup(VICTIM, confirmed=False)
    with expect_error("P0001", "cannot be taken back: not back", detail="in this transaction", hint="confirm it in the next"):
        db.auth.correct_email(mallory, "mallory@example.net")
    untouched(db, boss)
    assert db.sql("SELECT email, email_confirmed_at FROM auth.users") == [(VICTIM, None)]


@pytest.mark.parametrize("how", ["an UPDATE", "an INSERT"])
def test_by_an_address_that_was_confirmed_before_or_at_once(db, boss, how):
    """What has linked in a transaction is taken back, whatever was confirmed when."""
    auth = db.session("supabase_auth_admin")
    id = uuid.uuid4()
    if how == "an UPDATE":
        auth_user(db, "typo@example.com", id)
        auth.execute("UPDATE auth.users SET email = %s", [VICTIM])
    with auth.transaction():
        if how == "an UPDATE":
            auth.execute("UPDATE auth.users SET email_confirmed_at = clock_timestamp()")
        else:
            auth.execute("INSERT INTO auth.users (id, email, email_confirmed_at) VALUES (%s, %s, now())", [id, VICTIM])
        auth.execute("UPDATE auth.users SET email = 'right@example.com'")
    untouched(db, boss)
    assert db.sql("SELECT email FROM onagui.app_users WHERE id = %s", [id]) == [("right@example.com",)]
    [undo] = audit(db, action="undo")
    assert undo["details"]["reason"] == "another e-mail was confirmed than the one that had linked"


def test_what_was_confirmed_in_the_same_call_is_not_unproven(db, boss):
    """A row of their own, in step: there is nothing to do until the address comes."""
    user = db.auth.signup("ann@example.com", confirmed=False)
    db.auth.correct_email(user, "anna@example.com")
    db.auth.correct_email(user, VICTIM)
    assert [("unproven" in entry["details"]) for entry in audit(db)] == [False, False]
    db.auth.correct_email(user, "ann@example.org", confirm=False)
    assert audit(db)[-1]["details"] == {"unproven": True}


def test_an_address_that_an_administrator_sets_and_confirms_links(db, boss):
    db.sql("ALTER TABLE onagui.app_users ALTER email SET NOT NULL")
    user = db.auth.signup(phone="4912345")
    db.auth.correct_email(user, VICTIM)
    assert db.sql("SELECT id FROM onagui.app_users") == [(user,)]


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("how", ["sign-in", "unlink"])
def test_an_identity_vouches_for_the_address_that_its_provider_has_verified(db, boss, how, verified):
    user = db.auth.signup("former@example.com")
    db.auth.link_identity(user, VICTIM if how == "unlink" else "former@example.com", verified)
    db.sql("DELETE FROM onagui.app_users WHERE id = %s", [user])
    if how == "sign-in":
        db.auth.follow_provider(user, VICTIM, verified)
    else:
        # Of an identity that is unlinked the e-mail goes; the Auth server takes the confirmation back where the other is not verified.
        db.auth.run(["set_email"], id=str(user), email=VICTIM)
    assert db.sql("SELECT id FROM onagui.app_users") == [(user if verified else boss,)]
    if not verified:
        assert register(db, user, VICTIM)["data"]["action"] == "pending"
        db.sql("UPDATE auth.identities SET identity_data = identity_data || '{\"email_verified\": true}' WHERE provider = 'google'", role=ADMIN)
        assert register(db, user, VICTIM)["data"]["action"] == "linked"


@pytest.mark.parametrize(
    "identities",
    [
        "DROP TABLE auth.identities CASCADE",
        "ALTER TABLE auth.identities RENAME user_id TO person",
        "UPDATE auth.identities SET identity_data = '{\"email\": \"other@example.com\", \"email_verified\": true}'",
        "UPDATE auth.identities SET identity_data = '{\"email\": \"boss@example.com\", \"email_verified\": \"true\"}'",
        "UPDATE auth.identities SET user_id = (SELECT id FROM auth.users WHERE email = 'other@example.com')",
        # Of the Auth server's own: an older one writes the address into it, and leaves it verified.
        "UPDATE auth.identities SET provider = 'email' WHERE provider = 'google'",
    ],
    ids=["dropped", "renamed", "another address", "no boolean", "another user's", "auth's own"],
)
def test_who_has_no_such_identity_is_vouched_for_by_nobody(db, boss, identities):
    db.auth.signup("other@example.com")
    user = db.auth.signup("former@example.com")
    db.auth.link_identity(user, VICTIM)
    db.sql("DELETE FROM auth.identities WHERE provider = 'email'", role=ADMIN)
    db.sql("DELETE FROM onagui.app_users WHERE id = %s", [user])
    db.sql(identities, role=ADMIN)
    db.auth.run(["set_email"], id=str(user), email=VICTIM)
    untouched(db, boss)
    assert audit(db, action="failure") == [] and len(audit(db, action="pending")) == 1


@pytest.mark.parametrize("own", [True, False])
def test_identities_that_are_locked_vouch_for_nobody(db, boss, own):
    """A migration of the Auth server's; an e-mail that links nobody is followed without them."""
    user = db.auth.signup("former@example.com")
    if not own:
        db.sql("DELETE FROM onagui.app_users WHERE id = %s", [user])
    auth = db.session(ADMIN)
    auth.execute("LOAD 'onagui_sync'")
    auth.execute("SET onagui_sync.lock_timeout = '200ms'")
    migration = db.connect(ADMIN)
    with migration.transaction():
        migration.execute("LOCK TABLE auth.identities IN ACCESS EXCLUSIVE MODE")
        auth.execute("UPDATE auth.users SET email = %s WHERE id = %s", ["new@example.com" if own else VICTIM, user])
    untouched(db, boss)
    assert [entry["action"] for entry in audit(db)] == ["update_email" if own else "pending"]


@pytest.mark.parametrize("when", ["two rows have it", "linking is off", "there is a row of their own"])
def test_by_an_address_that_was_set_when_it_could_not_link(db, boss, when):
    """That nobody has confirmed it is known later, too; also of the second time, after her own had been confirmed again."""
    mallory = db.auth.signup("mallory@example.com")
    if when == "two rows have it":
        db.sql("DROP INDEX onagui.app_users_email_key")
        app_user(db, VICTIM.upper(), username="second")
    as_auth = db.session(ADMIN)

    def change(changes):
        if when != "there is a row of their own":
            db.sql("DELETE FROM onagui.app_users WHERE id = %s", [mallory])
        as_auth.execute(f"UPDATE auth.users SET {changes} WHERE id = %s", [mallory])

    if when == "linking is off":
        as_auth.execute("SET onagui_sync.link_by_email = never")
    for _ in range(2):
        change("email = 'mallory@example.com', email_confirmed_at = clock_timestamp()")
        change(f"email = '{VICTIM}'")
    db.sql("DELETE FROM onagui.app_users WHERE id = %s OR username = 'second'", [mallory])
    assert register(db, mallory, VICTIM)["data"]["action"] == "pending"
    untouched(db, boss)


@pytest.mark.parametrize("kind", ["email", "phone"])
def test_an_address_that_was_asked_for_and_confirmed_links(db, boss, kind):
    user = db.auth.signup("former@example.com") if kind == "email" else db.auth.signup(phone="4912345")
    db.sql("DELETE FROM onagui.app_users WHERE id = %s", [user])
    db.auth.change_email(user, VICTIM)
    assert db.sql("SELECT id FROM onagui.app_users") == [(user,)]


@pytest.mark.parametrize("how", ["delete", "soft_delete"])
def test_by_the_address_of_a_deleted_user(db, how):
    db.install()
    old = db.auth.signup(VICTIM, {"username": "boss"})
    getattr(db.auth, how)(old)
    for _ in range(2):
        mallory = db.auth.signup(VICTIM)
        with expect_error("21000"):
            register(db, mallory, VICTIM)
        with expect_error("21000"):
            db.sql("SELECT onagui.fix_user_id_mismatch(%s)", [VICTIM])
        assert db.sql("SELECT id, username FROM onagui.app_users") == [(old, "boss")]
        conflicts = audit(db, action="conflict", auth_user_id=mallory)
        assert len(conflicts) == 1, conflicts
        db.auth.delete(mallory)
    # Not even after the log has been pruned.
    db.sql("SELECT onagui.prune_audit('0')")
    mallory = db.auth.signup(VICTIM)
    assert db.sql("SELECT id FROM onagui.app_users") == [(old,)]


def test_by_an_existing_users_address(db):
    """SSO lets two auth users share an address; the second one gets nothing of the first."""
    db.install()
    first = db.auth.signup(VICTIM, {"username": "boss"})
    mallory = db.auth.signup(VICTIM, sso=True)
    assert db.sql("SELECT id FROM onagui.app_users") == [(first,)]
    with expect_error("21000"):
        register(db, mallory, VICTIM)
    assert db.sql("SELECT id FROM onagui.app_users") == [(first,)]
    assert len(audit(db, action="conflict")) == 1


def test_look_alikes_are_others(db, boss):
    for n, email in enumerate(("bоss@example.com", "boss@exаmple.com", "bo\u200bss@example.com", "boss@example.com\u00a0")):
        user = db.auth.signup(email, {"username": f"other{n}"})
        assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [user]) == 1
    untouched(db, boss)


def test_an_id_that_is_somebody_elses(db, boss):
    """An attacker cannot choose the id; even so a row with it stays whose it is."""
    user = db.auth.signup("mallory@example.com", id=boss)
    assert db.sql("SELECT email FROM onagui.app_users WHERE id = %s", [user]) == [("mallory@example.com",)]
    assert [entry["action"] for entry in audit(db)] == ["update_email"]


def test_an_email_that_another_auth_user_has_confirmed_links_nobody(db):
    """One is there already; another arrives by single sign-on, then calls: a person decides."""
    db.install()
    row = app_user(db, "v@example.com", username="boss")
    one = auth_user(db, "v@example.com")
    two = db.auth.signup("v@example.com", sso=True)
    with expect_error("21000"), db.session("authenticator").acting_as("authenticated", sub=two) as request:
        request.one("SELECT onagui.sync_user_registration(%s)", [json.dumps({"userId": str(two), "email": "v@example.com"})])
    assert db.sql("SELECT id FROM onagui.app_users WHERE email = 'v@example.com'") == [(row,)]
    assert {entry["details"]["reason"] for entry in audit(db)} == {"another auth user has confirmed this e-mail"}
    # Once only one has it, it links.
    db.sql("DELETE FROM auth.users WHERE id = %s", [one], role=ADMIN)
    db.sql("UPDATE auth.users SET email = 'V@example.com' WHERE id = %s", [two], role=ADMIN)
    assert db.sql("SELECT id, username FROM onagui.app_users") == [(two, "boss")]


@pytest.mark.parametrize("policy", ["verified", "always"])
def test_who_has_not_confirmed_it_keeps_nobody_from_their_row(db, policy):
    """Somebody has signed up with the address of another, who comes by single sign-on."""
    db.install()
    row = app_user(db, "v@example.com", username="boss")
    db.sql(f"ALTER DATABASE {db.name} SET onagui_sync.link_by_email = {policy}", role=ADMIN)
    auth_user(db, "v@example.com", confirmed=False)
    with db.connect("supabase_auth_admin") as auth:
        two = db.auth.signup("v@example.com", sso=True, connection=auth)
    linked = two if policy == "verified" else row
    assert db.sql("SELECT id FROM onagui.app_users") == [(linked,)]
