"""Why there is no connection, in one sentence, and what to do about it."""

import re

_WHERE = re.compile(
    r"(?:connection failed|connection is bad|connection to server at \"[^\"]*\"(?: \([^)]*\))?, port \d+ failed): "
)
_ATTEMPT = re.compile(r"- host: '?(?P<host>.*?)'?, port: '?(?P<port>.*?)'?, hostaddr: \S+: (?P<said>.*)")
_HINT = ("Is the server running", "Multiple connection attempts failed")

_PATIENCE = "End some connections, or wait: a backup needs a few at a time (backup.jobs and a handful more)."
_AUTHORITY = "Name the certificate of the server's authority in {source}: sslrootcert=FILE."
_NO_SUCH_SERVER = "No server of {source} is what its target_session_attrs asks for."

_REMEDIES = (
    ("password", "Correct the password in {source}; in a URL the characters % @ / : are written %25 %40 %2F %3A."),
    ("does not support SSL", "Switch TLS on at the server, or use sslmode=prefer where none is acceptable."),
    ("certificate verify failed", _AUTHORITY),
    ("root certificate", _AUTHORITY),
    ("does not match host name", "Use a name in {source} that stands in the server's certificate."),
    ("client certificate", "Name a certificate that the server accepts in {source}: sslcert=FILE and sslkey=FILE."),
    ("no encryption", "The server may want TLS: try sslmode=require in {source}, or see its pg_hba.conf."),
    ("pg_hba.conf", "Let this role in from here, in the server's pg_hba.conf, or use another role or sslmode."),
    ("too many", _PATIENCE),
    ("connection slots", _PATIENCE),
    ("starting up", "Wait until it accepts connections (pg_isready tells), then run this again."),
    ("not yet accepting", "Wait until it accepts connections (pg_isready tells), then run this again."),
    ("resolve host", "Correct the host's name in {source}."),
    ("parameter: options", "This pooler takes no options= and no PGOPTIONS: leave it out, or go round the pooler."),
    ("session is ", _NO_SUCH_SERVER),
    ("in hot standby mode", _NO_SUCH_SERVER),
)


def tell_cause(said: str) -> str:
    """What libpq and the server said, each thing once, without the place, which is told elsewhere.

    Of several hosts each is named with its own cause.
    """
    lines = [line.strip() for line in said.splitlines()]
    attempts = [found for line in lines if (found := _ATTEMPT.fullmatch(line))]
    places = dict.fromkeys(f"{attempt['host']}:{attempt['port']}" for attempt in attempts)
    if len(places) > 1:
        return "; ".join(dict.fromkeys(f"{a['host']}:{a['port']}: {_WHERE.sub('', a['said'])}" for a in attempts))
    told = [attempts[0]["said"]] if attempts else lines
    causes = [_WHERE.sub("", line) for line in told if line and not line.startswith(_HINT)]
    return "; ".join(dict.fromkeys(causes))


def tell_remedy(cause: str, source: str) -> str:
    """What to do; a server that speaks another language than English gets the general answer."""
    for part, remedy in _REMEDIES:
        if part in cause:
            return remedy.format(source=source)
    return f"Check that the server runs and can be reached from here, and what {source} says."
