"""T10: each certificate has exactly the flaw it is asked for."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from holdfast.lab.faults.tls import Authority, Flaw

AUTHORITY = Authority()

# Numbers of X509_verify_cert, <openssl/x509_vfy.h>.
EXPIRED, UNKNOWN_ISSUER, WRONG_HOST, WRONG_ADDRESS = 10, 20, 62, 64


@asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[int]:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def greeting(port: int, context: ssl.SSLContext, name: str | None = None) -> bytes:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name
    )
    try:
        return await reader.readexactly(5)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_good_is_trusted_by_address_and_by_name(name: str) -> None:
    async with serving(AUTHORITY.server_context()) as port:
        assert await greeting(port, AUTHORITY.client_context(), name) == b"hello"


@pytest.mark.parametrize(
    ("flaw", "code"),
    [
        (Flaw.EXPIRED, EXPIRED),
        (Flaw.WRONG_NAME, WRONG_ADDRESS),
        (Flaw.UNKNOWN_ISSUER, UNKNOWN_ISSUER),
    ],
)
async def test_a_flaw_is_refused_for_its_own_reason(flaw: Flaw, code: int) -> None:
    async with serving(AUTHORITY.server_context(flaw)) as port:
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await greeting(port, AUTHORITY.client_context(), "127.0.0.1")
    assert caught.value.verify_code == code


async def test_expired_and_wrong_name_have_no_other_flaw() -> None:
    lenient = AUTHORITY.client_context()
    lenient.check_hostname = False
    async with serving(AUTHORITY.server_context(Flaw.WRONG_NAME)) as port:
        assert await greeting(port, lenient) == b"hello"
    identity = AUTHORITY.issue(Flaw.EXPIRED)
    certificate = identity.certificate
    certificate.verify_directly_issued_by(AUTHORITY.certificate)
    assert certificate.not_valid_before_utc < certificate.not_valid_after_utc


async def test_names_can_be_chosen() -> None:
    context = AUTHORITY.server_context(names=("api.example.org",))
    async with serving(context) as port:
        assert await greeting(port, AUTHORITY.client_context(), "api.example.org") == b"hello"
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await greeting(port, AUTHORITY.client_context(), "localhost")
    assert caught.value.verify_code == WRONG_HOST


async def test_the_system_does_not_trust_the_lab_and_the_lab_not_the_system() -> None:
    async with serving(AUTHORITY.server_context()) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await greeting(port, ssl.create_default_context(), "127.0.0.1")
    assert len(AUTHORITY.client_context().get_ca_certs()) == 1


async def test_the_pem_works_where_a_file_of_roots_is_wanted() -> None:
    context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    async with serving(AUTHORITY.server_context()) as port:
        assert await greeting(port, context, "127.0.0.1") == b"hello"
