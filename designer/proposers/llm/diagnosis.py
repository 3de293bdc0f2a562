"""What is wrong with an endpoint that cannot be used, in words that name the setting and the remedy."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Collection, Iterator

from designer.proposers.llm.settings import Role

_MOST_NAMES = 8
_LONGEST_CAUSE = 200
_NO_TOOLS = re.compile(
    r"tool[ _-]choice|tool-call-parser|support (?:tools|function)|tools? (?:is|are) not supported|tools param", re.I
)
"""How vLLM (without ``--enable-auto-tool-choice``), llama.cpp (without ``--jinja``) and Ollama refuse tools."""


def unreachable(role: Role, error: BaseException) -> str:
    """No connection could be made."""
    causes = list(_chain(error))
    said = next((text for cause in reversed(causes) if (text := " ".join(str(cause).split())[:_LONGEST_CAUSE])), "")
    again = "or correct base_url (--base-url) in a new run"
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return (
            f"{role.base_url}: the name {role.host} is not known ({said}); correct base_url (--base-url) in a new run"
        )
    if found := [cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)]:
        return (
            f"{role.base_url}: its certificate is not trusted ({found[0].verify_message}); name the authority's file "
            f"in SSL_CERT_FILE and resume, {again}"
        )
    if any(isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLWantReadError) for cause in causes):
        return f"{role.base_url}: no TLS is spoken there ({said}); write http:// in base_url (--base-url) in a new run"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return f"{role.base_url}: nobody listens there (connection refused); start the server and resume, {again}"
    said = said or type(error).__name__
    return f"{role.base_url}: it cannot be reached ({said}); start the server and resume, {again}"


def no_http(role: Role, said: str) -> str:
    """Something listens there, and what it says is no answer of HTTP."""
    other = "; if TLS is spoken there, write https://" if role.base_url.startswith("http://") else ""
    return f"{role.base_url}: no HTTP came back ({said}); correct base_url (--base-url) in a new run{other}"


def no_protocol(role: Role, said: str) -> str:
    """It answers, and not as a server of models."""
    return (
        f"{role.base_url}: what answers is no OpenAI-compatible API ({said}); base_url is the part before "
        f"/chat/completions{_ending(role)}: correct it (--base-url) in a new run"
    )


def refused(role: Role, status: int, said: str, served: Collection[str] | None) -> str:
    """401, 403 or 404.

    Args:
        served: models that it lists; None: it lists none.
    """
    if status != 404:
        return (
            f"{role.base_url}: the key in {role.key_variable} was refused ({status}: {said}); set the variable to a "
            "key of this server and resume"
        )
    if served is not None and role.model not in served:
        return (
            f"{role.base_url}: model {role.model!r} is not served there ({said}); it serves {_some(served)}: "
            "correct model (--model) in a new run"
        )
    if served is not None:
        return f"{role.base_url}: 404 for model {role.model!r} ({said}); correct model (--model) in a new run"
    return (
        f"{role.base_url}: 404 ({said}); either model {role.model!r} is not served there, or base_url is not the part "
        f"before /chat/completions{_ending(role)}: correct model (--model) or base_url (--base-url) in a new run"
    )


def nothing_there(role: Role) -> str:
    """404 on every path."""
    return (
        f"{role.base_url}: neither /models nor /chat/completions is there (404); base_url is the part before "
        f"/chat/completions{_ending(role)}: correct it (--base-url) in a new run"
    )


def redirected(role: Role, status: int) -> str:
    return (
        f"{role.base_url}: {status}: it redirects, which is not followed; set base_url (--base-url) to where it leads "
        "in a new run"
    )


def not_listed(role: Role, served: Collection[str]) -> str:
    return f"{role.base_url} does not list model {role.model!r}; it lists {_some(served)}"


def without_tools(said: str) -> str:
    """Empty: the refusal is about something else."""
    if not _NO_TOOLS.search(said):
        return ""
    return (
        f"the server takes no tool calls ({said}); start vLLM with --enable-auto-tool-choice --tool-call-parser NAME "
        'and resume, or set tools = "text" in the --llm file, in a new run'
    )


def _ending(role: Role) -> str:
    return "" if role.base_url.rstrip("/").endswith("/v1") else " and usually ends in /v1"


def _some(names: Collection[str]) -> str:
    shown = sorted(names)[:_MOST_NAMES]
    return ", ".join([*shown, "…"] if len(names) > len(shown) else shown) or "nothing"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """It and what it came of, outermost first."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        grouped = cause.exceptions if isinstance(cause, BaseExceptionGroup) else ()
        waiting += [other for other in (*grouped, cause.__cause__ or cause.__context__) if other is not None]
