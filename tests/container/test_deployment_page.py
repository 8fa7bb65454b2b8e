"""What docs/deployment.md shows fits the image and the server."""

import re
from types import SimpleNamespace

import pytest
import yaml
from pydantic import ByteSize, TypeAdapter

from server.config import ServerConfig
from server.http_api.api import make_api
from tests.container.building import PROJECT
from tests.container.dockerfile import read_dockerfile

PAGE = (PROJECT / "docs/deployment.md").read_text()
(MANIFEST,) = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
POD = MANIFEST["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
_, STAGES = read_dockerfile(PROJECT / "Dockerfile")


def the(stage, word):
    return [each for each in STAGES[stage].instructions if each.word == word][-1]


def seconds(directive):
    return int(re.search(rf"{directive} (\d+)s;", PAGE)[1])


def test_the_pod_runs_as_the_images_user():
    user, group = map(int, the("cpu", "USER").text.split(":"))
    security = POD["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (
        user,
        group,
        group,
    )
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_a_probe_asks_what_the_server_answers(probe):
    get = CONTAINER[probe]["httpGet"]
    inference = SimpleNamespace(endpoints={}, repository=None)
    infer = SimpleNamespace(bodies=None)
    document = make_api(inference, infer=infer, metrics=None, threads=None).openapi()
    assert "get" in document["paths"][get["path"]]
    assert get["port"] in {port["name"] for port in CONTAINER["ports"]}


def test_ports_and_environment_are_the_servers():
    defaults = ServerConfig()
    assert [port["containerPort"] for port in CONTAINER["ports"]] == [
        defaults.http_port,
        defaults.grpc_port,
    ]
    environment = the("runtime", "ENV").pairs
    for variable in CONTAINER["env"]:
        key = variable["name"].removeprefix("ENSEMBLED_SERVER__")
        if key == variable["name"]:
            assert key in environment
        else:
            ServerConfig.model_validate({key.lower(): variable["value"]})


def test_what_is_written_is_mounted():
    mounts = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert the("runtime", "ENV").pairs["ENSEMBLED_CACHE"] in mounts
    assert "/tmp" in mounts
    assert the("runtime", "WORKDIR").text + "/configs" in mounts
    assert set(mounts.values()) == {volume["name"] for volume in POD["volumes"]}


def test_stopping_has_time_to_drain():
    pause = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > ServerConfig().drain_s + pause
    (stop,) = map(int, re.findall(r"--stop-timeout (\d+) ensembled", PAGE))
    assert stop > ServerConfig().drain_s


def test_the_proxy_passes_what_the_server_takes_and_closes_first():
    size = re.search(r"client_max_body_size (\w+);", PAGE)[1]
    defaults = ServerConfig()
    assert TypeAdapter(ByteSize).validate_python(f"{size}ib") >= defaults.max_request_bytes
    assert seconds("keepalive_timeout") < defaults.limits.idle_s


def test_the_page_names_keys_and_files_that_there_are():
    for path in re.findall(r"`server((?:\.[a-z_]+)+)`", PAGE):
        model = ServerConfig
        for key in path.strip(".").split("."):
            annotation = model.model_fields[key].annotation
            options = [annotation, *getattr(annotation, "__args__", ())]
            model = next((each for each in options if hasattr(each, "model_fields")), None)
    for link in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (PROJECT / "docs" / link).exists(), link
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in PAGE.splitlines()
        if line.startswith("## ")
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) == headings
