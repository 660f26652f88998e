"""A proxy between a store and its emulator that speaks gRPC: it counts calls, loses answers, and fails."""

from collections.abc import AsyncIterator
from typing import Any, Self

import grpc


class Proxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Passes calls on, as they are.

    Attributes:
        calls: the names of the methods called, in order.
        sent: bytes of requests.
        answers_to_lose: how many of the next calls reach the server, and fail for the client.
        refusals: statuses with which the next calls end that do not reach the server.
        only: the method to whose calls this happens; empty for all.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self.host = ""
        self.calls: list[str] = []
        self.sent = 0
        self.answers_to_lose = 0
        self.refusals: list[grpc.StatusCode] = []
        self.only = ""

    def reset(self) -> None:
        """Count from zero."""
        self.calls, self.sent = [], 0

    async def __aenter__(self) -> Self:
        options = [("grpc.max_receive_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(self._target, options=options)
        self._server = grpc.aio.server(handlers=[self], options=options)
        self.host = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)
        await self._channel.close()

    def service(self, call: Any) -> Any:
        """A single answer is, on the wire, a stream of one."""
        method = call.method

        async def pass_on(request: bytes, context: Any) -> AsyncIterator[bytes]:
            name = method.rpartition("/")[2]
            self.calls.append(name)
            self.sent += len(request)
            is_meant = self.only in ("", name)
            if is_meant and self.refusals:
                await context.abort(self.refusals.pop(0), "by the proxy")
            metadata = [
                (key, value)
                for key, value in context.invocation_metadata()
                if key in ("authorization", "google-cloud-resource-prefix", "x-goog-request-params")
            ]
            try:
                answers = self._channel.unary_stream(method)(request, metadata=metadata)
                received = [answer async for answer in answers]
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details())
            if is_meant and self.answers_to_lose:
                self.answers_to_lose -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "lost by the proxy")
            for answer in received:
                yield answer

        return grpc.unary_stream_rpc_method_handler(pass_on)
