"""The manifests of the page about Kubernetes: whole, consistent, and with settings that are there."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from profilelake.engines.masters import master_of
from profilelake.settings import Settings

PAGE = Path(__file__).parents[3] / "docs" / "spark-on-kubernetes.md"
KINDS = {
    "ServiceAccount": "v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "Job": "batch/v1",
}


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [document for block in blocks for document in yaml.safe_load_all(block)]


def only(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


def test_each_is_of_a_kind_that_exists(manifests: list[dict[str, Any]]) -> None:
    assert {manifest["kind"] for manifest in manifests} == KINDS.keys()
    for manifest in manifests:
        assert manifest["apiVersion"] == KINDS[manifest["kind"]]
        assert manifest["metadata"]["namespace"] == "profilelake"
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", manifest["metadata"]["name"])


def test_what_they_name_is_there(manifests: list[dict[str, Any]]) -> None:
    accounts = {one["metadata"]["name"] for one in manifests if one["kind"] == "ServiceAccount"}
    binding, role = only(manifests, "RoleBinding"), only(manifests, "Role")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert {subject["name"] for subject in binding["subjects"]} <= accounts
    pod = only(manifests, "Job")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] in {subject["name"] for subject in binding["subjects"]}
    (container,) = pod["containers"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    conf = _conf(container)
    assert conf["spark.kubernetes.authenticate.executor.serviceAccountName"] in accounts
    assert conf["spark.kubernetes.container.image"] == container["image"]
    assert conf["spark.kubernetes.namespace"] == "profilelake"
    given = {variable["name"] for variable in container["env"]}
    used = re.findall(r"\$\((\w+)\)", json.dumps(conf))
    assert used
    assert set(used) <= given
    # Kubernetes expands only what is defined before.
    names = [variable["name"] for variable in container["env"]]
    assert all(names.index(name) < names.index("PROFILELAKE_ENGINE_CONF") for name in used)
    directory = container["command"][container["command"].index("--dir") + 1]
    assert directory in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_its_settings_are_ours(manifests: list[dict[str, Any]], tmp_path: Path) -> None:
    (container,) = only(manifests, "Job")["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable.get("value", "x") for variable in container["env"]}
    url = container["command"][container["command"].index("--engine") + 1]
    options = Settings.load(tmp_path, environment, engine={"url": url}).engine
    assert options.tasks == 32
    assert options.conf == _conf(container)
    master = master_of(options.url)
    assert (master.kind, master.places) == ("kubernetes", (("kubernetes.default.svc", 443),))
    assert options.tasks == int(options.conf["spark.executor.instances"]) * int(
        options.conf["spark.executor.cores"]
    )


def _conf(container: dict[str, Any]) -> dict[str, str]:
    (text,) = (one["value"] for one in container["env"] if one["name"] == "PROFILELAKE_ENGINE_CONF")
    conf: dict[str, str] = json.loads(text)
    return conf
