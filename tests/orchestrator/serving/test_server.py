from types import SimpleNamespace

import pytest

# What Ray Serve itself does when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "failed to start 3 times\nTraceback ...\nModelError: no weights\n",
            "ModelError: no weights",
        ),
        ("", "Failed to update the deployments"),
    ],
)
def test_a_model_that_does_not_load_is_told_by_its_own_error(
    monkeypatch: pytest.MonkeyPatch, message: str, reason: str
) -> None:
    from orchestrator.serving import server
    from orchestrator.serving.gateway import APPLICATION, MODEL

    deployments = {MODEL: SimpleNamespace(message=message)}
    status = SimpleNamespace(applications={APPLICATION: SimpleNamespace(deployments=deployments)})
    monkeypatch.setattr(server.serve, "status", lambda: status)
    assert server._reason(RuntimeError("Failed to update the deployments")) == reason
