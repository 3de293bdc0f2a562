"""TLS on both sides, over real sockets with real certificates."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from gateway.config import TlsSection, WorkerTlsSection
from gateway.tls import ServerTls, worker_context
from tests.support.certificates import Authority, needs_openssl
from tests.support.fake_vllm import FakeVllm, flood, stream
from tests.support.running_plane import Client, chat, get, running_plane, stream_chat
from tests.support.running_shell import running_shell

pytestmark = needs_openssl


def server_tls(authority: Authority, client_ca: Path | None = None) -> ServerTls:
    cert, key = authority.issue("server")
    return ServerTls(TlsSection(cert=str(cert), key=str(key), client_ca=client_ca and str(client_ca)), Path)


def shown(client: Client) -> str:
    """The name in the certificate that the gateway showed."""
    peer = client.writer.get_extra_info("peercert")
    return str(peer["subject"][0][0][1])


async def test_requests_and_streams_go_through_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = server_tls(authority).context
    async with (
        FakeVllm([stream(3), flood(3_000_000)]) as worker,
        running_plane([worker], tls=tls) as plane,
        plane.client(authority.client()) as client,
    ):
        assert (await client.ask(stream_chat())).text == " t0 t1 t2"
        got = await client.ask(stream_chat(), 20)
        assert got.complete
        assert len(got.body) > 2_900_000
        assert (await client.ask(get("/health"))).status == 200


async def test_a_client_that_leaves_is_noticed_through_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = server_tls(authority).context
    async with FakeVllm(flood(30_000_000)) as worker, running_plane([worker], tls=tls) as plane:
        async with plane.client(authority.client()) as client:
            await client.send(stream_chat())
            await worker.wait_requests(1)
        await worker.requests[0].wait_disconnected()


async def test_new_connections_get_a_new_certificate_and_old_ones_live_on(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = server_tls(authority)
    async with (
        FakeVllm() as worker,
        running_plane([worker], tls=tls.context) as plane,
        plane.client(authority.client()) as old,
    ):
        assert (await old.ask(chat())).status == 200
        cert, key = authority.issue("renewed")
        cert.replace(tmp_path / "server.pem")
        tls.reload()  # the key is still the one before: nothing changes
        async with plane.client(authority.client()) as between:
            assert shown(between) == "server"
        key.replace(tmp_path / "server.key")
        tls.reload()
        async with plane.client(authority.client()) as new:
            assert (await new.ask(chat())).status == 200
            assert (shown(old), shown(new)) == ("server", "renewed")
        assert (await old.ask(chat())).status == 200


async def test_clients_need_a_certificate_of_the_authority_named(tmp_path: Path) -> None:
    one, two = Authority(tmp_path / "one"), Authority(tmp_path / "two")
    client_ca = tmp_path / "client_ca.pem"
    client_ca.write_bytes(one.file.read_bytes())
    tls = server_tls(one, client_ca)
    with_two = one.client()
    with_two.load_cert_chain(*two.issue("client"))

    async with FakeVllm() as worker, running_plane([worker], tls=tls.context) as plane:

        async def is_let_in(context: ssl.SSLContext) -> bool:
            try:
                async with plane.client(context) as client:
                    return (await client.ask(chat())).status == 200
            except (ConnectionError, ssl.SSLError):
                return False

        assert not await is_let_in(one.client())
        assert not await is_let_in(with_two)
        assert await is_let_in(one.client("client"))
        assert len(worker.requests) == 1
        client_ca.write_bytes(two.file.read_bytes())
        tls.reload()
        assert not await is_let_in(one.client("client"))
        assert await is_let_in(with_two)


async def test_plain_http_to_the_tls_port_is_no_request(tmp_path: Path) -> None:
    tls = server_tls(Authority(tmp_path)).context
    async with FakeVllm() as worker, running_plane([worker], tls=tls) as plane, plane.client() as client:
        await client.send(chat())
        with pytest.raises(ConnectionError):
            await client.receive()
        assert worker.requests == []


async def test_a_worker_is_verified(tmp_path: Path) -> None:
    one, two = Authority(tmp_path / "one"), Authority(tmp_path / "two")
    trusted = worker_context(WorkerTlsSection(ca=str(one.file)), Path)
    async with FakeVllm(tls=two.server()) as bad, FakeVllm(tls=one.server()) as good:
        async with running_plane([bad], worker_tls=trusted) as plane, plane.client() as client:
            assert (await client.ask(chat())).status == 502
            assert bad.requests == []
        async with running_plane([bad], worker_tls=None) as plane, plane.client() as client:
            assert (await client.ask(chat())).status == 502
        async with running_plane([good], worker_tls=trusted) as plane, plane.client() as client:
            assert (await client.ask(stream_chat())).status == 200


async def test_a_worker_may_want_a_certificate_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.server()
    server.load_verify_locations(authority.file)
    server.verify_mode = ssl.CERT_REQUIRED
    cert, key = authority.issue("gateway")
    context = worker_context(WorkerTlsSection(ca=str(authority.file), cert=str(cert), key=str(key)), Path)
    async with (
        FakeVllm(tls=server) as worker,
        running_plane([worker], worker_tls=context) as plane,
        plane.client() as client,
    ):
        assert (await client.ask(chat())).status == 200


async def test_a_whole_gateway_follows_its_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    tls = {"cert": str(cert), "key": str(key)}
    async with FakeVllm(tls=authority.server("worker")) as worker:
        tables = {"worker": [{"url": worker.url}], "tls": tls, "worker_tls": {"ca": str(authority.file)}}
        async with running_shell(tables) as shell:

            async def name() -> str:
                address = ("127.0.0.1", shell.ports.data)
                reader, writer = await asyncio.open_connection(*address, ssl=authority.client())
                client = Client(reader, writer)
                assert (await client.ask(chat())).status == 200
                writer.close()
                return shown(client)

            assert await name() == "server"
            for new, old in zip(authority.issue("renewed"), (cert, key), strict=True):
                new.replace(old)
            async with asyncio.timeout(10):
                while await name() != "renewed":  # noqa: ASYNC110 a file's change is noticed in its own time
                    await asyncio.sleep(0.05)
