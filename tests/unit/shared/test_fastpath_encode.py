"""The encoder of the fast path writes the same bytes as the driver."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import body, commands, frame, header
from pamqp.frame import FrameTypes

from skillq.transport import Outgoing
from skillq.transport.rabbitmq.fastpath.encode import Encoder

NOW = 1_764_259_200.9
FRAME_BYTES = 100
words = st.text(max_size=60)
messages = st.builds(
    Outgoing,
    body=st.binary(max_size=3 * FRAME_BYTES),
    type=words,
    headers=st.dictionaries(words, words | st.integers(-(2**63), 2**63 - 1), max_size=3)
    | st.just({"schema_version": 1}),
    message_id=st.text(min_size=1, max_size=60),
    persistent=st.booleans(),
)


def encode_by_driver(message: Outgoing, key: str, *, mandatory: bool, **sender: Any) -> bytes:
    properties = commands.Basic.Properties(
        content_type="application/json",
        delivery_mode=2 if message.persistent else 1,
        headers=dict(message.headers),
        message_id=message.message_id,
        timestamp=datetime.fromtimestamp(NOW, UTC),
        message_type=message.type,
        **sender,
    )
    whole = message.body
    parts = [whole[at : at + FRAME_BYTES] for at in range(0, len(whole), FRAME_BYTES)]
    written: list[FrameTypes] = [
        commands.Basic.Publish(exchange="x.y", routing_key=key, mandatory=mandatory),
        header.ContentHeader(0, len(whole), properties),
        *map(body.ContentBody, parts),
    ]
    return b"".join(frame.marshal(one, 5) for one in written)


@given(messages, words, st.booleans(), words | st.none(), words)
def test_a_message_is_encoded_to_the_same_bytes_as_by_the_driver(
    message: Outgoing, key: str, mandatory: bool, user: str | None, app: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "skillq.transport.rabbitmq.fastpath.encode.time", SimpleNamespace(time=lambda: NOW)
        )
        encoded = Encoder(app, user).publish(
            5, FRAME_BYTES, "x.y", key, message, mandatory=mandatory
        )
    assert encoded == encode_by_driver(message, key, mandatory=mandatory, user_id=user, app_id=app)


@pytest.mark.parametrize("key", ["k" * 256, "ä" * 128])
def test_a_routing_key_that_is_too_long_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="256"):
        Encoder("app", None).publish(5, FRAME_BYTES, "x", key, Outgoing(b"", "x"), mandatory=True)
