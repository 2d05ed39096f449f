"""Reading the configuration file: what is wrong with it, all at once, and what a new one changes."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import stat
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import attrs
import cattrs
from cattrs.errors import AttributeValidationNote, ForbiddenExtraKeysError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn, override

from .. import ConfigurationError
from ..http import Address
from ._models import BASE_URLS, NAME_RULE, SPOILS, SPOILS_RIGHT, is_provider_name, spoils_model
from ._options import FILE, Key, Share, Steps, Wrong, did_you_mean
from ._tables import (
    DEFAULT_LISTENER,
    Config,
    ListenerTable,
    PolicyTable,
    Problem,
    ProviderTable,
    RetryTable,
    RouteTable,
    is_local,
    options,
    tables,
)

MAX_FILE = 1024 * 1024
"""Bytes of a configuration: a route takes a hundred."""

MAX_KEY_FILE = 16 * 1024
"""Bytes of a file with a key: the longest, tokens of clouds, have some thousand."""

_KEY = re.compile(r"[\x21-\x7e]+")
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLACE = re.compile(r" \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)\Z")

#: What providers of a type speak, if nothing else is said first.
_SPEAKS = {
    "openai": ("openai-chat", "openai-responses"),
    "openai-compat": ("openai-chat", "openai-responses", "anthropic", "sse"),
    "openrouter": ("openai-chat", "openai-responses", "anthropic"),
    "anthropic": ("anthropic",),
    "sse": ("sse", "openai-chat", "openai-responses", "anthropic"),
}


class ConfigurationErrors(ConfigurationError):
    """A configuration is wrong, in all the ways that `problems` says. Its text has a line for each.

    Args:
        files: the files that it names: one that was not there may come, and then it is right.
    """

    def __init__(self, problems: Iterable[Problem], *, files: Iterable[Path] = ()) -> None:
        self.problems = tuple(problems)
        self.files = frozenset(files)
        super().__init__("\n".join(map(str, self.problems)))


@attrs.frozen
class Changes:
    """What one configuration has otherwise than another, as paths of options and tables."""

    now: tuple[str, ...]
    """For requests that begin from now on."""

    restart: tuple[str, ...]
    """Only behind a restart."""


def load(path: str | os.PathLike[str], environ: Mapping[str, str]) -> Config:
    """Read a configuration, and the keys that it names.

    Args:
        environ: the environment that ``env:NAME`` is looked up in.

    Raises:
        ConfigurationErrors: something is wrong. It holds every problem that could be found.
    """
    where = Path(path)
    reading = _Reading(where.absolute(), environ)
    config = reading.read(_parse(where))
    if reading.problems:
        raise ConfigurationErrors(reading.problems, files=reading.files)
    return config


def check(path: str | os.PathLike[str], environ: Mapping[str, str], stream: TextIO) -> int:
    """Say whether a configuration is right: a line for each problem, or what it amounts to. Return an exit status.

    2 if something is wrong, else 0, though there may be warnings.
    """
    try:
        config = load(path, environ)
    except ConfigurationErrors as errors:
        stream.writelines(f"{problem}\n" for problem in errors.problems)
        return 2
    stream.writelines(f"warning: {warning}\n" for warning in config.warnings)
    stream.writelines(f"{line}\n" for line in summary(config))
    return 0


def summary(config: Config) -> Iterator[str]:
    """Say in a few lines what a configuration amounts to. Of keys, it tells where they are from."""
    only = " (this machine only: there is no [auth])" if config.auth is None else ""
    for listener in config.listeners:
        yield f"listens on {listener.address}{'' if listener.tls_cert is None else ', https'}{only}"
    for name, provider in config.providers.items():
        where = f"provider {name}: {provider.type}, {provider.base_url}"
        sources = f" ({', '.join(key.source for key in provider.keys)})" if provider.keys else ""
        yield f"{where}, {len(provider.keys)} key{'' if len(provider.keys) == 1 else 's'}{sources}"
    for route in config.routes:
        yield f"route {route.prefix}: " + ", ".join(map(_share, route.upstreams))


def _share(share: Share) -> str:
    return share.provider if share.weight is None else f"{share.provider} (weight {share.weight})"


def path_of(steps: Steps) -> str:
    """The path of something in a file, on one line whatever it is called."""
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if _PLAIN.fullmatch(step) else f'"{step[:64].encode("unicode_escape").decode()}"'
            text += f".{name}" if text else name
    return text


# From text to tables.


def _parse(path: Path) -> dict[str, Any]:
    name = path_of((path.name,)).strip('"')
    try:
        return tomllib.loads(_read_file(path, MAX_FILE).decode())
    except Wrong as wrong:
        problem = Problem(name, wrong.message, wrong.right)
    except UnicodeDecodeError as error:
        before: bytes = error.object[: error.start]
        problem = Problem(f"{name}:{before.count(10) + 1}", "is not UTF-8", "UTF-8, as TOML has to be")
    except RecursionError:
        problem = Problem(name, "has lists in lists, too deep", "tables of options")
    except ValueError as error:  # tomllib's own is one, and a number may be too long for any
        found = _PLACE.search(str(error))
        message = str(error)[: found.start()] if found else "has a value that cannot be read"
        place = f"{name}:{found[1]}:{found[2]}" if found and found[1] else name
        at_end = " at its end" if found and not found[1] else ""
        problem = Problem(place, f"is no TOML{at_end}: {message.encode('unicode_escape').decode()}")
    raise ConfigurationErrors([problem])


def _read_file(path: Path, most: int) -> bytes:
    try:
        # Opening a pipe would wait for somebody to write.
        if not stat.S_ISREG(path.stat().st_mode):
            raise Wrong("is no file")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Wrong(f"cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise Wrong("is too long", f"at most {most} bytes")
    return data


def _make_converter(folder: Path) -> cattrs.Converter:
    """How tables are made of plain values: each option in the way that it says itself."""
    converter = cattrs.Converter(detailed_validation=True, forbid_extra_keys=True)

    def reads(field: attrs.Attribute[Any]) -> Callable[[object, object], Any]:
        if "kind" in field.metadata:
            kind = field.metadata["kind"]
            return lambda value, _: folder / FILE.read(value) if kind is FILE else kind.read(value)
        cls, form = field.metadata["table"], field.metadata["form"]
        prepare(cls)
        match form:
            case "list":
                many: Any = tuple[cls, ...]  # type: ignore[valid-type]
                return lambda value, _: converter.structure(_tables_in(value, field.name), many)
            case "named":
                named: Any = dict[str, cls]  # type: ignore[valid-type]
                return lambda value, _: converter.structure(_named_tables_in(value, field.name), named)
            case _:
                return lambda value, _: converter.structure(_table_in(value), cls)

    def prepare(cls: type[Any]) -> None:
        hooks: dict[str, Any] = {
            field.name: override(struct_hook=reads(field)) for field in (*options(cls), *tables(cls))
        }
        hooks |= {field.name: override(omit=True) for field in attrs.fields(cls) if field.name not in hooks}
        converter.register_structure_hook(cls, make_dict_structure_fn(cls, converter, **hooks))

    prepare(Config)
    return converter


def _table_in(value: object) -> object:
    if not isinstance(value, dict):
        raise Wrong("is no table", "a table of options")
    return value


def _tables_in(value: object, name: str) -> object:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise Wrong("is no list of tables", f"[[{name}]] above each")
    return value


def _named_tables_in(value: object, name: str) -> object:
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise Wrong("is no table of tables", f"[{name}.NAME] above each")
    return value


@attrs.frozen
class _Fault:
    """What cattrs has found."""

    option: Steps
    problem: Problem


def _faults(error: BaseException, steps: Steps = ()) -> Iterator[_Fault]:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            steps = (*steps, note.name)
        elif isinstance(note, IterableValidationNote):
            steps = (*steps, note.index)
    match error:
        case BaseExceptionGroup():
            for inner in error.exceptions:
                yield from _faults(inner, steps)
        case ForbiddenExtraKeysError():
            known = [field.name for field in (*options(error.cl), *tables(error.cl))]
            for name in sorted(error.extra_fields):
                path = (*steps, name)
                yield _Fault(path, Problem(path_of(path), "there is no such option", did_you_mean(name, known)))
        case Wrong():
            yield _Fault(steps, Problem(path_of((*steps, *error.at)), error.message, error.right))
        case _:
            raise error


class _Reading:
    """One reading of a file. Whatever is wrong is noted, and left out of what is looked at further."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = environ
        self._converter = _make_converter(path.parent)
        self._wrong: list[Steps] = []
        self.files: set[Path] = set()
        self._warnings: list[Problem] = []
        self.problems: list[Problem] = []

    def read(self, tree: dict[str, Any]) -> Config:
        """Make a configuration of what the file holds. Good only if there are no `problems` behind it."""
        config = self._structure(tree)
        self._check_required(config)
        listeners = config.listeners or (DEFAULT_LISTENER,)
        self._check_listeners(config, listeners)
        providers = {name: self._provider(name, provider, config) for name, provider in config.providers.items()}
        if not providers and not self._is_spoilt(("providers",)):
            self._add(("providers",), "there is none", "[providers.NAME], with a type and keys")
        routes = self._routes(config, tree) if config.routes else _routes_for(config)
        config = attrs.evolve(config, listeners=listeners, providers=providers, routes=routes)
        self._check_policies(config, tree)
        self._check_routes(config)
        config = self._check_others(config)
        return attrs.evolve(config, warnings=tuple(self._warnings), files=frozenset(self.files))

    def _structure(self, tree: dict[str, Any]) -> Config:
        try:
            return self._converter.structure(tree, Config)
        except cattrs.BaseValidationError as error:
            faults = list(_faults(error))
        for fault in faults:
            self.problems.append(fault.problem)
            self._wrong.append(fault.option)
            table: Any = tree
            for step in fault.option[:-1]:
                table = table[step]
            table.pop(fault.option[-1], None)
        # What was wrong is gone, and everything has a default until it is checked.
        return self._converter.structure(tree, Config)

    def _is_spoilt(self, steps: Steps) -> bool:
        """Whether what stands there, or around it, was wrong already: what is left in its place means nothing."""
        return any(steps[: len(wrong)] == wrong for wrong in self._wrong)

    def _add(self, steps: Steps, message: str, right: str = "") -> None:
        if not self._is_spoilt(steps):
            self.problems.append(Problem(path_of(steps), message, right))

    def _warn(self, steps: Steps, message: str, right: str) -> None:
        self._warnings.append(Problem(path_of(steps), message, right))

    def _check_required(self, config: Config) -> None:
        for steps, table in _tables_of(config):
            for field in options(type(table)):
                if "right" in field.metadata and _is_missing(getattr(table, field.name)):
                    if field.name == "base_url" and (_is_missing(table.type) or table.type in BASE_URLS):
                        continue
                    self._add((*steps, field.name), "is missing", field.metadata["right"])

    # Listeners.

    def _check_listeners(self, config: Config, listeners: Sequence[ListenerTable]) -> None:
        seen: dict[str, int] = {}
        for i, listener in enumerate(listeners):
            if _is_missing(listener.address):
                continue
            steps: Steps = ("listeners", i, "address")
            first = seen.setdefault(str(listener.address), i)
            if first != i and _is_one(listener.address):
                self._add(steps, f"is that of listeners[{first}]", "another one")
            if config.auth is None and not is_local(listener.address) and not self._is_spoilt(("auth",)):
                right = "[auth] with a tokens_file, or an address like 127.0.0.1:8080"
                self._add(steps, "other machines can connect, and nobody is asked who he is", right)
            self._check_tls(listener, ("listeners", i))

    def _check_tls(self, listener: ListenerTable, steps: Steps) -> None:
        cert, key = listener.tls_cert, listener.tls_key
        if cert is None and key is None:
            return
        if cert is None or key is None:
            missing = (*steps, "tls_cert" if cert is None else "tls_key")
            self._add(missing, "is missing", "tls_cert and tls_key go together")
            return
        if not _is_missing(listener.address) and listener.address.path is not None:
            self._add((*steps, "tls_cert"), "a Unix socket has no TLS", "tls_cert and tls_key left out")
        readable = [self._readable(cert, (*steps, "tls_cert")), self._readable(key, (*steps, "tls_key"))]
        if None not in readable:
            try:
                # Without a password of ours, OpenSSL would ask for one at the terminal.
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
            except (OSError, ValueError):
                right = "a certificate chain, and its own key without a password, both PEM"
                self._add((*steps, "tls_cert"), "cannot be used together with tls_key", right)

    # Files and keys.

    def _readable(self, path: Path, steps: Steps, most: int = MAX_FILE) -> bytes | None:
        self.files.add(path)
        try:
            return _read_file(path, most)
        except Wrong as wrong:
            self._add(steps, f"{path} {wrong.message}", wrong.right or "a file that can be read")
            return None

    def _secret(self, secret: Key, config: Config, steps: Steps) -> Key:
        """The secret with its value; without one if there is none to be had."""
        where, _, name = secret.source.partition(":")
        value = secret.value
        if where == "env":
            value = self._environ.get(name, "").strip()
            if not value:
                self._add(steps, f"there is no {name} in the environment", f"{name} set, and not empty")
                return secret
        elif where == "file":
            found = self._key_file(self._path.parent / name, steps)
            if found is None:
                return secret
            value = found
        elif not config.allow_literal_keys:
            right = '"env:NAME" or "file:PATH", or allow_literal_keys = true at the top of the file'
            self._add(steps, "is a key itself, where whoever reads this file has it", right)
            return secret
        else:
            self._warn_if_public(self._path, steps)
        if _KEY.fullmatch(value) is None or len(value) > MAX_KEY_FILE:
            self._add(steps, "is no key", "printable ASCII without spaces, on one line")
            return secret
        return attrs.evolve(secret, value=value)

    def _key_file(self, path: Path, steps: Steps) -> str | None:
        data = self._readable(path, steps, MAX_KEY_FILE)
        if data is None:
            return None
        self._warn_if_public(path, steps)
        text = data.decode("latin-1").strip()
        if not text:
            self._add(steps, f"{path} is empty", "a file that holds the key")
        return text or None

    def _warn_if_public(self, path: Path, steps: Steps) -> None:
        # Not refused: secrets that Docker and Kubernetes mount are like this.
        with contextlib.suppress(OSError):
            if sys.platform != "win32" and path.stat().st_mode & stat.S_IROTH:
                self._warn(steps, f"everybody on this machine may read {path}", "chmod o-r")

    # Providers.

    def _provider(self, name: str, provider: ProviderTable, config: Config) -> ProviderTable:
        steps: Steps = ("providers", name)
        if not is_provider_name(name):
            self._add(steps, "is no name for a provider", NAME_RULE)
        keys = tuple(self._secret(key, config, (*steps, "keys", i)) for i, key in enumerate(provider.keys))
        for i, key in enumerate(keys):
            same = next(j for j, other in enumerate(keys) if other.value == key.value)
            if key.value and same != i:
                self._add((*steps, "keys", i), f"is the same as keys[{same}]", "each key once")
        if provider.pass_credentials and config.auth is not None:
            right = "pass_credentials = false, and keys"
            self._add((*steps, "pass_credentials"), "with [auth], what clients send is for us", right)
        provider = attrs.evolve(provider, keys=keys)
        if _is_missing(provider.base_url) and provider.type in BASE_URLS:
            provider = attrs.evolve(provider, base_url=BASE_URLS[provider.type])
        if provider.ca is not None:
            self._check_ca(provider.ca, (*steps, "ca"))
        if not _is_missing(provider.base_url):
            self._check_base_url(name, provider, steps)
        return provider

    def _check_base_url(self, name: str, provider: ProviderTable, steps: Steps) -> None:
        url = provider.base_url
        if any(spoils_model(provider.type, name, url, model) for model in provider.models.values()):
            self._add((*steps, "type"), SPOILS, SPOILS_RIGHT)
        if url in BASE_URLS.values() and not provider.keys and not provider.pass_credentials:
            self._warn((*steps, "keys"), "there is none, and it answers nobody without", 'keys = ["env:NAME"]')
        if url.startswith("http:") and provider.keys and not provider.destinations:
            self._warn((*steps, "base_url"), "its keys go through networks as they are", "https://...")

    def _check_ca(self, ca: Path, steps: Steps) -> None:
        if self._readable(ca, steps) is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca)
            except (OSError, ValueError):
                self._add(steps, f"{ca} holds no certificate", "certificates of authorities (PEM)")

    # Routes.

    def _routes(self, config: Config, tree: Mapping[str, Any]) -> tuple[RouteTable, ...]:
        """The routes, with what is for all of them where they say nothing themselves."""
        return tuple(
            attrs.evolve(
                route,
                upstreams=route.upstreams or (),
                **{name: _merged(getattr(config, name), getattr(route, name), written.get(name)) for name in _SHARED},
            )
            for route, written in zip(config.routes, tree["routes"], strict=True)
        )

    def _check_policies(self, config: Config, tree: Mapping[str, Any]) -> None:
        self._check_policy(("policy",), config.policy)
        self._check_retry(("retry",), config.retry)
        for i, written in enumerate(tree.get("routes", ())):
            if "policy" in written:
                self._check_policy(("routes", i, "policy"), config.routes[i].policy)
            if "retry" in written:
                self._check_retry(("routes", i, "retry"), config.routes[i].retry)

    def _check_policy(self, steps: Steps, policy: PolicyTable) -> None:
        if policy.comments == "replace" and not policy.keep_alive:
            right = "some seconds of keep_alive, or comments = strip"
            self._add((*steps, "comments"), "replace goes with keep-alives, and keep_alive is 0", right)

    def _check_retry(self, steps: Steps, retry: RetryTable) -> None:
        if retry.base > retry.cap:
            self._add((*steps, "base"), "is longer than cap", "the shortest wait in base, the longest in cap")

    def _check_routes(self, config: Config) -> None:
        paths: dict[str, int] = {}
        for i, route in enumerate(config.routes):
            if not _is_missing(route.path):
                first = paths.setdefault(route.path, i)
                if first != i:
                    self._add(("routes", i, "path"), f"is that of routes[{first}]", "one route for each path")
            self._check_upstreams(config, i, route)
        for path, i in paths.items():
            above = paths.get(path.removesuffix("/v1")) if path.endswith("/v1") else None
            if above is not None:
                right = f"without /v1, which belongs to what clients ask routes[{above}] for"
                self._add(("routes", i, "path"), f"takes away all that routes[{above}] is for", right)
        used = {share.provider for route in config.routes for share in route.upstreams}
        for name in config.providers:
            if name not in used:
                self._warn(("providers", name), "no route leads to it", "its name among the upstreams of a route")

    def _check_upstreams(self, config: Config, i: int, route: RouteTable) -> None:
        names = [share.provider for share in route.upstreams]
        for j, name in enumerate(names):
            steps: Steps = ("routes", i, "upstreams", j)
            if name not in config.providers and ("providers",) not in self._wrong:
                self._add(
                    steps, "there is no such provider", did_you_mean(name, filter(is_provider_name, config.providers))
                )
            elif name in names[:j]:
                self._add(steps, f"is the same as upstreams[{names.index(name)}]", "each provider once")
        known = [config.providers[name] for name in names if name in config.providers]
        self._check_dialects(i, route, [provider.type for provider in known if not _is_missing(provider.type)])
        if len(known) > 1 and any(provider.pass_credentials for provider in known):
            right = "pass_credentials = false, or a route of its own for each provider"
            self._add(("routes", i, "upstreams"), "a client's key would go to more than one provider", right)
        if route.hedge_after is not None and len(known) == 1:
            self._warn(("routes", i, "hedge_after"), "there is no second upstream", "two upstreams")

    def _check_dialects(self, i: int, route: RouteTable, types: Sequence[str]) -> None:
        if route.dialect == "auto":
            if len({_SPEAKS[type][0] for type in types}) > 1:
                right = "a route for each dialect, or the dialect that all of them speak"
                self._add(("routes", i, "upstreams"), "these do not speak the same dialect", right)
        elif any(route.dialect not in _SPEAKS[type] for type in types):
            spoken = [dialect for dialect in _DIALECTS if all(dialect in _SPEAKS[type] for type in types)]
            right = f"auto, or one of {', '.join(spoken)}" if spoken else "auto, and upstreams of one type"
            self._add(("routes", i, "dialect"), "not all of its upstreams speak it", right)

    # The rest.

    def _check_others(self, config: Config) -> Config:
        if config.server.workers > 1 and sys.platform == "win32":
            right = "1: this system does not hand sockets on to processes"
            self._add(("server", "workers"), "cannot be more than 1", right)
        if config.auth is not None and not _is_missing(config.auth.tokens_file):
            self._readable(config.auth.tokens_file, ("auth", "tokens_file"))
        if config.history is not None and not _is_missing(config.history.path):
            folder = config.history.path.parent
            if not (folder.is_dir() or folder.parent.is_dir()):
                self._add(("history", "path"), f"there is no folder {folder.parent}", "one that is there")
        if config.admin is None:
            return config
        admin = config.admin
        if config.server.workers > 1:
            right = "server.workers = 1, since each process knows its own streams only"
            self._add(("admin",), "is one page, and there are several workers", right)
        if admin.token is None and not is_local(admin.address):
            right = 'token = "env:NAME", or an address like 127.0.0.1:8081'
            self._add(("admin", "token"), "is missing, and other machines can connect", right)
        if _is_one(admin.address) and str(admin.address) in {str(listener.address) for listener in config.listeners}:
            self._add(("admin", "address"), "is where clients connect to", "an address of its own")
        token = None if admin.token is None else self._secret(admin.token, config, ("admin", "token"))
        return attrs.evolve(config, admin=attrs.evolve(admin, token=token))


