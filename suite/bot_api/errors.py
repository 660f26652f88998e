"""Answers that are not ``ok``."""

from typing import Any

from aiohttp import web


class ApiError(Exception):
    """An answer that is not ``ok``. `retry_after` is in whole seconds, for 429."""

    def __init__(
        self,
        status: int,
        description: str,
        retry_after: int | None = None,
        *,
        migrate_to_chat_id: int | None = None,
    ) -> None:
        super().__init__(description)
        self.status, self.description, self.retry_after = status, description, retry_after
        self.migrate_to_chat_id = migrate_to_chat_id

    def response(self) -> web.Response:
        body: dict[str, Any] = {"ok": False, "error_code": self.status, "description": self.description}
        if self.migrate_to_chat_id:
            body["parameters"] = {"migrate_to_chat_id": self.migrate_to_chat_id}
        if self.retry_after is None:
            return web.json_response(body, status=self.status)
        body["parameters"] = {"retry_after": self.retry_after}
        headers = {"Retry-After": str(self.retry_after)}
        return web.json_response(body, status=self.status, headers=headers)


class BadGatewayError(ApiError):
    """What a proxy answers for a server that is away: HTML, not JSON."""

    def response(self) -> web.Response:
        page = f"<html><h1>{self.status} {self.description}</h1></html>"
        return web.Response(status=self.status, text=page, content_type="text/html")


def bad_request(description: str) -> ApiError:
    return ApiError(400, f"Bad Request: {description}")
