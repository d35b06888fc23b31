"""Feishu events by web hook: signatures, encryption, and who is turned away.

Source: https://open.feishu.cn/document, event-subscription-guide (encrypt key, verification
token). A stranger is told nothing but 401, whatever was wrong.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import OrderedDict

import msgspec

from holdfast.adapter import BadFrame, Disconnect, HookRequest, Link, decode
from holdfast.adapters import feishu_intake as intake
from holdfast.adapters import feishu_wire as wire
from holdfast.forgery import as_sent, is_ours
from holdfast.supervision import Cause, Kind

MAX_AGE = 300.0
"""Seconds by which a request's timestamp may be off; beyond, it may be a replay. Feishu dates and
signs each repeat anew."""

SEEN = 10_000
"""Signatures remembered, so that no request is taken twice inside `MAX_AGE`."""

BLOCK = 16
"""Bytes of an AES block."""

TIMESTAMP = re.compile(r"[0-9]{1,12}")
"""Unix seconds."""


class Encrypted(msgspec.Struct):
    """The body of every request once an Encrypt Key is set."""

    encrypt: str


class Hook:
    """Tells Feishu's requests from strangers'. Raises Disconnect when it has nothing to do so."""

    def __init__(self, encrypt_key: str, token: str) -> None:
        if not encrypt_key:
            text = "web hooks are accepted only with an Encrypt Key, which signs them"
            raise Disconnect(Cause(Kind.REFUSED, "feishu_no_encrypt_key", text, KEY_HINT))
        try:
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        except ImportError as error:
            text = "web hooks are encrypted, and the package for it is missing"
            hint = "Run `pip install holdfast[webhooks]`, or set `mode` to websocket."
            raise Disconnect(Cause(Kind.LOCAL, "feishu_no_cryptography", text, hint)) from error
        self._algorithm = algorithms.AES(hashlib.sha256(encrypt_key.encode()).digest())
        self._cipher, self._chained = Cipher, modes.CBC
        self._key, self._token = encrypt_key.encode(), token
        self._seen: OrderedDict[str, None] = OrderedDict()

    async def serve(self, link: Link, request: HookRequest, own_id: str) -> None:
        """Answer one request; an event only once its message is stored. Raises StoreError."""
        try:
            envelope = decode(wire.Envelope, self.decrypt(request.body))
            self._check_token(envelope)
            if envelope.type == wire.CHALLENGE:  # unsigned at times, says the official SDK
                _answer(request, {"challenge": envelope.challenge})
                return
            signature = self.check_signature(request, link.clock())
        except BadFrame as error:
            request.respond(401)
            link.skip(error.cause.message, request.body)
            return
        link.alive()
        if (message := intake.message_of(link, envelope, own_id)) is not None:
            await link.deliver(message)
        # Only now: what could not be stored is taken when it comes again.
        self._seen[signature] = None
        if len(self._seen) > SEEN:
            self._seen.popitem(last=False)
        _answer(request, {})

    def decrypt(self, body: bytes) -> bytes:
        """The JSON in a request's body: AES-256-CBC, IV first, PKCS #7. Raises BadFrame."""
        try:
            data = base64.b64decode(decode(Encrypted, body).encrypt, validate=True)
            decryptor = self._cipher(self._algorithm, self._chained(data[:BLOCK])).decryptor()
            plain = decryptor.update(data[BLOCK:]) + decryptor.finalize()
        except ValueError as error:
            raise BadFrame(f"a request that is not encrypted with our key: {error}") from error
        if not plain or not plain.endswith(bytes([plain[-1]]) * plain[-1]):
            raise BadFrame("a request that is not encrypted with our key")
        return plain[: -plain[-1]]

    def _check_token(self, envelope: wire.Envelope) -> None:
        """Raises BadFrame for another Verification Token than ours, if one is set."""
        said = envelope.header.token or envelope.token
        if self._token and not is_ours(said, self._token):
            raise BadFrame("a request with a false verification token")

    def check_signature(self, request: HookRequest, now: float) -> str:
        """The signature of a request, which is ours, recent and new. Raises BadFrame."""
        headers = request.headers
        moment = headers.get("x-lark-request-timestamp", "")
        signed = as_sent(moment + headers.get("x-lark-request-nonce", ""))
        right = hashlib.sha256(signed + self._key + request.body).hexdigest()
        if not is_ours(headers.get("x-lark-signature", ""), right):
            raise BadFrame("a request without a true signature")
        if not TIMESTAMP.fullmatch(moment) or abs(now - int(moment)) > MAX_AGE:
            raise BadFrame(f"a request dated {moment:.20}: replayed, or a clock is wrong")
        if right in self._seen:
            raise BadFrame("a request that came before: replayed")
        return right


KEY_HINT = (
    "Set an Encrypt Key in the developer console (https://open.feishu.cn/app, your app: Events & "
    "Callbacks, Encryption Strategy), put it into `encrypt_key`, then run `holdfast reload`."
)


def _answer(request: HookRequest, body: object) -> None:
    request.respond(200, msgspec.json.encode(body), "application/json")
