"""What travels between server and machines: plain numbers in named arrays, never pickled, every byte counted."""

from fedcore.wire.packet import Packet
from fedcore.wire.precision import PRECISIONS
from fedcore.wire.result import decode_result, encode_result
from fedcore.wire.task import Sent, decode_task, encode_task

__all__ = ["PRECISIONS", "Packet", "Sent", "decode_result", "decode_task", "encode_result", "encode_task"]
