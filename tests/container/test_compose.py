"""docker-compose.yml agrees with the server, and gives nothing away that it need not."""

import re
from pathlib import Path

import pytest
import yaml

from server.config import ServerConfig
from tests.container.building import PROJECT
from tests.container.dockerfile import read_dockerfile

COMPOSE = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
GPU = yaml.safe_load((PROJECT / "docker-compose.gpu.yml").read_text())
SERVICES = COMPOSE["services"]
_, STAGES = read_dockerfile(PROJECT / "Dockerfile")
RUNTIME = {
    name: text
    for instruction in STAGES["runtime"].instructions
    if instruction.word == "ENV"
    for name, text in instruction.pairs.items()
}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "mem_limit" in service
    assert "pids_limit" in service
    assert not {"privileged", "network_mode", "pid", "ipc"} & service.keys()
    for port in service["ports"]:
        assert port.startswith("127.0.0.1:")
    if "build" not in service:
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])
        assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
        assert service["profiles"] == ["monitoring"]
        assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name):
    for mount in SERVICES[name]["volumes"]:
        source, target, *mode = mount.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (PROJECT / source).exists(), mount
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]


def test_the_server_is_the_image_of_the_dockerfile():
    server = SERVICES["server"]
    assert server["build"]["target"] in STAGES
    defaults = ServerConfig()
    assert server["ports"] == [
        f"127.0.0.1:{port}:{port}" for port in (defaults.http_port, defaults.grpc_port)
    ]
    assert f"cache:{RUNTIME['ENSEMBLED_CACHE']}" in server["volumes"]
    assert int(server["stop_grace_period"].removesuffix("s")) > defaults.drain_s
    assert server["environment"].keys() <= RUNTIME.keys()
    default = re.sub(r"\$\{CONFIG:-([^}]*)\}", r"\1", server["environment"]["ENSEMBLED_CONFIG"])
    assert (PROJECT / default).is_file()
    mounted = dict(mount.split(":")[:2] for mount in server["volumes"])
    assert Path(mounted["./configs"]) == Path("/app") / Path(default).parent


def test_prometheus_scrapes_the_server():
    scraping = yaml.safe_load((PROJECT / "configs/prometheus/prometheus.yml").read_text())
    (job,) = scraping["scrape_configs"]
    assert job["job_name"] == "ensembled"
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in SERVICES
    assert int(port) == ServerConfig().http_port
    folder = PROJECT / "configs/prometheus"
    assert all((folder / name).is_file() for name in scraping["rule_files"])
    command = dict(each.removeprefix("--").split("=") for each in SERVICES["prometheus"]["command"])
    mounts = {
        mount.split(":")[1]: mount.split(":")[0] for mount in SERVICES["prometheus"]["volumes"]
    }
    config = Path(command["config.file"])
    assert (PROJECT / mounts[str(config.parent)] / config.name).is_file()
    assert mounts[command["storage.tsdb.path"]] in COMPOSE["volumes"]


def test_nobody_waits_for_a_service_without_a_health_check():
    for service in SERVICES.values():
        for name, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[name]


def test_the_variant_for_gpus():
    (server,) = GPU["services"].values()
    assert server["build"]["target"] in STAGES
    (devices,) = server["deploy"]["resources"]["reservations"]["devices"]
    assert devices == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
