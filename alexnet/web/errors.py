"""The error that an endpoint raises to answer with a status and a message of one line."""


class RequestError(Exception):
    """A request that is not answered.

    Args:
        status: The HTTP status.
        message: The reason, on one line, which the answer has as `error`.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
