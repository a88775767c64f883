"The stand-in as a fixture: `pytest_plugins = ['joke_bot.pytest_fake_telegram']`"
import pytest
from .fake_telegram import FakeTelegram

@pytest.fixture
def fake_telegram():
    "A fresh stand-in for the Bot API, closed after the test"
    with FakeTelegram() as res: yield res
