"""People, tokens and the audit log at the command line: a real controller, and real commands of several people."""

import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import typer

from parkfleet.controller import api_token_cli, audit_cli, sign_in_cli, user_cli
from parkfleet.controller.logins import Login, LoginError, Logins
from parkfleet.simulators.processes import Child
from tests.eventually import eventually
from tests.identity.guarded import PARKFLEET, Guarded, guarded
from tests.identity.guarded import command as run_command

Fleet = Callable[..., Awaitable[tuple[int, str, str]]]


async def command(*arguments: str, stdin: str = "", **environment: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in the test's environment, of the first admin unless told otherwise."""
    return await run_command(*arguments, stdin=stdin, env=environment)


@pytest.fixture
async def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Guarded]:
    """A controller process on an empty folder; the commands of the test are signed in as its first admin."""
    async with guarded(tmp_path) as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield running


async def as_user(tmp_path: Path, name: str, *grants: str) -> Fleet:
    """Commands of somebody who was just added, and has signed in with the password they were given."""
    flags = [word for grant in grants for word in ("--grant", grant)]
    code, out, err = await command("fleet", "user", "add", name, *flags, "--reason", "new", "--json")
    assert code == 0, err
    home = {"XDG_CONFIG_HOME": str(tmp_path / name)}
    code, out, err = await command("fleet", "login", "-u", name, stdin=json.loads(out)["password"], **home)
    assert (code, out.split(" is signed in at ")[0]) == (0, name), err
    return lambda *arguments: command("fleet", *arguments, **home)


async def test_nothing_is_answered_before_login(controller: Guarded, tmp_path: Path) -> None:
    """Exit code 4, with what to do; and 1 where no controller is."""
    home = {"XDG_CONFIG_HOME": str(tmp_path / "nobody")}
    for verb in (("list",), ("watch",), ("config", "list"), ("user", "list"), ("audit", "verify"), ("whoami",)):
        code, out, err = await command("fleet", *verb, **home)
        assert (code, out) == (4, ""), verb
        assert err.endswith("does not let you in: nobody is signed in: `parkfleet fleet login`")
    assert (await command("fleet", "whoami", "--controller", "127.0.0.1:9"))[0] == 1
    code, _, err = await command("fleet", "whoami", "--controller", "10.255.255.1:7445", PARKFLEET_CA="", **home)
    assert code == 3 and "is another machine: give the certificate of its authority" in err


async def test_a_controller_that_keeps_nothing_asks_nobody(tmp_path: Path) -> None:
    """Gateways are listed without a login; people, tokens and an audit log there are none, which is told."""
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    run = [*PARKFLEET, "controller", "run", "--listen", "127.0.0.1:0", "--web", "off"]
    async with Child("controller", run, tmp_path / "controller.log") as child:
        await eventually(lambda: "controller listening on" in child.output() or not child.running)
        address = child.output().split("controller listening on ")[1].split()[0]
        assert (await command("fleet", "list", "--json", "--controller", address, **home))[:2] == (0, "[]\n")
        code, _, err = await command("fleet", "whoami", "--controller", address, **home)
        assert code == 3 and "knows nothing of that: it was started without --data" in err


async def test_login_keeps_a_session_for_this_user_alone(controller: Guarded, tmp_path: Path) -> None:
    """The file is 0600, has no password, and names the controller, which further commands need not."""
    file = tmp_path / "admin" / "parkfleet" / "logins.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert controller.first_password not in file.read_text()
    home = {"XDG_CONFIG_HOME": str(tmp_path / "again")}
    login = ("fleet", "login", "--user", "admin")
    assert (await command(*login, stdin=controller.first_password, **home))[0] == 0
    here = {"PARKFLEET_CONTROLLER": "", "PARKFLEET_CA": ""}  # both are known from the login
    code, out, _ = await command("fleet", "whoami", "--json", **here, **home)
    person = json.loads(out)
    assert (code, person["user"], person["via"], person["grants"]) == (0, "admin", "session", ["admin@fleet"])
    assert (await command("fleet", "list", **here, **home))[0] == 0
    assert stat.S_IMODE((tmp_path / "again" / "parkfleet" / "logins.json").stat().st_mode) == 0o600
    file.chmod(0o644)
    code, _, err = await command("fleet", "whoami")
    assert code == 3 and "can be read by others: chmod 600" in err
    file.chmod(0o600)
    assert (await command("fleet", "logout"))[1].startswith("signed out at 127.0.0.1:")
    assert (await command("fleet", "whoami"))[0] == 4
    assert (await command("fleet", "logout"))[1].startswith("you were not signed in at")


