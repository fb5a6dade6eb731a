"""API keys: making, reading and telling them apart; files with errors; a file that changes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import grpc.aio
import pytest

from imagegen.v1 import imagegen_pb2 as pb
from imagegen_server.api import Authenticate, Authenticator, RegisterFile, TenantLimits, new_key, parse_policy
from imagegen_server.api.auth.keys import parse_register
from imagegen_server.api.watched import WatchedFiles
from imagegen_server.errors import StartupError, Unauthenticated
from imagegen_server.key import main
from support.edge import Recorder, running_edge

KEY, LINE = new_key("alice", ["painter"], "2027-01-31T00:00:00Z")
_, OTHER = new_key("bob")
TENANT = '{"tenant": "alice", "roles": ["guest"], "max_in_flight": 3, "steps_per_minute": 600.5, "weight": 2}'
NOW = 1_700_000_000.0
SECRET = KEY[22:]
REGISTER = parse_register(f"# ours\n\n{LINE}\n{OTHER}\n{TENANT}\n".encode())


def flipped(text: str, index: int) -> str:
    """Returns a text with another character of the same kind at an index."""
    return f"{text[:index]}{'a' if text[index] != 'a' else 'b'}{text[index + 1 :]}"


BAD_KEYS: dict[str, str] = {
    "first character of the secret": flipped(KEY, 22),
    "middle of the secret": flipped(KEY, 40),
    "last character but one": flipped(KEY, len(KEY) - 2),
    "an id that is not there": f"imagegen_{'0' * 12}_{SECRET}",
    "one digit of the id": flipped(KEY, 9),
    "another key's id": f"imagegen_{json.loads(OTHER)['id']}_{SECRET}",
    "upper case id": KEY[:9] + KEY[9:21].upper() + KEY[21:] if KEY[9:21].upper() != KEY[9:21] else KEY.upper(),
    "upper case": KEY.upper(),
    "lower case": KEY.lower(),
    "swapped case": KEY.swapcase(),
    "no prefix": KEY.removeprefix("imagegen_"),
    "another prefix": KEY.replace("imagegen", "imagegan"),
    "no id": f"imagegen__{SECRET}",
    "no secret": KEY[:22],
    "secret alone": SECRET,
    "id alone": KEY[9:21],
    "one character less": KEY[:-1],
    "one character more": KEY + "A",
    "twice": KEY + KEY,
    "leading space": " " + KEY,
    "trailing space": KEY + " ",
    "trailing newline": KEY + "\n",
    "trailing zero byte": KEY + "\0",
    "in quotes": f'"{KEY}"',
    "Bearer in front": f"Bearer {KEY}",
    "a comma and another": f"{KEY},{KEY}",
    "the hash": json.loads(LINE)["hash"],
    "the hash without its name": json.loads(LINE)["hash"].removeprefix("sha256:"),
    "hash as the secret": f"{KEY[:22]}{json.loads(LINE)['hash'][7:50]}",
    "the line": LINE,
    "the tenant": "alice",
    "null": "null",
    "a wildcard": f"{KEY[:22]}{'*' * 43}",
    "reversed": KEY[::-1],
    "full-width digits": KEY.translate({ord(str(d)): 0xFF10 + d for d in range(10)}),
    "padded as base64": KEY + "=",
    "very long": "a" * 10_000,
    "empty": "",
}


def test_a_good_key_tells_tenant_roles_and_limits() -> None:
    """A caller has the key's roles and the tenant's, and the tenant's limits."""
    caller = REGISTER.caller(KEY, NOW)
    assert caller.tenant == "alice"
    assert caller.roles == {"painter", "guest"}
    assert caller.limits == TenantLimits(max_in_flight=3, steps_per_minute=600.5, weight=2.0)
    assert REGISTER.tenant("nobody").limits == TenantLimits()


def test_the_limits_of_credentials_are_before_the_files() -> None:
    """A token's, that is; what it leaves open the file may say."""
    caller = REGISTER.tenant("alice", limits=TenantLimits(max_in_flight=9))
    assert caller.limits == TenantLimits(max_in_flight=9, steps_per_minute=600.5, weight=2.0)


@pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS)
def test_every_other_key_is_refused(key: str) -> None:
    """One wrong character, a piece, an addition or another writing: none gets in, all with one message."""
    assert key != KEY
    with pytest.raises(Unauthenticated) as caught:
        REGISTER.caller(key, NOW)
    assert (caught.value.reason, str(caught.value)) == ("invalid", "the API key is not valid")


def test_there_are_enough_bad_keys() -> None:
    """Each is another one."""
    assert len(set(BAD_KEYS.values())) == len(BAD_KEYS) >= 30


def test_a_key_ends_when_its_line_says() -> None:
    """It is good until then, and expired, not invalid, from then on."""
    end = 1_801_353_600.0
    assert REGISTER.caller(KEY, end - 0.001).known
    with pytest.raises(Unauthenticated) as caught:
        REGISTER.caller(KEY, end)
    assert caught.value.reason == "expired"


def test_the_file_holds_no_key() -> None:
    """Neither the key nor its secret part is in its line."""
    assert SECRET not in LINE
    assert json.loads(LINE).keys() == {"id", "hash", "tenant", "roles", "expires"}


@pytest.mark.parametrize("value", ["1e400", "-1e400", "NaN", "1" + "0" * 400, '"9"', "true", "[]"])
def test_a_limit_must_be_a_number_that_there_is(value: str) -> None:
    """What is no number, or none that a float can be, is named like any other."""
    with pytest.raises(ValueError, match=r"line 1: weight: must be a number from 0\.01 to 100"):
        parse_register(f'{{"tenant": "a", "weight": {value}}}'.encode())


