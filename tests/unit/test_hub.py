"""Without a network the hub's library answers from its cache at once."""

from __future__ import annotations

import logging
import socket

import pytest
from huggingface_hub import constants

from mcse import hub
from tests.fixtures.hub import forget_commits


@pytest.fixture
def online(monkeypatch):
    """As if the hub might be asked; afterwards as it was."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)
    hub._look_for_network.cache_clear()
    forget_commits()
    yield
    hub._look_for_network.cache_clear()
    forget_commits()


def no_address(*_):
    raise socket.gaierror("Name or service not known")


def test_without_a_network_no_file_is_asked_for_twice(online, monkeypatch, caplog):
    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    with caplog.at_level(logging.WARNING):
        assert hub.commit_of("nobody/nothing") is None
        assert hub.commit_of("nobody/nothing-else") is None
    assert constants.HF_HUB_OFFLINE
    assert caplog.text.count("the hub cannot be reached") == 1
    assert "Retrying" not in caplog.text


def test_behind_a_proxy_names_need_not_be_known_here(online, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy:3128"})
    hub._look_for_network()
    assert not constants.HF_HUB_OFFLINE
