"""Web hooks of the simulated Feishu platform: encrypted, signed events at an address of the bot.

Sources: the event subscription pages and ``EventDispatcherHandler`` of the official Python SDK.
The library ``cryptography`` is needed from the first address on, not before.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from holdfast.lab.simulator import wall_clock
from holdfast.lab.simulators.feishu_delivery import Deliveries
from holdfast.lab.simulators.feishu_platform import OpenPlatform
from holdfast.lab.simulators.feishu_rules import Event, compact

BLOCK = 16

SIGNED = ("X-Lark-Request-Timestamp", "X-Lark-Request-Nonce", "X-Lark-Signature")

CardAnswer = Callable[[Event, Any], None]


class WebhookRefused(RuntimeError):
    """The address did not answer the challenge."""


def encrypt(key: str, plain: bytes, iv: bytes | None = None) -> str:
    """AES-256-CBC under SHA-256 of the key, PKCS #7; Base64 of the IV and what follows it."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    iv = secrets.token_bytes(BLOCK) if iv is None else iv
    pad = BLOCK - len(plain) % BLOCK
    cipher = Cipher(algorithms.AES(hashlib.sha256(key.encode()).digest()), modes.CBC(iv))
    encryptor = cipher.encryptor()
    secret = encryptor.update(plain + bytes([pad]) * pad) + encryptor.finalize()
    return base64.b64encode(iv + secret).decode()


def signature(key: str, timestamp: str, nonce: str, body: bytes) -> str:
    """Hexadecimal SHA-256 of timestamp, nonce, key and the body as it is sent."""
    return hashlib.sha256(f"{timestamp}{nonce}{key}".encode() + body).hexdigest()


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the bot's address."""

    body: bytes
    headers: Mapping[str, str]


class Hook:
    """The address in ``url`` and the requests to it.

    Faults, keys and the truth are those of the platform ``lab``. With an empty ``encrypt_key``
    requests are neither encrypted nor signed.
    """

    def __init__(self, lab: OpenPlatform, deliveries: Deliveries, card_answer: CardAnswer) -> None:
        self._lab, self._deliveries, self._card_answer = lab, deliveries, card_answer
        self.url: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def use(self, url: str | None) -> None:
        """Take an address that answers the challenge; None ends the web hooks.

        Raises WebhookRefused otherwise; the address before stays in force.
        """
        if url is None:
            self.url = None
            return
        challenge = secrets.token_hex(16)
        token = self._lab.verification_token
        check = {"challenge": challenge, "token": token, "type": "url_verification"}
        status, answer = await self._post(url, self._call(check))
        if status != 200 or answer != {"challenge": challenge}:
            raise WebhookRefused(f"{url} answered the challenge with {status}: {answer!r:.200}")
        self.url = url
        self._lab.note("webhook", url=url)

    def attempt(self, event: Event) -> None:
        """Start to post an event to the address of this moment."""
        assert self.url is not None
        task = asyncio.create_task(self._deliver(self.url, event), name="feishu-hook")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End all requests under way; the address stays."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # -- requests -----------------------------------------------------------------------------

    def _call(self, payload: Mapping[str, Any], age: float = 0.0) -> Call:
        """A genuine request, signed ``age`` seconds ago."""
        key = self._lab.encrypt_key
        if not key:
            return Call(compact(payload), {})
        body = compact({"encrypt": encrypt(key, compact(payload))})
        return Call(body, self._sign(key, body, age))

    @staticmethod
    def _sign(key: str, body: bytes, age: float = 0.0) -> dict[str, str]:
        moment, nonce = str(int(wall_clock() - age)), secrets.token_hex(8)
        return dict(zip(SIGNED, (moment, nonce, signature(key, moment, nonce, body)), strict=True))

    async def _post(self, url: str, call: Call) -> tuple[int, Any]:
        """Status and JSON of the answer; status 0 when there is none in time."""
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "X-Request-Id": secrets.token_hex(16),
        }
        timeout = aiohttp.ClientTimeout(total=self._lab.ack_within)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, data=call.body, headers=headers | dict(call.headers)) as response,
            ):
                raw = await response.read()
                return response.status, _json(raw)
        except (aiohttp.ClientError, TimeoutError) as error:
            return 0, repr(error)

    async def _deliver(self, url: str, event: Event) -> None:
        body = event.envelope(self._lab.app_id, self._lab.verification_token)
        genuine = self._call(body)
        for name, call in self._intruders(genuine, body):
            status, _ = await self._post(url, call)
            self._lab.note("intruded", id=event.key, fault=name, accepted=status == 200)
        status, answer = await self._post(url, genuine)
        self._lab.note("hook", id=event.key, status=status)
        if status != 200:
            self._deliveries.failed(event, status)
            return
        if event.callback:
            self._card_answer(event, answer)
        self._deliveries.acked(event)
        if (fault := self._lab.faults.take("hook_replayed")) is not None:
            status, _ = await self._post(url, self._call(body, fault.get("age", 7200.0)))
            self._lab.note("intruded", id=event.key, fault="hook_replayed", accepted=status == 200)

    def _intruders(self, genuine: Call, body: dict[str, Any]) -> list[tuple[str, Call]]:
        """The requests of strangers that faults put before the event."""
        key = self._lab.encrypt_key
        stranger = body | {"header": body["header"] | {"event_id": secrets.token_hex(16)}}
        plain = Call(compact(stranger), {})
        wrong = stranger | {"header": stranger["header"] | {"token": "not the token"}}
        garbage = compact({"encrypt": base64.b64encode(bytes(33)).decode()})
        requests = {
            "hook_forged": replace(
                genuine, headers=dict(genuine.headers) | {"X-Lark-Signature": "0" * 64}
            ),
            "hook_unsigned": replace(genuine, headers={}),
            "hook_tampered": replace(genuine, body=genuine.body + b" "),
            "hook_plain": plain,
            "hook_wrong_token": Call(compact(wrong), {}),
            "hook_garbage": Call(garbage, self._sign(key, garbage)),
        }
        return [
            (name, call)
            for name, call in requests.items()
            if self._lab.faults.take(name) is not None
        ]


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw
