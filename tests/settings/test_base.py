from teenytinyllama.settings.base import expand_path


def test_what_a_run_wrote_is_no_source(tmp_path):
    for name in ("a.txt", "textos/b.txt", "runs/x/run.json", "runs/x/.lock", "runs/x/corpus/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in expand_path(str(tmp_path))]
    assert names == ["a.txt", "textos/b.txt"]
    # A run that is named is meant.
    names = [path.name for path in expand_path(str(tmp_path / "runs" / "x"))]
    assert names == ["c.txt", "run.json"]


def test_brackets_of_a_folder_that_exists_are_no_pattern(tmp_path):
    folder = tmp_path / "livros [1990]"
    folder.mkdir()
    for name in ("a.txt", "b.txt", "c.md"):
        (folder / name).write_text("x")
    assert [p.name for p in expand_path(str(folder / "*.txt"))] == ["a.txt", "b.txt"]
    assert [p.name for p in expand_path(str(folder / "[ab].*"))] == ["a.txt", "b.txt"]
    assert [p.name for p in expand_path(str(tmp_path / "**" / "[c].md"))] == ["c.md"]
