"""Requests on whose end two readers could disagree, and what becomes of each at the gateway.

Every body holds what looks like a second request, so that a reader that ends the first one too early sees it. A status
means refused: no byte of it reaches a worker. ``ONE`` means forwarded as exactly one request with exactly this body.
"""

from __future__ import annotations

ONE = 0
BODY = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
START = b"POST /echo HTTP/1.1\r\n"
HEAD = START + b"host: a\r\n"
HEAD_10 = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0")
END = b"0\r\n\r\n"
SIZE = b"%x" % len(BODY)
UPGRADE = b"connection: upgrade\r\nupgrade: h2c\r\n"


def length(*lines: bytes, head: bytes = HEAD, value: bytes = b"%d" % len(BODY)) -> bytes:
    """A request with a Content-Length, and further header lines after it."""
    return head + b"content-length: %b\r\n" % value + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + BODY


def coded(*lines: bytes, head: bytes = HEAD, size: bytes = SIZE, line_end: bytes = b"\r\n", end: bytes = END) -> bytes:
    """A request in the chunked coding; ``lines`` instead of the one that says so."""
    said = b"".join(line + b"\r\n" for line in lines or [b"transfer-encoding: chunked"])
    return head + said + b"\r\n" + size + line_end + BODY + b"\r\n" + end


def target(value: bytes) -> bytes:
    return length(head=HEAD.replace(b"/echo", value))


