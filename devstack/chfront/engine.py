"""The engine: chDB on one data directory, owned by this process, with a session of its own for every request.

A session costs 0.3 ms and takes its settings, its database and its temporary tables away with it, which is what a
server does for a request without `session_id`.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import threading
from pathlib import Path
from typing import Final

from devstack.chfront.errors import from_engine
from devstack.chfront.session import Session

# The engine reads config.xml from its working directory; the profile undoes what sets an embedded engine apart.
_CONFIG: Final = """<clickhouse>
<max_server_memory_usage>{memory}</max_server_memory_usage>
<max_server_memory_usage_to_ram_ratio>0.9</max_server_memory_usage_to_ram_ratio>
<background_pool_size>2</background_pool_size>
<user_directories><users_xml><path>users.xml</path></users_xml></user_directories>
</clickhouse>
"""
_USERS: Final = """<clickhouse>
<profiles><default><implicit_select>0</implicit_select></default></profiles>
<users><default><password></password><networks><ip>::/0</ip></networks>
<profile>default</profile><quota>default</quota></default></users>
<quotas><default></default></quotas>
</clickhouse>
"""


class Engine:
    """Opens the data directory; at most `connections` statements run at once, the others wait their turn."""

    def __init__(self, directory: Path, *, connections: int, max_memory: int) -> None:
        self.directory = directory
        self._data = directory / "data"
        self._data.mkdir(parents=True, exist_ok=True)
        self.turns = threading.BoundedSemaphore(connections)
        self._configure(max_memory)
        chdb = importlib.import_module("chdb._chdb")  # loads the engine, which reads its configuration now
        # A crash must end the process, as it ends a server; the engine's own handlers would leave a husk that answers.
        chdb.set_signal_handlers_enabled(0)
        chdb.reset_signal_handlers()
        faulthandler.enable()
        self._connect = chdb.connect
        self._keeper = self.open()
        self.version, self.timezone, self.host = (
            bytes(self._keeper.run("SELECT version(), timezone(), hostName()").data).decode().strip().split("\t")
        )

    def _configure(self, max_memory: int) -> None:
        (self.directory / "config.xml").write_text(_CONFIG.format(memory=max_memory))
        (self.directory / "users.xml").write_text(_USERS)
        os.chdir(self.directory)

    def open(self) -> Session:
        try:
            return Session(self._connect(str(self._data)))
        except RuntimeError as error:
            raise from_engine(str(error)) from error

    def close(self) -> None:
        """Let the engine write what it holds and give the directory free."""
        self._keeper.close()