async def test_a_wrong_password_is_told_and_not_kept(controller: Guarded, tmp_path: Path) -> None:
    """And an empty standard input is told apart."""
    home = {"XDG_CONFIG_HOME": str(tmp_path / "nobody")}
    code, out, err = await command("fleet", "login", "-u", "admin", stdin="wrong\n", **home)
    assert (code, out) == (4, "")
    assert err.endswith("does not let you in: wrong name or password")
    assert not (tmp_path / "nobody").exists()
    code, _, err = await command("fleet", "login", "-u", "admin", "--password-stdin", **home)
    assert code == 2 and "standard input is empty" in err


async def test_the_first_password_is_said_once(controller: Guarded, tmp_path: Path) -> None:
    """Not at the next start, not in the log's lines, and not in the database."""
    password, said = controller.first_password, controller.child.output()
    assert said.count(password) == 1
    assert not any(password in line for line in said.splitlines() if "INFO" in line)
    await controller.child.stop()
    assert password.encode() not in (tmp_path / "data" / "controller.db").read_bytes()
    async with guarded(tmp_path) as again:
        assert again.child.output().count("shown this once") == 1


async def test_the_first_password_does_not_go_to_the_journal(tmp_path: Path) -> None:
    """systemd says that standard output is kept: the password stands in a file of its own instead."""
    program = (
        "import os, sys; s = os.fstat(1); os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{s.st_ino}';"
        "from parkfleet.cli import main; sys.argv[0] = 'parkfleet'; main()"
    )
    run = [sys.executable, "-c", program, "controller", "run", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "d")]
    async with Child("controller", run, tmp_path / "controller.log") as child:
        await eventually(lambda: "controller listening on" in child.output() or not child.running)
        file = tmp_path / "d" / "first-password"
        assert f"with the password in {file}" in child.output()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_text().strip() not in child.output()


async def test_people_from_first_to_last_day(controller: Guarded, tmp_path: Path) -> None:
    """Added, seen, given more, given less, disabled; each with an exit code."""
    bob = await as_user(tmp_path, "bob", "operator@park/p1")
    assert (await bob("list", "--json"))[:2] == (0, "[]\n")
    code, _, err = await bob("list", "--park", "p2")
    assert code == 3 and "bob may not see gateways and their configuration in park/p2: it takes viewer there" in err
    assert (await bob("user", "list"))[0] == 3
    code, out, _ = await command("fleet", "user", "grant", "bob", "viewer@fleet", "-m", "holiday")
    assert (code, out) == (0, "bob: viewer@fleet, operator@park/p1\n")
    assert (await bob("list", "--park", "p2"))[0] == 0
    code, out, _ = await command("fleet", "user", "revoke-grant", "bob", "viewer@fleet")
    assert (code, out) == (0, "bob: operator@park/p1\n")
    _, out, _ = await command("fleet", "user", "list")
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["admin", "yes", "admin@fleet"],
        ["bob", "yes", "operator@park/p1"],
    ]
    assert (await command("fleet", "user", "disable", "bob", "-m", "left"))[1] == "bob (disabled): operator@park/p1\n"
    assert (await bob("whoami"))[0] == 4
    assert (await command("fleet", "user", "disable", "admin"))[0] == 3
    code, _, err = await command("fleet", "user", "grant", "bob", "king@fleet")
    assert code == 3 and "expected viewer, operator or admin" in err


