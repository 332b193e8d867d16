"""The cases of the lake, as they run on a disk, on an object store."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from lake_examples import BUCKET_VARIABLE, ENDPOINT_VARIABLE

CASES: Final = Path(__file__).parent.parent / "unit" / "lake"
MODULES: Final = (
    "test_lake_table",
    "test_lake_current",
    "test_lake_maintenance",
    "test_lake_compaction",
    "test_lake_reading",
    "test_lake_lookup",
    "test_lake_replace_in_parts",
    "test_lake_threads",
)
OF_A_DISK: Final = frozenset(
    {
        # They look at files in folders, or spoil them.
        "test_two_committers_do_not_double_or_lose_rows",
        "test_rewrite_keeps_progress_and_checks_its_files",
        "test_old_metadata_files_go_with_the_commits",
        "test_compaction_gathers_small_files_sorted_and_changes_no_row",
        "test_base_files_are_sorted_by_slot_and_key",
        "test_sweep_removes_only_what_is_old_and_unreachable",
        "test_sweep_spares_old_files_of_snapshots_that_can_still_be_read",
        "test_files_are_stretches_of_the_order_of_their_table",
        "test_values_that_changed_on_disk_stop_a_compaction",
        "test_a_damaged_file_is_named_and_left_alone",
        "test_rows_of_every_type_survive",
        # They read with libraries that would have to be told of the store.
        "test_many_commits_keep_few_manifests_and_every_row",
        "test_the_library_reads_what_we_write",
        "test_no_value_of_a_personal_column_is_in_a_manifest",
        "test_progress_survives_commits_of_other_engines",
        "test_a_reader_in_another_process_sees_whole_snapshots_only",
    }
)


def _cases(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_on_s3", CASES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _collected() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in MODULES:
        module = _cases(name)
        for each, value in vars(module).items():
            if each.startswith("test_") and each not in OF_A_DISK:
                found[f"{each}__{name.removeprefix('test_')}"] = value
            elif type(value).__name__ == "FixtureFunctionDefinition":
                assert each not in found, each
                found[each] = value
    return found


globals().update(_collected())


@pytest.fixture(autouse=True)
def on_the_store(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every lake of a test lie in the bucket."""
    monkeypatch.setenv(BUCKET_VARIABLE, f"s3://{s3.bucket}")
    monkeypatch.setenv(ENDPOINT_VARIABLE, s3.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
