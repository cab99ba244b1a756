"""Real servers for tests and development, on loopback and free ports, with throw-away credentials."""

from tests.services.database import Postgres, why_no_postgres
from tests.services.object_store import S3Server
from tests.services.ports import free_ports
from tests.services.proxy import FaultProxy
from tests.services.tracker import MlflowServer

__all__ = ["FaultProxy", "MlflowServer", "Postgres", "S3Server", "free_ports", "why_no_postgres"]
