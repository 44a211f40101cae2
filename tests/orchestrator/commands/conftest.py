from tests.orchestrator.registry.conftest import empty_database, uri

__all__ = ["empty_database", "uri"]
