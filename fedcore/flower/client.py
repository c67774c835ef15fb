"""The ClientApp: hands Flower's messages to the node on this machine, and its answers back.

Flower starts a process for every message. Training itself stays in the node (`worker`), which lives as long as the SuperNode
does, so that no message waits for torch to be imported and data to be read.
"""

from __future__ import annotations

import json
from typing import Any

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedcore.flower.frames import ask
from fedcore.flower.pieces import cut, joined

BLOCK, TELEMETRY = "block", "telemetry"

app = ClientApp()


@app.train()
@app.query()
def answer(message: Message, context: Context) -> Message:
    """The node's answer to one message; where there is no node, Flower tells the server so."""
    path = context.node_config.get("socket")
    if not isinstance(path, str):
        raise ValueError("this SuperNode's --node-config has no socket: start it with python -m fedcore.flower.node")
    sent: Any = message.content
    telemetry, reply = ask(path, joined(sent[BLOCK]))
    records = RecordDict({BLOCK: cut(reply), TELEMETRY: MetricRecord(json.loads(telemetry))})
    return Message(records, reply_to=message)
