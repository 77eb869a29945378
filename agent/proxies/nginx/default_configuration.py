"""The configuration that the agent generates for NGINX when the operator provides none."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

from agent.certificates.references import Reference, Role
from agent.proxies.nginx.directives import quoted

_TEXT = """\
events {{}}
http {{
    access_log off;
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
{servers}
}}
"""
_SERVER = """\
    server {{
        listen {listen} ssl;
        server_name {names};
{certificates}
        location / {{ proxy_pass http://{forward}; }}
    }}"""
_NAME = re.compile(r"(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_NONE = '""'
_DIRECTIVES = {Role.CHAIN: "ssl_certificate", Role.KEY: "ssl_certificate_key"}


def default_configuration(
    listen: tuple[str, int],
    forward: tuple[str, int],
    references: Iterable[Reference],
    names: Mapping[str, Collection[str]],
) -> str:
    """Return a configuration that serves these certificates at one address for one HTTP service.

    `names`: of some groups, the DNS names in the certificate. NGINX has one certificate of each kind of key in a
    server, so those of other names are in another one. The first server is for clients that name none of them.
    """
    servers: defaultdict[str, list[Reference]] = defaultdict(list)
    for each in references:
        if each.role in _DIRECTIVES:
            servers[_server_name(names.get(each.group, ()))].append(each)
    where, to = _address(listen), _address(forward)
    return _TEXT.format(
        servers="\n".join(
            _SERVER.format(listen=where, forward=to, names=name, certificates="\n".join(_directives(pairs)))
            for name, pairs in servers.items()
        )
    )


def _server_name(names: Collection[str]) -> str:
    return " ".join(sorted({name.lower() for name in names if _NAME.fullmatch(name)})) or _NONE


def _directives(references: Iterable[Reference]) -> Iterator[str]:
    for each in references:
        yield f"        {_DIRECTIVES[each.role]} {quoted(each.path)};"


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
