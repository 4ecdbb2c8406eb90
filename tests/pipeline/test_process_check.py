import pytest
from support.ranks import in_ranks

from teenytinyllama.pipeline import process_check
from teenytinyllama.pipeline.process_check import check_processes
from teenytinyllama.process_group import ProcessGroup
from teenytinyllama.settings.recipe import Recipe


def found_by_rank_0(tmp_path, change):
    """The error of rank 0 where rank 1 is started otherwise; None without one."""

    def work(rank):
        start = {"recipe": Recipe(name="run"), "run_dir": tmp_path}
        if rank == 1:
            start |= change()
        check_processes(ProcessGroup(), **start)

    first, second = in_ranks(2, work)
    assert second is None  # one line, not one of every process
    assert list(tmp_path.glob(".*")) == []
    return first


def test_equal_processes_pass(tmp_path):
    assert found_by_rank_0(tmp_path, dict) is None


def of_another_recipe():
    return {"recipe": Recipe(name="run", language="gl")}


def of_other_software():
    process_check.versions = lambda: {"torch": "1.0"}
    return {}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (of_another_recipe, "ranks-recipe", 'language "pt" -> "gl"'),
        (of_other_software, "ranks-versions", '-> "1.0"'),
    ],
)
def test_another_recipe_or_software_is_refused_before_the_first_stage(change, code, said, tmp_path):
    error = found_by_rank_0(tmp_path, change)
    assert error.code == code
    assert error.where.startswith("rank 1 on ")
    assert said in error.what


def test_a_folder_that_is_not_shared_is_refused(tmp_path):
    (other := tmp_path / "other").mkdir()
    error = found_by_rank_0(tmp_path, lambda: {"run_dir": other})
    assert error.code == "folder-not-shared"
    assert error.where == str(other)
    assert "rank 1 on" in error.what
