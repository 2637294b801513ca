"""Tests of a board's certificate and token, and of its lease."""

from __future__ import annotations

import contextlib
import datetime
import stat
import threading
from concurrent import futures

import grpc
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DeviceError
from harness_remote.agent.lease import LEAST_S, MOST_S, Leases
from harness_remote.wire import secrets


class TestIdentity:
    def test_what_is_made_is_loaded_and_is_for_its_owner_alone(self, tmp_path):
        folder = tmp_path / "agent"
        made = secrets.create(folder, ["pi1.local", "10.0.0.3"])
        assert secrets.load(folder) == made
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {
            "key.pem": 0o600,
            "certificate.pem": 0o600,
            "token": 0o600,
        }

    def test_its_names(self, tmp_path):
        made = secrets.create(tmp_path, ["pi1.local", "10.0.0.3", "::1"])
        names = (
            x509.load_pem_x509_certificate(made.certificate_pem)
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value
        )
        assert names.get_values_for_type(x509.DNSName) == ["harness-agent", "pi1.local"]
        assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.3", "::1"]

    def test_tokens_differ_and_are_in_no_repr(self, tmp_path):
        one, other = secrets.create(tmp_path / "a"), secrets.create(tmp_path / "b")
        assert one.token != other.token
        assert len(one.token) >= 43  # 32 bytes in base64
        assert one.token not in repr(one)
        assert "PRIVATE" not in repr(one)

    @pytest.mark.parametrize("name", ["", "a b", "-x", "x\n", "ä", "a/b", "*" * 3])
    def test_a_name_that_no_host_has_is_refused(self, tmp_path, name):
        with pytest.raises(DeviceError, match="neither a host's name nor an address"):
            secrets.create(tmp_path, [name])

    def test_what_is_there_stays_unless_asked(self, tmp_path):
        first = secrets.create(tmp_path)
        with pytest.raises(DeviceError, match=r"key\.pem, certificate\.pem, token already"):
            secrets.create(tmp_path)
        assert secrets.load(tmp_path) == first
        second = secrets.create(tmp_path, replace=True)
        assert secrets.load(tmp_path) == second != first

    def test_expired(self, tmp_path):
        secrets.create(tmp_path, days=-1)
        yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
        with pytest.raises(DeviceError, match=f"expired on {yesterday:%Y-%m-%d}.*harness agent init"):
            secrets.load(tmp_path)

    @pytest.mark.parametrize("file", ["key.pem", "token"])
    def test_a_secret_that_others_may_read_is_refused(self, tmp_path, file):
        secrets.create(tmp_path)
        (tmp_path / file).chmod(0o640)
        with pytest.raises(DeviceError, match=f"others may read .*{file}.*chmod 600"):
            secrets.load(tmp_path)

    @pytest.mark.parametrize("file", ["key.pem", "certificate.pem", "token"])
    def test_what_is_broken_or_missing_is_named(self, tmp_path, file):
        secrets.create(tmp_path)
        (tmp_path / file).write_bytes(b"\xff")
        with pytest.raises(DeviceError, match="harness agent init"):
            secrets.load(tmp_path)
        (tmp_path / file).unlink()
        with pytest.raises(DeviceError, match=f"{file} is missing"):
            secrets.load(tmp_path)

    def test_another_key(self, tmp_path):
        secrets.create(tmp_path / "a")
        secrets.create(tmp_path / "b")
        (tmp_path / "b/key.pem").replace(tmp_path / "a/key.pem")
        with pytest.raises(DeviceError, match="is not the key of"):
            secrets.load(tmp_path / "a")

    def test_fingerprint_refuses_what_is_none(self):
        with pytest.raises(DeviceError, match="not a certificate"):
            secrets.fingerprint("hello")

    def test_a_client_that_pinned_it_gets_in_and_no_other(self, tmp_path):
        board, other = secrets.create(tmp_path / "a"), secrets.create(tmp_path / "b")

        class Echo(grpc.GenericRpcHandler):
            def service(self, details):
                return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

        server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Echo()])
        port = server.add_secure_port(
            "127.0.0.1:0", grpc.ssl_server_credentials([(board.key_pem, board.certificate_pem)])
        )
        server.start()

        def call(identity, name):
            options = [("grpc.ssl_target_name_override", name)]
            credentials = grpc.ssl_channel_credentials(identity.certificate_pem)
            with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
                return channel.unary_unary("/any/thing")(b"hello", timeout=10)

        try:
            assert call(board, secrets.NAME) == b"hello"
            with pytest.raises(grpc.RpcError):
                call(other, secrets.NAME)
            with pytest.raises(grpc.RpcError):
                call(board, "elsewhere")
        finally:
            server.stop(None)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class TestLease:
    def test_one_at_a_time_and_who(self):
        clock = Clock()
        leases = Leases(clock)
        id, seconds = leases.acquire("ann@desk", 60)
        assert seconds == 60
        assert leases.holds(id)
        clock.now += 20.5
        with pytest.raises(DeviceError, match="held by ann@desk for 40 s more"):
            leases.acquire("bob", 60)
        assert leases.release(id)
        assert not leases.release(id)
        other, _ = leases.acquire("bob", 60)
        assert leases.holds(other)
        assert not leases.holds(id)

    def test_it_lapses_and_is_reported_until_the_next(self):
        clock = Clock()
        leases = Leases(clock)
        assert not leases.lapsed()
        id, _ = leases.acquire("ann", 60)
        clock.now += 59
        assert leases.renew(id, 30) == 30
        clock.now += 29
        assert leases.holds(id)
        assert leases.held()
        assert not leases.lapsed()
        clock.now += 1
        assert not leases.holds(id)
        assert not leases.held()
        assert leases.lapsed()
        with pytest.raises(DeviceError, match="lapsed"):
            leases.renew(id, 30)
        leases.acquire("bob", 60)
        assert not leases.lapsed()

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), float("-inf")])
    def test_what_is_no_time_is_refused(self, seconds):
        leases = Leases()
        with pytest.raises(DeviceError, match="a lease is held for"):
            leases.acquire("ann", seconds)
        id, _ = leases.acquire("ann", 10)
        with pytest.raises(DeviceError, match="a lease is held for"):
            leases.renew(id, seconds)

    def test_caps(self):
        leases = Leases()
        id, seconds = leases.acquire("ann", 1e12)
        assert seconds == MOST_S
        assert leases.renew(id, 1e-9) == LEAST_S

    @given(holder=st.text(max_size=300))
    def test_any_name_of_a_holder_is_one_short_printable_line(self, holder):
        leases = Leases()
        leases.acquire(holder, 60)
        with pytest.raises(DeviceError) as caught:
            leases.acquire("bob", 60)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 200

    @given(id=st.text(max_size=60))
    def test_no_other_id_holds(self, id):
        leases = Leases()
        assert not leases.holds(id)
        leases.acquire("ann", 60)
        assert not leases.holds(id)
        assert not leases.release(id)

    @given(
        steps=st.lists(
            st.tuples(
                st.sampled_from(["acquire", "renew", "release", "wait"]),
                st.integers(0, 2),
                st.integers(1, 50),
            ),
            max_size=40,
        )
    )
    def test_against_a_model(self, steps):
        """At most one id is valid, and it is valid exactly until the announced time."""
        clock = Clock()
        leases = Leases(clock)
        ids = ["none"] * 3
        holder, until = None, 0.0
        for action, who, seconds in steps:
            free = holder is None or clock.now >= until
            if action == "wait":
                clock.now += seconds
            elif action == "release":
                assert leases.release(ids[who]) == (not free and holder == who)
                holder = None if not free and holder == who else holder
            elif action == "acquire" and free:
                ids[who], _ = leases.acquire(str(who), seconds)
                holder, until = who, clock.now + seconds
            elif action == "renew" and not free and holder == who:
                leases.renew(ids[who], seconds)
                until = clock.now + seconds
            else:
                with pytest.raises(DeviceError):
                    leases.acquire("x", seconds) if action == "acquire" else leases.renew(ids[who], seconds)
            live = holder is not None and clock.now < until
            assert [leases.holds(id) for id in ids] == [live and holder == one for one in range(3)]
            assert leases.held() == live

    def test_of_many_at_once_one_gets_it(self):
        leases = Leases()
        got = []

        def ask():
            with contextlib.suppress(DeviceError):
                got.append(leases.acquire("x", 60))

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(got) == 1
