"""docker-compose.yml: what people with Docker get for development."""

from pathlib import Path

import yaml

COMPOSE = yaml.safe_load((Path(__file__).parents[1] / "docker-compose.yml").read_text(encoding="utf-8"))
MAJORS = ("14", "15", "16", "17", "18")


def test_there_is_one_service_for_each_supported_major_version() -> None:
    assert {name: service["image"] for name, service in COMPOSE["services"].items()} == {
        f"postgres-{major}": f"postgres:{major}" for major in MAJORS
    }


def test_every_service_is_chosen_by_profile_and_says_when_it_is_ready() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["profiles"] == [name.removeprefix("postgres-"), "all"]
        assert service["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]


def test_no_service_listens_beyond_this_machine_and_no_two_on_one_port() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(MAJORS)