_SHARED = ("policy", "retry", "breaker")
_DIALECTS = ("openai-chat", "openai-responses", "anthropic", "sse")


def _is_missing(value: object) -> bool:
    """Whether an option that is required was not there. Only while a file is being read."""
    return value is None


def _is_one(address: Address) -> bool:
    """Whether an address is always the same one: port 0 is any."""
    return address.path is not None or address.port != 0


def _merged(default: Any, own: Any, written: Mapping[str, Any] | None) -> Any:
    """A table of a route: what it says itself, and beside it what is said for all routes."""
    if written is None or default is None:
        return default if written is None else own
    return attrs.evolve(default, **{name: getattr(own, name) for name in written})


def _routes_for(config: Config) -> tuple[RouteTable, ...]:
    """A route to each provider, under its name."""
    return tuple(
        RouteTable(
            path=f"/{name}", upstreams=(Share(name),), policy=config.policy, retry=config.retry, breaker=config.breaker
        )
        for name in config.providers
    )


def _tables_of(table: Any, steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    """A table, and all tables in it."""
    yield steps, table
    for field in tables(type(table)):
        inner = getattr(table, field.name)
        parts = {None: inner} if field.metadata["form"] == "one" else _parts(inner)
        for key, part in parts.items():
            if part is not None:
                yield from _tables_of(part, (*steps, field.name) if key is None else (*steps, field.name, key))


def _parts(tables: Any) -> Mapping[Any, Any]:
    return tables if isinstance(tables, Mapping) else dict(enumerate(tables))


# What is new.


def compare(old: Config, new: Config) -> Changes:
    """Say what a configuration has otherwise than the one before it, and what of that needs a restart.

    Routes are told apart by their paths. What is in files other than those of keys is not compared.
    """
    found = list(_differences(old, new, "", restart=False))
    return Changes(
        now=tuple(path for path, restart in found if not restart),
        restart=tuple(path for path, restart in found if restart),
    )


def _differences(old: Any, new: Any, path: str, *, restart: bool) -> Iterator[tuple[str, bool]]:
    if old == new:
        return
    if old is None or new is None:
        there = new if old is None else old
        yield path, restart or any(field.metadata["restart"] for field in options(type(there)))
        return
    for field in (*options(type(old)), *tables(type(old))):
        was, now = getattr(old, field.name), getattr(new, field.name)
        needs = restart or field.metadata["restart"]
        name = f"{path}.{field.name}" if path else field.name
        if "kind" in field.metadata or field.name == "listeners":
            if was != now:
                yield name, needs
        elif field.metadata["form"] == "one":
            yield from _differences(was, now, name, restart=needs)
        else:
            was, now = _by_name(was), _by_name(now)
            for key in dict.fromkeys((*was, *now)):
                yield from _differences(was.get(key), now.get(key), f"{name}{key}", restart=needs)


def _by_name(tables: Any) -> dict[str, Any]:
    if isinstance(tables, Mapping):
        return {f".{name}": table for name, table in tables.items()}
    return {f"[{route.prefix}]": route for route in tables}
