"""The environment of the commands: variables in place of options, and whatever else a machine may lack."""

from __future__ import annotations

import pytest

from tests.helpers.commands import MAINS, invoke

MISSING = {"chat-server": "--tls-cert", "chat-client": "--tls-ca"}
FLAGS = [
    (command, option.name, option.envvar)
    for command, main in MAINS.items()
    for option in main.params
    if getattr(option, "is_flag", False) and option.envvar
]


@pytest.mark.parametrize("command", ["chat-server", "chat-client"])
def test_a_variable_that_kubernetes_sets(command: str) -> None:
    """For a service named chatkit it sets CHATKIT_PORT to an address: one warning, and the default port."""
    status, out, err = invoke(command, MISSING[command], "/missing", CHATKIT_PORT="tcp://10.96.0.12:12345")
    warning = "CHATKIT_PORT=tcp://10.96.0.12:12345 is passed over: it describes a service (Kubernetes)"
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        f"{command}: {warning}",
        f"{command}: cannot use /missing: No such file or directory",
    ]


@pytest.mark.parametrize("command", ["chat-server", "chat-client"])
@pytest.mark.parametrize(
    ("value", "fault"), [("x", "'x' is not a valid integer range"), ("70000", "70000 is not in the range")]
)
def test_an_error_names_the_variable(command: str, value: str, fault: str) -> None:
    """Not the option that nobody wrote; beside an option it isn't read."""
    status, out, err = invoke(command, CHATKIT_PORT=value)
    assert (status, out) == (2, "")
    assert f"Error: Invalid value for CHATKIT_PORT in the environment: {fault}" in err
    status, _, err = invoke(command, "--port", "y", CHATKIT_PORT=value)
    assert (status, "CHATKIT_PORT" in err, "--port" in err) == (2, False, True)


def test_an_error_about_several_options_names_the_variables() -> None:
    """Those that were set there."""
    status, _, err = invoke("chat-server", "--tls-self-signed", CHATKIT_TLS_KEY="x", CHATKIT_THREADS="2")
    assert status == 2
    assert err.endswith("Error: --tls-key needs --tls-cert (in the environment: CHATKIT_THREADS, CHATKIT_TLS_KEY)\n")
    status, _, err = invoke("chat-server", CHATKIT_STALL_SECONDS="nan")
    assert status == 2
    assert "(in the environment: CHATKIT_STALL_SECONDS)" in err


@pytest.mark.parametrize(("command", "name", "variable"), FLAGS)
@pytest.mark.parametrize("value", ["false", "0", "no", "off", ""])
def test_a_flag_that_is_false_in_the_environment_is_off(
    monkeypatch: pytest.MonkeyPatch, command: str, name: str, variable: str, value: str
) -> None:
    """click 8.2 took it for true: a room with `CHATKIT_TLS_SELF_SIGNED=false` spoke TLS."""
    monkeypatch.setenv(variable, value)
    arguments = ["file"] if command == "chat-history" else []
    assert MAINS[command].make_context(command, arguments).params[name] is False
