"""The server's settings: as an operator writes them (`written`), and checked, as the server runs with them
(`server`)."""

from control_plane.settings.server import ServerSettings, load_settings
from control_plane.settings.written import WrittenSettings

__all__ = ["ServerSettings", "WrittenSettings", "load_settings"]
