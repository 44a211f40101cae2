from orchestrator.registry.version import Registration, has_version, register_model

__all__ = ["Registration", "has_version", "register_model"]