async def test_passwords_are_changed_without_an_argument(controller: Guarded, tmp_path: Path) -> None:
    """One's own by two lines, somebody else's by the controller's word."""
    bob = await as_user(tmp_path, "bob", "viewer@fleet")
    code, out, _ = await command("fleet", "user", "password", "bob", "-m", "forgot")
    made = out.split("password, shown this once: ")[1].strip()
    assert (code, (await bob("whoami"))[0]) == (0, 4)
    home = {"XDG_CONFIG_HOME": str(tmp_path / "bob")}
    assert (await command("fleet", "login", "-u", "bob", stdin=made, **home))[0] == 0
    lines = f"{made}\nfour words of my own\n"
    assert (await command("fleet", "user", "password", "--password-stdin", stdin=lines, **home))[0] == 0
    assert (await command("fleet", "login", "-u", "bob", stdin=made, **home))[0] == 4
    assert (await command("fleet", "login", "-u", "bob", stdin="four words of my own\n", **home))[0] == 0
    code, _, err = await command(
        "fleet", "user", "password", "--password-stdin", stdin="wrong\nfour words more", **home
    )
    assert code == 3 and "that is not the password that holds" in err


async def test_a_script_brings_an_api_token(controller: Guarded, tmp_path: Path) -> None:
    """In the environment or in a file; never on a command line."""
    code, out, err = await command("fleet", "api-token", "create", "nightly", "--grant", "viewer@fleet", "--ttl", "1h")
    token = out.strip()
    assert (code, token[:4], "nightly" in err, token in err) == (0, "pfa_", True, False)
    file = tmp_path / "token"
    file.write_text(out)
    home = {"XDG_CONFIG_HOME": str(tmp_path / "nobody")}
    for environment in ({"PARKFLEET_TOKEN": token}, {"PARKFLEET_TOKEN_FILE": str(file)}):
        _, out, _ = await command("fleet", "whoami", "--json", **environment, **home)
        assert (json.loads(out)["via"], json.loads(out)["cap"]) == ("api token", ["viewer@fleet"])
        assert (await command("fleet", "list", **environment, **home))[0] == 0
        assert (await command("fleet", "user", "list", **environment, **home))[0] == 3
    assert (await command("fleet", "list", PARKFLEET_TOKEN_FILE=str(tmp_path / "none")))[0] == 3
    code, out, _ = await command("fleet", "api-token", "list", "--json")
    (listed,) = json.loads(out)
    assert (code, listed["prefix"]) == (0, "_".join(token.split("_")[:2]))
    assert token.split("_")[2] not in out
    code, out, _ = await command("fleet", "api-token", "revoke", token, "-m", "test")  # all of it, pasted
    assert code == 0 and "revoked" in out
    assert (await command("fleet", "list", PARKFLEET_TOKEN=token))[0] == 4
    assert (await command("fleet", "api-token", "create", "x", "--ttl", "soon"))[0] == 2
    assert (await command("fleet", "api-token", "create", "x", "--ttl", "400d"))[0] == 3