def test_bounds_of_limits_are_inside() -> None:
    """The least and the most that the contract allows."""
    for name, bounds in (("weight", (0.01, 100)), ("max_in_flight", (1, 100_000)), ("steps_per_minute", (1, 1e9))):
        for bound in bounds:
            found = parse_register(json.dumps({"tenant": "a", name: bound}).encode()).tenant("a").limits
            assert getattr(found, name) == bound


def test_everything_that_is_wrong_in_a_file_is_named() -> None:
    """All lines, all fields, at once; nothing of a hash is repeated."""
    lines = [
        "nonsense",
        "[]",
        '{"id": "xyz", "hash": "md5:00", "tenant": "a b", "roles": "x", "expires": "tomorrow", "colour": 1}',
        LINE,
        LINE,
        '{"tenant": "c", "max_in_flight": 1.5, "steps_per_minute": 0, "burst_steps": "9", "weight": true, "x": 1}',
        '{"tenant": "d"}',
        '{"tenant": "d"}',
        '{"id": "0123456789ab", "hash": "sha256:' + "e" * 64 + '", "tenant": "a", "expires": "2027-01-31"}',
    ]
    with pytest.raises(ValueError, match="line 1") as caught:
        parse_register("\n".join(lines).encode())
    found = str(caught.value).split("; ")
    assert [entry.partition(":")[0] for entry in found] == (
        ["line 1", "line 2", *["line 3"] * 6, "line 5", *["line 6"] * 5, "line 8", "line 9"]
    )
    assert "e" * 64 not in str(caught.value)


def test_a_changed_file_is_read_and_a_broken_one_is_not(tmp_path: Path) -> None:
    """Keys come and go without a restart; while the file is broken the last good one holds, which is told once."""
    path, seconds = tmp_path / "keys", [0.0]
    heard: list[str] = []
    path.write_text(LINE)
    file = RegisterFile(path, heard.append, clock=lambda: seconds[0])

    def look() -> Callable[[str, float], object]:
        seconds[0] += 1.0
        return file.register().caller

    assert look()(KEY, NOW)
    path.write_text(LINE[:40])
    assert look()(KEY, NOW)
    assert look()(KEY, NOW)
    path.unlink()
    assert look()(KEY, NOW)
    path.write_text(OTHER)
    with pytest.raises(Unauthenticated):
        look()(KEY, NOW)
    path.unlink()
    with pytest.raises(Unauthenticated):
        look()(KEY, NOW)
    assert [what.partition(":")[0] for what in heard] == ["not used", "not used", "reloaded", "not used"]
    with pytest.raises(StartupError, match="No such file"):
        RegisterFile(tmp_path / "none", heard.append)


def test_a_change_while_a_file_is_read_is_seen_the_next_time(tmp_path: Path) -> None:
    """Also one that keeps an old time, as a link does that is pointed elsewhere."""

    class Swapped(type(Path())):  # type: ignore[misc] # what Path() makes
        def read_bytes(self) -> bytes:
            """Reads it, whereupon it is another."""
            content = Path(self).read_bytes()
            Path(self).write_bytes(b"new")
            os.utime(self, (100, 100))
            return content

    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.utime(path, (50, 50))
    files = WatchedFiles([Swapped(path)])
    assert [files.news() for _ in range(3)] == [(b"old",), (b"new",), None]


def test_the_command_makes_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints key and line, or appends the line to a file that only its owner reads; wrong words are all named."""
    assert main(["--tenant", "carol", "--role", "admin"]) == 0
    _, key, _, line = capsys.readouterr().out.splitlines()
    assert parse_register(line.encode()).caller(key, NOW).roles == {"admin"}
    path = tmp_path / "keys"
    assert main(["--tenant", "a", "--file", str(path)]) == 0
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 1)  # an editor that ends files without a newline
    assert main(["--tenant", "b", "--file", str(path)]) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    first, second = capsys.readouterr().out.split()
    register = parse_register(path.read_bytes())
    assert [register.caller(key, NOW).tenant for key in (first, second)] == ["a", "b"]
    with pytest.raises(SystemExit, match="2"):
        main(["--tenant", "a b", "--expires", "soon"])
    error = capsys.readouterr().err
    assert "tenant:" in error
    assert "expires:" in error
    with pytest.raises(SystemExit, match="3"):
        main(["--tenant", "a", "--file", str(tmp_path / "none" / "keys")])


async def test_bad_keys_are_refused_at_the_port(tmp_path: Path) -> None:
    """The same table over a connection, as far as headers can carry it; a good key gets in, before and after."""
    path = tmp_path / "keys"
    path.write_text(LINE)
    file = RegisterFile(path, print)

    def auth(seen: Recorder) -> Authenticate:
        return Authenticate(Authenticator(keys=file), parse_policy("", authenticates=True), seen)

    async with running_edge(auth=auth) as edge:

        async def ask(key: str) -> grpc.StatusCode:
            try:
                await edge.stub.ListModels(pb.ListModelsRequest(), metadata=(("x-api-key", key),), timeout=30)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        sendable = {kind: key for kind, key in BAD_KEYS.items() if key.isascii() and key.isprintable()}
        trimmed = [kind for kind, key in sendable.items() if key.strip() == KEY]  # by HTTP/2 itself
        assert await ask(KEY) is grpc.StatusCode.OK
        codes = {kind: await ask(key) for kind, key in sendable.items() if kind not in trimmed and len(key) < 7000}
        assert set(codes.values()) == {grpc.StatusCode.UNAUTHENTICATED}, codes
        assert len(codes) >= 30
        assert await ask(KEY) is grpc.StatusCode.OK
