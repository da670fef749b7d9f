"""The Auth server's part, played with its own statements."""

import json
import re
import uuid
from pathlib import Path

STATEMENTS = Path(__file__).resolve().parent / "fixtures" / "auth_server"

#: For signup(meta=...): raw_user_meta_data as NULL, which other writers than the Auth server may leave.
NULL = object()


class AuthServer:
    """Does what the Auth server does, with its statements, as its role; ids are made by the caller, as there."""

    def __init__(self, database):
        self.database = database

    def run(self, steps, connection=None, **values):
        """The steps in one transaction; `values` stand where psql's variables stand."""
        connection = connection or self.database.session("supabase_auth_admin")
        with connection.transaction():
            for step in steps:
                for statement in _statements(step):
                    connection.execute(statement, values)

    def signup(self, email=None, meta=None, confirmed=True, id=None, phone=None, anonymous=False, sso=False, app_meta=None, connection=None):
        """One sign-up; returns the id. confirmed=False leaves it waiting for the mail."""
        id = id or uuid.uuid4()
        provider = "sso:test" if sso else "phone" if phone and not email else "email"
        values = {
            "id": str(id),
            "email": email or "",
            "phone": phone or "",
            "meta": "" if meta is NULL else json.dumps({} if meta is None else meta, ensure_ascii=False),
            "app_meta": json.dumps(app_meta or {"provider": provider, "providers": [provider]}),
            "provider": provider,
            "sso": sso,
            "anonymous": anonymous,
            "token": uuid.uuid4().hex,
        }
        then = []
        if not anonymous:
            if not confirmed:
                then = ["ask_to_confirm"]
            else:
                then = ["confirm_email"] if email else ["confirm_phone"]
        self.run(["insert_user", *then], connection, **values)
        if confirmed or anonymous:
            self.sign_in(id, connection)
        return id

    def confirm(self, id, connection=None):
        """The link in the mail has been followed."""
        self.run(["confirm_email"], connection, id=str(id))
        self.sign_in(id, connection)

    def sign_in(self, id, connection=None):
        self.run(["sign_in"], connection, id=str(id), session=str(uuid.uuid4()), token=uuid.uuid4().hex)

    def change_email(self, id, new, connection=None):
        self.ask_to_change_email(id, new, connection)
        self.run(["change_email"], connection, id=str(id), email=new)

    def ask_to_change_email(self, id, new, connection=None):
        self.run(["ask_to_change_email"], connection, id=str(id), email=new)

    def correct_email(self, id, email, confirm=True, connection=None):
        """An administrator sets it, and confirms it in the same call: first (adminUserUpdate)."""
        self.run([*(["confirm_email"] if confirm else []), "set_email"], connection, id=str(id), email=email)

    def link_identity(self, id, email, verified=True, connection=None):
        self.run(["link_identity"], connection, id=str(id), email=email, verified=verified)

    def follow_provider(self, id, email, verified=True, connection=None):
        """The address that a linked provider has now becomes the user's (syncOAuthUserEmail); really only where it is verified."""
        self.run(["refresh_identity", "set_email"], connection, id=str(id), email=email, verified=verified)

    def unlink_identity(self, id, email, connection=None):
        """The address changes to one that is not confirmed."""
        self.run(["unlink_identity"], connection, id=str(id), email=email)

    def soft_delete(self, id, connection=None):
        self.run(["soft_delete"], connection, id=str(id))

    def delete(self, id, connection=None):
        self.run(["delete"], connection, id=str(id))


def _statements(step):
    """The statements of fixtures/auth_server/STEP.sql with psycopg's parameters in place of psql's."""
    text = re.sub(r"^--.*\n", "", (STATEMENTS / f"{step}.sql").read_text(), flags=re.M).replace("%", "%%")
    text = re.sub(r":'(\w+)'", r"%(\1)s", text)
    return [statement.strip() for statement in text.split(";\n") if statement.strip()]