async def test_the_audit_log_is_read_exported_and_verified(controller: Guarded, tmp_path: Path) -> None:
    """From the controller, from an export, with heads kept elsewhere; the first broken entry is told."""
    await as_user(tmp_path, "bob", "viewer@fleet")
    await command("fleet", "login", "-u", "bob", stdin="wrong\n", XDG_CONFIG_HOME=str(tmp_path / "x"))
    _, out, _ = await command("fleet", "audit", "list", "--result", "refused", "--json")
    (refused,) = json.loads(out)
    assert (refused["actor"], refused["action"], refused["detail"]) == ("bob", "Operators/SignIn", "wrong password")
    _, out, _ = await command("fleet", "audit", "list", "--since", "1h", "--user", "admin")
    assert "Operators/AddUser" in out and "user bob viewer@fleet" in out and "new" in out
    code, head, _ = await command("fleet", "audit", "head")
    Path("heads").write_text(head)
    assert (await command("fleet", "user", "grant", "bob", "viewer@park/p1"))[0] == 0
    code, out, err = await command("fleet", "audit", "verify", "--heads", "heads", "--json")
    number = int(head.split(":")[0])
    assert (code, json.loads(out)["whole"], json.loads(out)["entries"]) == (0, True, number + 2), err
    assert (await command("fleet", "audit", "export", "audit.jsonl"))[0] == 0
    assert (await command("fleet", "audit", "export", "audit.jsonl"))[0] == 2
    code, out, _ = await command("fleet", "audit", "verify", "audit.jsonl", "--heads", "heads")
    assert code == 0 and f"whole: {number + 2} entries" in out and "1 kept heads are in it" in out
    lines = Path("audit.jsonl").read_text().splitlines()
    Path("audit.jsonl").write_text("\n".join([*lines[:2], lines[2].replace("bob", "eve"), *lines[3:]]) + "\n")
    code, _, err = await command("fleet", "audit", "verify", "audit.jsonl")
    assert code == 3 and "NOT whole: entry 3 is the first that is wrong" in err
    Path("audit.jsonl").write_text("\n".join(lines[: number - 1]) + "\n")
    code, _, err = await command("fleet", "audit", "verify", "audit.jsonl", "--heads", "heads")
    assert code == 3 and "its end was cut off" in err
    assert (await command("fleet", "audit", "verify", "none.jsonl"))[0] == 2
    assert (await command("fleet", "audit", "list", "--since", "yesterday"))[0] == 2


async def test_verify_finds_what_was_done_to_the_database(controller: Guarded, tmp_path: Path) -> None:
    """By somebody who may write its file, triggers or not."""
    _, head, _ = await command("fleet", "audit", "head")
    Path("heads").write_text(head)
    connection = sqlite3.connect(tmp_path / "data" / "controller.db")
    with pytest.raises(sqlite3.IntegrityError, match="the audit log only grows"):
        connection.execute("DELETE FROM audit_entry")
    for trigger in ("kept", "stays", "follows"):
        connection.execute(f"DROP TRIGGER audit_entry_{trigger}")
    connection.execute("UPDATE audit_entry SET peer = '10.9.9.9' WHERE number = 2")
    connection.commit()
    code, _, err = await command("fleet", "audit", "verify")
    assert code == 3 and "NOT whole: entry 2 is the first that is wrong: its content is not" in err
    connection.execute("DELETE FROM audit_entry WHERE number > 1")
    connection.commit()
    connection.close()
    code, _, err = await command("fleet", "audit", "verify", "--heads", "heads")
    assert code == 3 and "NOT whole" in err


async def test_enrolments_are_told(controller: Guarded, tmp_path: Path) -> None:
    """Which join token opened the door, for whom, from where; and who tried one that did not. No token stands there."""
    token = await controller.token("p1")
    for name, expected in (("a", 0), ("b", 3)):  # the token has one use
        (tmp_path / name).mkdir()
        code, _, err = await controller.enrol(token, tmp_path / name / "gateway.yaml", "--gateway", f"gw-{name}")
        assert code == expected, err
    entries = json.loads(await controller.fleet("audit", "list", "--action", "Enrolment/", "--json"))
    assert [(one["result"], one["target"], one["scope"]) for one in entries] == [
        ("refused", "", ""),  # refusals of one kind are told together: what each called itself is not told
        ("done", "gateway p1/gw-a", "park/p1"),
    ]
    assert all(one["via"].startswith("join token ") and one["peer"] == "127.0.0.1" for one in entries)
    assert "has been used 1 of 1 times" in entries[0]["detail"]
    assert token not in str(json.loads(await controller.fleet("audit", "list", "--json")))


