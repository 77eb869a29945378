"""The configuration that the agent generates for NGINX when the operator provides none."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from agent.certificates.references import Reference, Role

_TEXT = """\
events {{}}
http {{
    access_log off;
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    server {{
        listen {listen} ssl;
{certificates}
        location / {{ proxy_pass http://{forward}; }}
    }}
}}
"""


def default_configuration(listen: tuple[str, int], forward: tuple[str, int], references: Iterable[Reference]) -> str:
    """Return a configuration that serves these certificates at one address for one HTTP service.

    NGINX takes several certificates in one server if their keys are of different kinds.
    """
    certificates = "\n".join(_directives(references))
    return _TEXT.format(listen=_address(listen), forward=_address(forward), certificates=certificates)


def _directives(references: Iterable[Reference]) -> Iterator[str]:
    for _, pair in groupby(references, key=lambda each: each.group):
        for each in pair:
            name = {Role.CHAIN: "ssl_certificate", Role.KEY: "ssl_certificate_key"}.get(each.role)
            if name is not None:
                path = each.path.replace("\\", "\\\\").replace('"', '\\"')
                yield f'        {name} "{path}";'


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