CORPUS: dict[str, tuple[int, bytes]] = {
    # --- both or several framings
    "length": (ONE, length()),
    "chunked": (ONE, coded()),
    "length, then chunked": (400, length(b"transfer-encoding: chunked")),
    "chunked, then length": (400, coded(b"transfer-encoding: chunked", b"content-length: 3")),
    "two equal lengths": (400, length(b"content-length: %d" % len(BODY))),
    "two different lengths": (400, length(b"content-length: 0")),
    "two lengths in other cases": (400, length(b"CONTENT-LENGTH: 0")),
    "a list of equal lengths": (400, length(value=b"35, 35")),
    "length beside an offer to upgrade": (ONE, HEAD + UPGRADE + length(head=b"")),
    "chunked beside an offer to upgrade": (ONE, HEAD + UPGRADE + coded(head=b"")),
    "both beside an offer to upgrade": (400, HEAD + UPGRADE + length(b"transfer-encoding: chunked", head=b"")),
    "two lengths beside an offer to upgrade": (400, HEAD + UPGRADE + length(b"content-length: 0", head=b"")),
    "another coding beside an offer to upgrade": (400, HEAD + UPGRADE + coded(b"transfer-encoding: gzip", head=b"")),
    "no framing of a method with a body": (ONE, HEAD + b"\r\n"),
    "a length named by Connection": (ONE, length(b"connection: content-length")),
    "a GET with a body": (ONE, length(head=HEAD.replace(b"POST", b"GET"))),
    # --- lengths that are none
    "length -1": (400, length(value=b"-1")),
    "length +35": (400, length(value=b"+35")),
    "length in hex": (400, length(value=b"0x23")),
    "length with a blank": (400, length(value=b"3 5")),
    "length with an underscore": (400, length(value=b"3_5")),
    "length with a fraction": (400, length(value=b"35.0")),
    "length with a parameter": (400, length(value=b"35;a")),
    "length with a vertical tab": (400, length(value=b"\x0b35")),
    "length with NUL": (400, length(value=b"35\0")),
    "length beyond 64 bits": (400, length(value=b"18446744073709551651")),
    "length in other digits": (400, length(value="٣٥".encode())),
    "no length at all": (400, length(value=b"")),
    "folded length": (400, length(value=b"3\r\n 5")),
    "length with leading zeros": (ONE, length(value=b"0035")),
    "length between blanks": (ONE, length(value=b" \t35 ")),
    "length with a blank before its colon": (400, HEAD + b"content-length : 35\r\n\r\n" + BODY),
    "length under another name": (ONE, length(b"content_length: 3")),
    # --- codings
    "CHUNKED": (ONE, coded(b"Transfer-Encoding: CHUNKED")),
    "chunked between blanks": (ONE, coded(b"transfer-encoding:\tchunked ")),
    "chunked of HTTP/1.0": (400, coded(head=HEAD_10)),
    "chunked of HTTP/1.0 kept alive": (400, coded(head=HEAD_10 + b"connection: keep-alive\r\n")),
    "gzip, chunked": (400, coded(b"transfer-encoding: gzip, chunked")),
    "gzip and chunked": (400, coded(b"transfer-encoding: gzip", b"transfer-encoding: chunked")),
    "chunked and identity": (400, coded(b"transfer-encoding: chunked", b"transfer-encoding: identity")),
    "chunked twice": (400, coded(b"transfer-encoding: chunked", b"transfer-encoding: chunked")),
    "chunked, chunked": (400, coded(b"transfer-encoding: chunked, chunked")),
    "chunked,": (400, coded(b"transfer-encoding: chunked,")),
    ", chunked": (400, coded(b"transfer-encoding: , chunked")),
    "quoted chunked": (400, coded(b'transfer-encoding: "chunked"')),
    "chunked with a parameter": (400, coded(b"transfer-encoding: chunked;q=1")),
    "xchunked": (400, coded(b"transfer-encoding: xchunked")),
    "chunked with a vertical tab": (400, coded(b"transfer-encoding: \x0bchunked")),
    "chunked with 0xff": (400, coded(b"transfer-encoding: chunked\xff")),
    "chunked with two CR": (400, coded(b"transfer-encoding: chunked\r")),
    "folded chunked": (400, coded(b"transfer-encoding:\r\n chunked")),
    "chunked with a blank before its colon": (400, coded(b"transfer-encoding : chunked")),
    "chunked behind a bare LF": (400, coded(b"x: y\ntransfer-encoding: chunked")),
    "chunked under another name": (ONE, length(b"transfer_encoding: chunked")),
    "an empty coding": (400, length(b"transfer-encoding:")),
    "identity beside a length": (400, length(b"transfer-encoding: identity")),
    # --- chunks
    "size 0x": (400, coded(size=b"0x23")),
    "size +": (400, coded(size=b"+23")),
    "size -": (400, coded(size=b"-23")),
    "size with a blank before it": (400, coded(size=b" 23")),
    "size with a blank after it": (400, coded(size=b"23 ")),
    "size with a tab": (400, coded(size=b"23\t")),
    "size beyond 64 bits": (400, coded(size=b"10000000000000023")),
    "size with leading zeros": (ONE, coded(size=b"000000000000000000000023")),
    "no size": (400, coded(size=b"")),
    "size too small": (400, coded(size=b"22")),
    "size too large": (400, coded(size=b"24")),
    "size ended by LF": (400, coded(line_end=b"\n")),
    "size ended by CR": (400, coded(line_end=b"\r")),
    "an extension": (ONE, coded(size=SIZE + b";a=b")),
    "a quoted extension": (ONE, coded(size=SIZE + b';a="b"')),
    "an extension ended by LF": (400, coded(size=SIZE + b";a", line_end=b"\n")),
    "an extension with LF": (400, coded(size=SIZE + b";a\nb")),
    "an extension with CR": (400, coded(size=SIZE + b";a\rb")),
    "an extension with NUL": (400, coded(size=SIZE + b";a\0")),
    "an extension with quoted LF": (400, coded(size=SIZE + b';a="\n"')),
    "an empty extension": (400, coded(size=SIZE + b";")),
    "a blank before an extension": (400, coded(size=SIZE + b" ;a=b")),
    "an extension alone": (400, coded(size=b";a")),
    "data not ended": (400, coded().replace(b"\r\n\r\n\r\n0", b"\r\n\r\n0")),
    "data ended by LF": (400, coded().replace(b"\r\n\r\n\r\n0", b"\r\n\r\n\n0")),
    "data ended otherwise": (400, coded().replace(b"\r\n\r\n\r\n0", b"\r\n\r\nXX0")),
    "last chunk 00": (ONE, coded(end=b"00\r\n\r\n")),
    "last chunk with an extension": (ONE, coded(end=b"0;a\r\n\r\n")),
    "last chunk ended by LF": (400, coded(end=b"0\n\n")),
    "end ended by LF": (400, coded(end=b"0\r\n\n")),
    "a trailer": (ONE, coded(end=b"0\r\na: b\r\n\r\n")),
    "a length for trailer": (400, coded(end=b"0\r\ncontent-length: 5\r\n\r\n")),
    "a coding for trailer": (400, coded(end=b"0\r\ntransfer-encoding: chunked\r\n\r\n")),
    "an upgrade for trailer": (ONE, coded(end=b"0\r\n" + UPGRADE + b"\r\n")),
    "a folded trailer": (400, coded(end=b"0\r\na: b\r\n c\r\n\r\n")),
    "a trailer ended by LF": (400, coded(end=b"0\r\na: b\n\r\n")),
    "a trailer with NUL": (400, coded(end=b"0\r\na: \0\r\n\r\n")),
    # --- lines
    "a header ended by LF": (400, length(b"x: a\ny: b")),
    "a header ended by CR": (400, length(b"x: a\ry: b")),
    "a head ended by LF": (400, length().replace(b"35\r\n\r\n", b"35\r\n\n")),
    "a head ended by two LF": (400, length().replace(b"35\r\n\r\n", b"35\n\n")),
    "a start ended by LF": (400, length(head=START[:-2] + b"\nhost: a\r\n")),
    "a start ended by CR CR LF": (400, length(head=START[:-2] + b"\r\r\nhost: a\r\n")),
    "a folded header": (400, length(b"x: a", b" b")),
    "a blank before the first header": (400, length(head=START + b" host: a\r\n")),
    "a blank in a name": (400, length(b"x y: z")),
    "a blank after a name": (400, length(b"x : z")),
    "no colon": (400, length(b"x")),
    "no name": (400, length(b": x")),
    "NUL in a name": (400, length(b"x\0: y")),
    "NUL in a value": (400, length(b"x: \0")),
    "NUL in the target": (400, target(b"/ec\0ho")),
    "a control character in a value": (400, length(b"x: \x01")),
    "DEL in a value": (400, length(b"x: \x7f")),
    "a parenthesis in a name": (400, length(b"x(y): z")),
    "0x80 in a name": (400, length(b"x\x80: y")),
    "0xff in a value": (ONE, length(b"x: \xff")),
    "empty lines before": (ONE, b"\r\n\r\n" + length()),
    "a blank before": (400, b" " + length()),
    # --- targets, methods, versions, hosts
    "an absolute target": (ONE, target(b"http://other/echo")),
    "an absolute target with a user": (ONE, target(b"http://u:p@other/echo")),
    "another scheme": (400, target(b"ftp://other/echo")),
    "no path": (400, target(b"echo")),
    "a blank in the target": (400, target(b"/echo /x")),
    "two blanks": (ONE, target(b"/echo ")),
    "a tab for a blank": (400, length(head=HEAD.replace(b"/echo ", b"/echo\t"))),
    "CR in the target": (400, target(b"/ec\rho")),
    "0x80 in the target": (400, target(b"/ec\x80ho")),
    "a fragment": (400, target(b"/echo#x")),
    "an administrative path with a fragment": (400, target(b"/sleep#x")),
    "an administrative path, absolute": (403, target(b"http://a/sleep")),
    "an administrative path behind a query": (403, target(b"http://a?/sleep")),
    "an administrative path, coded": (403, target(b"/%73leep")),
    "an administrative path by dots": (403, target(b"/v1/../sleep")),
    "CONNECT": (501, length(head=HEAD.replace(b"POST /echo", b"CONNECT a:1"))),
    "CONNECT to a path": (501, length(head=HEAD.replace(b"POST", b"CONNECT"))),
    "TRACE": (501, length(head=HEAD.replace(b"POST", b"TRACE"))),
    "another protocol's method": (501, length(head=HEAD.replace(b"POST", b"SOURCE"))),
    "a method in small letters": (400, length(head=HEAD.replace(b"POST", b"post"))),
    "HTTP/1.2": (400, length(head=HEAD.replace(b"1.1", b"1.2"))),
    "HTTP/1.10": (400, length(head=HEAD.replace(b"1.1", b"1.10"))),
    "HTTP/01.1": (400, length(head=HEAD.replace(b"1.1", b"01.1"))),
    "HTTP/0.9": (505, length(head=HEAD.replace(b"1.1", b"0.9"))),
    "a blank after the version": (400, length(head=HEAD.replace(b"1.1", b"1.1 "))),
    "http/1.1": (400, length(head=HEAD.replace(b"HTTP", b"http"))),
    "the preface of HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "no host": (400, length(head=START)),
    "two hosts": (400, length(b"host: b")),
    "two equal hosts": (400, length(b"host: a")),
    "no host in HTTP/1.0": (ONE, length(head=START.replace(b"1.1", b"1.0") + b"connection: keep-alive\r\n")),
}