async def test_somebody_on_the_machine_lets_an_admin_in_again(controller: Guarded, tmp_path: Path) -> None:
    """Beside the controller that runs; told in the audit log; also one who was locked out for failing too often."""
    for _ in range(6):
        await command("fleet", "login", "-u", "admin", stdin="wrong\n", XDG_CONFIG_HOME=str(tmp_path / "x"))
    data = str(tmp_path / "data")
    code, out, _ = await command("controller", "password", "admin", "--data", data, "-m", "lost it")
    made = out.split("shown this once: ")[1].strip()
    assert (code, (await command("fleet", "whoami"))[0]) == (0, 4)
    assert (await command("fleet", "login", "-u", "admin", stdin=made))[0] == 0
    _, out, _ = await command("fleet", "audit", "list", "--action", "Operators/SetPassword", "--json")
    assert [(one["via"], one["target"], one["reason"]) for one in json.loads(out)] == [
        ("machine", "user admin", "lost it")
    ]
    assert (await command("controller", "password", "nobody", "--data", data))[0] == 3
    assert (await command("controller", "password", "admin", "--data", str(tmp_path)))[0] == 2


async def test_an_audited_change_survives_kill_9(controller: Guarded, tmp_path: Path) -> None:
    """What was answered is in the log of the controller that starts after it."""
    await as_user(tmp_path, "bob", "viewer@fleet")
    controller.child.kill()
    await controller.child.wait()
    async with guarded(tmp_path) as again:
        entries = json.loads(await again.fleet("audit", "list", "--json"))
        assert any(one["target"] == "user bob viewer@fleet" and one["result"] == "done" for one in entries)
        assert (await again.fleet("audit", "verify")).startswith("whole: ")


def verbs(app: typer.Typer, path: str) -> list[tuple[str, str]]:
    """(as it is typed, its help's last part) of every command of a group, and of the groups in it."""
    found = []
    for name, command_ in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if hasattr(command_, "commands"):
            found += [(f"{path} {name} {verb}", inner.epilog or "") for verb, inner in command_.commands.items()]
        else:
            found.append((f"{path} {name}", command_.epilog or ""))
    return found


GROUPS = [
    (sign_in_cli.app, "parkfleet fleet"),
    (user_cli.app, "parkfleet fleet user"),
    (api_token_cli.app, "parkfleet fleet api-token"),
    (audit_cli.app, "parkfleet fleet audit"),
]


@pytest.mark.parametrize(("path", "epilog"), [verb for app, path in GROUPS for verb in verbs(app, path)])
def test_every_verb_teaches_with_an_example(path: str, epilog: str) -> None:
    """And tells its exit codes."""
    assert "Example" in epilog and f"{path} " in f"{epilog} ".replace("\n", " ")
    assert "Exit codes: 0 done" in epilog
    manual = (Path(__file__).resolve().parents[2] / "docs" / "operators.md").read_text("utf-8")
    assert path in manual


COMPLETIONS = [
    ("parkfleet fl", {"fleet"}),
    ("parkfleet fleet us", {"user"}),
    ("parkfleet fleet logi", {"login"}),
    ("parkfleet fleet user re", {"revoke-grant"}),
    ("parkfleet fleet api-token ", {"create", "list", "revoke"}),
    ("parkfleet fleet audit ver", {"verify"}),
    ("parkfleet fleet user add bob --pass", {"--password-stdin"}),
    ("parkfleet fleet user grant bob op", {"operator@fleet", "operator@region/", "operator@park/"}),
    ("parkfleet controller pass", {"password"}),
]


@pytest.mark.parametrize(("typed", "offered"), COMPLETIONS, ids=[typed for typed, _ in COMPLETIONS])
def test_bash_completes(typed: str, offered: set[str]) -> None:
    """A real bash, with the script that `--show-completion` prints."""
    script = (
        'eval "$(parkfleet --show-completion bash)"; read -ra COMP_WORDS <<< "$TYPED"; '
        '[[ $TYPED == *" " ]] && COMP_WORDS+=(""); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); '
        '_parkfleet_completion parkfleet; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TYPED": typed}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    assert set(done.stdout.split()) == offered, done.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "is damaged"), ("[]", "is damaged"), ('{"current": "", "logins": [{}]}', "is damaged"), ("\0", "is damaged")],
)
def test_a_damaged_file_of_logins_is_told(tmp_path: Path, text: str, told: str) -> None:
    """With what to do."""
    file = tmp_path / "logins.json"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(LoginError, match=f"{told}: remove it, and sign in again"):
        Logins(file).current()


