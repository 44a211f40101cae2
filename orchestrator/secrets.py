"""What must not be written down: the credentials in an address."""

import re

_CREDENTIALS = re.compile(r"(?<=://)[^/\s?#]*@")
_QUERY = re.compile(
    r"([?&][\w.-]*(?:password|passwd|pwd|token|secret|signature|key)[\w.-]*=)[^&\s'\"]+",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """A text in which no address has a user name and password, or a secret among its options.

    >>> without_credentials("cannot reach https://me:pa55@host/path?token=abc&x=1")
    'cannot reach https://host/path?token=***&x=1'
    """
    return _QUERY.sub(r"\1***", _CREDENTIALS.sub("", text))