def test_logins_of_several_controllers_are_kept_apart(tmp_path: Path) -> None:
    """The last one is the current one."""
    logins = Logins(tmp_path / "logins.json")
    one, other = Login("10.0.0.1:7445", "alice", "t1"), Login("10.0.0.2:7445", "bob", "t2", 5, "PEM")
    logins.keep(one)
    logins.keep(other)
    assert (logins.find(one.address), logins.current()) == (one, other)


async def test_a_certificate_stands_for_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the port for it, with its owner's rights of the moment; a gateway's certificate opens nothing there."""
    async with guarded(tmp_path, "--operators-mutual", "127.0.0.1:0") as controller:
        for name, value in controller.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        port = controller.child.output().split("operators with a certificate at ")[1].split()[0]
        bob = await as_user(tmp_path, "bob", "viewer@fleet")
        code, out, err = await bob("user", "certificate", "create", "bob.pem", "--ttl", "1h", "-m", "laptop")
        assert code == 0, err
        assert stat.S_IMODE(Path("bob.pem").stat().st_mode) == 0o600
        home = {"XDG_CONFIG_HOME": str(tmp_path / "nobody"), "PARKFLEET_CONTROLLER": port}

        async def shown(file: str, *arguments: str) -> tuple[int, str, str]:
            return await command("fleet", *arguments, **home, PARKFLEET_CERTIFICATE=file)

        code, out, err = await shown("bob.pem", "whoami", "--json")
        person = json.loads(out)
        assert (code, person["user"], person["via"], person["grants"]) == (0, "bob", "certificate", ["viewer@fleet"])
        assert person["expires_at"] > 0
        assert (await shown("bob.pem", "list"))[0] == 0
        assert (await shown("bob.pem", "user", "list"))[0] == 3
        for personal in (("api-token", "create", "x"), ("user", "certificate", "create", "more.pem")):
            code, _, err = await shown("bob.pem", *personal)
            assert code == 3 and "that is not done with the certificate" in err
        assert (await command("fleet", "list", **home))[0] == 1  # TLS lets nobody through without one
        assert (await shown("none.pem", "list"))[0] == 3

        config = tmp_path / "box" / "gateway.yaml"
        config.parent.mkdir()
        assert (await controller.enrol(await controller.token("p1"), config, "--gateway", "gw-01"))[0] == 0
        code, _, err = await shown(str(config.parent / "identity" / "gateway.pem"), "list")
        assert code == 4 and "this certificate is no operator's, or holds no more" in err

        (listed,) = json.loads(await controller.fleet("user", "certificate", "list", "--all", "--json"))
        assert (listed["user"], listed["revoked_at"]) == ("bob", None)
        assert (await shown("bob.pem", "user", "certificate", "list"))[0] == 0
        assert (await command("fleet", "user", "disable", "bob"))[0] == 0
        assert (await shown("bob.pem", "whoami"))[0] == 4
        assert (await command("fleet", "user", "enable", "bob"))[0] == 0
        assert (await shown("bob.pem", "whoami"))[0] == 0
        assert "revoked" in await controller.fleet("user", "certificate", "revoke", listed["serial"], "-m", "stolen")
        assert (await shown("bob.pem", "whoami"))[0] == 4
        assert (await command("fleet", "user", "certificate", "revoke", "0"))[0] == 3
        assert (await command("fleet", "user", "certificate", "create", "bob.pem"))[0] == 2
        entries = json.loads(await controller.fleet("audit", "list", "--action", "Operators/IssueC", "--json"))
        assert [(one["actor"], one["result"], one["reason"]) for one in entries] == [
            ("bob", "refused", ""),
            ("bob", "done", "laptop"),
        ]
        assert entries[1]["detail"] == f"certificate {listed['serial']}"
